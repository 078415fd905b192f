"""A box and five clicks per structure, as a challenge gives them, and the areas that it counts, against brute force."""

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.data.reading import Volume
from nnunet_ext.evaluation.metrics import label_metrics
from nnunet_ext.interactive.box_and_clicks import area_under, boxes, largest_centre, round_of_clicks
from nnunet_ext.interactive.click_effects import Click
from nnunet_ext.interactive.evaluate_box_and_clicks import BoxAndClicks, BoxedCase, Round, _rounds
from tests.interactive.sessions import trained_session

STEPS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def regions(mask):
    """Sets of voxels of a 3D mask that touch, also at corners, found by a flood."""
    left, found = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}, []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            voxel = edge.pop()
            region.add(voxel)
            near = {tuple(a + b for a, b in zip(voxel, step, strict=True)) for step in STEPS} & left
            left -= near
            edge += near
        found.append(region)
    return found


def depth(voxel, region, shape):
    """Squared distance in voxels to the nearest voxel that is not in the region; beyond the image is none of it."""
    around = itertools.product(*(range(-1, n + 1) for n in shape))
    return min(sum((a - b) ** 2 for a, b in zip(voxel, other, strict=True)) for other in around if other not in region)


# --- clicks -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(4, 5, 6), (1, 6, 7), (3, 3, 3)]), st.sampled_from([0.15, 0.4, 0.8]))
def test_a_click_is_in_the_middle_of_a_region_than_which_none_is_larger(seed, shape, share):
    mask = np.random.default_rng(seed).random(shape) < share
    found = largest_centre(mask)
    parts = regions(mask)
    if not parts:
        assert found is None
        return
    voxel, size = found
    region = next(part for part in parts if voxel in part)
    assert size == len(region) == max(map(len, parts))
    assert depth(voxel, region, shape) == max(depth(other, region, shape) for other in region)


def test_distances_are_in_voxels_and_corners_connect():
    mask = np.zeros((5, 9, 9), bool)
    mask[0:3, 0:3, 0:3] = mask[3, 3, 3] = True  # 27 voxels, and one at a corner of them
    mask[1:4, 5:8, 5:8] = True
    assert largest_centre(mask) == ((1, 1, 1), 28)
    mask[2, 2, 2] = False  # the corner, by which they touched
    assert largest_centre(mask) == ((2, 6, 6), 27)


def test_among_voxels_of_one_depth_the_choice_is_that_of_seed_42():
    mask = np.zeros((1, 1, 20), bool)
    mask[0, 0, 3:14] = True
    assert largest_centre(mask) == ((0, 0, 9), 11)  # the seventh of eleven: np.random.seed(42); np.random.choice(11)


def test_one_click_for_every_structure_of_the_reference_with_the_label_that_is_right():
    truth = np.zeros((4, 12, 12), int)
    truth[1:3, 1:6, 1:6], truth[1:3, 6:11, 6:11] = 1, 2
    labels = ScoredLabels({"a": 1, "b": 2, "nowhere": 3})
    assert round_of_clicks(truth, truth, labels) == {}
    predicted = truth.copy()
    predicted[1:3, 6:11, 6:11] = 1  # of both structures the same voxels are wrong
    predicted[0, 0, 0] = 3
    found = round_of_clicks(predicted, truth, labels)
    assert found == {"a": found["b"], "b": found["b"]}
    assert (found["a"].label, found["a"].region) == (2, 50)
    predicted = truth.copy()
    predicted[0, :, :] = 1
    click = round_of_clicks(predicted, truth, labels)["a"]
    assert (click.label, click.region, click.voxel[0]) == (0, 144, 0)
    hidden = truth.copy()
    hidden[0] = 9
    assert round_of_clicks(predicted, hidden, ScoredLabels({"a": 1}, ignore=9)) == {}
    whole = round_of_clicks(predicted, truth, ScoredLabels({"whole": (1, 2)}))["whole"]
    assert (whole.label, whole.region) == (0, 144)


