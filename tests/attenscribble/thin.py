"""Thin structures of known shape, in a noisy image with partial volume beside something brighter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

CONTRAST, BLUR, NOISE = 0.6, 0.7, 0.05
"""Grey value of the structure on 0 with 1 as the brightest thing, σ of the partial volume in voxels, σ of the noise."""


def structures(dim: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name, truth ``(1, 2, *spatial)`` bool and image ``(1, 1, *spatial)``."""
    size = 48 if dim == 2 else 32
    grid = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * dim, indexing="ij"))
    slanted = 0.6 * grid[-2] + 0.8 * grid[-1]
    masks = {f"sheet of {width}": np.abs(slanted) < width / 2 for width in (2, 3)}
    if dim == 2:
        distance = np.hypot(*grid)
        masks |= {"ring of 3": (distance > 8) & (distance < 11), "disc of 5": distance < 2.5}
    else:
        masks |= {f"tube of {2 * r}": np.hypot(grid[1] - 0.3 * grid[0], grid[2]) < r for r in (1.5, 2.5)}
    for name, mask in masks.items():
        grey = CONTRAST * mask
        grey[..., :6] = 1
        grey = gaussian_filter(grey, BLUR) + np.random.default_rng(0).normal(0, NOISE, mask.shape)
        yield name, torch.from_numpy(np.stack([~mask, mask]))[None], torch.from_numpy(grey)[None, None]
