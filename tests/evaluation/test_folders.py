"""``nnunet-ext evaluate`` on real files: which cases, which labels, which voxels, what is written, and bad input."""

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from skimage import io as skimage_io

from nnunet_ext.cli import main
from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.folders import evaluate_folders
from nnunet_ext.evaluation.interfaces import interface_metrics
from nnunet_ext.evaluation.metrics import label_metrics
from nnunet_ext.evaluation.slice_consistency import slice_consistency
from nnunet_ext.evaluation.topology import label_topology

SPACING = (3.0, 1.0, 0.5)  # z, y, x
LABELS = {"background": 0, "left": 1, "right": 2}


def label_map(seed: int, shape: tuple[int, ...] = (6, 20, 24)) -> np.ndarray:
    """Two touching boxes whose position depends on the seed."""
    rng = np.random.default_rng(seed)
    array = np.zeros(shape, np.uint8)
    y, x = rng.integers(2, 6, 2)
    array[..., y : y + 9, x : x + 5] = 1
    array[..., y : y + 9, x + 5 : x + 11] = 2
    array[0] = 0
    return array


def write(path: Path, array: np.ndarray, spacing=SPACING, origin=None, direction=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1][: array.ndim])
    if origin:
        image.SetOrigin(origin)
    if direction:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def folders(tmp_path):
    """Three cases with a reference and a prediction, and dataset.json beside the predictions."""
    for case in range(3):
        write(tmp_path / "gt" / f"case_{case}.nii.gz", label_map(case))
        write(tmp_path / "pred" / f"case_{case}.nii.gz", label_map(case + 10))
    describe(tmp_path, LABELS)
    return tmp_path


def describe(folder: Path, labels: dict, **more) -> None:
    content = {"labels": labels, "file_ending": ".nii.gz", "channel_names": {"0": "MRI"}, **more}
    (folder / "pred" / "dataset.json").write_text(json.dumps(content))


def evaluate(folder: Path, **options):
    return evaluate_folders(folder / "gt", folder / "pred", **{"processes": 1, **options})


# --- what is computed -------------------------------------------------------------------------------------------------


def test_every_number_is_that_of_the_arrays(folders):
    evaluation = evaluate(folders, nsd_tolerances_mm=(1, 2.5))
    assert [case.name for case in evaluation.cases] == ["case_0", "case_1", "case_2"]
    for number, case in enumerate(evaluation.cases):
        expected = label_metrics(
            label_map(number + 10), label_map(number), SPACING, {"left": 1, "right": 2}, nsd_tolerances_mm=(1, 2.5)
        )
        assert case.metrics == expected


def test_several_processes_compute_the_same(folders):
    assert list(evaluate(folders, processes=2).rows()) == list(evaluate(folders).rows())


def test_regions_and_the_ignore_label_come_from_dataset_json(folders):
    for case in range(3):
        truth = label_map(case)
        truth[:, :, :8] = 3
        write(folders / "gt" / f"case_{case}.nii.gz", truth)
    describe(folders, {"background": 0, "whole": [1, 2], "right": 2, "ignore": 3}, regions_class_order=[1, 2])
    evaluation = evaluate(folders)
    expected = label_metrics(
        label_map(10), _ignoring(label_map(0)), SPACING, {"whole": (1, 2), "right": 2}, ignore_label=3
    )
    assert evaluation.cases[0].metrics == expected
    assert any("ignore" in sentence for sentence in evaluation.definitions)


def _ignoring(truth):
    truth[:, :, :8] = 3
    return truth


def test_labels_can_be_given_and_others_are_background_then(folders):
    evaluation = evaluate(folders, labels=ScoredLabels.from_words(["both=1,2", "2"]))
    assert evaluation.settings.labels.values == {"both": (1, 2), "2": 2}
    assert set(evaluation.cases[0].metrics) == {"both", "2"}


