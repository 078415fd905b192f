"""Points, masks, lassos and boxes as voxels of the image, with checks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_fill_holes, distance_transform_edt
from torch import Tensor

from nnunet_ext.errors import InputError

Shape = tuple[int, int, int]

Box = list[list[int]]
"""Half-open ranges of voxels, ``[[z0, z1], [y0, y1], [x0, x1]]``."""


def as_array(given: ArrayLike | Tensor) -> NDArray:
    """The argument as an array, which shares its memory if possible."""
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)


def point_voxels(coordinates: Sequence[float], shape: Shape) -> NDArray[np.float64]:
    """A point in an image as voxels, ``(1, 3)``.

    Raises:
        InputError: the coordinates are no point, or lie outside the image.
    """
    try:
        point = np.asarray(coordinates, float).reshape(3)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"The point is {str(coordinates)[:80]}, but three numbers z, y, x are expected.") from None
    if not ((point >= -0.5) & (point <= np.asarray(shape) - 0.5)).all():
        raise InputError(
            f"The point {point.tolist()} is outside of the image, whose shape is {shape}; give voxels z, y, x."
        )
    return point[None]


def checked_box(box: Sequence[Sequence[int]], shape: Shape) -> Box:
    """The box, checked against an image.

    Raises:
        InputError: it is no box, is empty, or is not inside the image.
    """
    try:
        array = np.asarray(box)
        with np.errstate(invalid="ignore"):  # a number too large for an integer becomes another one
            whole = array.astype(int)
        if array.shape != (3, 2) or not (whole == array).all():
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"The box is {str(box)[:80]}, but three ranges of whole numbers [[z0, z1], [y0, y1], [x0, x1]] are "
            "expected."
        ) from None
    if not ((whole[:, 0] >= 0) & (whole[:, 0] < whole[:, 1]) & (whole[:, 1] <= shape)).all():
        raise InputError(
            f"The box {whole.tolist()} is empty or not inside of the image of shape {shape}; ranges are half-open."
        )
    return whole.tolist()


def box_voxels(box: Sequence[Sequence[int]], shape: Shape) -> NDArray[np.int64]:
    """The voxels of a box, ``(P, 3)``.

    Raises:
        InputError: see :func:`checked_box`.
    """
    grid = np.meshgrid(*(np.arange(start, stop) for start, stop in checked_box(box, shape)), indexing="ij")
    return np.stack(grid, -1).reshape(-1, 3).astype(np.int64)


def mask_voxels(
    mask: ArrayLike | Tensor, shape: Shape, box: Sequence[Sequence[int]] | None = None, what: str = "scribble"
) -> NDArray[np.int64]:
    """The voxels of a mask, ``(P, 3)``, at least one.

    Args:
        mask: mask; all nonzero values belong to it.
        shape: shape of the image.
        box: place of the mask in the image; None: it covers the image.
        what: name of the mask in messages.

    Raises:
        InputError: the mask is empty or has another shape.
    """
    array = as_array(mask)
    place = [[0, n] for n in shape] if box is None else checked_box(box, shape)
    expected = tuple(stop - start for start, stop in place)
    if array.shape != expected:
        where = "the image" if box is None else "its interaction_bbox"
        raise InputError(f"The {what} has shape {array.shape}, but {where} {expected}; make it the same.")
    voxels = np.argwhere(array != 0)
    if not len(voxels):
        raise InputError(f"The {what} is empty; paint at least one voxel.")
    return voxels + np.array([start for start, _ in place])


def filled(voxels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Voxels ``(P, 3)`` of a lasso in one plane, with its inside.

    Raises:
        InputError: the lasso does not lie in one plane.
    """
    low = voxels.min(0)
    shape = voxels.max(0) - low + 1
    flat = np.flatnonzero(shape == 1)
    if not len(flat):
        raise InputError("The lasso is thick along all axes; draw it in one plane.")
    mask = np.zeros(shape, bool)
    mask[tuple((voxels - low).T)] = True
    axis = int(flat[0])
    inside = binary_fill_holes(mask.squeeze(axis))
    return np.argwhere(np.expand_dims(inside, axis)) + low


def widened(
    voxels: NDArray[np.int64], width: float, across: int, spacing_mm: Sequence[float], shape: Shape
) -> NDArray[np.int64]:
    """The voxels of a line in one plane, drawn with a round pen, ``(P, 3)``.

    Args:
        voxels: voxels of the line, ``(P, 3)``.
        width: width of the pen, in voxels of the finer axis of the plane; 1 draws the line alone.
        across: axis across the plane.
        spacing_mm: spacing of the three axes.
        shape: shape of the image; nothing is drawn beyond it.

    Raises:
        InputError: the line does not lie in one plane across that axis.
    """
    if (voxels[:, across] != voxels[0, across]).any():
        raise InputError(f"The line crosses planes across {'zyx'[across]}; draw with a width in one of them.")
    plane = [axis for axis in range(3) if axis != across]
    mm = [float(spacing_mm[axis]) for axis in plane]
    reach = width / 2 * min(mm)
    margin = [int(reach / one) + 1 for one in mm]
    low = np.maximum(voxels[:, plane].min(0) - margin, 0)
    high = np.minimum(voxels[:, plane].max(0) + margin + 1, [shape[axis] for axis in plane])
    off_line = np.ones(high - low, bool)
    off_line[tuple((voxels[:, plane] - low).T)] = False
    near = np.argwhere(distance_transform_edt(off_line, mm) <= reach + 1e-9) + low
    return np.insert(near, across, voxels[0, across], axis=1)
