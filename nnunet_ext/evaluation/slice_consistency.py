"""Consistency of slices: whether those of a segmentation agree with their neighbours as much as the reference's do.

The consistency of a class in a volume is the mean Dice between its masks on neighbouring slices,

    s = mean over z of 2 |M_z ∩ M_{z+1}| / (|M_z| + |M_{z+1}|),

of the pairs in which at least one of both is not empty; so each end of a structure, and each side of a slice that was
missed in it, is a pair of 0. A structure that tapers has no s of 1, and thicker slices have a lower one. Therefore only
the difference to the s of the reference says something: below 0 the slices of the prediction agree less with each other
than they should (they flicker), above 0 they are more alike than anatomy is. It says nothing about being right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.errors import InputError

DEFINITION = (
    "consistency: mean Dice between the masks of neighbouring slices, along the axis that nnU-Net's 2d configuration "
    "slices along, without pairs of empty masks; counted where prediction and reference both have such pairs; "
    "difference: that of the prediction minus that of the reference"
)
"""The definition, to be quoted next to the numbers."""


class Consistency(NamedTuple):
    """Consistency of one class; both NaN unless both exist, so that means of both are over the same cases."""

    prediction: float
    reference: float

    @property
    def difference(self) -> float:
        """Prediction minus reference; below 0 the slices of the prediction agree less than those of the reference."""
        return self.prediction - self.reference


def neighbour_dice(mask: NDArray[np.bool_], axis: int, ignored: NDArray[np.bool_] | None = None) -> float:
    """Mean Dice between neighbouring slices of a mask; NaN if there is no pair with anything in it.

    Args:
        mask: of any number of axes.
        axis: along which the slices lie.
        ignored: voxels that do not count; in a pair of slices their pixels count in neither.
    """
    slices = np.moveaxis(mask, axis, 0)
    here, there = slices[:-1], slices[1:]
    if ignored is not None:
        out = np.moveaxis(ignored, axis, 0)
        counted = ~(out[:-1] | out[1:])
        here, there = here & counted, there & counted
    in_plane = tuple(range(1, slices.ndim))
    overlap = np.count_nonzero(here & there, axis=in_plane)
    size = np.count_nonzero(here, axis=in_plane) + np.count_nonzero(there, axis=in_plane)
    some = size > 0
    return float((2 * overlap[some] / size[some]).mean()) if some.any() else float("nan")


def slice_consistency(
    prediction: Any,
    reference: Any,
    labels: Mapping[str, int | Sequence[int]],
    axis: int,
    *,
    ignore_label: int | None = None,
) -> dict[str, Consistency]:
    """Consistency of every class of two label maps.

    Args:
        prediction: array of integers with three axes.
        reference: array of integers of the same shape.
        labels: by name, a label or the labels that form a region.
        axis: along which the slices lie; that of nnU-Net's 2d configuration is ``transpose_forward[0]`` of the plans.
        ignore_label: pixels with this label on one of two neighbouring slices of the reference do not count in this
            pair, neither there nor in the prediction.

    Raises:
        InputError: other shapes, or no such axis.
    """
    predicted, truth = np.asarray(prediction), np.asarray(reference)
    if truth.ndim != 3 or predicted.shape != truth.shape:
        raise InputError(
            f"The prediction has shape {predicted.shape}, the reference {truth.shape}; slice consistency needs two "
            "volumes of one shape with three axes."
        )
    if axis not in range(3):
        raise InputError(f"The slices are said to lie along axis {axis}; a volume has axes 0, 1 and 2.")
    ignored = None if ignore_label is None else truth == ignore_label
    result = {}
    for name, values in labels.items():
        pair = [neighbour_dice(np.isin(each, values), axis, ignored) for each in (predicted, truth)]
        result[name] = Consistency(*pair) if not np.isnan(pair).any() else Consistency(np.nan, np.nan)
    return result
