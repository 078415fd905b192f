"""Consistency of slices: do neighbouring slices of a segmentation agree as much as those of the reference?

The consistency of a class in a volume is the mean Dice between its masks on neighbouring slices,

    s = mean over z of 2 |M_z ∩ M_{z+1}| / (|M_z| + |M_{z+1}|),

over the pairs in which at least one mask is not empty. So each end of a structure, and each side of a missed slice,
adds a pair with Dice 0. A structure that tapers has s below 1, and thicker slices lower s. Therefore only the
difference to the reference's s is informative: below 0 the slices of the prediction agree less than they should (they
flicker), above 0 they are more alike than the anatomy. It does not measure correctness.
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
"""The definition in one sentence, which outputs quote next to the numbers."""


class Consistency(NamedTuple):
    """Consistency of one class; both are NaN if one is, so that means of both are over the same cases."""

    prediction: float
    reference: float

    @property
    def difference(self) -> float:
        """Prediction minus reference; below 0 the slices of the prediction agree less than those of the reference."""
        return self.prediction - self.reference


def neighbour_dice(mask: NDArray[np.bool_], axis: int, ignored: NDArray[np.bool_] | None = None) -> float:
    """Mean Dice between neighbouring slices of a mask; NaN if all pairs are empty.

    Args:
        mask: mask with any number of axes.
        axis: axis across the slices.
        ignored: voxels that do not count; a pixel ignored on one slice of a pair does not count on either.
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
        labels: for each name, a label or the labels that form a region.
        axis: axis across the slices; nnU-Net's 2d configuration uses ``transpose_forward[0]`` of the plans.
        ignore_label: a pixel with this label on one of two neighbouring slices of the reference does not count in this
            pair, neither in the reference nor in the prediction.

    Raises:
        InputError: the shapes differ or have not three axes, or there is no such axis.
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
