"""How much neighbouring slices agree: against a reference pair by pair, and what the number does and does not see."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.slice_consistency import neighbour_dice, slice_consistency

MASKS = arrays(bool, st.tuples(*[st.integers(1, 5)] * 3))


def by_hand(mask, axis, ignored=None) -> float:
    """Voxel by voxel."""
    total = pairs = 0.0
    for z in range(mask.shape[axis] - 1):
        both = either = 0.0
        for index in np.ndindex(mask.take(0, axis).shape):
            here, there = ((*index[:axis], s, *index[axis:]) for s in (z, z + 1))
            if ignored is None or not (ignored[here] or ignored[there]):
                both += mask[here] and mask[there]
                either += int(mask[here]) + int(mask[there])
        if either:
            total, pairs = total + 2 * both / either, pairs + 1
    return total / pairs if pairs else math.nan


@given(MASKS, st.integers(0, 2), st.booleans(), st.randoms(use_true_random=False))
def test_it_is_the_mean_over_pairs_of_slices(mask, axis, some_ignored, random):
    ignored = None
    if some_ignored:
        ignored = np.reshape([random.random() < 0.3 for _ in range(mask.size)], mask.shape)
    assert neighbour_dice(mask, axis, ignored) == pytest.approx(by_hand(mask, axis, ignored), abs=1e-12, nan_ok=True)


@given(MASKS)
def test_it_does_not_depend_on_the_direction_or_on_in_plane_order(mask):
    expected = neighbour_dice(mask, 0)
    for other in (mask[::-1], mask[:, ::-1], mask.transpose(0, 2, 1)):
        assert neighbour_dice(other, 0) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert neighbour_dice(mask.transpose(1, 2, 0), 2) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(MASKS)
def test_empty_slices_around_it_count_once(mask):
    """Any margin of background has the same effect, so a larger field of view changes nothing."""
    margins = [neighbour_dice(np.pad(mask, [(n, n), (1, 1), (1, 1)]), 0) for n in (1, 4)]
    assert margins[0] == pytest.approx(margins[1], abs=1e-12, nan_ok=True)


def column(*present: int) -> np.ndarray:
    """The same 3×3 square on the slices given as 1, nothing on those given as 0."""
    volume = np.zeros((len(present), 5, 5), int)
    volume[np.array(present, bool), 1:4, 1:4] = 1
    return volume


def test_a_slice_that_was_missed_costs_two_pairs():
    found = slice_consistency(column(0, 1, 0, 1, 1, 0), column(0, 1, 1, 1, 1, 0), {"a": 1}, 0)["a"]
    assert found == pytest.approx((1 / 5, 3 / 5))
    assert found.difference == pytest.approx(-2 / 5)


def test_a_prediction_that_copies_its_neighbours_is_above_the_reference():
    tapering = column(1, 1, 1)
    tapering[2, 3] = 0
    assert slice_consistency(column(1, 1, 1), tapering, {"a": 1}, 0)["a"].difference > 0


def test_what_only_one_of_both_has_is_counted_for_neither():
    assert np.isnan(slice_consistency(column(0, 0, 0), column(1, 1, 1), {"a": 1}, 0)["a"]).all()
    assert np.isnan(slice_consistency(column(1), column(1), {"a": 1}, 0)["a"]).all()


def test_regions_the_ignore_label_and_the_axis():
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 4, (2, 4, 5, 6))
    found = slice_consistency(prediction, reference, {"b": 2, "both": (1, 2)}, 2, ignore_label=3)
    ignored = reference == 3
    for name, values in {"b": [2], "both": [1, 2]}.items():
        expected = [by_hand(np.isin(each, values), 2, ignored) for each in (prediction, reference)]
        assert found[name] == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("shape", "axis", "words"), [((4, 5, 5), 0, "one shape"), ((3, 5, 5), 3, "axes 0, 1 and 2"), ((3, 5), 0, "three")]
)
def test_bad_input(shape, axis, words):
    with pytest.raises(InputError, match=words):
        slice_consistency(np.zeros((3, 5, 5), int), np.zeros(shape, int), {"a": 1}, axis)
