"""Inverting a sampling grid, beyond what augmentation with nnU-Net's transforms shows (tests/nnunet/test_keypoints)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.landmarks.warping import follow


def grid_of(shape: tuple[int, ...], old: tuple[int, ...], matrix: np.ndarray, shift: np.ndarray, aligned: bool):
    """Sampling positions of ``old index = matrix @ index + shift``, in the units of ``grid_sample``."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ matrix.T + shift
    size = np.array(old)
    unit = 2 * index / (size - 1) - 1 if aligned else (2 * index + 1) / size - 1
    return unit[..., ::-1]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([2, 3]), st.booleans())
def test_an_affine_map_is_inverted_inside_and_outside_of_the_patch(seed, dim, aligned):
    rng = np.random.default_rng(seed)
    shape, old = tuple(rng.integers(3, 9, dim)), tuple(rng.integers(3, 12, dim))
    matrix = np.eye(dim) + rng.uniform(-0.3, 0.3, (dim, dim))
    shift, points = rng.uniform(-5, 5, dim), rng.uniform(-20, 20, (4, dim))
    grid = grid_of(shape, old, matrix, shift, aligned)
    found = follow(points, grid, old, matrix, aligned)
    np.testing.assert_allclose(found, (points - shift) @ np.linalg.inv(matrix).T, rtol=0, atol=1e-6)


def test_a_rough_guess_of_the_affine_part_is_enough():
    true = np.array([[0.9, 0.2], [-0.2, 1.1]])
    grid = grid_of((30, 30), (30, 30), true, np.zeros(2), False)
    found = follow([[12.0, 14.0]], grid, (30, 30), np.eye(2), False)
    np.testing.assert_allclose(found @ true.T, [[12, 14]], rtol=0, atol=0.01)


def test_where_space_is_folded_there_is_no_answer():
    # one column of voxels is taken from far away on the other side
    grid = grid_of((9, 9), (9, 9), np.eye(2), np.zeros(2), False)
    grid[:, 4:6, 0] *= -8
    grid[:, 3, 0] += 1.5
    found = follow([[4.0, 3.9], [4.0, 1.0], [np.nan, 1.0]], grid, (9, 9), np.eye(2), False)
    np.testing.assert_allclose(found[1], [4, 1], rtol=0, atol=1e-3)
    assert np.isnan(found[[0, 2]]).all()


def test_an_axis_of_one_voxel_and_no_points():
    grid = grid_of((1, 6), (3, 6), np.eye(2), np.array([1.0, 0.0]), False)
    np.testing.assert_allclose(follow([[2.0, 3.5]], grid, (3, 6), np.eye(2), False), [[1.0, 3.5]], rtol=0, atol=1e-6)
    assert follow(np.zeros((0, 2)), grid, (3, 6), np.eye(2), False).shape == (0, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_precision_is_that_of_the_grid(dtype):
    grid = grid_of((64, 64), (512, 512), np.eye(2), np.array([300.0, 100.0]), False).astype(dtype)
    found = follow([[331.25, 131.5]], grid, (512, 512), np.eye(2), False)
    np.testing.assert_allclose(found, [[31.25, 31.5]], rtol=0, atol=1e-3)
