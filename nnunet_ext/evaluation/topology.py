"""Errors in the number of components and holes: Betti numbers of masks.

A voxel is a closed cube (2D: square). So voxels of the mask are connected if they share a corner, and voxels outside
the mask are connected if they share a face. The mask's Betti numbers are

- 0: components,
- 1: in 2D holes, in 3D loops (tunnels that go through),
- 2 (3D only): cavities, enclosed on all sides.

They follow from the numbers of components of the mask and of its outside, and from the Euler characteristic
χ = b₀ − b₁ + b₂, which scikit-image counts. Everything beyond the image counts as outside, so a hole or cavity that the
border cuts open is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import generate_binary_structure, label
from skimage.measure import euler_number

from nnunet_ext.evaluation.metrics import EmptyRule, Options, class_masks, label_map
from nnunet_ext.evaluation.surfaces import Mask

DEFINITION = (
    "Betti errors: the absolute difference in the number of components (0), of holes of a 2D or loops of a 3D mask "
    "(1), and of cavities of a 3D mask (2); voxels of a mask that share a corner are connected; an empty mask has none"
)
"""The definition in one sentence, which outputs quote next to the numbers."""


@dataclass(frozen=True)
class Topology:
    """Betti numbers of one prediction and its reference, from 0; two in 2D, three in 3D."""

    prediction: tuple[int, ...]
    reference: tuple[int, ...]
    counted: bool = True
    """False if both masks are empty and such cases do not count."""

    @property
    def errors(self) -> tuple[float, ...]:
        """Absolute differences; NaN if the case does not count."""
        pairs = zip(self.prediction, self.reference, strict=True)
        return tuple(float(abs(a - b)) if self.counted else float("nan") for a, b in pairs)


def label_topology(
    prediction: Any,
    reference: Any,
    labels: Mapping[str, int | Sequence[int]],
    *,
    ignore_label: int | None = None,
    empty: EmptyRule = "diagonal",
) -> dict[str, Topology]:
    """Count components and holes of every class of two label maps.

    Args:
        prediction: array or tensor of integers, 2D or 3D.
        reference: array or tensor of integers of the same shape.
        labels: for each name, a label or the labels that form a region.
        ignore_label: voxels with this label in the reference lie outside both masks.
        empty: with ``diagonal``, two empty masks do not count (NaN); with ``zero`` they have an error of 0.

    Raises:
        InputError: shapes, values or options are not as above.
    """
    predicted, truth = label_map(prediction, "prediction"), label_map(reference, "reference")
    Options.checked((predicted, truth), (1.0,) * truth.ndim, (), "surface", empty)
    result = {}
    for name, (mask, true_mask, _) in class_masks(predicted, truth, labels, ignore_label):
        found = betti_numbers(mask), betti_numbers(true_mask)
        result[name] = Topology(*found, empty == "zero" or bool(mask.any() or true_mask.any()))
    return result


def betti_numbers(mask: Mask) -> tuple[int, ...]:
    """Return the Betti numbers of a 2D or 3D mask, from b₀ on; see the module."""
    if not mask.any():
        return (0,) * mask.ndim
    padded = np.pad(mask, 1)
    components = label(padded, generate_binary_structure(mask.ndim, mask.ndim))[1]
    enclosed = label(~padded)[1] - 1  # minus one for the outside
    if mask.ndim == 2:
        return components, enclosed
    return components, components + enclosed - euler_number(padded, 3), enclosed