@pytest.mark.parametrize(
    ("words", "dice"), [(["liver=1"], 1.0), (["liver=1", "ignore=2"], 18 / 256), (["rest=3"], 0.0)]
)
def test_the_ignore_label_of_dataset_json_holds_for_labels_that_are_named_too(tmp_path, words, dice):
    truth, predicted = np.full((4, 8, 8), 3, np.uint8), np.ones((4, 8, 8), np.uint8)
    truth[1, 2:5, 2:5] = 1
    truth[2, 2:5, 2:5] = predicted[2, 2:5, 2:5] = 0
    write(tmp_path / "gt" / "a.nii.gz", truth)
    write(tmp_path / "pred" / "a.nii.gz", predicted)
    describe(tmp_path, {"background": 0, "liver": 1, "spleen": 2, "ignore": 3})
    (metrics,) = evaluate(tmp_path, labels=ScoredLabels.from_words(words)).cases[0].metrics.values()
    assert metrics.dice == pytest.approx(dice)


def test_cases_that_were_annotated_in_part_are_named(folders):
    assert "WARNING" not in evaluate(folders).report()
    describe(folders, LABELS, annotated_labels={"case_1": ["left"], "elsewhere": []})
    assert "WARNING: of case case_1 only some labels were annotated" in evaluate(folders).report()


def test_a_label_called_mean_is_refused(folders):
    describe(folders, {"background": 0, "mean": 1, "right": 2})
    with pytest.raises(InputError, match="a label is called mean, which is the last row here"):
        evaluate(folders)


def test_absent_classes_are_counted_and_not_averaged(folders):
    empty = np.zeros_like(label_map(0))
    only_left = np.where(label_map(1) == 1, 1, 0).astype(np.uint8)
    write(folders / "gt" / "case_0.nii.gz", empty)
    write(folders / "pred" / "case_0.nii.gz", empty)
    write(folders / "pred" / "case_1.nii.gz", only_left)
    evaluation = evaluate(folders)
    means = evaluation.means()
    assert (means["right"]["counted"], means["right"]["both_empty"], means["right"]["one_empty"]) == (2, 1, 1)
    assert (means["left"]["counted"], means["left"]["both_empty"], means["left"]["one_empty"]) == (2, 1, 0)
    right = [case.metrics["right"] for case in evaluation.cases]
    assert right[1].dice == 0
    assert right[1].hd95_mm == pytest.approx(math.hypot(6 * 3.0, 20 * 1.0, 24 * 0.5))
    assert means["right"]["dice"] == pytest.approx(right[2].dice / 2)
    zero = evaluate(folders, empty="zero").means()
    assert zero["right"]["dice"] == pytest.approx(right[2].dice / 3)
    assert (zero["right"]["counted"], zero["right"]["both_empty"]) == (3, 1)
    assert zero["right"]["hd95_mm"] == pytest.approx(right[2].hd95_mm / 3)


def test_two_dimensional_images(tmp_path):
    for case in range(2):
        for folder, seed in (("gt", case), ("pred", case + 10)):
            (tmp_path / folder).mkdir(exist_ok=True)
            array = label_map(seed, (20, 24))
            array[0] = 0
            skimage_io.imsave(tmp_path / folder / f"case_{case}.png", array, check_contrast=False)
    describe(tmp_path, LABELS, file_ending=".png")
    evaluation = evaluate(tmp_path)
    assert evaluation.cases[0].metrics == label_metrics(
        label_map(10, (20, 24)), label_map(0, (20, 24)), (1, 1), {"left": 1, "right": 2}
    )
    assert "reference_mm2" in next(evaluation.rows())
    assert (
        "the files of 2 cases (case_0, case_1) hold no spacing, so distances and sizes are in pixels"
        in evaluation.report()
    )


