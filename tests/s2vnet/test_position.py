"""Places of pixels: mm from the middle, mirrored with the grid, the same for a grid of any stage."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from nnunet_ext.s2vnet.network import Scale
from nnunet_ext.s2vnet.position import PLACES, positions, with_positions
from tests.s2vnet.test_network import clip, s2vnet


def test_places_by_hand():
    found = positions((2, 4), (2, 4))
    assert found.shape == (PLACES, 2, 4)
    assert found[0, :, 0].tolist() == [-0.25, 0.25]
    assert found[1, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    for axis in range(2):
        torch.testing.assert_close(found[2 + 2 * axis], torch.sin(torch.pi * found[axis]))
        torch.testing.assert_close(found[3 + 2 * axis], torch.cos(torch.pi * found[axis]))


def test_a_mirrored_image_has_mirrored_places():
    found = positions((6, 5), (12, 10))
    sign = torch.tensor([-1.0, 1.0, -1.0, 1.0, 1.0, 1.0]).view(6, 1, 1)
    torch.testing.assert_close(found.flip(1), sign * found)


def test_a_coarse_cell_is_in_the_middle_of_its_pixels():
    fine, coarse = positions((8, 12), (8, 12)), positions((4, 6), (8, 12))
    torch.testing.assert_close(avg_pool2d(fine[:2], 2), coarse[:2])


def test_distances_are_in_mm_also_where_pixels_are_not_square():
    """Rows of 2 mm and columns of 1 mm: a step of 4 mm is as long in both."""
    scale = Scale.of((2.0, 1.0), (20, 40), 5.0)
    assert scale == ((0.1, 0.05), 5.0)
    found = positions((20, 40), (20, 40), scale.pixel)
    assert float(found[0, 2, 0] - found[0, 0, 0]) == pytest.approx(0.2)
    assert float(found[1, 0, 4] - found[1, 0, 0]) == pytest.approx(0.2)


def test_a_larger_image_has_the_same_step():
    small, large = (positions((n, n), (n, n), (0.1, 0.1)) for n in (4, 8))
    torch.testing.assert_close(small[:2], large[:2, 2:-2, 2:-2])


def test_they_stand_beside_the_feature_in_its_precision():
    feature = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    found = with_positions(feature, (4, 4))
    assert (found.shape, found.dtype) == ((2, 3 + PLACES, 4, 4), torch.bfloat16)
    assert torch.equal(found[:, :3], feature)


def test_without_positions_a_moved_click_on_equal_pixels_says_the_same():
    """Constant features: only the place tells two clicks apart."""
    from nnunet_ext.s2vnet.centroid_aggregation import Bank
    from nnunet_ext.s2vnet.prompts import Prompts

    for position, differs in ((False, False), (True, True)):
        network = s2vnet(options={"position": position}).eval()
        with torch.no_grad():
            features = [torch.ones_like(f) for f in network.features(clip()[:, :, 0])]
            a, b = (network.cluster(features, Bank(), Prompts.click([0, row, 8], 1)).centres for row in (3, 12))
        assert torch.allclose(a, b, atol=1e-6) != differs
