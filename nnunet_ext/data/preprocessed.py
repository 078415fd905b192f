"""Points in mm ↔ voxels of the preprocessed array that a network sees.

nnU-Net transposes the axes, crops to the nonzero region, and resamples. Its resampling aligns the outer faces of the
first and last voxels, so index i of n voxels becomes index (i + 0.5) · m/n − 0.5 of m voxels (the half-pixel rule). The
conversion needs the plans and the properties that nnU-Net stores beside the array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnunet_ext.data.geometry import Floats, Geometry
from nnunet_ext.errors import InputError


@dataclass(frozen=True, eq=False)
class PreprocessedGrid:
    """Voxel grid of one preprocessed case.

    Attributes:
        geometry: geometry of the original image.
        transpose: ``transpose_forward`` of the plans.
        start: first voxel of the crop, ``(3,)``, after the transposition.
        cropped: shape of the crop before resampling, ``(3,)``.
        shape: shape of the preprocessed array without its channels, ``(3,)``.
    """

    geometry: Geometry
    transpose: tuple[int, ...]
    start: tuple[int, ...]
    cropped: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def from_properties(
        cls, properties: Mapping[str, Any], plans: Mapping[str, Any], shape: Sequence[int]
    ) -> PreprocessedGrid:
        """Return the grid of a case from its properties and plans.

        Args:
            properties: properties that nnU-Net stores for a preprocessed case, or that its preprocessor returns.
            plans: content of the plans file.
            shape: shape of the preprocessed array without its channels, axes in the order of the plans.

        Raises:
            InputError: the properties belong to a case that was not preprocessed, or the shape has not three axes.
        """
        keys = ("bbox_used_for_cropping", "shape_after_cropping_and_before_resampling")
        if missing := [key for key in keys if key not in properties]:
            raise InputError(f"The properties of a case lack {missing}; preprocess it again with nnU-Net v2.")
        if len(shape) != 3:
            raise InputError(
                f"The preprocessed shape is {tuple(shape)}, but nnU-Net's arrays have 3 axes, 2D ones too."
            )
        box, cropped = (properties[key] for key in keys)
        return cls(
            Geometry.from_properties(properties),
            tuple(map(int, plans["transpose_forward"])),
            tuple(int(bounds[0]) for bounds in box),
            tuple(map(int, cropped)),
            tuple(map(int, shape)),
        )

    def to_voxels(self, points_mm: ArrayLike) -> Floats:
        """Points ``(…, 3)`` in mm, LPS → continuous indices ``(…, 3)`` of the preprocessed array."""
        return self.from_index(self.geometry.to_index(points_mm))

    def to_mm(self, voxels: ArrayLike) -> Floats:
        """Continuous indices ``(…, 3)`` of the preprocessed array → points ``(…, 3)`` in mm, LPS."""
        return self.geometry.to_mm(self.to_index(voxels))

    def from_index(self, index: ArrayLike) -> Floats:
        """Continuous indices ``(…, 3)`` of the original array → of the preprocessed array."""
        index = np.asarray(index, float)[..., list(self.transpose)] - self.start
        return (index + 0.5) * self._scale - 0.5

    def to_index(self, voxels: ArrayLike) -> Floats:
        """Continuous indices ``(…, 3)`` of the preprocessed array → of the original array."""
        index = (np.asarray(voxels, float) + 0.5) / self._scale - 0.5 + self.start
        return index[..., np.argsort(self.transpose)]

    @property
    def spacing_mm(self) -> Floats:
        """Spacing ``(3,)`` of the preprocessed array."""
        return self.geometry.spacing_mm[list(self.transpose)] / self._scale

    @property
    def _scale(self) -> Floats:
        return np.asarray(self.shape) / np.asarray(self.cropped)
