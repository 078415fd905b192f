"""Parts of the propagation: which chain counts how much, and what is kept in memory."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.interactive.propagation import Packed, Step, _is_quiet, share_of_upward


def test_shares_without_marks_are_those_of_the_predictor():
    assert [share_of_upward(t, 4, ()) for t in range(4)] == [0.2, 0.4, 0.6, 0.8]


def test_shares_between_marks_are_linear_and_beyond_them_the_nearer_chain_counts_alone():
    found = [share_of_upward(t, 10, (2, 6)) for t in range(10)]
    assert found == [0, 0, 0.5, 0.75, 0.5, 0.25, 0.5, 1, 1, 1]


@given(st.integers(1, 20), st.sets(st.integers(0, 19)))
def test_shares_are_symmetric(depth, marked):
    """A volume that is turned over exchanges the chains."""
    marked = sorted(index for index in marked if index < depth)
    turned = sorted(depth - 1 - index for index in marked)
    for index in range(depth):
        up, down = share_of_upward(index, depth, marked), share_of_upward(depth - 1 - index, depth, turned)
        assert up + down == pytest.approx(1)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16])
def test_packed_labels_come_back(kind):
    labels = np.random.default_rng(0).integers(0, 5, (7, 9)).astype(kind)
    packed = Packed.of(labels.T)
    assert packed == Packed.of(labels.T.copy())
    found = packed.unpacked()
    assert found.dtype == kind
    np.testing.assert_array_equal(found, labels.T)


def step(labels):
    return Step(torch.zeros(1, 1, 1), Packed.of(labels))


def test_a_small_structure_that_comes_or_goes_is_not_quiet():
    """16 × 16 pixels of 512 × 512 are less than a thousandth of the slice, and all of the structure."""
    nothing = np.zeros((512, 512), np.int16)
    small, large = nothing.copy(), nothing.copy()
    small[100:116, 100:116] = 1
    large[100:300, 100:300] = 2
    assert not _is_quiet(step(nothing), step(small))
    assert not _is_quiet(step(small), step(nothing))
    assert not _is_quiet(step(large), step(np.where(small, small, large)))
    moved = large.copy()
    moved[100, 100:300] = 0  # 200 of 40,000 pixels
    assert _is_quiet(step(large), step(moved))
    moved[100:103, 100:300] = 0
    assert not _is_quiet(step(large), step(moved))
    assert _is_quiet(step(small), step(small.copy()))
