"""Positions of voxels: points in mm (LPS) ↔ indices of the array as nnU-Net's readers deliver it.

The index is ``(z, y, x)``, the order of the array, and (0, 0, 0) is the centre of the first voxel. A 2D image is one
slice, as in nnU-Net; the third coordinate of its points is the index of that slice. Formats without a geometry (png,
tif) have their first voxel at 0 mm and their axes along the patient's axes, as in ITK. One pixel of a png is 1 mm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_ext.data.reading import PSEUDO_2D, Volume
from nnunet_ext.errors import InputError

CoordinateSystem = Literal["LPS", "RAS"]
Floats = NDArray[np.float64]


def to_lps(points_mm: ArrayLike, system: CoordinateSystem) -> Floats:
    """Points ``(…, 3)`` in ``system`` → in LPS. The same call converts back, because only x and y change their sign."""
    points = np.asarray(points_mm, float)
    return points if system == "LPS" else points * (-1.0, -1.0, 1.0)


THICK = 3.0
"""Slices thicker than this multiple of the in-plane spacing are thick; nnU-Net's own number (``ANISO_THRESHOLD``)."""


def slice_axis(spacing_mm: Sequence[float] | Floats, shape: Sequence[int] = ()) -> int:
    """The axis along which the slices of a volume were acquired: the coarsest one, the first among equals.

    If the shape is given, an axis of length 1 is it, because a single slice may be thinner than its pixels.
    """
    if len(shape) == 3 and list(shape).count(1) == 1:
        return list(shape).index(1)
    return int(np.argmax(spacing_mm)) if len(spacing_mm) == 3 else 0


def are_thick(spacing_mm: Sequence[float] | Floats) -> bool:
    """Whether the slices of a volume are thick (:data:`THICK`)."""
    spacing = np.asarray(spacing_mm, float)
    return bool(spacing.max() > THICK * np.delete(spacing, spacing.argmax()).max())


@dataclass(frozen=True, eq=False)
class Geometry:
    """Affine map from indices to points: ``point = origin_mm + matrix @ index``.

    Attributes:
        matrix: ``(3, 3)``, mm; column a is one step along axis a of the array.
        origin_mm: ``(3,)``, centre of the first voxel in LPS.
    """

    matrix: Floats
    origin_mm: Floats

    @property
    def spacing_mm(self) -> Floats:
        """Voxel size along each axis of the array, ``(3,)``."""
        return np.linalg.norm(self.matrix, axis=0)

    def to_index(self, points_mm: ArrayLike) -> Floats:
        """Points ``(…, 3)`` in mm, LPS → continuous indices ``(…, 3)`` of the array; nan stays nan."""
        return (np.asarray(points_mm, float) - self.origin_mm) @ np.linalg.inv(self.matrix).T

    def to_mm(self, index: ArrayLike) -> Floats:
        """Continuous indices ``(…, 3)`` of the array → points ``(…, 3)`` in mm, LPS."""
        return np.asarray(index, float) @ self.matrix.T + self.origin_mm

    @classmethod
    def from_properties(cls, properties: Mapping[str, Any]) -> Geometry:
        """Return the geometry of an image from its properties.

        Args:
            properties: from any reader of nnU-Net, or from the ``.pkl`` that nnU-Net stores for a preprocessed case.

        Raises:
            InputError: the axes do not span three dimensions.
        """
        parts = {
            key: value for group in properties.values() if isinstance(group, Mapping) for key, value in group.items()
        }
        return cls._from_parts({**parts, "spacing": properties["spacing"]})

    @classmethod
    def from_volume(cls, volume: Volume) -> Geometry:
        """Return the geometry of a volume; the index is 3D even if the volume is 2D."""
        return cls._from_parts(volume.geometry)

    @classmethod
    def _from_parts(cls, parts: Mapping[str, Any]) -> Geometry:
        """``parts``: the properties without nesting, from any reader; ``spacing`` in the order of the array."""
        spacing = np.asarray(parts["spacing"], float)
        if spacing[0] > PSEUDO_2D * spacing[1:].max():
            spacing = np.array([1.0, *spacing[1:]])
        # a reader that reorients delivers the reoriented array
        affine = parts.get("reoriented_affine", parts.get("original_affine"))
        if affine is not None:
            affine = np.asarray(affine, float)
            matrix_xyz, origin = to_lps(affine[:3, :3].T, "RAS").T, to_lps(affine[:3, 3], "RAS")
        elif "direction" in parts:
            dim = len(np.atleast_1d(parts["origin"]))
            direction, origin = np.eye(3), np.zeros(3)
            direction[:dim, :dim] = np.reshape(parts["direction"], (dim, dim))
            origin[:dim] = parts["origin"]
            matrix_xyz = direction * spacing[::-1]
        else:
            matrix_xyz, origin = np.diag(spacing[::-1]), np.zeros(3)
        if not np.isfinite(matrix_xyz).all() or np.linalg.matrix_rank(matrix_xyz) < 3:
            found = np.round(matrix_xyz, 6).tolist()
            raise InputError(f"The axes of an image are {found} in mm, which span no space; repair its header.")
        return cls(matrix_xyz[:, ::-1], origin)


def apart_mm(one: Volume, other: Volume) -> float:
    """How far two volumes of the same shape lie apart by their headers: the larger distance of two opposite corners.

    nnU-Net pairs voxels by index, and only warns about other origins and directions.
    """
    corners = np.array([(0, 0, 0), (1, *one.array.shape)[-3:]])
    places = [Geometry.from_volume(volume).to_mm(corners) for volume in (one, other)]
    return float(np.linalg.norm(places[0] - places[1], axis=1).max())


def inside(index: ArrayLike, shape: ArrayLike, tolerance: float = 0.0) -> NDArray[np.bool_]:
    """Whether continuous indices ``(…, 3)`` lie inside an array's voxels, ``(…,)``; False for nan.

    Args:
        index: the indices.
        shape: shape of the array.
        tolerance: voxels by which an index may lie beyond the outer faces.
    """
    index, beyond = np.asarray(index, float), 0.5 + tolerance
    return np.asarray(((index >= -beyond) & (index <= np.asarray(shape) - 1 + beyond)).all(-1))
