"""``nnunet-ext scribbles check``: every finding is made where it belongs and nowhere else."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import nnunet_ext.scribbles.check as module
from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.scribbles.check import ScribbleReport, check_scribbles
from nnunet_ext.scribbles.check_rules import against_dense, coverage
from nnunet_ext.scribbles.label_map import Options, scribble_label_map
from nnunet_ext.scribbles.resampling import Grid, resampled
from tests import tiny
from tests.scribbles.raw import LABELS, SPACING, dense, image, write, write_dataset

DECLARED = {**LABELS, "ignore": 3}
CLASSES = {0: "background", 1: "left", 2: "right"}
CASES = ("a", "b", "c")
NAME = "Dataset138_Boxes"


def scribbles(seed: int) -> np.ndarray:
    options = Options(mode="line", thickness=2, components="all")
    return scribble_label_map(dense(seed), SPACING, CLASSES, 3, str(seed), options).astype(np.uint8)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """``raw`` with a clean data set of three cases and ``dense`` with its dense labels."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    put(tmp_path, {case: scribbles(seed) for seed, case in enumerate(CASES)})
    for seed, case in enumerate(CASES):
        write(tmp_path / "dense" / f"{case}.nii.gz", dense(seed))
    return tmp_path


def put(root: Path, labels: dict[str, np.ndarray], declared: dict = DECLARED, **more) -> None:
    images = {case: image(dense(CASES.index(case)), seed=CASES.index(case)) for case in labels}
    write_dataset(root / "raw" / NAME, labels, declared, images=images, **more)


def replace(root: Path, case: str, array: np.ndarray) -> None:
    write(root / "raw" / NAME / "labelsTr" / f"{case}.nii.gz", array)


def check(root: Path, with_dense: bool = False, **options) -> ScribbleReport:
    return check_scribbles(138, dense=root / "dense" if with_dense else None, **{"processes": 1, **options})


def kinds(report: ScribbleReport, severity: str | None = None) -> set[tuple[str, str | None]]:
    """(kind, case) of the findings, without the notes on resampling and on the CRF loss."""
    return {
        (found.kind, found.case)
        for found in report.findings
        if found.kind not in {"resampling", "crf window"} and severity in (None, found.severity)
    }


# --- a data set -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_dense", [False, True])
def test_a_clean_data_set_has_no_findings(root, with_dense):
    report = check(root, with_dense)
    assert kinds(report) == set()
    assert report.exit_code == 0
    assert {found.kind for found in report.findings} == {"resampling", *(["crf window"] if with_dense else [])}
    assert "median spacing (4 × 1 × 0.8 mm)" in report.findings[-1].text
    assert report.cases[1].voxels == {value: int((scribbles(1) == value).sum()) for value in CLASSES}


def test_several_processes_find_the_same(root):
    replace(root, "b", np.full_like(scribbles(1), 3))
    one, two = check(root, True), check(root, True, processes=2)
    assert (one.cases, one.findings) == (two.cases, two.findings)


def test_no_ignore_label_is_fatal(root):
    put(root, {"a": dense(0)}, LABELS)
    report = check(root)
    assert kinds(report, "fatal") == {("no ignore label", None)}
    assert report.exit_code == 1
    assert '"ignore": 3' in report.report()


def test_an_ignore_label_that_is_not_the_highest_is_fatal(root):
    arrays = {case: np.where(scribbles(seed) == 3, 7, scribbles(seed)) for seed, case in enumerate(CASES)}
    put(root, arrays, {**LABELS, "ignore": 7})
    assert kinds(check(root)) == {("ignore label", None)}
    between = {case: np.array([0, 1, 3, 2], np.uint8)[scribbles(seed)] for seed, case in enumerate(CASES)}
    put(root, between, {"background": 0, "left": 1, "right": 3, "ignore": 2})
    report = check(root)
    assert kinds(report) == {("ignore label", None)}
    assert report.exit_code == 1


def test_what_nnunet_refuses_is_fatal_with_dense_labels_and_plans_too(root, monkeypatch):
    monkeypatch.setattr(module, "planned", lambda name, plans: tiny.plans())
    monkeypatch.setattr(module, "measure_windows", never)
    put(root, {case: scribbles(seed) for seed, case in enumerate(CASES)}, {**LABELS, "whole": [1, 2], "ignore": 3})
    report = check(root, True)
    assert kinds(report, "fatal") == {("regions_class_order", None)}
    assert report.exit_code == 1
    between = {case: np.array([0, 1, 3, 2], np.uint8)[scribbles(seed)] for seed, case in enumerate(CASES)}
    for seed, case in enumerate(CASES):
        write(root / "dense" / f"{case}.nii.gz", np.array([0, 1, 3, 2], np.uint8)[dense(seed)])
    put(root, between, {"background": 0, "left": 1, "right": 3, "ignore": 2})
    assert ("ignore label", None) in kinds(check(root, True), "fatal")