@pytest.mark.parametrize("known", [False, True])
def test_volumes_of_tif_without_a_spacing_beside_them_are_measured_in_pixels_and_named(tmp_path, known):
    for folder in ("gt", "pred"):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", label_map(0).astype(np.uint8))
        if known:
            (tmp_path / folder / "a.json").write_text('{"spacing": [3, 1, 1]}')
    describe(tmp_path, LABELS, file_ending=".tif")
    assert ("the files of case a hold no spacing" in evaluate(tmp_path).report()) is not known


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_the_file_type_is_found_without_dataset_json(tmp_path, ending):
    write(tmp_path / "gt" / f"a{ending}", label_map(0))
    write(tmp_path / "pred" / f"a{ending}", label_map(1))
    evaluation = evaluate(tmp_path, labels=ScoredLabels.from_words(["left=1"]))
    assert evaluation.cases[0].metrics["left"].n_ref == int((label_map(0) == 1).sum())


# --- what is written --------------------------------------------------------------------------------------------------


def test_summary_json_is_a_superset_of_nnunets(folders, capfd):
    assert main(["evaluate", str(folders / "gt"), str(folders / "pred"), "--processes", "1"]) == 0
    ours = load_summary_json(str(folders / "pred" / "evaluation" / "summary.json"))
    theirs = compute_metrics_on_folder(
        str(folders / "gt"), str(folders / "pred"), None, SimpleITKIO(), ".nii.gz", [1, 2], num_processes=1
    )
    assert set(theirs) < set(ours)
    for key in ("mean", "foreground_mean"):
        _superset(ours[key], theirs[key])
    for mine, other in zip(ours["metric_per_case"], theirs["metric_per_case"], strict=True):
        assert Path(mine["prediction_file"]).name == Path(other["prediction_file"]).name
        _superset(mine["metrics"], other["metrics"])
    assert ours["mean"][1]["hd95_mm"] > 0
    assert "surface-distance" in " ".join(ours["nnunet_ext"]["definitions"])


def test_the_background_is_no_part_of_the_foreground_mean(folders):
    command = ["evaluate", str(folders / "gt"), str(folders / "pred"), "--processes", "1"]
    assert main([*command, "--labels", "background=0", "left=1", "right=2"]) == 0
    ours = load_summary_json(str(folders / "pred" / "evaluation" / "summary.json"))
    theirs = compute_metrics_on_folder(
        str(folders / "gt"), str(folders / "pred"), None, SimpleITKIO(), ".nii.gz", [0, 1, 2], num_processes=1
    )
    _superset(ours["foreground_mean"], theirs["foreground_mean"])
    assert main([*command, "--labels", "background=0"]) == 0  # nothing else to take a mean of


def _superset(ours, theirs):
    for key, value in theirs.items():
        if isinstance(value, dict):
            _superset(ours[key], value)
        else:
            assert ours[key] == pytest.approx(value, nan_ok=True), key


def test_the_table_has_one_row_per_case_and_label_and_empty_cells_for_what_does_not_count(folders):
    empty = np.zeros_like(label_map(0))
    write(folders / "gt" / "case_0.nii.gz", empty)
    write(folders / "pred" / "case_0.nii.gz", empty)
    out = folders / "out"
    assert main(["evaluate", str(folders / "gt"), str(folders / "pred"), "-o", str(out), "--processes", "1"]) == 0
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["label"]) for row in rows] == [
        (f"case_{i}", n) for i in range(3) for n in LABELS if n[0] in "lr"
    ]
    assert rows[0]["dice"] == ""
    assert rows[0]["status"] == "both empty"
    assert 0 < float(rows[2]["dice"]) < 1
    assert sorted(path.name for path in out.iterdir()) == ["metrics.csv", "summary.json"]


def test_what_is_printed_names_definition_rule_unit_and_cases_left_out(folders, capsys):
    (folders / "pred" / "case_2.nii.gz").unlink()
    command = ["evaluate", str(folders / "gt"), str(folders / "pred"), "--processes", "1", "--common"]
    assert main([*command, "--definition", "voxel", "--legacy-empty-zero", "--nsd-tolerances", "2"]) == 0
    printed = capsys.readouterr().out
    for words in ("definition voxel", "MedPy", "scribble papers", "2 cases", "case_2", "nsd_2mm"):
        assert words in printed


