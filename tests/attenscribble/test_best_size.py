"""At which size of a true structure the CRF loss is smallest: balls without an edge, and with a faint one."""

import numpy as np
import pytest
import torch

from nnunet_ext.attenscribble.best_size import STEPS, energy_by_size, resized
from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss, Window, cut_and_volume, neighbour_sums
from nnunet_ext.attenscribble.crf_window import crf_loss
from nnunet_ext.attenscribble.options import AttenScribbleOptions


def ball(dim, radius, contrast, size=25, seed=0):
    """Classes ``(1, 2, *spatial)`` and an image with noise of standard deviation 0.2."""
    distance = np.sqrt(sum((axis - size // 2) ** 2 for axis in np.indices((size,) * dim)))
    inside = torch.from_numpy(distance <= radius)
    image = contrast * inside + torch.from_numpy(np.random.default_rng(seed).normal(0, 0.2, inside.shape))
    return torch.stack([~inside, inside])[None], image[None, None].float()


def best(loss, truth, image, label=1):
    return STEPS[int(energy_by_size(loss, truth, image, label).nan_to_num(torch.inf).argmin())]


def test_a_structure_grows_and_shrinks_by_voxels():
    inside = torch.zeros(25, 25, dtype=torch.bool)
    inside[7:18, 7:18] = True
    truth = torch.stack([~inside, inside])[None]
    widths = {step: int(resized(truth[0], 1, step)[1, 12].sum()) for step in STEPS}
    assert widths == {-2: 7, -1: 9, 0: 11, 1: 13, 2: 15}
    for step in STEPS:
        assert (resized(truth[0], 1, step).sum(0) == 1).all()


def test_what_it_leaves_gets_the_nearest_other_class():
    labels = torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2]])
    truth = torch.stack([labels == k for k in range(3)])
    assert resized(truth, 1, -1).int().argmax(0).tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert resized(truth, 1, 1).int().argmax(0).tolist() == [[0, 1, 1, 1, 1, 1, 1, 2]]


@pytest.mark.parametrize("dim", [2, 3])
def test_without_an_edge_the_cut_of_a_ball_grows_with_its_border_and_by_the_power_of_its_volume_not_at_all(dim):
    window, power = Window.gaussian((1,) * dim, 1.0), (dim - 1) / dim
    cuts, volumes = [], []
    for radius in (4, 6, 8, 10):
        truth, image = ball(dim, radius, 0.0)
        p, everywhere = truth.double(), torch.ones_like(image, dtype=torch.float64)
        sums = neighbour_sums(p, 0 * everywhere, everywhere, window)
        cut, volume = cut_and_volume(p, *sums, everywhere, exclusive=True)
        cuts.append(cut[0, 1].item())
        volumes.append(volume[0, 1].item())
    assert cuts[-1] / cuts[0] == pytest.approx((10 / 4) ** (dim - 1), rel=0.1)
    relative = np.array(cuts) / np.array(volumes) ** power
    assert relative / relative.mean() == pytest.approx(1, abs=0.05)


def test_a_small_organ_with_a_faint_edge_in_3d():
    """Edge of one and a half standard deviations of the noise."""
    for radius in (3, 4, 6):
        truth, image = ball(3, radius, 0.3)
        assert best(crf_loss([1.0] * 3, AttenScribbleOptions()), truth, image) < 0
        assert best(crf_loss([1.0] * 3, AttenScribbleOptions(crf_volume_power=2 / 3)), truth, image) == 0


def test_the_same_in_2d():
    for radius in (3, 4, 6, 10):
        truth, image = ball(2, radius, 0.5, size=41)
        assert best(crf_loss([1.0] * 2, AttenScribbleOptions(crf_volume_power=0.5)), truth, image) == 0


def test_a_class_that_is_nowhere_or_gone_has_no_energy():
    truth, image = ball(2, 1.5, 0.5)
    loss = MaskedCRFLoss(Window.gaussian((1, 1), 1.0))
    assert energy_by_size(loss, truth, image, 1).isnan().tolist() == [True, False, False, False, False]
    assert energy_by_size(loss, truth & torch.tensor([True, False]).view(1, 2, 1, 1), image, 1).isnan().all()
