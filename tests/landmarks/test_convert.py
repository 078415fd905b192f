"""``nnunet-ext landmarks convert``: the same points in another file."""

import pytest

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.convert import convert
from nnunet_ext.landmarks.formats import read, write_markups
from nnunet_ext.landmarks.points import ABSENT, present

CASES = {"a": {"tip": present((1, -2, 3)), "end": ABSENT}, "b": {"tip": present((4, 5, 6), 0.5)}}


@pytest.fixture
def source(tmp_path):
    for case, landmarks in CASES.items():
        write_markups(tmp_path / "in" / f"{case}.mrk.json", landmarks)
    return tmp_path / "in"


def test_to_a_table_and_back(source, tmp_path):
    assert convert([source], "csv", out=tmp_path / "table") == [tmp_path / "table" / "landmarks.csv"]
    assert read(tmp_path / "table") == CASES
    files = convert([tmp_path / "table" / "landmarks.csv"], "mrk.json", out=tmp_path / "back")
    assert [file.name for file in files] == ["a.mrk.json", "b.mrk.json"]
    assert read(tmp_path / "back") == CASES


def test_a_file_under_the_wrong_system_is_repaired(source, tmp_path, capsys):
    file = str(source / "a.mrk.json")
    command = ["landmarks", "convert", file, "--to", "mrk.json", "-o", str(tmp_path), "--coordinates", "RAS"]
    assert main(command) == 0
    assert read(tmp_path / "a.mrk.json")["a"]["tip"] == present((-1, 2, 3))
    assert "a.mrk.json written" in capsys.readouterr().out


def test_nothing_is_replaced_by_accident(source, tmp_path):
    command = ["landmarks", "convert", str(source), "--to", "mrk.json", "-o", str(source)]
    assert main(command) == 2
    with pytest.raises(InputError, match="--force"):
        convert([source], "mrk.json", out=source)
    assert main([*command, "--force"]) == 0
    assert read(source) == CASES


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.csv"):
        convert([tmp_path / "nothing.csv"], "csv", out=tmp_path)
    with pytest.raises(InputError, match="no file of landmarks"):
        convert([tmp_path], "csv", out=tmp_path)