@pytest.fixture
def planned(folders):
    """The same cases with plans beside the predictions that slice along the last axis."""
    (folders / "pred" / "plans.json").write_text(
        json.dumps({"image_reader_writer": "SimpleITKIO", "transpose_forward": [2, 0, 1]})
    )
    return folders


def test_neighbouring_slices_are_compared_along_the_axis_of_the_plans(planned, capsys):
    command = ["evaluate", str(planned / "gt"), str(planned / "pred"), "--processes", "1"]
    assert main([*command, "--consistency"]) == 0
    printed = capsys.readouterr().out
    assert "consistency_difference" in printed
    assert "neighbouring slices" in printed
    with (planned / "pred" / "evaluation" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = slice_consistency(label_map(10), label_map(0), {"left": 1, "right": 2}, 2)
    for row, label in zip(rows, ("left", "right"), strict=False):
        assert float(row["consistency"]) == pytest.approx(expected[label].prediction)
        assert float(row["consistency_reference"]) == pytest.approx(expected[label].reference)
        assert float(row["consistency_difference"]) == pytest.approx(expected[label].difference)
    summary = load_summary_json(str(planned / "pred" / "evaluation" / "summary.json"))
    differences = [float(row["consistency_difference"]) for row in rows if row["label"] == "left"]
    assert summary["mean"][1]["consistency_difference"] == pytest.approx(np.mean(differences))
    assert main(command) == 0
    assert "consistency" not in capsys.readouterr().out


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


def test_interfaces_have_a_file_a_table_and_a_definition(folders, capsys):
    command = ["evaluate", str(folders / "gt"), str(folders / "pred"), "--processes", "1"]
    assert main([*command, "--interfaces", "--nsd-tolerances", "2"]) == 0
    printed = capsys.readouterr().out
    for words in ("left | right", "interface_nsd_2mm", "interface of two labels", "interfaces.csv"):
        assert words in printed
    out = folders / "pred" / "evaluation"
    rows = rows_of(out / "interfaces.csv")
    assert [(row["case"], row["labels"]) for row in rows] == [(f"case_{case}", "left | right") for case in range(3)]
    expected = [
        interface_metrics(label_map(c + 10), label_map(c), SPACING, {"left": 1, "right": 2}, nsd_tolerances_mm=(2,))
        for c in range(3)
    ]
    for row, found in zip(rows, expected, strict=True):
        metrics = found["left", "right"]
        numbers = [float(row[f"interface_{name}"]) for name in ("hd95_mm", "nsd_2mm", "confusion")]
        assert numbers == pytest.approx([metrics.hd95_mm, metrics.nsd[2.0], metrics.confusion])
    summary = json.loads((out / "summary.json").read_text())["nnunet_ext"]["interfaces"]
    mean = np.mean([float(row["interface_hd95_mm"]) for row in rows])
    assert summary["left | right"]["interface_hd95_mm"] == pytest.approx(mean)
    assert summary["left | right"]["counted"] == 3


def test_a_table_of_interfaces_of_earlier_predictions_does_not_stay(folders):
    command = ["evaluate", str(folders / "gt"), str(folders / "pred"), "--processes", "1"]
    table = folders / "pred" / "evaluation" / "interfaces.csv"
    assert main([*command, "--interfaces"]) == 0
    assert main(command) == 0
    assert table.is_file()
    os.utime(folders / "pred" / "case_0.nii.gz", (2e9, 2e9))  # predicted anew
    assert main(command) == 0
    assert not table.exists()
    table.write_text("surface,of\n1,somebody else")
    assert main(command) == 0
    assert table.is_file()


def test_labels_that_never_touch_have_no_row(folders, capsys):
    for case in range(3):
        for folder in ("gt", "pred"):
            array = label_map(case)
            array[array == 2] = 0
            write(folders / folder / f"case_{case}.nii.gz", array)
    command = ["evaluate", str(folders / "gt"), str(folders / "pred"), "--processes", "1"]
    assert main([*command, "--interfaces"]) == 0
    assert "no two labels touch each other" in capsys.readouterr().out
    assert rows_of(folders / "pred" / "evaluation" / "interfaces.csv") == []


def test_topology_adds_a_column_for_every_betti_number(folders, capsys):
    with_hole = label_map(10)
    with_hole[3, 8, :] = 0
    write(folders / "pred" / "case_0.nii.gz", with_hole)
    command = ["evaluate", str(folders / "gt"), str(folders / "pred"), "--processes", "1"]
    assert main([*command, "--topology"]) == 0
    assert "Betti errors" in capsys.readouterr().out
    rows = rows_of(folders / "pred" / "evaluation" / "metrics.csv")
    expected = label_topology(with_hole, label_map(0), {"left": 1, "right": 2})
    assert [float(rows[0][f"betti_{k}_error"]) for k in range(3)] == list(expected["left"].errors)
    assert sum(expected["left"].errors) > 0
    summary = load_summary_json(str(folders / "pred" / "evaluation" / "summary.json"))
    assert summary["mean"][1]["betti_1_error"] == pytest.approx(expected["left"].errors[1] / 3)
    assert main(command) == 0
    assert "betti" not in capsys.readouterr().out


def test_cases_of_one_subject_are_averaged_first(folders, capsys):
    command = ["evaluate", str(folders / "gt"), str(folders / "pred"), "--processes", "1"]
    assert main([*command, "--by", "pairs-from-0"]) == 0
    assert "2 subjects, 3 cases; the subject is the unit" in capsys.readouterr().out
    out = folders / "pred" / "evaluation"
    rows = [row for row in rows_of(out / "metrics.csv") if row["label"] == "left"]
    assert [row["subject"] for row in rows] == ["case_0+1", "case_0+1", "case_2+3"]
    dice = [float(row["dice"]) for row in rows]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["nnunet_ext"]["means"]["left"]["dice"] == pytest.approx(((dice[0] + dice[1]) / 2 + dice[2]) / 2)
    assert summary["mean"]["1"]["Dice"] == pytest.approx(np.mean(dice))  # nnU-Net's own number stays what it was
    assert summary["nnunet_ext"]["subjects"]["case_1"] == "case_0+1"
    assert main([*command, "--by", "patient"]) == 2


# --- bad input --------------------------------------------------------------------------------------------------------


def test_consistency_needs_plans_and_volumes(folders, planned):
    refused(planned, "bad.json", "transpose_forward", plans=bad_plans(planned), consistency=True)
    (planned / "pred" / "plans.json").unlink()
    refused(folders, "--plans", "plans.json", consistency=True)


def bad_plans(folder: Path) -> Path:
    (folder / "bad.json").write_text(json.dumps({"transpose_forward": [0, 1]}))
    return folder / "bad.json"


def test_consistency_of_single_slices(tmp_path):
    for name in ("gt", "pred"):
        (tmp_path / name).mkdir()
        skimage_io.imsave(tmp_path / name / "case_0.png", label_map(0)[1], check_contrast=False)
    describe(tmp_path, LABELS, file_ending=".png")
    plans = tmp_path / "plans.json"
    plans.write_text(json.dumps({"transpose_forward": [0, 1, 2]}))
    refused(tmp_path, "single slice", consistency=True, plans=plans)


def refused(folder: Path, *words: str, **options) -> str:
    with pytest.raises(InputError) as error:
        evaluate(folder, **options)
    message = str(error.value)
    assert message.count("\n") == 0
    for word in words:
        assert word in message, message
    return message


def test_a_missing_prediction(folders):
    (folders / "pred" / "case_1.nii.gz").unlink()
    refused(folders, "case_1", "no prediction", "--common")


def test_an_extra_file(folders):
    write(folders / "pred" / "other.nii.gz", label_map(3))
    refused(folders, "other", "no reference", "--common")


def test_another_shape(folders):
    write(folders / "pred" / "case_1.nii.gz", label_map(1, (6, 20, 25)))
    refused(folders, "case_1", "shape", "(6, 20, 25)", "(6, 20, 24)")


def test_another_spacing(folders):
    write(folders / "pred" / "case_1.nii.gz", label_map(1), spacing=(3.0, 1.0, 0.51))
    refused(folders, "case_1", "spacing", "0.51", "0.5")


def test_another_origin(folders):
    write(folders / "pred" / "case_1.nii.gz", label_map(1), origin=(0.0, 4.0, 0.0))
    refused(folders, "case_1", "origin", "4.0")


def test_another_direction(folders):
    write(folders / "pred" / "case_1.nii.gz", label_map(1), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    refused(folders, "case_1", "direction", "-1.0")


def test_what_a_file_format_rounds_is_no_difference(folders):
    write(folders / "pred" / "case_1.nii.gz", label_map(1), spacing=(3.0, 1.0, 0.5 + 1e-6), origin=(1e-5, 0, 0))
    assert len(evaluate(folders).cases) == 3


def test_no_whole_numbers(folders):
    write(folders / "pred" / "case_1.nii.gz", label_map(1).astype(np.float32) * 0.75)
    refused(folders, "case_1", "0.75", "no whole number", "interpolation")


def test_not_a_number(tmp_path):
    array = label_map(1).astype(np.float32)
    array[0, 0, 0] = np.nan
    write(tmp_path / "gt" / "a.mha", label_map(0))
    write(tmp_path / "pred" / "a.mha", array)
    refused(tmp_path, "a.mha", "1 voxels", "nan", labels=ScoredLabels.from_words(["left=1"]))


@pytest.mark.parametrize("folder", ["gt", "pred"])
def test_an_unknown_label(folders, folder):
    array = label_map(1)
    array[2, 2, 2] = 7
    write(folders / folder / "case_1.nii.gz", array)
    refused(folders, f"{folder}{os.sep}case_1.nii.gz", "[7]", "[0, 1, 2]", "--labels")


def test_a_damaged_file(folders):
    (folders / "pred" / "case_1.nii.gz").write_bytes(b"no image")
    refused(folders, "case_1", "is damaged or not complete")


@pytest.mark.parametrize("folder", ["gt", "pred"])
def test_an_empty_folder(folders, folder):
    for file in (folders / folder).glob("*.nii.gz"):
        file.unlink()
    refused(folders, str(folders / folder), "holds no .nii.gz files")


def test_a_folder_that_is_not_there(folders):
    with pytest.raises(InputError, match=r"reference folder .*nowhere does not exist"):
        evaluate_folders(folders / "nowhere", folders / "pred")


def test_no_dataset_json(folders):
    (folders / "pred" / "dataset.json").unlink()
    refused(folders, "no dataset.json", "--labels")


def test_a_dataset_json_that_is_none(folders):
    (folders / "pred" / "dataset.json").write_text("{")
    refused(folders, "dataset.json", "cannot be read as JSON")
    (folders / "pred" / "dataset.json").write_text("{}")
    refused(folders, "dataset.json", "no labels")
    describe(folders, {"background": 0})
    refused(folders, "names no label but the background")


@pytest.mark.parametrize("words", [["left"], ["left=x"], ["left=1.5"], ["ignore=3"]])
def test_labels_that_cannot_be_read(words):
    with pytest.raises(InputError, match="--labels"):
        ScoredLabels.from_words(words)


def test_an_error_in_a_worker_process_is_the_same_sentence(folders, capsys):
    write(folders / "pred" / "case_1.nii.gz", label_map(1, (6, 20, 25)))
    assert main(["evaluate", str(folders / "gt"), str(folders / "pred"), "--processes", "2"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nnunet-ext:")]
    assert len(errors) == 1
    assert "case_1" in errors[0]
    assert not (folders / "pred" / "evaluation").exists()
