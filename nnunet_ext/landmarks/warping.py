"""Where a point of an image is after the image was resampled on a grid.

Augmentation asks for every voxel of the new image where it lies in the old one. A landmark needs the inverse: which
place of the new image was taken from here. The map is the affine one that rotates and scales, and what elastic
deformation adds to it, so stepping with the inverse of the affine part alone converges to the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_ext.data.geometry import Floats

TOLERANCE = 1e-3
"""Voxels of the new image. A grid of float32 is exact to about a tenth of it."""

STEPS = 100
"""An affine map needs one. A deformation that needs more is folded there, and the answer is not unique."""


def follow(points: ArrayLike, grid: NDArray, shape: Sequence[int], affine: ArrayLike, align_corners: bool) -> Floats:
    """``(K, dim)``, continuous indices of the new image, also beyond its border; nan where they cannot be found.

    Args:
        points: ``(K, dim)``, continuous indices of the old image; nan stays nan.
        grid: ``(*new shape, dim)``, where ``torch.nn.functional.grid_sample`` samples: the old image from −1 to 1, its
            last axis first.
        shape: of the old image, ``(dim,)``.
        affine: ``(dim, dim)``, voxels of the old image per voxel of the new one. It may be rough.
        align_corners: of ``grid_sample``: −1 and 1 are the centres of the outer voxels, not their faces.
    """
    points, size, matrix = np.asarray(points, float), np.asarray(shape), np.asarray(affine, float)
    inverse, last = np.linalg.inv(matrix), np.asarray(grid.shape[:-1]) - 1
    scale = (size - 1) / 2 if align_corners else size / 2

    def sampled(index: Floats) -> Floats:
        """Where the new image at ``index`` was taken from; beyond its border the map goes on as the affine one."""
        within = np.clip(index, 0, last)
        return _interpolated(grid, within)[:, ::-1] * scale + (size - 1) / 2 + (index - within) @ matrix.T

    found = np.full_like(points, np.nan)
    known = np.isfinite(points).all(1)
    goal = points[known]
    index = np.broadcast_to(last / 2, goal.shape)
    for _ in range(STEPS):
        step = (goal - sampled(index)) @ inverse.T
        index = index + step
        if np.abs(step).max(initial=0) < TOLERANCE:
            break
    found[known] = np.where((np.abs(step) < TOLERANCE).all(1, keepdims=True), index, np.nan)
    return found


def _interpolated(grid: NDArray, index: Floats) -> Floats:
    """``(K, dim)``: the vectors of a grid ``(*shape, dim)`` at continuous indices inside of it, linearly."""
    last = np.asarray(grid.shape[:-1]) - 1
    below = np.minimum(np.floor(index).astype(int), np.maximum(last - 1, 0))
    part = index - below
    total = np.zeros_like(index)
    for corner in product((0, 1), repeat=len(last)):
        weight = np.where(corner, part, 1 - part).prod(1)
        total += weight[:, None] * grid[tuple(np.minimum(below + corner, last).T)]
    return total
