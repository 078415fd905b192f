"""Soft balls, whose boundary is known and can be moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def distances(shape: Sequence[int], centre: Sequence[float], spacing: Sequence[float] | None = None) -> Tensor:
    """``(*shape)`` float64, of each voxel from the centre; in mm if a spacing is given."""
    axes = [
        (torch.arange(n, dtype=torch.float64) - c) * mm
        for n, c, mm in zip(shape, centre, spacing or [1.0] * len(shape), strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)


def ball(distance: Tensor, radius: Tensor | float) -> Tensor:
    """Distances → logits ``(1, 2, *spatial)`` of background and ball; its edge is two voxels or mm wide."""
    organ = radius - distance
    return torch.stack([torch.zeros_like(organ), organ])[None]
