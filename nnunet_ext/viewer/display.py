"""Turns a volume for the screen: into the order of the patient's axes, whatever the order in the file.

The page shows voxels without resampling, so slices stay slices even in oblique images: axes are only permuted and
flipped, to the closest right, anterior, superior. The page gets this array of voxels with its spacing. So a voxel on
the screen corresponds to a voxel of the file by whole numbers, however a viewer interprets affines.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from nnunet_ext.data.geometry import Floats, Geometry
from nnunet_ext.interactive.drawing import Box


@dataclass(frozen=True, eq=False)
class Display:
    """The turn from an array ``(z, y, x)`` to the shown array ``(i, j, k)``: right, anterior, superior.

    Attributes:
        affine: ``(4, 4)``, from x, y, z of the array to mm in RAS.
        shape: shape of the array, z, y, x.
    """

    affine: Floats
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, geometry: Geometry, shape: tuple[int, int, int]) -> Display:
        """Return the turn of an image with this geometry, which is in LPS and in the order z, y, x."""
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = geometry.matrix[:, ::-1], geometry.origin_mm
        affine[:2] *= -1
        return cls(affine, shape)

    @property
    def orientation(self) -> Floats:
        """For x, y and z, the shown axis and ±1, ``(3, 2)``; nibabel's format."""
        return io_orientation(self.affine)

    @property
    def axes(self) -> list[tuple[int, int]]:
        """For z, y and x, the shown axis, and −1 if it is flipped."""
        return [(int(to), int(sign)) for to, sign in self.orientation[::-1]]

    @property
    def spacing_mm(self) -> Floats:
        """Spacing of i, j and k, ``(3,)``."""
        return np.linalg.norm((self.affine @ inv_ornt_aff(self.orientation, self.shape[::-1]))[:3, :3], axis=0)

    def turned(self, array: NDArray) -> NDArray:
        """The shown array ``(i, j, k)`` of an array ``(z, y, x)``; a view."""
        return apply_orientation(array.T, self.orientation)

    def turned_box(self, box: Box) -> list[list[int]]:
        """Half-open ranges of i, j, k for half-open ranges of z, y, x."""
        turned = [[0, 0]] * 3
        for (to, sign), (low, high), size in zip(self.orientation, box[::-1], self.shape[::-1], strict=True):
            turned[int(to)] = [int(low), int(high)] if sign > 0 else [int(size - high), int(size - low)]
        return turned

    def nifti(self, array: NDArray) -> bytes:
        """A NIfTI file of the shown array, along the patient's axes; whole numbers are stored as int16."""
        shown = self.turned(array)
        low, high = float(array.min()), float(array.max())
        whole = low >= -(2**15) and high < 2**15 and bool((array == np.rint(array)).all())
        affine = np.diag([*self.spacing_mm, 1])
        return nibabel.Nifti1Image(shown.astype(np.int16 if whole else np.float32), affine).to_bytes()