# --- boxes ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2), st.text(max_size=8))
def test_a_box_holds_the_structure_in_the_slice_of_its_median_voxel_and_no_more_in_a_small_image(seed, axis, case):
    truth = np.random.default_rng(seed).choice([0, 1, 2], (5, 6, 7), p=[0.9, 0.06, 0.04])
    found = boxes(truth, [1, 2, 3], axis, case)
    assert set(found) == set(np.unique(truth)) - {0}
    for value, box in found.items():
        voxels = sorted((truth == value).nonzero()[axis].tolist())
        middle = voxels[len(voxels) // 2]
        assert box[axis] == [middle, middle + 1]
        here = np.argwhere((truth == value).take([middle], axis))
        for other in {0, 1, 2} - {axis}:  # an image of fewer than 52 pixels has a box without a margin
            assert box[other] == [here[:, other].min(), here[:, other].max() + 1]


def test_a_box_is_enlarged_by_up_to_five_pixels_in_256_and_ends_with_the_image():
    truth = np.zeros((3, 512, 256), int)
    truth[1, 100:120, 3:250] = 1
    margins = set()
    for case in "abcdefghijklmnopqrstuvwxyz":
        ((z0, z1), (y0, y1), (x0, x1)) = boxes(truth, [1], 0, case)[1]
        shift = (100 - y0) // 2
        assert (z0, z1, y0, y1) == (1, 2, 100 - 2 * shift, 120 + 2 * shift)
        assert (x0, x1) == (max(0, 3 - shift), min(256, 250 + shift))
        margins.add(shift)
        assert boxes(truth, [1], 0, case) == boxes(truth, [1], 0, case)
    assert margins == {0, 1, 2, 3, 4, 5}


# --- areas ------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_an_area_is_that_of_the_lines_between_scores(scores):
    """Integrated exactly: a line from a to b over 1 has the integral a + (b − a) / 2."""
    exact = [Fraction(score) for score in scores]
    area = sum(a + (b - a) / 2 for a, b in itertools.pairwise(exact))
    assert area_under(scores) == pytest.approx(float(area), abs=1e-12)


def test_areas_that_are_known():
    assert area_under([1, 1, 1, 1, 1]) == 4
    assert area_under([0, 0.25, 0.5, 0.75, 1]) == 2
    assert area_under([0.6, 0.7, 0.8, 0.85, 0.9]) == pytest.approx(3.1)
    assert math.isnan(area_under([0.5, math.nan]))


def scored(*percent):
    """A round in which structures a and b have such a Dice; None: the reference does not hold it."""
    truth, predicted = np.zeros((2, 2, 20, 10), int)
    for row, value in enumerate(percent):
        if value is not None:
            truth[row, :10], predicted[row, : value // 10], predicted[row, 10 : 20 - value // 10] = [row + 1] * 3
    metrics = label_metrics(predicted, truth, [3.0, 1.0, 1.0], {"a": 1, "b": 2}, nsd_tolerances_mm=[2.0])
    return Round(metrics, {"a": Click((0, 0, 0), 1, 7)} if percent[0] != 100 else {}, 0.5 if percent[0] != 100 else 0.0)


def test_means_are_over_the_structures_of_the_reference_and_nsd_is_nothing_where_dsc_is_low():
    one = scored(80, 40)
    assert one.dsc == pytest.approx(0.6)
    assert one.nsd == pytest.approx(np.mean([metrics.nsd[2.0] for metrics in one.metrics.values()]))
    assert 0 < one.nsd < 1
    assert scored(80, None).dsc == pytest.approx(0.8)
    low, above = scored(30, 10), scored(30, 20)
    assert (low.dsc, low.nsd) == (pytest.approx(0.2), 0.0)
    assert above.nsd > 0.1
    assert math.isnan(scored(None, None).dsc)
    assert math.isnan(scored(None, None).nsd)


def test_numbers_of_cases_their_report_and_their_files(tmp_path):
    found = BoxAndClicks(ScoredLabels({"a": 1, "b": 2}), "cpu", 1)
    found.cases = [
        BoxedCase("x", True, tuple(scored(value, None) for value in (50, 60, 70, 80, 80, 90))),
        BoxedCase("y", True, tuple(scored(value, value) for value in (70, 80, 90, 100, 100, 100))),
        BoxedCase("nothing", True, (scored(None, None),) * 6),
    ]
    x, y, nothing = (case.numbers for case in found.cases)
    assert x["dsc_auc"] == pytest.approx(0.65 + 0.75 + 0.8 + 0.85)
    assert y["dsc_auc"] == pytest.approx(0.85 + 0.95 + 1 + 1)
    assert y["nsd_auc"] == area_under([each.nsd for each in found.cases[1].rounds[1:]])
    assert (x["dsc_final"], y["nsd_final"]) == (pytest.approx(0.9), 1.0)
    assert all(math.isnan(value) for value in nothing.values())
    summary = found.summary()
    on = summary["propagation on"]
    assert on["dsc_auc"] == pytest.approx((3.05 + 3.8) / 2)
    assert on["dsc"]["mean"] == [0.6, 0.7, 0.8, 0.9, 0.9, 0.95]
    assert on["dsc"]["a"] == on["dsc"]["mean"]
    assert on["dsc"]["b"] == [0.7, 0.8, 0.9, 1.0, 1.0, 1.0]
    assert on["seconds"] == 0.5
    assert on["of each case"]["nothing"]["nsd_auc"] is None
    found.write(tmp_path)
    assert json.loads((tmp_path / "clicks.json").read_text()) == summary
    rows = (tmp_path / "clicks.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 6 * 2
    assert rows[1].startswith("x,on,0,a,0.5,")
    assert (tmp_path / "clicks.png").stat().st_size > 5000
    assert "DSC-AUC 3.425, NSD-AUC " in found.report()
    assert "final DSC 0.950, final NSD " in found.report()


# --- on a trained model -----------------------------------------------------------------------------------------------


def test_boxes_and_clicks_go_through_a_session_and_clicks_are_obeyed(monkeypatch):
    session, truth = trained_session(8, 2)
    labels = ScoredLabels({"one": 1, "two": 2})
    there = sorted(set(np.unique(truth)) - {0})
    maps, drawn = [], []
    predict, draw = session.predict, session.add_bbox_interaction

    def and_keep():
        predict()
        maps.append(session.target_buffer.copy())

    def and_note(box, **how):
        drawn.append((how["label"], box))
        return draw(box, **how)

    monkeypatch.setattr(session, "predict", and_keep)
    monkeypatch.setattr(session, "add_bbox_interaction", and_note)
    rounds = list(_rounds(session, Volume(truth, (1.0, 1.0, 1.0), {}), labels, "disc"))
    assert len(rounds) == len(maps) == 6
    assert not rounds[0].clicks
    assert dict(drawn) == boxes(truth, there, 0, "disc")
    ((z, _), (y0, y1), (x0, x1)) = dict(drawn)[there[0]]
    around = maps[0][z] == there[0]
    around[y0:y1, x0:x1] = False
    assert not around[max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1].any()  # the rule of a box
    for number, each in enumerate(rounds):
        right = 2 * np.sum((maps[number] == there[0]) & (truth == there[0]))
        both = np.sum(maps[number] == there[0]) + np.sum(truth == there[0])
        assert each.dsc == pytest.approx(right / both)
        if number:
            assert each.clicks == round_of_clicks(maps[number - 1], truth, labels)
            assert all(maps[number][click.voxel] == click.label for click in each.clicks.values())
            assert (each.seconds > 0) == bool(each.clicks)
    assert rounds[1].clicks
    assert rounds[-1].dsc > rounds[0].dsc
