"""Strokes: the voxels that a prompt decides by itself, whatever the network predicts.

A scribble, a lasso and an eraser decide the drawn voxels. A click decides its voxel, or a disc in its slice. A box for
background decides its inside. A box around a structure decides nothing inside, because it contains more than the
structure. But the structure ends at the box: the voxels just outside its outline are not this structure (the rule of
the outline).

Voxels are indices ``(P, 3)`` of the image in the order of its slices: slice, row, column, before any crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.preprocessed import PreprocessedGrid
from nnunet_ext.interactive.drawing import Box
from nnunet_ext.interactive.provenance import Sheet

CLICK_RADIUS = 0.0
"""Radius of the disc that a click decides, in voxels of the finer axis of a slice; 0 is the clicked voxel alone.

On 10 toy volumes of 12 × 16 × 16 voxels with 10 clicks each, 20 % of the clicks were harmful with radius 0 and 30 %
with radius 1 (one training of 100 steps). A disc is larger than errors that are one voxel thin."""


def _none() -> NDArray[np.int64]:
    return np.zeros((0, 3), np.int64)


@dataclass(frozen=True, eq=False)
class Stroke:
    """Voxels that a prompt decides.

    Attributes:
        label: value of the label.
        voxels: voxels that get the label, ``(P, 3)``.
        around: voxels that must not have the label, ``(P, 3)``.
        heard: whether the network hears of the prompt; of a brush it does not.
    """

    label: int
    voxels: NDArray[np.int64] = field(default_factory=_none)
    around: NDArray[np.int64] = field(default_factory=_none)
    heard: bool = True

    @property
    def slices(self) -> list[int]:
        """Indices of the slices with decided voxels, ascending."""
        return np.unique(np.concatenate((self.voxels[:, 0], self.around[:, 0]))).tolist()

    def on(self, index: int, sheet: Sheet) -> Sheet:
        """The slice of this index after the stroke."""
        around, inside = (part[part[:, 0] == index, 1:] for part in (self.around, self.voxels))
        if len(around):
            sheet = sheet.ruled(around, self.label)
        return sheet.painted(inside, self.label) if len(inside) else sheet


def in_slices(voxels: NDArray, grid: PreprocessedGrid, shape: Sequence[int]) -> NDArray[np.int64]:
    """Turn continuous voxels z, y, x of an image into whole voxels in the order of its slices, ``(P, 3)``.

    Rounding is relative to the crop, as for the network's slices.
    """
    order = list(grid.transpose)
    start = np.asarray(grid.start)
    whole = np.rint(np.asarray(voxels, float)[:, order] - start) + start
    return np.clip(whole, 0, np.asarray(shape)[order] - 1).astype(np.int64)


def disc(centre: NDArray[np.int64], radius: float, spacing_mm: Sequence[float], size: Sequence[int]) -> NDArray:
    """The voxels of a disc in a slice, always including the centre, ``(P, 3)``.

    Args:
        centre: slice, row and column, ``(3,)``.
        radius: radius in voxels of the finer axis.
        spacing_mm: spacing along rows and columns.
        size: numbers of rows and columns of a slice.
    """
    reach = radius * min(spacing_mm)
    axes = [np.arange(-int(reach / mm + 1e-9), int(reach / mm + 1e-9) + 1) for mm in spacing_mm]
    rows, columns = (part.ravel() for part in np.meshgrid(*axes, indexing="ij"))
    near = np.hypot(rows * spacing_mm[0], columns * spacing_mm[1]) <= reach + 1e-9
    pixels = np.stack((rows[near] + centre[1], columns[near] + centre[2]), 1)
    pixels = pixels[((pixels >= 0) & (pixels < size)).all(1)]
    return np.insert(pixels, 0, centre[0], axis=1)


def around_box(box: Box, shape: Sequence[int], slice_axis: int) -> NDArray[np.int64]:
    """The voxels of the image that touch a box from outside, ``(P, 3)``, z, y, x.

    Args:
        box: the box. If it is one voxel thin, only voxels in its plane count; if it is thin along several axes, the
            plane across the slice axis is preferred.
        shape: shape of the image.
        slice_axis: axis across the slices.
    """
    ranges = np.asarray(box)
    thin = np.flatnonzero(ranges[:, 1] - ranges[:, 0] == 1).tolist()
    low, high = ranges[:, 0] - 1, ranges[:, 1] + 1
    if thin:
        flat = slice_axis if slice_axis in thin else thin[0]
        low[flat], high[flat] = ranges[flat]
    found = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1).reshape(-1, 3)
    inside = ((found >= ranges[:, 0]) & (found < ranges[:, 1])).all(1)
    present = ((found >= 0) & (found < shape)).all(1)
    return found[present & ~inside]