def never(*args):
    raise AssertionError("nnU-Net refuses this dataset.json")


def test_an_image_whose_spacing_differs_by_rounding_is_drawn_in_the_plane_of_the_finding(root):
    arrays = {"a": np.full((12, 40, 40), 3, np.uint8)}
    arrays["a"][:, 5:9, 5:30] = 1
    arrays["a"][:, 20:24, 5:30] = 2
    arrays["a"][:, 30:34, 5:30] = 0
    folder = root / "raw" / "Dataset139_Cubes"
    write_dataset(folder, arrays, DECLARED, images={"a": np.zeros((12, 40, 40))}, spacing=(1.0, 1.0, 1.0))
    file = folder / "imagesTr" / "a_0000.nii.gz"
    almost = sitk.ReadImage(str(file))
    almost.SetSpacing((1.0000001, 1.0, 1.0))
    sitk.WriteImage(almost, str(file))
    check_scribbles(folder, processes=1).write(root / "out")
    assert (root / "out" / "overview.html").is_file()


def test_background_or_another_class_that_is_never_scribbled_is_fatal(root):
    for value, name in CLASSES.items():
        for seed, case in enumerate(CASES):
            replace(root, case, np.where(scribbles(seed) == value, 3, scribbles(seed)))
        report = check(root)
        assert kinds(report, "fatal") == {(f"no {name}", None)}
        assert report.exit_code == 1


def test_a_class_that_is_missing_in_one_case(root):
    replace(root, "b", np.where(scribbles(1) == 2, 3, scribbles(1)))
    assert kinds(check(root)) == {("absent", None)}
    found = check(root, True)
    assert kinds(found, "warning") == {("missed", "b")}
    assert found.exit_code == 0
    replace(root, "b", np.where(scribbles(1) == 0, 3, scribbles(1)))
    assert ("no background", "b") in kinds(check(root), "warning")


def test_dense_labels_by_mistake(root):
    replace(root, "b", dense(1))
    report = check(root)
    assert kinds(report, "warning") == {("dense", "b")}
    assert report.exit_code == 0
    for seed, case in enumerate(CASES):
        replace(root, case, dense(seed))
    assert kinds(check(root), "fatal") == {("dense", None)}


def test_scribbles_that_lie_elsewhere_than_their_image_by_their_header(root):
    file = root / "raw" / NAME / "labelsTr" / "b.nii.gz"
    label_map = sitk.ReadImage(str(file))
    label_map.SetOrigin(np.add(label_map.GetOrigin(), (3.0, 4.0, 0.0)).tolist())
    sitk.WriteImage(label_map, str(file))
    report = check(root)
    assert kinds(report) == {("geometry", "b")}
    text = next(found.text for found in report.findings if found.kind == "geometry")
    assert text.startswith("by their headers the scribbles lie up to 5.0 mm from the image b_0000.nii.gz")
    assert kinds(check(root, True)) == {("geometry", "b")}
    assert [found.kind for found in check(root, True).findings].count("geometry") == 2  # also of the dense labels


def test_images_without_a_label_and_a_wrong_number_of_cases_are_named(root):
    folder = root / "raw" / NAME
    shutil.copy(folder / "imagesTr" / "a_0000.nii.gz", folder / "imagesTr" / "d_0000.nii.gz")
    description = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**description, "numTraining": 4}))
    report = check(root)
    assert kinds(report, "warning") == {("no label", None), ("numTraining", None)}
    assert "case d in imagesTr" in report.report()
    assert "numTraining 4, but 3 cases have a label" in report.report()


def test_a_case_without_scribbles_and_slices_without_any(root):
    replace(root, "b", np.full_like(scribbles(1), 3))
    assert kinds(check(root)) == {("empty", "b"), ("absent", None), ("slices", None)}
    part = scribbles(1)
    part[2:4] = 3
    replace(root, "b", part)
    report = check(root)
    assert kinds(report, "note") == {("slices", None)}
    assert "2 of 18 slices" in report.report()


