"""Every format gives back the landmarks that were written, in LPS, whatever its header says."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.cli import main
from nnunet_ext.data.geometry import to_lps
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.formats import (
    case_of,
    convert,
    from_table,
    read,
    read_file,
    read_files,
    to_table,
    write_markups,
    write_table,
)
from nnunet_ext.landmarks.points import ABSENT, UNKNOWN, Landmark, State, as_arrays, from_arrays, present
from nnunet_ext.landmarks.slicer import from_fcsv, from_markups, to_markups

LPS = (12.5, -3.25, 40.125)
RAS = (-12.5, 3.25, 40.125)

names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
numbers = st.floats(-1e4, 1e4, allow_subnormal=False)
landmarks = st.one_of(
    st.builds(
        lambda position, confidence: present(position, confidence),
        st.tuples(numbers, numbers, numbers),
        st.one_of(st.none(), st.floats(0, 1).map(lambda x: round(x, 5))),
    ),
    st.just(ABSENT),
    st.just(UNKNOWN),
)
cases = st.dictionaries(names, landmarks, max_size=5)


def same(ours: dict[str, Landmark], theirs: dict[str, Landmark]) -> bool:
    close = list(ours) == list(theirs)
    for name in ours:
        one, other = ours[name], theirs[name]
        close &= one.state == other.state and one.confidence == other.confidence
        close &= one.position_mm is None or np.allclose(one.position_mm, other.position_mm, rtol=0, atol=1e-5)
    return close


# --- round trips ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(cases)
def test_markups_give_back_what_was_written(points):
    text = json.dumps(to_markups(points))
    assert same(points, dict(from_markups(json.loads(text), "file")))


@settings(deadline=None)
@given(st.dictionaries(names, cases.filter(bool), min_size=1, max_size=3))
def test_a_table_gives_back_the_cases_that_were_written(many):
    found: dict[str, dict[str, Landmark]] = {}
    for case, name, landmark in from_table(to_table(many), "file", "other"):
        found.setdefault(case, {})[name] = landmark
    assert list(found) == list(many)
    assert all(same(many[case], found[case]) for case in many)


@settings(deadline=None)
@given(cases.map(lambda points: {n: p for n, p in points.items() if p.state is State.PRESENT}))
def test_arrays_and_landmarks_are_the_same_thing(points):
    positions, states = as_arrays(points, list(points))
    confidences = (
        None if any(p.confidence is None for p in points.values()) else [p.confidence for p in points.values()]
    )
    back = from_arrays(positions, states, list(points), confidences)
    assert [p.position_mm for p in back.values()] == [p.position_mm for p in points.values()]
    positions, states = as_arrays(points, [*points, "\n"])
    assert np.isnan(positions[-1]).all()
    assert states.dtype == np.int8
    assert states[-1] == State.UNKNOWN


def test_files_are_read_back_from_a_folder(tmp_path):
    written = {"a": {"tip": present(LPS), "notch": ABSENT}, "b": {"tip": present(RAS, 0.5), "notch": UNKNOWN}}
    for case, points in written.items():
        write_markups(tmp_path / "one" / f"{case}.mrk.json", points)
    write_table(tmp_path / "all.csv", written)
    assert read(tmp_path / "one") == read(tmp_path / "all.csv") == written
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_of_predictions_holds_other_files_too(tmp_path):
    for name in ("dataset.json", "plans.json", ".a.json", "a.nii.gz"):
        (tmp_path / name).write_text('{"name": "no landmark"}')
    write_markups(tmp_path / "a.mrk.json", {"tip": ABSENT})
    write_table(tmp_path / "landmarks.csv", {"a": {"tip": ABSENT}})
    assert read(tmp_path) == {"a": {"tip": ABSENT}}


def test_the_spacing_of_a_tif_and_what_trainings_write_are_no_landmarks(tmp_path):
    for name in ("a.json", "b.json", "of_an_image_elsewhere.json"):
        (tmp_path / name).write_text('{"spacing": [3, 0.5, 0.5]}')
    (tmp_path / "d.json").write_text('{"spacing": [3, 0.5, 0.5], "origin": [0, 0, 0]}')
    for name in ("a.tif", "b.TIFF", "c.tif", "d.tif"):  # landmarks of c may lie beside its image
        (tmp_path / name).touch()
    (tmp_path / "summary_annotated.json").write_text('{"foreground_mean": {"Dice": 0.8}}')
    (tmp_path / "c.json").write_text(json.dumps({"tip": LPS}))
    write_table(tmp_path / "landmarks.csv", {"a": {"tip": ABSENT}})
    assert sorted(read(tmp_path)) == ["a", "c"]


def test_files_of_several_formats_are_one_set_of_cases(tmp_path):
    write_markups(tmp_path / "a.mrk.json", {"tip": ABSENT})
    write_table(tmp_path / "b.csv", {"b": {"tip": present(LPS)}})
    (tmp_path / "c.json").write_text(json.dumps({"tip": LPS}))
    (tmp_path / "d.fcsv").write_text("# CoordinateSystem = LPS\nv,1,2,3,0,0,0,1,1,1,0,tip,,\n")
    (tmp_path / "landmarks_metrics.csv").write_text("case,landmark,outcome\na,tip,rejected\n")
    assert sorted(read(tmp_path)) == ["a", "b", "c", "d"]
    write_table(tmp_path / "landmarks.csv", {"a": {"tip": ABSENT}, "e": {"tip": ABSENT}})
    with pytest.raises(InputError, match=r"Case a is in .*landmarks\.csv and in another file"):
        read(tmp_path)


@pytest.mark.parametrize("state", State)
def test_a_confidence_is_kept_whatever_the_state(tmp_path, state):
    written = {"a": {"tip": Landmark(state, tuple(LPS) if state is State.PRESENT else None, 0.25)}}
    write_markups(tmp_path / "a.mrk.json", written["a"])
    convert([tmp_path / "a.mrk.json"], "csv", out=tmp_path / "table")
    convert([tmp_path / "table"], "mrk.json", out=tmp_path / "back")
    assert read(tmp_path / "table") == written
    assert (tmp_path / "back" / "a.mrk.json").read_text() == (tmp_path / "a.mrk.json").read_text()


def test_what_is_written_for_slicer_is_explicit(tmp_path):
    write_markups(tmp_path / "a.mrk.json", {"tip": present(LPS, 0.75), "notch": ABSENT, "end": UNKNOWN})
    (markup,) = json.loads((tmp_path / "a.mrk.json").read_text())["markups"]
    assert (markup["type"], markup["coordinateSystem"], markup["coordinateUnits"]) == ("Fiducial", "LPS", "mm")
    assert markup["controlPoints"] == [
        {"id": "1", "label": "tip", "position": list(LPS), "confidence": 0.75, "positionStatus": "defined"},
        {"id": "2", "label": "notch", "positionStatus": "missing"},
        {"id": "3", "label": "end", "positionStatus": "undefined"},
    ]


# --- coordinate systems and states ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "position"), [("LPS", LPS), ("RAS", RAS), ("1", LPS), ("0", RAS), (1, LPS), (0, RAS), (None, LPS)]
)
def test_markups_are_lps_whatever_the_header(code, position):
    system = {} if code is None else {"coordinateSystem": code}
    content = {"markups": [{**system, "controlPoints": [{"label": "tip", "position": list(position)}]}]}
    assert dict(from_markups(content, "file")) == {"tip": present(LPS)}


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("defined", State.PRESENT),
        (2, State.PRESENT),
        ("missing", State.ABSENT),
        (3, State.ABSENT),
        ("undefined", State.UNKNOWN),
        (0, State.UNKNOWN),
        ("preview", State.UNKNOWN),
        (1, State.UNKNOWN),
    ],
)
def test_the_status_of_a_control_point_is_its_state(status, state):
    point = {"label": "tip", "position": list(LPS), "positionStatus": status}
    (found,) = dict(from_markups({"markups": [{"controlPoints": [point]}]}, "file")).values()
    assert found.state is state


def test_lines_and_lists_of_one_file_are_one_set_of_points():
    def node(kind, system, *points):
        return {"type": kind, "coordinateSystem": system, "controlPoints": list(points)}

    content = {
        "markups": [
            node("Line", "LPS", {"label": "a", "position": list(LPS)}, {"label": "b", "position": list(LPS)}),
            node("Fiducial", "RAS", {"label": "c", "position": list(RAS)}, {"label": "d", "position": None}),
        ]
    }
    assert dict(from_markups(content, "file")) == {**dict.fromkeys("abc", present(LPS)), "d": UNKNOWN}


HEADER = "# Markups fiducial file version = 4.{}\n# CoordinateSystem = {}\n# columns = {}\n"
SLICER4 = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


@pytest.mark.parametrize(("code", "position"), [("LPS", LPS), ("RAS", RAS), ("1", LPS), ("0", RAS)])
def test_fcsv_is_lps_whatever_the_header(code, position):
    x, y, z = position
    text = HEADER.format(11, code, SLICER4) + f"vtk_0,{x},{y},{z},0,0,0,1,1,1,0,tip,,\n"
    assert dict(from_fcsv(text, "file")) == {"tip": present(LPS)}


def test_fcsv_of_other_versions():
    x, y, z = RAS
    slicer3 = f"# name = F\n# columns = label,x,y,z,sel,vis\ntip,{x},{y},{z},1,1\n"
    without_header = f"vtk_0,{x},{y},{z},0,0,0,1,1,1,0,tip,,\n"
    quoted = HEADER.format(6, 0, SLICER4) + f'v,{x},{y},{z},0,0,0,1,1,1,0,"tip, left",,\n'
    slicer5 = HEADER.format(13, "RAS", SLICER4) + (
        f"1,{x},{y},{z},0,0,0,1,1,1,0,tip,,,2,0\n2,0,0,0,0,0,0,1,1,1,0,end,,,3,0\n3,0,0,0,0,0,0,1,1,1,0,no,,,0,0\n"
    )
    assert dict(from_fcsv(slicer3, "file")) == dict(from_fcsv(without_header, "file")) == {"tip": present(LPS)}
    assert dict(from_fcsv(quoted, "file")) == {"tip, left": present(LPS)}
    assert dict(from_fcsv(slicer5, "file")) == {"tip": present(LPS), "end": ABSENT, "no": UNKNOWN}


@pytest.mark.parametrize(
    "text",
    [
        "landmark,x,y,z\ntip,12.5,-3.25,40.125\nend,,,\n",
        "\ufefflabel;x;y;z;state\ntip;12.5;-3.25;40.125;present\nend;;;;unknown\n",
        "label,r,a,s,defined,selected,visible,locked,description\ntip,-12.5,3.25,40.125,1,1,1,0,\nend,0,0,0,0,1,1,0,\n",
        "label\tl\tp\ts\ntip\t12.5\t-3.25\t40.125\nend\t\t\t\n",
    ],
)
def test_tables_of_several_kinds(text):
    assert list(from_table(text, "file", "a")) == [("a", "tip", present(LPS)), ("a", "end", UNKNOWN)]


def test_a_table_of_a_2d_data_set_needs_no_z():
    assert list(from_table("case,name,x,y\nb,tip,3,4\n", "file", "a")) == [("b", "tip", present((3, 4, 0)))]


@pytest.mark.parametrize(
    "content",
    [
        {"tip": list(LPS), "end": None, "gone": "absent"},
        {"coordinateSystem": "RAS", "landmarks": {"tip": list(RAS), "end": "unknown", "gone": "absent"}},
    ],
)
def test_simple_json(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_file(tmp_path / "a.json") == {"a": {"tip": present(LPS), "end": UNKNOWN, "gone": ABSENT}}


def test_what_the_caller_says_about_the_system_counts_more_than_the_file(tmp_path):
    x, y, z = RAS
    (tmp_path / "a.csv").write_text(f"name,x,y,z\ntip,{x},{y},{z}\n")
    (tmp_path / "b.json").write_text(json.dumps({"tip": RAS}))
    (tmp_path / "c.fcsv").write_text(HEADER.format(11, "LPS", SLICER4) + f"v,{x},{y},{z},0,0,0,1,1,1,0,tip,,\n")
    points = [{"label": "tip", "position": RAS}]
    markups = {"markups": [{"coordinateSystem": "LPS", "controlPoints": points}]}
    (tmp_path / "d.mrk.json").write_text(json.dumps(markups))
    found = read_files(sorted(tmp_path.iterdir()), "RAS")
    assert found == {case: {"tip": present(LPS)} for case in "abcd"}


@settings(deadline=None)
@given(st.tuples(numbers, numbers, numbers))
def test_the_change_of_system_is_its_own_inverse(point):
    assert np.array_equal(to_lps(to_lps(point, "RAS"), "RAS"), point)
    assert np.array_equal(to_lps(point, "LPS"), point)


def test_an_empty_list_is_a_case_of_which_nothing_is_known(tmp_path):
    write_markups(tmp_path / "a.mrk.json", {})
    assert read(tmp_path) == {"a": {}}


# --- bad input --------------------------------------------------------------------------------------------------------


def markup(point: dict, **more) -> str:
    return json.dumps({"markups": [{"controlPoints": [point], **more}]})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.mrk.json", "{", ("a.mrk.json", "JSON")),
        ("a.mrk.json", '{"markups": 3}', ("markups",)),
        ("a.mrk.json", markup({"label": "", "position": LPS}), ("no label",)),
        ("a.mrk.json", markup({"label": "tip", "position": [1, 2]}), ("tip", "[1, 2]", "three finite numbers")),
        ("a.mrk.json", markup({"label": "tip", "position": [1, 2, float("nan")]}), ("tip", "three finite numbers")),
        ("a.mrk.json", markup({"label": "tip", "position": LPS, "positionStatus": "odd"}), ("tip", "'odd'")),
        ("a.mrk.json", markup({"label": "tip", "position": LPS}, coordinateSystem="IJK"), ("'IJK'", "LPS", "RAS")),
        ("a.mrk.json", markup({"label": "tip", "position": LPS}, coordinateUnits="um"), ("'um'", "mm")),
        ("a.mrk.json", markup({"label": "tip", "position": LPS, "confidence": "nan"}), ("tip", "confidence is 'nan'")),
        ("a.mrk.json", markup({"label": "tip", "position": LPS, "confidence": [1]}), ("tip", "confidence is [1]")),
        ("a.csv", "name,x,y,z,confidence\ntip,1,2,3,inf\n", ("tip", "confidence is 'inf'")),
        ("a.csv", "name,x,y,z,state,confidence\ntip,,,,absent,low\n", ("tip", "confidence is 'low'")),
        ("a.json", '{"1": {"coordinates": [3, 4, 5], "likelihood": 0.5}}', ("coordinates", "position [x, y, z]")),
        ("a.fcsv", "# CoordinateSystem = 2\nv,1,2,3,0,0,0,1,1,1,0,tip,,\n", ("a.fcsv", "2", "LPS")),
        ("a.fcsv", "v,1,2,x,0,0,0,1,1,1,0,tip,,\n", ("tip", "'x'")),
        ("a.fcsv", "v,1,2,3\n", ("no label",)),
        ("a.fcsv", "# columns = a,b\n1,2\n", ("label", "columns")),
        ("a.csv", "", ("columns are []",)),
        ("a.csv", "name,i,j,k\ntip,1,2,3\n", ("'i'", "x, y, z")),
        ("a.csv", "name,x,y,z\ntip,1,2,\n", ("tip", "finite numbers")),
        ("a.csv", "name,x,y,z\n,1,2,3\n", ("names no landmark",)),
        ("a.csv", "case,name,x,y,z\nc1,tip,1,2,3\n,end,4,5,6\n", ("a.csv: line 3 names no case", "in every line")),
        ("a.csv", "name,x,y,z,state\ntip,1,2,3,maybe\n", ("tip", "'maybe'", "absent")),
        ("a.csv", "name,x,y,z\ntip,1,2,3\ntip,1,2,3\n", ("'tip' twice", "rename")),
        ("a.txt", "", ("endings",)),
    ],
)
def test_a_bad_file_gets_one_sentence_that_names_it(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        read_file(tmp_path / name)
    assert name in str(error.value)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_case_in_two_files_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no landmarks"):
        read(tmp_path)
    write_table(tmp_path / "a.csv", {"a": {"tip": ABSENT}})
    write_table(tmp_path / "b.csv", {"a": {"tip": ABSENT}})
    with pytest.raises(InputError, match=r"Case a is in .*another file"):
        read(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        read(tmp_path / "nothing")


def test_a_landmark_has_a_position_exactly_if_it_is_present():
    for state, position in ((State.PRESENT, None), (State.ABSENT, LPS), (State.PRESENT, (1.0, 2.0, float("inf")))):
        with pytest.raises(InputError):
            Landmark(state, position)


def test_the_case_is_the_name_of_the_file_without_its_ending():
    assert [case_of(Path(name)) for name in ("a_1.mrk.json", "b.json", "c.d.FCSV")] == ["a_1", "b", "c.d"]


# --- nnunet-ext landmarks convert: the same points in another file ----------------------------------------------------


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


@pytest.mark.parametrize("case", ["../../escaped", "sub-1/ses-1", "a\\b", ".."])
def test_a_case_that_is_no_name_of_a_file_is_refused(tmp_path, case):
    write_table(tmp_path / "in" / "all.csv", {"a": {"tip": ABSENT}, case: {"tip": ABSENT}})
    with pytest.raises(InputError, match="cannot be the name of a file"):
        convert([tmp_path / "in"], "mrk.json", out=tmp_path / "deep" / "er")
    assert [path.name for path in tmp_path.rglob("*.mrk.json")] == []
    convert([tmp_path / "in"], "csv", out=tmp_path / "out")  # a table may hold any name


def test_a_file_is_no_folder_to_write_to(source, tmp_path, capsys):
    (tmp_path / "afile").write_text("keep")
    for to in ("mrk.json", "csv"):
        assert main(["landmarks", "convert", str(source), "--to", to, "-o", str(tmp_path / "afile")]) == 2
        assert "afile is a file, but a folder to write to is expected" in capsys.readouterr().err
    assert (tmp_path / "afile").read_text() == "keep"


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.csv"):
        convert([tmp_path / "nothing.csv"], "csv", out=tmp_path)
    with pytest.raises(InputError, match="no file of landmarks"):
        convert([tmp_path], "csv", out=tmp_path)
