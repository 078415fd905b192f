"""Where a simulated user clicks, and what is made of the numbers."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.evaluation.metrics import label_metrics
from nnunet_ext.interactive.click_effects import effect_of, effects_of
from nnunet_ext.interactive.evaluate_clicks import Click, Clicked, ClickEvaluation, Moment, next_click

SPACING = [5.0, 1.0, 1.0]


def volumes():
    truth = np.zeros((4, 12, 12), int)
    truth[1:3, 2:9, 2:9] = 1
    truth[2, 3:5, 3:5] = 2
    return truth.copy(), truth


def test_nothing_wrong_no_click():
    predicted, truth = volumes()
    assert next_click(predicted, truth, SPACING) is None
    predicted[truth == 2] = 0
    assert next_click(predicted, truth, SPACING, ignore=2) is None


def test_the_largest_region_is_clicked_in_its_middle_with_its_label():
    predicted, truth = volumes()
    predicted[2] = 0  # of label 1 more is missed than of 2, and here more than there
    predicted[1, 2:4] = 0
    click = next_click(predicted, truth, SPACING)
    assert click == Click((2, 6, 6), 1, 45)
    predicted, truth = volumes()
    predicted[0, 1:6, 1:8] = 2
    assert next_click(predicted, truth, SPACING) == Click((0, 3, 3), 0, 35)


def test_earlier_clicks_are_avoided():
    predicted, truth = volumes()
    predicted[0, 1:8, 1:8] = 2
    first = next_click(predicted, truth, SPACING)
    second = next_click(predicted, truth, SPACING, earlier=[first])
    assert first.voxel == (0, 4, 4)
    assert max(abs(a - b) for a, b in zip(first.voxel, second.voxel, strict=True)) > 1
    assert truth[second.voxel] != predicted[second.voxel]
    predicted, truth = volumes()
    predicted[3, 3, 3] = 1  # one pixel: there is nowhere else
    only = next_click(predicted, truth, SPACING)
    assert next_click(predicted, truth, SPACING, earlier=[only]) == only


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2))
def test_a_click_is_in_a_region_than_which_none_is_larger(seed, axis):
    rng = np.random.default_rng(seed)
    predicted, truth = rng.integers(0, 3, (2, 5, 6, 7))
    click = next_click(predicted, truth, [1.0, 2.0, 3.0], axis)
    assert truth[click.voxel] == click.label != predicted[click.voxel]
    largest = 0
    for index in range(truth.shape[axis]):
        a, b = (volume.take(index, axis) for volume in (predicted, truth))
        for value in range(3):
            regions, number = ndimage.label((a != b) & (b == value), np.ones((3, 3)))
            largest = max([largest, *(int((regions == n + 1).sum()) for n in range(number))])
    assert click.region == largest


def test_effects_of_a_click():
    before, truth = volumes()
    before[1, 2:4, 2:9] = 0  # 14 voxels are missing
    after = truth.copy()
    after[1, 2, 2:9] = 0  # 7 of them still
    after[0, 0, :3] = 2
    after[3, 0, :2] = 1
    click, old, same = Click((1, 3, 4), 1, 14), Click((1, 2, 4), 1, 14), Click((1, 3, 4), 2, 3)
    found = effect_of(before, after, truth, [old, same, click])
    assert found == (True, 0, 1, 7, 5, 3)
    assert not found.harmful
    truth[0, 0, :3] = 9
    assert effect_of(before, after, truth, [click], ignore=9)[3:5] == (7, 2)
    harm = effect_of(truth, after, truth, [Click((0, 5, 5), 2, 1)], ignore=9)
    assert harm == (False, 0, 0, 0, 9, 3)
    assert harm.harmful
    # turned, so that slices lie across another axis
    turned = [part.transpose(1, 0, 2) for part in (before, after, truth)]
    assert effect_of(*turned, [Click((3, 1, 4), 1, 14)], 1, 9) == (True, 0, 0, 7, 2, 3)
    assert effects_of([found, harm]) == {
        "clicks": 2,
        "obeyed_percent": 50.0,
        "earlier_still_obeyed_percent": 0.0,
        "harmful_percent": 50.0,
        "fixed": 7,
        "broken": 14,
        "slices": {"mean": 3.0, "max": 3},
    }
    assert effects_of([])["obeyed_percent"] is None


def moment(clicks, dice):
    """With a Dice of so many percent of label a; label b is nowhere."""
    truth, predicted = np.zeros((2, 1, 20, 10), int)
    truth[0, :10], predicted[0, : dice // 10] = 1, 1
    predicted[0, 10 : 20 - dice // 10] = 1
    metrics = label_metrics(predicted, truth, SPACING, {"a": 1, "b": 2})
    assert metrics["a"].dice == pytest.approx(dice / 100)
    return Moment(clicks, metrics, Click((0, 0, 0), 1, 9) if clicks else None, 0.5)


def test_a_case_with_nothing_to_segment_is_reached_when_nothing_is_segmented():
    labels, nothing, something = {"a": 1}, np.zeros((1, 8, 8), int), np.ones((1, 8, 8), int)
    wrong, right = (
        Moment(n, label_metrics(p, nothing, SPACING, labels), None, 0.1) for n, p in enumerate((something, nothing))
    )
    assert Clicked("x", True, (right,)).clicks_to(0.85) == right.clicks
    assert Clicked("x", True, (wrong, right)).clicks_to(0.85) == 1
    assert Clicked("x", True, (wrong,)).clicks_to(0.85) is None


def test_numbers_of_clicks_and_curves(tmp_path):
    labels = ScoredLabels({"a": 1, "b": 2})
    found = ClickEvaluation(labels, 1.0, 5, "cpu", 1)
    found.cases = [
        Clicked("x", True, tuple(moment(n, dice) for n, dice in enumerate((50, 70, 90, 80, 90, 90)))),
        Clicked("y", True, tuple(moment(n, dice) for n, dice in enumerate((60, 100)))),
        Clicked("x", False, tuple(moment(n, dice) for n, dice in enumerate((50, 60, 60, 60, 70, 70)))),
    ]
    assert [found.cases[0].clicks_to(t) for t in (0.85, 0.9, 0.95)] == [2, 2, None]
    assert found.curve(True, "dice") == pytest.approx([0.55, 0.85, 0.95, 0.9, 0.95, 0.95])
    assert found.curve(True, "dice", "a") == found.curve(True, "dice")
    assert all(math.isnan(value) for value in found.curve(True, "dice", "b"))
    summary = found.summary()
    assert found.shown == [0, 1, 2, 3, 5]
    on, off = summary["propagation on"], summary["propagation off"]
    assert on["noc_85"] == {"mean": 1.5, "failed": 0}
    assert off["noc_85"] == {"mean": 5.0, "failed": 1}
    assert on["seconds_per_click"]["clicks"] == 6
    assert on["dice"]["b"]["3"] is None
    found.write(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "clicks.json").read_text()) == summary
    rows = (tmp_path / "out" / "clicks.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * (6 + 2 + 6)
    assert rows[1].startswith("x,on,0,a,0.5,")
    assert (tmp_path / "out" / "clicks.png").stat().st_size > 5000
    assert "not reached in 1 of 2 cases" in found.report()