def test_a_class_that_vanishes_in_resampling_to_planned_spacings(root, monkeypatch):
    single = np.where(scribbles(1) == 2, 3, scribbles(1))
    y, x = np.argwhere(dense(1)[3] == 2)[100]
    single[3, y, x] = 2
    replace(root, "b", single)
    assert kinds(check(root)) == set()  # the median spacing is that of the case
    plans = tiny.plans()
    plans["configurations"]["3d_fullres"]["spacing"] = list(SPACING)
    plans["configurations"]["2d"]["spacing"] = [4.0, 3.2]
    folder = root / "preprocessed" / NAME
    folder.mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    monkeypatch.setenv("nnUNet_preprocessed", str(root / "preprocessed"))
    report = check(root)
    assert kinds(report) == {("vanishes", "b")}
    assert "2d (4 × 3.2 mm)" in report.report()
    plans["configurations"]["2d"]["resampling_fn_seg"] = "of_another_version"
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    assert {found.kind for found in check(root).findings} == {"resampling"}


def test_resampling_is_nnunets_with_its_axes_and_in_2d():
    labels = scribbles(0)
    assert resampled(labels, SPACING, Grid("x", SPACING)).tolist() == labels.tolist()
    turned = resampled(labels, SPACING, Grid("x", (1.0, 2.0, 1.6), (1, 0, 2)))
    assert turned.shape == (40, 12, 24)
    assert resampled(labels, SPACING, Grid("x", (2.0, 1.6))).shape == (6, 20, 24)
    assert resampled(labels[1], SPACING[1:], Grid("x", (2.0, 1.6))).shape == (1, 20, 24)


def test_two_dimensional_images_and_regions(root):
    folder = root / "raw" / "Dataset139_Flat"
    arrays = {case: scribbles(seed)[2] for seed, case in enumerate(CASES)}
    images = {case: image(dense(seed))[2] for seed, case in enumerate(CASES)}
    declared = {"background": 0, "whole": [1, 2], "right": 2, "ignore": 3}
    write_dataset(folder, arrays, declared, images=images, spacing=SPACING[1:], regions_class_order=[1, 2])
    report = check_scribbles(folder, processes=1)
    assert kinds(report) == set()
    assert dict(report.dataset.classes) == {0: "background", 1: "label 1", 2: "right"}
    report.write(root / "out")
    assert (root / "out" / "overview.html").is_file()


# --- one case ---------------------------------------------------------------------------------------------------------


def test_hardly_anything_annotated():
    assert [found.kind for found in coverage("a", {0: 5, 1: 5}, 1_000_000)] == ["sparse"]
    assert list(coverage("a", {0: 5000, 1: 5}, 1_000_000)) == []


def test_scribbles_that_leak():
    drawn, truth = np.full((4, 20, 20), 3), np.zeros((4, 20, 20), int)
    truth[:, 5:15, 5:15] = 1
    drawn[:, 10, 6:14] = 1
    drawn[:, 2, 2:18] = 0

    def leaks() -> list:
        return [found for found in against_dense("a", drawn, truth, SPACING, CLASSES, 3) if found.kind == "leak"]

    assert leaks() == []
    drawn[2, 10, 14:18] = 1
    (found,) = leaks()
    assert (found.about, found.index) == ("left", 2)
    assert "8.3 % of the scribble of left (3 voxels)" in found.text
    truth[2, 10, 15:] = 3  # masked out in the dense labels: nobody knows
    assert leaks() == []


def test_dense_labels_of_some_cases_are_enough(root):
    replace(root, "b", np.where(scribbles(1) == 2, 3, scribbles(1)))
    (root / "dense" / "a.nii.gz").unlink()
    report = check(root, True)
    assert set(report.dense) == {"b", "c"}
    assert kinds(report, "warning") == {("missed", "b")}
    assert ("absent", None) in kinds(report)  # nobody knows of case a


def test_components_without_a_scribble():
    truth = np.zeros((5, 30, 30), int)
    truth[1:3, 2:8, 2:8] = truth[3, 20:26, 20:26] = 1
    truth[0, 15, 15:18] = 1  # too small to matter
    drawn = np.full_like(truth, 3)
    drawn[1, 4, 3:7] = 1
    (found,) = against_dense("a", drawn, truth, SPACING, {1: "left"}, 3)
    assert (found.kind, found.index) == ("missed", 3)
    assert "1 of 2 components of left" in found.text
    assert "36 voxels" in found.text
    drawn[3, 22, 22] = 1
    assert list(against_dense("a", drawn, truth, SPACING, {1: "left"}, 3)) == []


# --- what is written --------------------------------------------------------------------------------------------------


