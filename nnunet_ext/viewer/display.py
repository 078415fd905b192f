"""Turns a volume for the screen: the axes of the patient in their order, whatever the order in the file.

The page shows voxels, not resampled ones, so slices stay slices also in oblique images: axes are only permuted and
flipped, to the closest right, anterior, superior. What the page gets is such a box of voxels with their spacing, so a
voxel on the screen is a voxel of the file by whole numbers, whatever a viewer makes of an affine.
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
    """The turn from an array ``(z, y, x)`` to what is shown, ``(i, j, k)``: right, anterior, superior.

    Attributes:
        affine: ``(4, 4)``, x, y, z of the array → mm, RAS.
        shape: of the array, z, y, x.
    """

    affine: Floats
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, geometry: Geometry, shape: tuple[int, int, int]) -> Display:
        """Return the turn of an image with this geometry, which is LPS and in z, y, x."""
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = geometry.matrix[:, ::-1], geometry.origin_mm
        affine[:2] *= -1
        return cls(affine, shape)

    @property
    def orientation(self) -> Floats:
        """``(3, 2)``, of x, y and z: the axis that it becomes, and ±1; as nibabel has it."""
        return io_orientation(self.affine)

    @property
    def axes(self) -> list[tuple[int, int]]:
        """The axis on the screen that each of z, y and x becomes, and −1 if it is flipped."""
        return [(int(to), int(sign)) for to, sign in self.orientation[::-1]]

    @property
    def spacing_mm(self) -> Floats:
        """``(3,)``, of i, j, k."""
        return np.linalg.norm((self.affine @ inv_ornt_aff(self.orientation, self.shape[::-1]))[:3, :3], axis=0)

    def turned(self, array: NDArray) -> NDArray:
        """``(z, y, x)`` → ``(i, j, k)``; a view."""
        return apply_orientation(array.T, self.orientation)

    def turned_box(self, box: Box) -> list[list[int]]:
        """Half-open ranges of z, y, x → of i, j, k."""
        turned = [[0, 0]] * 3
        for (to, sign), (low, high), size in zip(self.orientation, box[::-1], self.shape[::-1], strict=True):
            turned[int(to)] = [int(low), int(high)] if sign > 0 else [int(size - high), int(size - low)]
        return turned

    def nifti(self, array: NDArray) -> bytes:
        """A NIfTI file of what is shown, along the axes of the patient; whole numbers are sent as such."""
        shown = self.turned(array)
        low, high = float(array.min()), float(array.max())
        whole = low >= -(2**15) and high < 2**15 and bool((array == np.rint(array)).all())
        affine = np.diag([*self.spacing_mm, 1])
        return nibabel.Nifti1Image(shown.astype(np.int16 if whole else np.float32), affine).to_bytes()
