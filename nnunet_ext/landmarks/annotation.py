"""What of a case is annotated, and batches that hold every kind of case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_ext.landmarks.points import State


class Annotation(Enum):
    """What of a case is annotated. The order matters: with either, ``BOTH`` makes a connected range."""

    SEGMENTATION = "segmentation"
    BOTH = "segmentation and landmarks"
    LANDMARKS = "landmarks"
    NOTHING = "nothing"

    @classmethod
    def of(cls, segmentation: bool, landmarks: bool) -> Annotation:
        if segmentation:
            return cls.BOTH if landmarks else cls.SEGMENTATION
        return cls.LANDMARKS if landmarks else cls.NOTHING

    @property
    def segmentation(self) -> bool:
        return self in (Annotation.SEGMENTATION, Annotation.BOTH)

    @property
    def landmarks(self) -> bool:
        return self in (Annotation.LANDMARKS, Annotation.BOTH)


def is_segmented(class_locations: Mapping[Any, Sequence]) -> bool:
    """Whether anything is labelled in a case, be it background.

    Args:
        class_locations: that nnU-Net stored for the case. With an ignore label in the data set it has a key of −1 and
            all labels, with voxels that are not ignored; without one every voxel is labelled.
    """
    annotated = [key for key in class_locations if isinstance(key, tuple) and -1 in key]
    return not annotated or any(len(class_locations[key]) > 0 for key in annotated)


def has_landmarks(states: ArrayLike) -> bool:
    """Whether anything is known about the landmarks of a case; ``states``: ``(K,)``."""
    return bool((np.asarray(states) != State.UNKNOWN).any())


def systematic_sample(
    annotations: Sequence[Annotation], number: int, probabilities: ArrayLike | None = None
) -> NDArray[np.int64]:
    """``(number,)``: indices of cases for one batch, in random order.

    Systematic sampling: the cases of a kind stand side by side on a line, shuffled, and equally spaced points with a
    random start pick from it. So every case is expected equally often, as in nnU-Net, and of every kind come as many as
    its share of the batch, rounded up or down, where independent draws would leave out a kind much more often.

    Args:
        annotations: of the N cases.
        number: of cases in the batch.
        probabilities: ``(N,)``; the same for all cases by default.
    """
    kinds = np.array([list(Annotation).index(annotation) for annotation in annotations])
    # numpy's global state, as in nnU-Net, which seeds it in every worker
    line = np.lexsort((np.random.random(len(kinds)), kinds))
    shares = np.ones(len(kinds)) if probabilities is None else np.asarray(probabilities, float)
    ends = np.cumsum(shares[line])
    points = (np.random.random() + np.arange(number)) / number * ends[-1]
    chosen = line[np.searchsorted(ends[:-1], points, side="right")]
    np.random.shuffle(chosen)
    return chosen