def test_files_and_pictures(root):
    replace(root, "b", np.where(scribbles(1) == 2, 3, scribbles(1)))
    report = check(root, True)
    report.write(root / "out")
    assert sorted(path.name for path in (root / "out").iterdir()) == ["check.json", "findings.csv", "overview.html"]
    with (root / "out" / "findings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["severity"], row["kind"], row["case"]) for row in rows if row["case"]] == [("warning", "missed", "b")]
    content = json.loads((root / "out" / "check.json").read_text())
    assert content["cases"]["a"]["annotated_fraction"] == pytest.approx((scribbles(0) != 3).mean())
    page = (root / "out" / "overview.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "Suspicious cases" in page
    assert "http" not in page
    check(root).write(root / "clean")
    assert "No suspicious cases" in (root / "clean" / "overview.html").read_text()


def test_what_is_printed(root):
    printed = check(root, True).report()
    for words in (NAME, "3 cases", "findings: 0 fatal, 0 warning, 2 note", "background", "3/3", "18/18 slices"):
        assert words in printed


def test_a_class_that_no_tested_case_has_is_null_in_the_file():
    assert module._without_nan({"left": 0.25, "right": float("nan")}) == {"left": 0.25, "right": None}


def test_names_are_escaped_in_the_page(root):
    put(root, {case: scribbles(seed) for seed, case in enumerate(CASES)}, {**DECLARED, "<b>x": 2, "right": 2})
    check(root).write(root / "out")
    assert "<b>x" not in (root / "out" / "overview.html").read_text()


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(root: Path, *words: str, with_dense: bool = False) -> None:
    with pytest.raises(InputError) as error:
        check(root, with_dense)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_an_unknown_label(root):
    replace(root, "b", np.where(scribbles(1) == 2, 9, scribbles(1)))
    refused(root, "b.nii.gz", "[9]", "dataset.json")


def test_another_grid(root):
    replace(root, "b", scribbles(1)[:, :-1])
    refused(root, "Case b", "shape", "[6, 40, 48]")
    write(root / "raw" / NAME / "labelsTr" / "b.nii.gz", scribbles(1), (4.0, 1.0, 0.9))
    refused(root, "Case b", "spacing", "0.9")


def test_dense_labels_that_do_not_fit(root):
    write(root / "dense" / "b.nii.gz", dense(1)[:-1])
    refused(root, "Case b", "shape", with_dense=True)
    for case in CASES:
        (root / "dense" / f"{case}.nii.gz").unlink()
    refused(root, "dense labels of none of the 3 cases", "a.nii.gz", with_dense=True)
    with pytest.raises(InputError, match="--dense"):
        check_scribbles(138, dense=root / "nowhere")


def test_scribbles_are_no_dense_labels(root):
    write(root / "dense" / "b.nii.gz", scribbles(1))
    refused(root, "dense/b.nii.gz has the ignore label in", "holds scribbles; give dense labels", with_dense=True)
    slices = np.where(np.arange(len(dense(1)))[:, None, None] % 2, 3, dense(1))  # every other slice, densely
    write(root / "dense" / "b.nii.gz", slices)
    assert kinds(check(root, True), "fatal") == set()


def test_an_ignore_label_that_is_a_region(root):
    put(root, {"a": scribbles(0)}, {**LABELS, "ignore": [3]})
    refused(root, "ignore label", "whole number")


# --- the commands -----------------------------------------------------------------------------------------------------


def test_the_commands_draw_and_check(root, capsys):
    images = {case: image(dense(seed), seed=seed) for seed, case in enumerate(CASES)}
    labels = {case: dense(seed) for seed, case in enumerate(CASES)}
    write_dataset(root / "raw" / "Dataset038_Dense", labels, LABELS, images=images)
    one = ["-np", "1"]
    line = ["--mode", "line", "--components", "all"]
    assert main(["scribbles", "generate", "38", "--new-dataset", "139", *line, *one]) == 0
    assert "annotated voxels" in capsys.readouterr().out
    made = root / "raw" / "Dataset139_DenseScribble"
    out = ["-o", str(root / "report")]
    assert main(["scribbles", "check", "139", "--dense", str(made / "labelsTr_dense"), *one, *out]) == 0
    assert "0 fatal" in capsys.readouterr().out
    assert main(["scribbles", "check", "38", *one, *out]) == 1  # dense labels, no ignore label
    assert main(["scribbles", "check", "7", *one]) == 2
    assert main(["scribbles", "generate", "38", "--new-dataset", "139", *one]) == 2  # there already
