"""Relabel test: what would the CRF loss change in a perfect segmentation?

For every voxel the test finds the label that its neighbours would give it if all of *them* had their true label: the
one with the largest ``Σ_j K_ij p_j``, which is the direction in which the loss pulls
(:mod:`nnunet_ext.attenscribble.crf_loss`). If many voxels of a class would get another label, the class is thinner than
the window, or looks like its surroundings: the loss takes it apart, whatever the network predicts. The test needs dense
labels of a few cases, no training, and seconds.

Scribbles cannot replace the dense labels. Annotated neighbours nearly always have the same class, because scribbles
keep away from borders, so every window passes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss, mean_pool, neighbour_sums, scaled_intensities

TIE = 1e-5
"""Relative difference of votes that is rounding: a tie leaves a voxel its label."""

VALUES = 10_000_000
"""Numbers in memory at a time, per array."""


@torch.no_grad()
def preferred(crf: MaskedCRFLoss, truth: Tensor, image: Tensor) -> Tensor:
    """Labels that the neighbours of every voxel would give it.

    Args:
        crf: the loss; its ``offsets_per_step`` does not matter.
        truth: ``(B, K, *spatial)`` bool, true classes or regions; a voxel in no class has no vote.
        image: ``(B, C, *spatial)``, as the loss gets it.

    Returns:
        ``(B, K, *spatial)`` bool. A tie leaves a voxel as it is.
    """
    down = crf.downsample or (1,) * (image.ndim - 2)
    image = image.float()
    features = scaled_intensities(image if crf.downsample is None else mean_pool(image, down), crf.intensity_sigma)
    halo = max(abs(offset[0]) for offset in crf.window.offsets)
    rows = features.shape[2]
    step = max(1, VALUES // (truth[:, :, 0].numel()))
    result = torch.empty_like(truth)
    for start in range(0, rows, step):
        first, last = max(0, start - halo), min(rows, start + step + halo)
        fine = truth[:, :, first * down[0] : last * down[0]]
        votes = mean_pool(fine.float(), down) if crf.downsample else fine.float()
        part = features[:, :, first:last]
        total, votes = neighbour_sums(votes, part, torch.ones_like(part[:, :1]), crf.window)
        for axis, factor in enumerate(down):
            total, votes = (x.repeat_interleave(factor, axis + 2) for x in (total, votes))
        crop = (slice(None), slice(None), *(slice(n) for n in fine.shape[2:]))
        changed = _changed(votes[crop], total[crop], fine, crf.exclusive)
        inner = slice((start - first) * down[0], (start - first + step) * down[0])
        result[:, :, start * down[0] : (start + step) * down[0]] = changed[:, :, inner]
    return result


def relabelled(crf: MaskedCRFLoss, truth: Tensor, image: Tensor) -> Tensor:
    """Return the share of the voxels of each class or region that would get another label, ``(K,)``; nan without any.

    Args:
        crf: as for :func:`preferred`.
        truth: as there.
        image: as there.
    """
    lost = truth & ~preferred(crf, truth, image)
    axes = (0, *range(2, truth.ndim))
    return lost.sum(axes) / truth.sum(axes)


def _changed(votes: Tensor, total: Tensor, truth: Tensor, exclusive: bool) -> Tensor:
    if not exclusive:
        margin = votes - total / 2
        tie = margin.abs() <= TIE * total
        return torch.where(tie, truth, margin > 0)
    best, index = votes.max(1, keepdim=True)
    own = votes.where(truth, -math.inf).amax(1, keepdim=True)
    wanted = torch.zeros_like(truth).scatter_(1, index, True)
    return torch.where(own >= best * (1 - TIE), truth, wanted)
