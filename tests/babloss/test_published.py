"""The arithmetic of the published code, and why it is not used."""

import numpy as np
import pytest
import torch

from nnunet_ext.babloss.loss import BridgeLoss
from nnunet_ext.babloss.published import (
    distance_map,
    largest_component,
    published_loss,
    published_soft_map,
    thin_boundary,
)
from tests.babloss.balls import ball, distances


def test_the_largest_component_touches_by_faces():
    mask = np.zeros((5, 6), bool)
    mask[0, :2] = mask[2:4, 2:4] = mask[4, 4] = True
    expected = np.zeros((5, 6), bool)
    expected[2:4, 2:4] = True
    assert (largest_component(mask) == expected).all()
    assert not largest_component(np.zeros((3, 3), bool)).any()


def test_the_boundary_of_a_square():
    mask = np.zeros((7, 7), bool)
    mask[2:5, 2:5] = True
    thick = np.zeros((7, 7), bool)
    thick[1:6, 1:6] = True
    thick[3, 3] = False
    # a voxel stays if it, the one above, the one to the left and the one above that are boundary
    expected = np.zeros((7, 7), bool)
    for i, j in np.argwhere(thick):
        expected[i, j] = thick[i - 1 : i + 1, j - 1 : j + 1].all()
    assert expected.sum() == 12
    assert (thin_boundary(mask) == expected).all()


@pytest.mark.parametrize("shape", [(9, 11), (7, 8, 9)])
def test_the_distance_map_is_linear_in_the_chessboard_distance_and_saturates(shape):
    boundary = np.zeros(shape, bool)
    boundary[tuple(n // 2 for n in shape)] = boundary[(0,) * len(shape)] = True
    seeds = np.argwhere(boundary)
    d = np.array([np.abs(seeds - v).max(1).min() for v in np.ndindex(shape)]).reshape(shape)
    assert d.max() >= 3
    np.testing.assert_allclose(distance_map(boundary, 3), (3 - np.minimum(d, 3)) / 3)
    assert not distance_map(np.zeros(shape, bool), 3).any()


def test_of_a_label_the_soft_map_is_the_map_and_of_an_empty_one_there_is_none():
    label = (distances((15, 15), (7, 7)) < 4).double()
    expected = distance_map(thin_boundary(label.numpy() > 0), 10)
    np.testing.assert_allclose(published_soft_map(label), expected)
    assert published_soft_map(torch.zeros(5, 5)) is None
    assert published_loss(torch.zeros(5, 5), torch.ones(5, 5)) is None


def test_the_published_value_is_nearly_constant():
    # the specification's table: a sphere in 128³, the landmark 20 voxels from its centre, n 10, sigma 5
    shape, distance = (128, 128, 128), distances((128, 128, 128), (64, 64, 64)).float()
    heatmap = torch.exp(-(distances(shape, (64, 64, 84)).float() ** 2) / (2 * 5.0**2))
    assert heatmap.count_nonzero() == 1_351_870
    values = {r: published_loss((distance < r).float(), heatmap).item() for r in (12, 20, 28)}
    assert values == pytest.approx({12: 0.99958, 20: 0.99900, 28: 0.99928}, abs=5e-6)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((31, 33), (1.0, 1.0)), ((17, 19, 23), (1.0, 1.0, 1.0)), ((9, 19, 23), (2.0, 1.0, 1.0))],
)
@pytest.mark.parametrize("radius", [4.0, 9.0])
def test_the_published_gradient_sharpens_the_boundary_where_ours_moves_it(shape, spacing, radius):
    """A landmark outside of the organ asks for more of it, one inside for less."""
    centre = [n // 2 for n in shape]
    landmark = [*centre[:-1], centre[-1] + 7]
    outside = radius < 7
    logits = ball(distances(shape, centre, spacing), radius)

    organ = logits.softmax(1)[0, 1]
    organ = torch.where(organ > 0.5, organ, 0.0).requires_grad_()  # what its components need: exactly 0 outside
    heatmap = torch.exp(-(distances(shape, landmark, spacing) ** 2) / (2 * 5.0**2))
    (published,) = torch.autograd.grad(published_loss(organ, heatmap), organ)
    at_landmark = published[tuple(landmark)].item()
    # a step of descent lowers the probability at a landmark outside, and raises it at one inside
    assert at_landmark != 0
    assert (at_landmark > 0) is outside
    inside = organ > 0
    assert (published[inside] <= 0).all()  # whatever the landmark, inside goes up
    assert (published[~inside] >= 0).all()  # and outside goes down

    logits.requires_grad_()
    yes = torch.ones(1, 1, dtype=torch.bool)
    point = torch.tensor([[landmark]], dtype=torch.float64)
    loss = BridgeLoss([[(1,)]], spacing).landmark_pulls_boundary(logits, point, yes, yes).loss
    (ours,) = torch.autograd.grad(loss, logits)
    growth = -ours[0, 1]  # of the organ, by a step of descent
    assert bool(growth.sum() > 0) is outside
