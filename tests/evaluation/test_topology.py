"""Betti numbers: against the ranks of boundary matrices, and by hand."""

import itertools
import math

import numpy as np
import pytest

from nnunet_ext.evaluation.topology import betti_numbers, label_topology


def betti_by_ranks(mask):
    """From the definition: cells of closed voxels, boundary matrices over two elements, ranks."""
    cells = set()
    for index in zip(*np.nonzero(mask), strict=True):
        # on the doubled lattice a voxel is at 2i + 1, and its cells are all within one step
        cells |= {
            tuple(2 * i + 1 + step for i, step in zip(index, steps, strict=True))
            for steps in itertools.product((-1, 0, 1), repeat=mask.ndim)
        }
    of_dimension = [sorted(c for c in cells if sum(i % 2 for i in c) == k) for k in range(mask.ndim + 1)]
    ranks = [0]
    for k in range(1, mask.ndim + 1):
        place = {cell: number for number, cell in enumerate(of_dimension[k - 1])}
        columns = []
        for cell in of_dimension[k]:
            sides = (
                (*cell[:axis], cell[axis] + step, *cell[axis + 1 :])
                for axis in range(mask.ndim)
                if cell[axis] % 2
                for step in (-1, 1)
            )
            columns.append(sum(1 << place[side] for side in sides))
        ranks.append(rank_of_bits(columns))
    ranks.append(0)
    return tuple(len(of_dimension[k]) - ranks[k] - ranks[k + 1] for k in range(mask.ndim))


def rank_of_bits(columns):
    pivots = {}
    for column in columns:
        while column and column.bit_length() in pivots:
            column ^= pivots[column.bit_length()]
        if column:
            pivots[column.bit_length()] = column
    return len(pivots)


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 4)])
@pytest.mark.parametrize("density", [0.15, 0.5, 0.8])
def test_betti_numbers_equal_those_of_the_boundary_matrices(shape, density):
    for seed in range(12):
        mask = np.random.default_rng(seed).random(shape) < density
        assert betti_numbers(mask) == betti_by_ranks(mask), seed


def ring(thickness=1):
    mask = np.zeros((7, 9), bool)
    mask[1:6, 1:8] = True
    mask[1 + thickness : 6 - thickness, 1 + thickness : 8 - thickness] = False
    return mask


def test_shapes_with_known_numbers():
    assert betti_numbers(np.zeros((4, 4), bool)) == (0, 0)
    assert betti_numbers(ring()) == (1, 1)
    assert betti_numbers(np.ones((3, 3), bool)) == (1, 0)
    torus = np.stack([ring()] * 2)
    assert betti_numbers(torus) == (1, 1, 0)
    shell = np.ones((5, 5, 5), bool)
    shell[2, 2, 2] = False
    assert betti_numbers(shell) == (1, 0, 1)
    shell[2, 2, 3:] = False  # opened to the border of the image
    assert betti_numbers(shell) == (1, 0, 0)
    through = np.ones((5, 5, 5), bool)
    through[2, 2] = False
    assert betti_numbers(through) == (1, 1, 0)


def test_voxels_that_share_a_corner_are_one_component():
    diagonal = np.eye(4, dtype=bool)
    assert betti_numbers(diagonal) == (1, 0)
    apart = diagonal[::2]
    assert betti_numbers(apart) == (2, 0)


def test_errors_are_absolute_differences_per_class_and_region():
    reference, prediction = np.zeros((7, 20), int), np.zeros((7, 20), int)
    reference[:, :9][ring()] = 1
    prediction[:, :9][ring()] = 1
    prediction[3, 12] = 1  # a speck
    prediction[1, 3] = 2  # the ring is cut, but not the region
    found = label_topology(prediction, reference, {"one": 1, "both": (1, 2)})
    assert (found["one"].reference, found["one"].prediction) == ((1, 1), (2, 0))
    assert found["one"].errors == (1, 1)
    assert found["both"].errors == (1, 0)


def test_voxels_to_ignore_are_outside_of_both_masks():
    reference, prediction = np.ones((5, 5), int), np.ones((5, 5), int)
    reference[2, 2] = 3
    found = label_topology(prediction, reference, {"one": 1}, ignore_label=3)["one"]
    assert found.prediction == found.reference == (1, 1)


@pytest.mark.parametrize(("rule", "error"), [("diagonal", math.nan), ("zero", 0)])
def test_two_empty_masks_count_by_the_rule_and_one_empty_mask_always(rule, error):
    empty, there = np.zeros((3, 3, 3), int), np.ones((3, 3, 3), int)
    both = label_topology(empty, empty, {"one": 1}, empty=rule)["one"]
    assert both.errors == pytest.approx((error,) * 3, nan_ok=True)
    for pair in ((empty, there), (there, empty)):
        assert label_topology(*pair, {"one": 1}, empty=rule)["one"].errors == (1, 0, 0)
