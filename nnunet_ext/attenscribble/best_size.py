"""Best size: at which size of a structure of the true labels is the CRF loss smallest?

A structure of the true labels is eroded and dilated in steps, and the loss is computed for each size. It should be
smallest at the true size. The test needs dense labels of a few cases, no training, and seconds. It finds what the
relabel test (:mod:`.relabel`) cannot, because that test looks at one voxel at a time. In slices the loss is smallest
near the true size; in volumes it is smallest with a small organ gone (numbers in docs/attenscribble.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss, cut_and_volume, neighbour_sums, scaled_intensities

STEPS = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Voxels by which a structure is dilated."""


def resized(truth: Tensor, label: int, voxels: float) -> Tensor:
    """Return the classes with one of them eroded or dilated.

    Args:
        truth: ``(K, *spatial)`` bool, classes that exclude each other.
        label: the class.
        voxels: how far its border moves out; negative: in. Voxels that it leaves get the nearest other class.
    """
    own = truth[label].numpy()
    if voxels == 0 or not own.any() or own.all():
        return truth
    outside, nearest = distance_transform_edt(own, return_indices=True)
    # the border lies between two voxels
    signed = np.where(own, 0.5 - outside, distance_transform_edt(~own) - 0.5)
    others = torch.from_numpy(np.where(own, truth.numpy()[(slice(None), *nearest)], truth.numpy()))
    grown = torch.from_numpy(signed < voxels)
    result = others & ~grown
    result[label] = grown
    return result


@torch.no_grad()
def energy_by_size(
    crf: MaskedCRFLoss, truth: Tensor, image: Tensor, label: int, steps: Sequence[float] = STEPS
) -> Tensor:
    """Return the loss for each size of a class, where nothing is annotated.

    Args:
        crf: the loss, at full resolution; its ``offsets_per_step`` does not matter.
        truth: ``(B, K, *spatial)`` bool, classes that exclude each other.
        image: ``(B, C, *spatial)``.
        label: the class.
        steps: voxels by which it is dilated.

    Returns:
        ``(steps,)``, float64, divided by the loss of the true size; nan if the class occurs nowhere, or vanishes from a
        sample.
    """
    energies = torch.zeros(len(steps), dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for classes, pixels in zip(truth, image, strict=True):
        if not classes[label].any():
            continue
        features = scaled_intensities(pixels[None].float(), crf.intensity_sigma)
        cut, volume = _cut_and_volume(crf, classes, features)
        expected += cut.sum()
        for place, step in enumerate(steps):
            now, size = _cut_and_volume(crf, resized(classes, label, step), features)
            gone = (size == 0) & (volume > 0)
            relative = torch.where(volume > 0, (volume / size.clamp(min=1)) ** (2 * crf.volume_power), 1.0)
            energies[place] += torch.where(gone, torch.nan, now * relative).sum()
    return energies / expected


def _cut_and_volume(crf: MaskedCRFLoss, classes: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    p, everywhere = classes[None].float(), torch.ones_like(features[:, :1])
    cut, volume = cut_and_volume(p, *neighbour_sums(p, features, everywhere, crf.window), everywhere, exclusive=True)
    return cut[0].double(), volume[0].double()
