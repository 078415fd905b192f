"""``nnunet-ext landmarks check``: every finding is made where it belongs and nowhere else."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.cli import main
from nnunet_ext.data.geometry import to_lps
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.check import LandmarkReport, check_landmarks
from nnunet_ext.landmarks.dataset import open_landmarks
from nnunet_ext.landmarks.formats import write_markups, write_table
from nnunet_ext.landmarks.points import ABSENT, UNKNOWN, present
from tests.landmarks.raw import BLOCK, LABELS, Case, describe, write_dataset

KINDS = {"a": "both", "b": "both", "c": "landmarks", "d": "landmarks", "e": "labels", "f": "both"}
CASES = {name: Case(seed) for seed, name in enumerate(KINDS)}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A clean data set."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    return write_dataset(tmp_path, {name: (CASES[name], kind) for name, kind in KINDS.items()})


def put(folder: Path, case: str, landmarks) -> None:
    write_markups(folder / "landmarksTr" / f"{case}.mrk.json", landmarks)


def check(folder: Path, **options) -> LandmarkReport:
    return check_landmarks(204, processes=1, **options)


def kinds(report: LandmarkReport, severity: str | None = None) -> set[tuple[str, str | None]]:
    """(kind, case) of the findings."""
    return {(found.kind, found.case) for found in report.findings if severity in (None, found.severity)}


def flipped(landmarks):
    return {name: present(to_lps(point.position_mm, "RAS")) for name, point in landmarks.items()}


# --- a data set -------------------------------------------------------------------------------------------------------


def test_a_clean_data_set_has_no_findings(folder):
    report = check(folder)
    assert kinds(report) == set()
    assert report.exit_code == 0
    assert set(report.placed) == {"a", "b", "c", "d", "f"}
    assert report.segmented == ("a", "b", "e", "f")
    assert len(report.distances) == 9
    assert max(abs(distance.mm) for distance in report.distances) < 1e-3
    assert "3 with both" in report.summary()


def test_keys_that_look_like_ours_are_named(folder):
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "annotated_label": {}}))
    report = check(folder)
    assert kinds(report) == {("key", None)}
    assert "nobody reads 'annotated_label' (did you mean 'annotated_labels'?)" in report.report()


def test_several_processes_find_the_same(folder):
    put(folder, "c", flipped(CASES["c"].landmarks))
    one, two = check(folder), check_landmarks(204, processes=2)
    assert (one.findings, one.distances) == (two.findings, two.distances)


# --- files and names --------------------------------------------------------------------------------------------------


def test_a_data_set_without_landmarks_is_fatal_or_refused(folder):
    for file in (folder / "landmarksTr").iterdir():
        file.unlink()
    report = check(folder)
    assert kinds(report, "fatal") == {("no landmarks", None)}
    assert kinds(report, "warning") == {("neither", "c"), ("neither", "d")}
    (folder / "landmarksTr").rmdir()
    with pytest.raises(InputError, match="landmarksTr"):
        check(folder)
    describe(folder, landmarks=None)
    with pytest.raises(InputError, match=r"dataset\.json"):
        check(folder)


def test_files_that_belong_to_no_case_or_cannot_be_read(folder):
    (folder / "landmarksTr" / "c.mrk.json").rename(folder / "landmarksTr" / "case_c.mrk.json")
    (folder / "landmarksTr" / "d.mrk.json").write_text("{")
    write_table(folder / "landmarksTr" / "more.csv", {"a": CASES["a"].landmarks})
    report = check(folder)
    assert kinds(report, "fatal") == {("unreadable", None), ("twice", "a")}
    assert kinds(report, "warning") == {("no image", None), ("neither", "c"), ("neither", "d")}
    assert any("case_c" in found.text for found in report.findings)


def test_unknown_names_duplicates_and_landmarks_that_are_missing(folder):
    points = CASES["a"].landmarks
    put(folder, "a", {"left": points["left"], "right": points["left"], "tip": points["top"]})
    report = check(folder)
    assert {("unknown name", "a"), ("same place", "a")} <= kinds(report, "warning")
    assert ("unknown", None) in kinds(report, "note")
    assert report.exit_code == 0


def test_a_name_that_is_in_no_file_is_fatal(folder):
    describe(folder, landmarks={**BLOCK, "names": [*BLOCK["names"], "Left"]})
    assert kinds(check(folder), "fatal") == {("never annotated", None)}


def test_absent_landmarks_are_counted_and_are_no_finding(folder):
    put(folder, "a", {**CASES["a"].landmarks, "top": ABSENT})
    report = check(folder)
    assert kinds(report) == set()
    assert next(row for row in report.table() if row[0] == "top")[1:4] == ["4", "1", "0"]


# --- places -----------------------------------------------------------------------------------------------------------


def test_points_outside_of_the_image(folder):
    put(folder, "a", {**CASES["a"].landmarks, "top": CASES["a"].at((30, 12, 14))})
    report = check(folder)
    assert ("outside", "a") in kinds(report, "warning")
    assert report.exit_code == 0


def test_a_table_without_z_beside_volumes_is_found(folder):
    """Its points lie at z = 0, which may be inside of the image."""
    points = CASES["a"].landmarks
    put(folder, "a", {name: present((*p.position_mm[:2], 0.0)) for name, p in points.items()})
    assert ("z = 0", "a") in kinds(check(folder), "warning")
    assert not any(kind == "z = 0" and case != "a" for kind, case in kinds(check(folder)))


def test_all_points_outside_of_all_images_is_fatal(folder):
    for case in KINDS:
        if KINDS[case] != "labels":
            put(folder, case, {name: present((1e4, 0, k)) for k, name in enumerate(BLOCK["names"])})
    assert ("outside", None) in kinds(check(folder), "fatal")


def test_ras_taken_for_lps_is_found_by_the_image(folder):
    put(folder, "c", flipped(CASES["c"].landmarks))
    report = check(folder)
    assert kinds(report) == {("RAS/LPS", "c")}
    assert report.exit_code == 1


def test_ras_taken_for_lps_in_all_cases_is_one_finding(folder):
    for case in KINDS:
        if KINDS[case] != "labels":
            put(folder, case, flipped(CASES[case].landmarks))
    report = check(folder)
    assert kinds(report, "fatal") == {("RAS/LPS", None)}
    assert "cases fit their images only if x and y change their sign: RAS was saved as LPS" in report.report()


def centred(tmp_path, both: str) -> Path:
    """Images around the origin of the world, where a flipped point is inside, too."""
    cases = {name: (Case(seed, (2.0, -1.0, 0.0)), both) for seed, name in enumerate("abcdef")}
    for case, _ in cases.values():
        # a box in one corner: flipped, it would be elsewhere
        case.array[:] = 0
        case.array[2:8, 2:10, 1:11] = 1
        case.landmarks = {"left": case.at((5, 6, 10.5)), "right": case.at((5, 6, 0.5)), "top": case.at((7.5, 6, 6))}
    folder = write_dataset(tmp_path, cases)
    put(folder, "b", flipped(cases["b"][0].landmarks))
    return folder


def test_ras_taken_for_lps_is_found_by_the_usual_places(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    report = check(centred(tmp_path, "landmarks"))
    assert ("RAS/LPS", "b") in kinds(report, "warning")
    assert not any(kind == "RAS/LPS" and case != "b" for kind, case in kinds(report))


def test_ras_taken_for_lps_is_found_by_the_organs(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    report = check(centred(tmp_path, "both"))
    assert kinds(report, "fatal") == {("RAS/LPS", "b")}


def test_a_pair_that_was_exchanged(folder):
    points = CASES["d"].landmarks
    put(folder, "d", {**points, "left": points["right"], "right": points["left"]})
    assert kinds(check(folder)) == {("pair", "d")}


# --- organs -----------------------------------------------------------------------------------------------------------


def test_a_landmark_that_is_on_no_surface_contradicts_the_prior(folder):
    for name, case in CASES.items():
        if KINDS[name] != "labels":
            put(folder, name, {**case.landmarks, "top": case.at((19, 23, 27))})
    report = check(folder)
    assert kinds(report, "fatal") == {("prior", None)}
    assert "top is" in report.report()
    describe(folder, landmarks={**BLOCK, "surface_of": {"left": ["box"], "right": ["box"]}})
    assert kinds(check(folder)) == {("no prior", None)}


def test_a_gap_and_a_stray_are_warnings(folder):
    for name, case in CASES.items():
        if KINDS[name] != "labels":
            index = np.argwhere(case.array).max(0)
            put(folder, name, {**case.landmarks, "top": case.at((index[0] + 2.5, index[1] - 4, index[2] - 5))})
    report = check(folder)
    assert kinds(report) == {("gap", None)}
    assert "top is 4.0 mm" in report.report()
    put(folder, "a", {**CASES["a"].landmarks, "left": CASES["a"].at((19, 23, 27))})
    assert ("far", "a") in kinds(check(folder), "warning")


def test_without_cases_that_have_both_the_prior_is_estimated_across(folder):
    write_dataset(folder.parent, {name: (CASES[name], "labels" if name in "abe" else "landmarks") for name in KINDS})
    for name in "abe":
        (folder / "landmarksTr" / f"{name}.mrk.json").unlink(missing_ok=True)
    report = check(folder)
    assert all(distance.across for distance in report.distances)
    assert {distance.case for distance in report.distances} == {"a", "b", "e"}
    assert "≈" in report.report()
    assert kinds(report, "fatal") == set()


def test_other_label_maps_can_be_given(folder, tmp_path):
    for name, case in CASES.items():
        case.write(tmp_path / "dense" / f"{name}.nii.gz", case.array)
    report = check(folder, labels=tmp_path / "dense")
    assert len(report.distances) == 15
    assert kinds(report) == set()
    with pytest.raises(InputError, match="--labels"):
        check(folder, labels=tmp_path / "nothing")
    with pytest.raises(InputError, match=r"images.* holds no a\.nii\.gz"):
        check(folder, labels=folder / "imagesTr")
    for name in "ab":
        (tmp_path / "dense" / f"{name}.nii.gz").unlink()
    (note,) = check(folder, labels=tmp_path / "dense").findings
    assert (note.severity, note.kind) == ("note", "labels")
    assert "2 cases (a, b) not in" in note.text


def test_beside_other_label_maps_the_own_ones_are_checked_as_without(folder, tmp_path):
    describe(folder, channel_names={"0": "CT"})
    for name, case in CASES.items():
        case.write(tmp_path / "dense" / f"{name}.nii.gz", case.array)
    moved = Case(3, (-60.0, 80.0, -10.0))
    moved.write(folder / "labelsTr" / "d.nii.gz", np.full_like(moved.array, 2))
    CASES["c"].write(folder / "labelsTr" / "c.nii.gz", np.zeros_like(CASES["c"].array))
    (folder / "landmarksTr" / "f.mrk.json").unlink()
    CASES["f"].write(folder / "labelsTr" / "f.nii.gz", np.full_like(CASES["f"].array, 2))
    alone, beside = check(folder), check(folder, labels=tmp_path / "dense")
    assert kinds(beside) == {("empty mask", "c"), ("geometry", "d"), ("neither", "f"), ("CT", None)}
    assert beside.findings == alone.findings
    assert beside.segmented == alone.segmented == ("a", "b", "c", "e")
    assert {distance.case for distance in beside.distances} == set("abcd")
    CASES["c"].write(folder / "labelsTr" / "c.nii.gz", np.full_like(CASES["c"].array, 7))
    with pytest.raises(InputError, match=r"labelsTr/c\.nii\.gz.*7"):
        check(folder, labels=tmp_path / "dense")


def test_other_label_maps_must_lie_on_the_images_too(folder, tmp_path):
    moved = Case(0, (-60.0, 80.0, -10.0))
    moved.write(tmp_path / "dense" / "a.nii.gz", moved.array)
    report = check(folder, labels=tmp_path / "dense")
    assert kinds(report, "fatal") == {("geometry", "a")}
    assert "the label map in dense lies up to 10.0 mm from the image" in report.report()


def test_what_was_annotated_is_about_the_label_maps_of_the_data_set(folder, tmp_path):
    describe(folder, annotated_labels={"a": [], "b": []})
    case = CASES["a"]
    case.write(tmp_path / "dense" / "a.nii.gz", case.array)
    assert {distance.case for distance in check(folder, labels=tmp_path / "dense").distances} == {"a", "f"}
    assert {distance.case for distance in check(folder, labels=folder / "labelsTr").distances} == {"f"}


def test_labels_that_were_not_annotated_in_a_case_have_no_surface(folder):
    describe(folder, annotated_labels={"a": []})
    report = check(folder)
    assert {distance.case for distance in report.distances} == {"b", "f"}
    assert kinds(report) == set()
    describe(folder, annotated_labels={"z": []})
    assert kinds(check(folder)) == {("no image", None)}


def test_a_label_map_of_zeros_teaches_that_there_are_no_organs(folder):
    case = CASES["c"]
    case.write(folder / "labelsTr" / "c.nii.gz", np.zeros_like(case.array))
    assert kinds(check(folder), "fatal") == {("empty mask", "c")}
    describe(folder, landmarks=BLOCK["names"])
    assert kinds(check(folder), "fatal") == set()
    assert kinds(check(folder), "warning") == {("empty mask", "c")}


def test_a_label_map_that_lies_elsewhere_than_its_image(folder):
    moved = Case(2, (-60.0, 80.0, -10.0))
    moved.write(folder / "labelsTr" / "c.nii.gz", np.full_like(moved.array, 2))
    assert kinds(check(folder), "fatal") == {("geometry", "c")}


def test_ct_with_cases_that_are_not_segmented(folder):
    describe(folder, channel_names={"0": "CT"})
    assert kinds(check(folder)) == {("CT", None)}
    describe(folder, channel_names=None, modality={"0": "CT"})  # older data sets
    assert kinds(check(folder)) == {("CT", None)}


def test_unknown_landmarks_and_no_labels_teach_nothing(folder):
    put(folder, "c", dict.fromkeys(BLOCK["names"], UNKNOWN))
    assert ("neither", "c") in kinds(check(folder), "warning")


# --- files and the command --------------------------------------------------------------------------------------------


def test_a_file_is_no_folder_to_write_to(folder, tmp_path, capsys):
    (tmp_path / "afile").write_text("keep")
    assert main(["landmarks", "check", "204", "-o", str(tmp_path / "afile"), "--processes", "1"]) == 2
    assert "afile is a file, but a folder to write to is expected" in capsys.readouterr().err


def test_the_command_prints_writes_and_returns_1_for_something_fatal(folder, tmp_path, capsys):
    out = tmp_path / "report"
    command = ["landmarks", "check", "204", "--processes", "1", "-o", str(out)]
    assert main(command) == 0
    put(folder, "c", flipped(CASES["c"].landmarks))
    assert main(command) == 1
    assert "fatal    c: 3 of 3 landmarks are outside" in capsys.readouterr().out
    content = json.loads((out / "check.json").read_text())
    assert content["cases"]["c"] == {"segmented": False, "landmarks": dict.fromkeys(BLOCK["names"], "present")}
    assert content["table"][0]["on the surface of"] == "box"
    with (out / "findings.csv").open() as file:
        assert [row["kind"] for row in csv.DictReader(file)] == ["RAS/LPS"]
    with (out / "distances.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 9
    describe(folder, landmarks={"names": ["left"], "surface_of": {"left": ["boxx"]}})
    assert main(command) == 2
    assert "boxx" in capsys.readouterr().err


def test_the_data_set_for_a_trainer(folder):
    found = open_landmarks(folder)
    landmarks = found.landmarks()
    assert set(landmarks) == {"a", "b", "c", "d", "f"}
    assert found.declaration.names == ("left", "right", "top")
    assert found.organs.known == set(LABELS.values())
