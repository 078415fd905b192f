"""``nnunet-ext scribbles check --dense``: which share of correct voxels the planned CRF losses change."""

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.attenscribble.options import AttenScribbleOptions
from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.scribbles.check import ScribbleReport, check_scribbles
from nnunet_ext.scribbles.crf import count_case, planned_losses, smaller_windows
from nnunet_ext.scribbles.label_map import Options, scribble_label_map
from tests import tiny
from tests.scribbles.raw import LABELS, SPACING, dense, image, write, write_dataset

NAME = "Dataset138_Boxes"
CLASSES = {0: "background", 1: "left", 2: "right"}
CASES = ("a", "b", "c")
REGIONS = {"background": 0, "whole": [1, 2], "right": 2}
WIDE = {"crf_radius": 5, "crf_sigma": 6.0}


def truth(seed: int) -> np.ndarray:
    """The boxes, and a line of two voxels that is hardly brighter than the background."""
    labels = dense(seed)
    labels[:, 28:30, 2:40] = 1
    return labels


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A planned data set of three cases with scribbles, and ``dense`` with the dense labels of two of them."""
    for kind in ("raw", "preprocessed"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    options = Options(mode="line", thickness=2, components="all")
    scribbles, images = {}, {}
    for seed, case in enumerate(CASES):
        labels = truth(seed)
        scribbles[case] = scribble_label_map(labels, SPACING, CLASSES, 3, case, options).astype(np.uint8)
        grey = image(labels, seed)
        grey[:, 28:30, 2:40] -= 88
        images[case] = grey
        if case != "b":
            write(tmp_path / "dense" / f"{case}.nii.gz", labels)
    write_dataset(tmp_path / "raw" / NAME, scribbles, {**LABELS, "ignore": 3}, images=images)
    plan(tmp_path)
    return tmp_path


def plan(root: Path, options: dict | None = None, configurations: tuple[str, ...] = ("2d",)) -> None:
    plans = tiny.plans()
    plans["dataset_name"] = NAME
    plans["configurations"] = {name: plans["configurations"][name] for name in configurations}
    for name, settings in plans["configurations"].items():
        settings["spacing"] = list(SPACING[1:] if name == "2d" else SPACING)
        settings["nnunet_ext"] = {"attenscribble": options or {}}
    folder = root / "preprocessed" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))


def check(root: Path, **options) -> ScribbleReport:
    return check_scribbles(138, dense=root / "dense", **{"processes": 1, **options})


def crf_findings(report: ScribbleReport) -> list[tuple[str, str]]:
    return [(found.severity, found.text) for found in report.findings if found.kind == "crf window"]


def test_a_window_that_takes_a_class_apart_is_said_with_one_that_does_not(root):
    plan(root, WIDE)
    report = check(root)
    (test,) = report.relabel_tests
    assert test.cases == 2
    assert test.shares[0]["left"] > 0.1
    assert [options.crf_radius for options in test.planned.tried] == [5, 4, 3, 2, 1]
    ((severity, text),) = crf_findings(report)
    assert severity == "warning"
    assert "2d (radius 5, σ 6 voxels) would change" in text
    assert "of the correct voxels of left (2 cases)" in text
    radius = test.planned.tried[test.suggested].crf_radius
    option = f"--option attenscribble.crf_radius={radius} attenscribble.crf_sigma=null"
    assert f"nnunet-ext plans {NAME} -p nnUNetPlans -c 2d {option}" in text
    assert report.exit_code == 0


def test_the_command_that_is_suggested_mends_it(root, capsys):
    plan(root, WIDE)
    for name in ("dataset.json",):
        (root / "preprocessed" / NAME / name).write_text((root / "raw" / NAME / name).read_text())
    ((_, text),) = crf_findings(check(root))
    assert main([*text.partition("nnunet-ext ")[2].split(), "--name", "narrow"]) == 0
    capsys.readouterr()
    ((severity, text),) = crf_findings(check(root, plans="narrow"))
    assert severity == "note"
    assert "the most of any class (2 cases)" in text


def test_shares_are_counts_over_all_cases_and_every_configuration_is_tested(root):
    plan(root, configurations=("2d", "3d_fullres"))
    report = check(root)
    assert [test.planned.configuration for test in report.relabel_tests] == ["2d", "3d_fullres"]
    content = json.loads((root / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
    counts = [
        count_case(
            planned_losses(content)[0],
            content,
            report.dataset.description,
            case,
            root / "dense" / f"{case.name}.nii.gz",
        )
        for case in report.dataset.cases
        if case.name != "b"
    ]
    changed, voxels = sum(one[0][0] for one in counts), sum(one[1] for one in counts)
    assert list(report.relabel_tests[0].shares[0].values()) == pytest.approx((changed / voxels).tolist())
    assert voxels.tolist() == [sum((truth(seed) == value).sum() for seed in (0, 2)) for value in CLASSES]
    table = report.relabel_table()
    assert table[0][1:] == ["2d", "3d_fullres"]
    assert [row[0] for row in table[1:]] == list(CLASSES.values())


def test_regions_are_tested_one_by_one(root):
    file = root / "raw" / NAME / "dataset.json"
    content = {**json.loads(file.read_text()), "labels": {**REGIONS, "ignore": 3}, "regions_class_order": [1, 2]}
    file.write_text(json.dumps(content))
    report = check(root)
    assert list(report.relabel_tests[0].shares[0]) == ["whole", "right"]
    report.write(root / "out")
    assert (root / "out" / "overview.html").is_file()


def test_no_window_is_small_enough_for_a_class_that_looks_like_its_surroundings(root):
    labels = np.zeros((6, 40, 48), np.uint8)
    labels[:, ::2, ::2] = 1  # single pixels in a plain image
    labels[:, 20:, :] = 2
    for case in ("a", "c"):
        write(root / "dense" / f"{case}.nii.gz", labels)
        write(root / "raw" / NAME / "imagesTr" / f"{case}_0000.nii.gz", np.ones(labels.shape, np.float32))
    ((severity, text),) = crf_findings(check(root))
    assert severity == "warning"
    assert "even the smallest window" in text
    assert "attenscribble.crf_weight=0" in text


def test_without_plans_or_with_ones_that_this_nnunet_does_not_know_a_note_says_so(root):
    file = root / "preprocessed" / NAME / "nnUNetPlans.json"
    content = json.loads(file.read_text())
    content["configurations"]["2d"]["resampling_fn_data"] = "of_another_version"
    file.write_text(json.dumps(content))
    ((severity, text),) = crf_findings(check(root))
    assert severity == "note"
    assert "the CRF loss of 2d is not tested" in text
    file.unlink()
    assert crf_findings(check(root)) == [
        ("note", f"the window of the CRF loss is not tested: {NAME} is not planned yet (nnUNetv2_plan_experiment)")
    ]
    assert check_scribbles(138, processes=1).relabel_tests == ()


def test_plans_that_are_not_there_are_named_with_those_that_are(root, monkeypatch):
    with pytest.raises(InputError, match=r"no nnUNetPlan\.json in .*138_Boxes; choose from nnUNetPlans with -p"):
        check(root, plans="nnUNetPlan")
    folder = root / "preprocessed" / NAME
    (folder / "nnUNetPlans.json").rename(folder / "nnUNetResEncUNetMPlans.json")
    with pytest.raises(InputError, match=r"no nnUNetPlans\.json .* choose from nnUNetResEncUNetMPlans with -p"):
        check_scribbles(138, processes=1)
    assert check(root, plans="nnUNetResEncUNetMPlans").relabel_tests
    (folder / "nnUNetResEncUNetMPlans.json").unlink()
    with pytest.raises(InputError, match=r"no narrow\.json .* leave out -p"):
        check(root, plans="narrow")
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(InputError, match=r"no narrow\.json in nnUNet_preprocessed, which is not set"):
        check(root, plans="narrow")


def test_dense_labels_without_any_of_the_regions_are_no_test(root):
    file = root / "raw" / NAME / "dataset.json"
    content = {**json.loads(file.read_text()), "labels": {**REGIONS, "ignore": 3}, "regions_class_order": [1, 2]}
    file.write_text(json.dumps(content))
    for case in ("a", "c"):
        write(root / "dense" / f"{case}.nii.gz", np.zeros_like(truth(0)))
    report = check(root)
    text = "the CRF loss of 2d is not tested: the dense labels have none of its regions"
    assert crf_findings(report) == [("note", text)]
    assert report.relabel_tests == ()


def test_wrong_options_in_the_plans_are_refused(root):
    plan(root, {"crf_radius": 0})
    with pytest.raises(InputError, match=r"configuration 2d, have .*attenscribble\.crf_radius"):
        check(root)


def test_a_crf_loss_of_weight_0_is_not_tested(root):
    plan(root, {**WIDE, "crf_weight": 0.0})
    report = check(root)
    assert report.relabel_tests == ()
    assert crf_findings(report) == []


def test_a_window_with_a_width_of_its_own_is_tried_with_that_of_its_radius_first():
    options = AttenScribbleOptions(crf_radius=3, crf_sigma=6.0)
    assert [(one.crf_radius, one.crf_sigma) for one in smaller_windows(options, (1.0, 1.0))] == [
        (3, None),
        (2, None),
        (1, None),
    ]
    assert [one.crf_radius for one in smaller_windows(AttenScribbleOptions(crf_radius=3), (1.0, 1.0))] == [2, 1]


def test_configurations_of_the_same_spacing_and_window_are_tested_once(root):
    content = json.loads((root / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
    content["configurations"]["2d_wide"] = {"inherits_from": "2d", "batch_size": 3}
    assert [loss.configuration for loss in planned_losses(content)] == ["2d"]


def test_it_is_written_and_drawn(root):
    plan(root, WIDE)
    report = check(root)
    report.write(root / "out")
    content = json.loads((root / "out" / "check.json").read_text())["crf"]["2d"]
    assert [entry["radius"] for entry in content] == [5, 4, 3, 2, 1]
    assert content[0]["changed"] == dict(report.relabel_tests[0].shares[0])
    page = (root / "out" / "overview.html").read_text()
    section = page.partition("The CRF loss on perfect labels")[2].partition("<h2>")[0]
    assert section.count("data:image/png;base64,") == 1
    assert "radius 5, σ 6 voxels" in section
    assert "correct voxels that the CRF loss changes" in report.report()
