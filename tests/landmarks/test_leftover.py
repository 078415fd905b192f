"""A conversion loses nothing without a word, and no original before everything new is there."""

import json

import pytest

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks import formats as room
from nnunet_ext.landmarks.formats import convert, read
from nnunet_ext.landmarks.leftover import leftover
from nnunet_ext.landmarks.points import present


def markups(*points: dict, **keys: object) -> str:
    return json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": "RAS", **keys, "controlPoints": points}]})


TIP = {
    "id": "1",
    "label": "tip",
    "position": [1, 2, 3],
    "positionStatus": "defined",
    "description": "",
    "locked": False,
}
END = {"label": "end", "position": [4, 5, 6], "positionStatus": "preview"}

LOSES = {
    "preview.mrk.json": (markups(TIP, END), ["the status of end (preview)", "the position of end ([4, 5, 6], with"]),
    "missing.mrk.json": (markups(TIP, {**END, "positionStatus": "missing"}), ["the position of end"]),
    "text.mrk.json": (markups({**TIP, "description": "by A"}), ["the description of tip"]),
    "own.mrk.json": (markups({**TIP, "rater": "B"}), ["the rater of tip"]),
    "curve.mrk.json": (markups(TIP, type="Curve"), ["that its points are a Curve"]),
    "list.mrk.json": (markups(TIP, description="first look"), ["the description of the list"]),
    "length.mrk.json": (markups(TIP, measurements=[{"name": "length", "enabled": True}]), ["its measurements"]),
    "text.fcsv": ("# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,tip,by A,\n", ["the description of tip"]),
    "status.fcsv": ("# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,tip,,,3,0\n", ["the position of tip (1, 2, 3"]),
    "text.csv": ("name,x,y,z,rater\ntip,1,2,3,B\n", ["the rater of tip"]),
    "state.csv": ("name;x;y;z;state\ntip;1;2;3;absent\n", ["the position of tip (1, 2, 3, with status absent)"]),
}
KEEPS = {
    "plain.mrk.json": markups(TIP, {"label": "end", "positionStatus": "undefined"}),
    "looks.mrk.json": markups({**TIP, "locked": True, "orientation": [1] * 9}, display={"color": [1, 0, 0]}),
    "plain.json": '{"tip": [1, 2, 3], "end": null}',
    "plain.fcsv": "# CoordinateSystem = LPS\n1,1,2,3,0,0,0,1,1,1,0,tip,,vtkMRMLScene\n",
    "zeros.fcsv": "# CoordinateSystem = LPS\n1,0,0,0,0,0,0,1,1,1,0,tip,,,0,0\n",
    "slicer.csv": "label,l,p,s,defined,selected,visible,locked,description\ntip,1,2,3,1,1,1,0,\n",
}


@pytest.mark.parametrize("name", LOSES)
@pytest.mark.parametrize("to", ["mrk.json", "csv"])
def test_what_is_lost_is_said(tmp_path, name, to, capsys):
    content, lost = LOSES[name]
    (tmp_path / name).write_text(content)
    assert main(["landmarks", "convert", str(tmp_path / name), "--to", to, "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    for what in lost:
        assert what in out
    assert f"{name}: not kept: " in out


@pytest.mark.parametrize("name", KEEPS)
def test_nothing_is_said_where_nothing_is_lost(tmp_path, name, capsys):
    (tmp_path / name).write_text(KEEPS[name])
    assert leftover(tmp_path / name) == []
    assert main(["landmarks", "convert", str(tmp_path / name), "--to", "csv", "-o", str(tmp_path / "out")]) == 0
    assert "not kept" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["preview.mrk.json", "text.mrk.json"])
def test_an_original_that_says_more_is_not_replaced(tmp_path, name, capsys):
    file = tmp_path / name
    file.write_text(LOSES[name][0])
    assert main(["landmarks", "convert", str(file), "--to", "mrk.json", "-o", str(tmp_path), "--force"]) == 2
    assert file.read_text() == LOSES[name][0]
    assert "would be replaced, and that loses" in capsys.readouterr().err


def test_in_place_all_are_replaced_or_none(tmp_path, monkeypatch):
    """Half of them in another coordinate system than the rest could not be told apart."""
    for name in "ab":
        (tmp_path / f"{name}.mrk.json").write_text(markups(TIP))
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    whole, seen = room.write_markups, []

    def dies(file, landmarks):
        seen.append(file)
        if len(seen) == 2:
            raise InputError("no space left")
        whole(file, landmarks)

    monkeypatch.setattr(room, "write_markups", dies)
    with pytest.raises(InputError, match="no space left"):
        convert([tmp_path], "mrk.json", out=tmp_path, coordinates="LPS", force=True)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before
    monkeypatch.undo()
    convert([tmp_path], "mrk.json", out=tmp_path, coordinates="LPS", force=True)
    assert read(tmp_path) == {name: {"tip": present((1, 2, 3))} for name in "ab"}
