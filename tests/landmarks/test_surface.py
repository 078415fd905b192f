"""The distance from a point to the surface of a mask, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, distance_transform_edt

from nnunet_ext.landmarks.heatmaps import decode
from nnunet_ext.landmarks.surface import REACH, OrganSurface, nearness


def brute_force(mask: np.ndarray, spacing: np.ndarray, index: np.ndarray) -> float:
    """Over all faces, as boxes without thickness."""
    best = np.inf
    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        for voxel in np.argwhere(np.ones_like(mask)):
            other = voxel + step
            if other[axis] < mask.shape[axis] and mask[tuple(voxel)] != mask[tuple(other)]:
                low = (voxel - 0.5 + step * 1.0) * spacing
                high = (voxel + 0.5) * spacing
                point = index * spacing
                best = min(best, np.linalg.norm(point - np.clip(point, low, high)))
    return best


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(*[st.sampled_from([0.3, 1.0, 4.0])] * 3),
    st.tuples(*[st.floats(-3, 9)] * 3),
)
def test_the_distance_is_that_of_brute_force(seed, spacing, index):
    mask = np.random.default_rng(seed).random((5, 4, 6)) < 0.3
    found = OrganSurface.find(mask, spacing)
    assert found is not None
    expected = brute_force(mask, np.array(spacing), np.array(index))
    assert abs(found.signed_distances_mm(index)[0]) == pytest.approx(expected, abs=1e-9)


def test_inside_is_negative():
    mask = np.zeros((9, 9, 9), bool)
    mask[2:7, 2:7, 2:7] = True
    found = OrganSurface.find(mask, (2.0, 1.0, 1.0))
    assert found is not None
    points = [(4, 4, 4), (1.5, 4, 4), (0, 4, 4), (4, 4, 8), (20, 4, 4), (np.nan, 0, 0)]
    np.testing.assert_allclose(found.signed_distances_mm(points), [-2.5, 0, 3, 1.5, 27, np.nan], atol=1e-9)


def test_no_surface_where_nobody_labelled_and_at_the_border_of_the_image():
    mask = np.zeros((6, 6, 6), bool)
    mask[:3] = True
    labelled = np.ones_like(mask)
    found = OrganSurface.find(mask, (1, 1, 1), labelled)
    assert found is not None
    assert found.signed_distances_mm([(0, 3, 3)]) == pytest.approx(-2.5)
    labelled[3] = False
    assert OrganSurface.find(mask, (1, 1, 1), labelled) is None
    assert OrganSurface.find(np.zeros_like(mask), (1, 1, 1)) is None
    assert OrganSurface.find(np.ones_like(mask), (1, 1, 1)) is None


def test_a_2d_image_is_one_slice():
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:6, 2:6] = True
    found = OrganSurface.find(mask, (1.0, 0.5, 0.5))
    assert found is not None
    np.testing.assert_allclose(found.signed_distances_mm([(0, 4, 7.5)]), 1.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.sampled_from([0.3, 1.0, 4.0]), min_size=2, max_size=3), st.floats(0.5, 5))
def test_nearness_is_a_gaussian_of_the_distance_to_the_nearest_voxel_at_the_surface(seed, spacing, width):
    mask = np.random.default_rng(seed).random((4, 5, 6)[: len(spacing)]) < 0.3
    mask[(0,) * mask.ndim], mask[(1,) * mask.ndim] = True, False
    voxels = np.argwhere(np.ones_like(mask))
    neighbours = np.abs(voxels[:, None] - voxels[None]).sum(-1) == 1
    touching = (neighbours & (mask.ravel()[:, None] != mask.ravel()[None])).any(1)
    between = np.linalg.norm((voxels[:, None] - voxels[None, touching]) * spacing, axis=-1)
    expected = np.exp(-(between.min(1) ** 2) / (2 * width**2)).reshape(mask.shape)
    found = nearness(mask, spacing, width)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=np.exp(-(REACH**2) / 2))
    np.testing.assert_allclose(found, nearness(~mask, spacing, width), atol=np.exp(-(REACH**2) / 2))


def test_nearness_golden_values():
    mask = np.zeros((1, 6), bool)
    mask[0, 2:] = True
    np.testing.assert_allclose(
        nearness(mask, (5.0, 2.0), 2.0)[0],
        np.exp(-(np.array([2, 0, 0, 2, 4, 6]) ** 2) / 8),  # mm from the voxels at the face
        rtol=1e-6,
    )


def test_far_from_an_organ_nothing_is_near_and_near_it_nothing_is_left_out():
    mask = np.zeros((60, 60), bool)
    mask[28:33, 26:30] = True
    found = nearness(mask, (1.0, 2.0), 1.5)
    touching = (mask ^ binary_erosion(mask)) | (~mask ^ binary_erosion(~mask, border_value=1))
    distance = distance_transform_edt(~touching, sampling=(1.0, 2.0))
    np.testing.assert_allclose(found, np.exp(-(distance**2) / 4.5), atol=np.exp(-(REACH**2) / 2))
    assert not found[:18].any()
    assert found[distance < REACH * 1.5].all()


@pytest.mark.parametrize("thickness", [1.0, 2.0, 5.0])
def test_a_landmark_stays_at_the_top_of_an_organ_in_slices_of_any_thickness(thickness):
    spacing = np.array([thickness, 1.0, 1.0])
    shape = np.array([int(60 / thickness), 48, 48])
    voxels = (np.indices(shape).reshape(3, -1).T - shape // 2) * spacing
    mask = ((voxels / (22.0, 18.0, 18.0)) ** 2).sum(1).reshape(shape) <= 1
    top = np.array([-22.0, 0.0, 0.0])
    heatmap = np.exp(-((voxels - top) ** 2).sum(1) / (2 * 4.0**2)).reshape(1, *shape)
    (found,), _ = decode(heatmap, [nearness(mask, spacing, 1.0)], list(3 / spacing))
    assert np.linalg.norm((found - shape // 2) * spacing - top) < 1.0


@pytest.mark.parametrize("everywhere", [True, False])
def test_an_organ_without_a_surface_says_nothing(everywhere):
    np.testing.assert_array_equal(nearness(np.full((3, 4), everywhere), (1.0, 1.0), 1.0), np.ones((3, 4)))
