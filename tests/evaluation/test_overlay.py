"""The picture: which slice, which classes, and a file that is one."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.data.reading import Reader
from nnunet_ext.demo import report
from nnunet_ext.evaluation.folders import evaluate_folders
from nnunet_ext.evaluation.overlay import OverlayCase, chosen_slice, draw_overlay, longest_interface, masks

LABELS = ScoredLabels({"left": 1, "right": 2})


def volume() -> np.ndarray:
    segmentation = np.zeros((4, 10, 12), np.uint8)
    segmentation[0, 1:9, 1:9] = 1  # much foreground, no border
    segmentation[2, 2:8, 2:5], segmentation[2, 2:8, 5:8] = 1, 2
    return segmentation


def test_the_slice_with_the_longest_border():
    assert longest_interface(volume(), (3, 1, 1)) == 2
    assert longest_interface(np.minimum(volume(), 1), (3, 1, 1)) == 0


@pytest.mark.parametrize("axis", range(3))
def test_slices_are_cut_along_the_coarsest_axis(axis):
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.0
    moved = np.moveaxis(volume(), 0, axis)
    assert chosen_slice(moved, [moved], spacing, None, "interface") == (axis, 2)


def test_the_slice_where_predictions_differ_most_and_without_any_the_longest_border():
    other = volume()
    other[3, 4:6, 4:6] = 1
    assert chosen_slice(volume(), [volume(), other], (3, 1, 1), None, "disagreement") == (0, 3)
    assert chosen_slice(volume(), [volume(), volume()], (3, 1, 1), None, "disagreement") == (0, 2)
    ignored = volume()
    ignored[3] = 9
    assert chosen_slice(ignored, [volume(), other], (3, 1, 1), 9, "disagreement") == (0, 2)


def test_a_volume_can_be_cut_across_another_axis():
    other = volume()
    other[3, 4:6, 4:6] = 1
    axis, index = chosen_slice(volume(), [volume(), other], (3, 1, 1), None, "disagreement", 2)
    assert (axis, index) == (2, int(np.argmax((other != volume()).sum((0, 1)))))


def test_ignored_voxels_belong_to_no_mask():
    labels = ScoredLabels({"whole": (1, 2), "core": 2}, ignore=3)
    shown = masks(np.array([[0, 1, 2, 2]]), np.array([[0, 1, 2, 3]]), labels)
    assert shown["whole"].tolist() == [[False, True, True, False]]
    assert shown["core"].tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("shape", [(4, 10, 12), (10, 12)])
@pytest.mark.parametrize("choice", ["interface", "disagreement"])
def test_the_picture_is_drawn_in_2d_and_3d(tmp_path, shape, choice):
    label = volume() if len(shape) == 3 else volume()[2]
    image, reference = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(label.astype(np.float32)), str(image))
    sitk.WriteImage(sitk.GetImageFromArray(label), str(reference))
    case = OverlayCase("a", image, reference, {"one": reference, "two": reference}, {"one": "Dice 1"})
    draw_overlay(tmp_path / "overlay.png", [case, case], LABELS, Reader("SimpleITKIO"), "title", choice)
    assert (tmp_path / "overlay.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "overlay.png").stat().st_size > 10_000


def test_the_files_of_the_demo_hold_no_nan(tmp_path):
    for folder in ("gt", "pred"):
        (tmp_path / folder).mkdir()
        only_left = np.minimum(volume(), 1)
        sitk.WriteImage(sitk.GetImageFromArray(only_left), str(tmp_path / folder / "a.nii.gz"))
    evaluation = evaluate_folders(tmp_path / "gt", tmp_path / "pred", labels=LABELS, processes=1)
    assert math.isnan(evaluation.means()["right"]["dice"])
    cases = pd.DataFrame(evaluation.rows()).assign(arm="t", group="d", fold=0, seed=0)
    results = SimpleNamespace(cases=cases, definitions=evaluation.definitions)
    report.write_results(tmp_path, results, {"t": evaluation.means()}, dataset="d")
    text = (tmp_path / "results.json").read_text()
    left, right = json.loads(text, parse_constant=pytest.fail)["scores"]
    assert (left["trainer"], left["label"], left["dice"], left["hd95_mm"]) == ("t", "left", 1, 0)
    assert (right["dice"], right["status"]) == (None, "both empty")
    assert (tmp_path / "results.csv").read_text().splitlines()[0].startswith("trainer,case,label,dice,iou,hd95_mm")
    assert "1.000        0.00" in report.table({"t": evaluation.means()})
