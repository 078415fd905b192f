"""Landmarks of one case: in mm in the patient, as arrays, and in voxels of the preprocessed array.

Positions are LPS (x to the left, y to the back, z to the head), as in DICOM and ITK, whatever a file holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_ext.data.geometry import inside
from nnunet_ext.data.preprocessed import PreprocessedGrid
from nnunet_ext.errors import InputError

Position = tuple[float, float, float]


class State(IntEnum):
    """Knowledge about a landmark in a case; arrays (int8) hold these numbers."""

    UNKNOWN = -1
    """Not annotated, nobody looked: no loss, no score."""
    ABSENT = 0
    """It is not in the image: a prediction there is false."""
    PRESENT = 1
    """It has a position."""


@dataclass(frozen=True)
class Landmark:
    """One landmark of one case.

    Attributes:
        state: present, absent or unknown.
        position_mm: position in LPS; None unless present.
        confidence: confidence of a prediction, from 0 to 1; None for an annotation.

    Raises:
        InputError: a present landmark has no finite position, or another one has a position.
    """

    state: State
    position_mm: Position | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        if (self.state is State.PRESENT) != (self.position_mm is not None):
            raise InputError(f"A landmark is {self.state.name.lower()} with position {self.position_mm}.")
        if self.position_mm is not None and not (
            len(self.position_mm) == 3 and all(math.isfinite(x) for x in self.position_mm)
        ):
            raise InputError(f"A position is {self.position_mm}, but it must be three finite numbers in mm.")


Landmarks = Mapping[str, Landmark]
"""The landmarks of one case by name. A landmark that is missing here is unknown."""


def present(position_mm: ArrayLike, confidence: float | None = None) -> Landmark:
    """A present landmark at a position ``(3,)`` in mm, LPS."""
    x, y, z = np.asarray(position_mm, float).tolist()
    return Landmark(State.PRESENT, (x, y, z), confidence)


ABSENT = Landmark(State.ABSENT)
UNKNOWN = Landmark(State.UNKNOWN)


def as_arrays(landmarks: Landmarks, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Positions ``(K, 3)`` in mm, LPS, nan unless present; and states ``(K,)``, in the order of ``names``."""
    chosen = [landmarks.get(name, UNKNOWN) for name in names]
    positions = [found.position_mm or (math.nan,) * 3 for found in chosen]
    return np.array(positions, float).reshape(-1, 3), np.array([found.state for found in chosen], np.int8)


def from_arrays(
    positions_mm: ArrayLike, states: ArrayLike, names: Sequence[str], confidences: ArrayLike | None = None
) -> dict[str, Landmark]:
    """The inverse of :func:`as_arrays`.

    Args:
        positions_mm: ``(K, 3)``, LPS; only positions of present landmarks count.
        states: ``(K,)``, values of :class:`State`.
        names: names of the K landmarks.
        confidences: ``(K,)``, for predictions.
    """
    positions = np.asarray(positions_mm, float)
    given = [None] * len(names) if confidences is None else [float(c) for c in np.asarray(confidences)]
    return {
        name: present(position, confidence) if state == State.PRESENT else Landmark(State(int(state)), None, confidence)
        for name, position, state, confidence in zip(names, positions, np.asarray(states), given, strict=True)
    }


ROUNDING = 1e-3
"""Voxels by which rounding in files and transforms may move a landmark that lies on an outer face of the array."""


class Keypoints(NamedTuple):
    """The K landmarks of one case in voxels of the preprocessed array, in a given order."""

    voxels: NDArray[np.float32]
    """``(K, 3)``, continuous indices of the preprocessed array; nan unless present."""
    states: NDArray[np.int8]
    """``(K,)``, values of :class:`State`."""
    outside: tuple[str, ...]
    """Names of landmarks that are present outside the array; their state here is unknown."""

    @classmethod
    def of(cls, landmarks: Landmarks, names: Sequence[str], grid: PreprocessedGrid) -> Keypoints:
        """The landmarks called ``names``, in this order; landmarks outside the array are unknown.

        Args:
            landmarks: landmarks of the case.
            names: names of the K landmarks.
            grid: grid of the preprocessed case.
        """
        points_mm, states = as_arrays(landmarks, names)
        voxels = grid.to_voxels(points_mm)
        lost = (states == State.PRESENT) & ~inside(voxels, grid.shape, ROUNDING)
        voxels = np.clip(voxels, -0.5, np.asarray(grid.shape) - 0.5)
        voxels[lost], states[lost] = np.nan, State.UNKNOWN
        outside = tuple(name for name, is_lost in zip(names, lost, strict=True) if is_lost)
        return cls(voxels.astype(np.float32), states, outside)
