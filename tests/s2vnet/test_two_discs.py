"""Volumes of two equal discs, one of which is the object: only slice 0 tells which.

One vector per label cannot say so without places: both discs are the object then, which is a Dice of 2/3.
"""

import pytest
import torch

from nnunet_ext.s2vnet.labels import LabelHeads
from tests.s2vnet.test_network import s2vnet
from tests.s2vnet.toy import SIZE, fit, segmented

pytestmark = pytest.mark.slow


def two_discs(number, slices, seed):
    """Images ``(B, 1, T, H, W)`` and labels ``(B, T, H, W)``; the object is brighter in slice 0 alone."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(SIZE).float()
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    drift = torch.linspace(-1, 1, slices).view(1, slices, 1, 1)
    row = 6 + 4 * torch.rand(number, 2, 1, 1, 1, generator=generator)
    left, right = ((y - row[:, k] - drift) ** 2 + (x - column) ** 2 < 9 for k, column in enumerate((3.5, 11.5)))
    is_left = (torch.arange(number) % 2 == 0).view(-1, 1, 1, 1)
    labels = torch.where(is_left, left, right)
    images = 0.2 * torch.randn(number, 1, slices, SIZE, SIZE, generator=generator) + (left | right)[:, None].float()
    images[:, :, 0] += 2 * labels[:, None, 0]
    return images, labels.long()


def dice_after_slice_0(**options):
    torch.set_num_threads(1)
    chosen = {"width": 16, "layers": 1, **options}
    network = s2vnet(LabelHeads(2), features=(8, 12, 16), options=chosen)
    network = fit(network, 240, lambda step: (*two_discs(8, 4, 1000 + step), None), [0.3, 1.0])
    images, labels = two_discs(16, 8, 1)
    found, truth = segmented(network, images)[:, 1:] == 1, labels[:, 1:] == 1
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


def test_centres_alone_cannot_say_which():
    assert dice_after_slice_0(position=False, mask_memory=False) < 0.7


def test_centres_that_know_their_place_can():
    assert dice_after_slice_0(mask_memory=False) > 0.9


def test_with_masks_beside_them_it_is_solved():
    assert dice_after_slice_0() > 0.97
