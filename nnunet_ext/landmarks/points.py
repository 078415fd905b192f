"""What a landmark is: a position in mm in the patient, or the knowledge that it is not there, or nothing.

Positions are LPS (x to the left, y to the back, z to the head), the system of DICOM and ITK, whatever a file holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_ext.data.geometry import CoordinateSystem
from nnunet_ext.errors import InputError

Position = tuple[float, float, float]


class State(IntEnum):
    """What is known about a landmark of a case; the numbers are those of arrays (int8)."""

    UNKNOWN = -1
    """Nobody looked: no loss, no score."""
    ABSENT = 0
    """It is not in the image: a prediction there is false."""
    PRESENT = 1
    """It has a position."""


@dataclass(frozen=True)
class Landmark:
    """One landmark of one case.

    Attributes:
        state: present, absent or unknown.
        position_mm: LPS; None unless present.
        confidence: of a prediction, from 0 to 1; None if it is an annotation.

    Raises:
        InputError: present without a finite position, or the other way round.
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
"""Of one case, by name. A name that is missing is unknown."""


def present(position_mm: ArrayLike, confidence: float | None = None) -> Landmark:
    """A landmark at a position ``(3,)`` in mm, LPS."""
    x, y, z = np.asarray(position_mm, float).tolist()
    return Landmark(State.PRESENT, (x, y, z), confidence)


ABSENT = Landmark(State.ABSENT)
UNKNOWN = Landmark(State.UNKNOWN)


def coordinate_system(code: object, where: str) -> CoordinateSystem:
    """The system that a file of 3D Slicer names: a word, or the number of older versions (0 is RAS, 1 is LPS).

    Raises:
        InputError: another one, such as IJK.
    """
    systems: dict[str, CoordinateSystem] = {"LPS": "LPS", "1": "LPS", "RAS": "RAS", "0": "RAS"}
    found = systems.get(str(code).strip().upper())
    if found is None:
        raise InputError(
            f"{where}: the coordinate system is {code!r}, but LPS (or 1) or RAS (or 0) is expected; save the file "
            "again from 3D Slicer."
        )
    return found


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
        positions_mm: ``(K, 3)``, LPS; only those of present landmarks count.
        states: ``(K,)``, values of :class:`State`.
        names: K of them.
        confidences: ``(K,)``, of predictions.
    """
    positions = np.asarray(positions_mm, float)
    given = [None] * len(names) if confidences is None else [float(c) for c in np.asarray(confidences)]
    return {
        name: present(position, confidence) if state == State.PRESENT else Landmark(State(int(state)), None, confidence)
        for name, position, state, confidence in zip(names, positions, np.asarray(states), given, strict=True)
    }
