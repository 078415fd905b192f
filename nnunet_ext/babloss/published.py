"""Loss of the published code (lhaof/HPL, ``train_3d.py``), written from its arithmetic. For comparison, not for use.

Of one organ s (an output channel, or a one-hot label) and one heatmap L, with n the range of the distances:

1. M: the largest connected component of ``s ≠ 0``;
2. S: its boundary, dilation minus erosion, thinned from one side to about one voxel;
3. ``D = (n − d)/n`` with d the chessboard distance to S, at most n;
4. ``D̃ = D·s`` inside of M and ``D·(1 − s)`` outside of it;
5. the loss, ``1 − Σ L·D̃ / (number of voxels with L ≠ 0)``.

The only gradient for s is in step 4, ``∂/∂s = ∓L·D/count``: it raises s inside of M and lowers it outside, so it makes
the boundary sharper where it is, wherever the landmark is. And the count in step 5 is that of a Gaussian which is
nowhere exactly 0, so the loss is about 0.999 whatever is predicted. :mod:`~nnunet_ext.babloss.loss` has neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

Mask = NDArray[np.bool_]


def published_loss(organ: Tensor, heatmap: Tensor, n: int = 10) -> Tensor | None:
    """One term of the published loss; None where the organ has no voxel.

    Args:
        organ: ``(*spatial)``, 2D or 3D.
        heatmap: same shape, from 0 to 1.
        n: voxels. The code: 10.

    Returns:
        Scalar. The code sums it over the organs of a landmark and over landmarks, and divides by batch and landmarks.
    """
    soft = published_soft_map(organ, n)
    return None if soft is None else 1 - (heatmap * soft).sum() / heatmap.count_nonzero()


def published_bridge(
    outputs: Tensor,
    landmark_outputs: Tensor,
    heatmaps: Tensor,
    labels: Tensor,
    *,
    known: Tensor,
    unknown: Tensor,
    organs: Sequence[Sequence[tuple[int, ...]]],
    n: int = 10,
) -> tuple[Tensor, Tensor]:
    """Both terms of the published code, each on one and the same image.

    Args:
        outputs: ``(B, C, *spatial)`` of the segmentation, raw.
        landmark_outputs: ``(B, K, *spatial)``, raw, 1 at a landmark.
        heatmaps: ``(B, K, *spatial)``, targets from 0 to 1.
        labels: ``(B, C, *spatial)``, one-hot.
        known: ``(B, K)`` bool, landmarks whose organs are not labelled: the first term.
        unknown: ``(B, K)`` bool, landmarks that nobody placed in a labelled case: the second.
        organs: by landmark, the channels of the organs it lies on.
        n: voxels.

    Returns:
        Two scalars, sums over landmarks and organs divided by ``B·K``; 0 with a gradient of 0 without any.
    """
    pairs = [(k, organ[0]) for k, of_landmark in enumerate(organs) for organ in of_landmark]

    def total(organ: Tensor, heatmap: Tensor, use: Tensor, nothing: Tensor) -> Tensor:
        terms = [
            published_loss(organ[b, channel], heatmap[b, k], n)
            for b in range(len(use))
            for k, channel in pairs
            if use[b, k]
        ]
        return nothing + sum(term for term in terms if term is not None) / use.numel()

    return (
        total(outputs, heatmaps, known, outputs[:0].sum()),
        total(labels, landmark_outputs, unknown, landmark_outputs[:0].sum()),
    )


def published_soft_map(organ: Tensor, n: int = 10) -> Tensor | None:
    """D̃, steps 1 to 4; None where the organ has no voxel."""
    mask = largest_component(organ.detach().cpu().numpy() != 0)
    if not mask.any():
        return None
    distance = torch.as_tensor(distance_map(thin_boundary(mask), n)).to(organ)
    return distance * torch.where(torch.as_tensor(mask).to(organ.device), organ, 1 - organ)


def largest_component(mask: Mask) -> Mask:
    """Return the largest of the components that touch by a face; the mask itself if it is empty."""
    labels, number = ndimage.label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.flat)[1:]) if number else mask


def thin_boundary(mask: Mask) -> Mask:
    """The two voxels on either side of the boundary, thinned: of those, each whose neighbours before it are too."""
    box = np.ones([3] * mask.ndim, bool)
    # voxels outside of the volume are neither organ nor background
    thick = ndimage.binary_dilation(mask, box) & ~ndimage.binary_erosion(mask, box, border_value=1)
    # in the code's convolution with a 2×2×2 box, voxels outside of the volume count as boundary
    return ndimage.binary_erosion(thick, np.ones([2] * mask.ndim, bool), border_value=1)


def distance_map(boundary: Mask, n: int) -> NDArray[np.float64]:
    """``(n − d)/n`` with d the chessboard distance to the boundary, at most n; 0 without a boundary."""
    if not boundary.any():
        return np.zeros(boundary.shape)
    distance = ndimage.distance_transform_cdt(~boundary, metric="chessboard")
    return np.maximum(n - distance, 0) / n
