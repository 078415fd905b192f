"""The landmarks of one case in voxels of the preprocessed array, where a training meets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.geometry import inside
from nnunet_ext.data.preprocessed import PreprocessedGrid
from nnunet_ext.landmarks.points import Landmarks, State, as_arrays


class Keypoints(NamedTuple):
    """The K landmarks of one case, in an order that was asked for."""

    voxels: NDArray[np.float32]
    """``(K, 3)``, continuous indices of the preprocessed array; nan unless present."""
    states: NDArray[np.int8]
    """``(K,)``, values of :class:`nnunet_ext.landmarks.points.State`."""
    outside: tuple[str, ...]
    """Names of landmarks that are present outside of the array; their state is unknown here."""

    @classmethod
    def of(cls, landmarks: Landmarks, names: Sequence[str], grid: PreprocessedGrid) -> Keypoints:
        """The landmarks called ``names``, in this order; what lies outside of the array is unknown.

        Args:
            landmarks: of the case.
            names: K of them.
            grid: of the case.
        """
        points_mm, states = as_arrays(landmarks, names)
        voxels = grid.to_voxels(points_mm)
        lost = (states == State.PRESENT) & ~inside(voxels, grid.shape)
        voxels[lost], states[lost] = np.nan, State.UNKNOWN
        outside = tuple(name for name, is_lost in zip(names, lost, strict=True) if is_lost)
        return cls(voxels.astype(np.float32), states, outside)
