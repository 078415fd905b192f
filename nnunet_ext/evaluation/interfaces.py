"""Metrics of the interface between two labels: only the places where one touches the other.

Dice and the distances between whole surfaces say little about a confused border between neighbours, because most of a
surface borders on the background. Here only the *interface* of two labels counts.

*Interface*: all faces between a voxel of one label and a voxel of the other (2D: edges between pixels). A face is
represented by its centre and weighted by its area in mm² (2D: length in mm).

- NSD: share of both interfaces, reference and prediction, within the tolerance of the other.
- HD95: the larger of the two directed 95th percentiles.
- Confusion: share of the two labels' voxels, in a *band* around the reference's interface, that are predicted as the
  other of the two labels. The band consists of the voxels with a face in the interface, and of those with a centre
  within :data:`BAND_MM` of the centre of such a face.

Ignored voxels belong to no label, neither in the reference nor in the prediction, so they have no faces and are in no
band.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from nnunet_ext.data.label_definitions import numbers_of
from nnunet_ext.evaluation.metrics import (
    ROUNDING_MM,
    EmptyRule,
    Options,
    Status,
    label_map,
    nsd,
    weighted_percentile_95,
)
from nnunet_ext.evaluation.surfaces import Floats, Mask, Points, Surface, directed_distances, halves, nearest

BAND_MM = 2.0
"""Half the width of the band: its distance on either side of the reference's interface, in mm."""

DEFINITION = (
    "interface of two labels: the faces between voxels of the one and voxels of the other, weighted by their area (2D: "
    "length); HD95: the larger of the two directed 95th percentiles; NSD: share of both interfaces within the "
    "tolerance of the other; confusion: of the voxels of both labels that touch the reference's interface or lie "
    f"within {BAND_MM:g} mm of it, the share that is predicted as the other label"
)
"""The definition in one sentence, which outputs quote next to the numbers."""


@dataclass(frozen=True)
class InterfaceMetrics:
    """One pair of labels in one case.

    If the labels touch in neither label map, NSD and HD95 are NaN. If they touch in only one, NSD is 0 and HD95 the
    diagonal of the image. With the rule ``zero`` NSD and HD95 are 0 in both situations. The confusion is NaN if the
    labels do not touch in the reference, because then there is no band.
    """

    nsd: dict[float, float]
    """NSD by tolerance in mm."""
    hd95_mm: float
    confusion: float
    size_prediction: float
    """Area in mm²; in 2D length in mm."""
    size_reference: float
    """Area in mm²; in 2D length in mm."""
    status: Status
    """Whether the interface exists in prediction and reference."""


def label_pairs(labels: Mapping[str, int | Sequence[int]]) -> list[tuple[str, str]]:
    """All pairs of classes that share no label; only these have an interface."""
    values = {name: set(numbers_of(value)) for name, value in labels.items()}
    return [(one, other) for one, other in itertools.combinations(values, 2) if not values[one] & values[other]]


def interface_metrics(
    prediction: Any,
    reference: Any,
    spacing_mm: Sequence[float],
    labels: Mapping[str, int | Sequence[int]],
    *,
    ignore_label: int | None = None,
    nsd_tolerances_mm: Sequence[float] = (1.0,),
    empty: EmptyRule = "diagonal",
) -> dict[tuple[str, str], InterfaceMetrics]:
    """Measure the interface of every pair of classes; see the module.

    Args:
        prediction: array or tensor of integers, 2D or 3D.
        reference: array or tensor of integers of the same shape.
        spacing_mm: spacing of each axis.
        labels: for each name, a label or the labels that form a region; pairs that share a label are left out.
        ignore_label: voxels with this label in the reference do not count.
        nsd_tolerances_mm: tolerances to compute the NSD for.
        empty: rule for labels that do not touch, see :class:`InterfaceMetrics`.

    Raises:
        InputError: shapes, spacing, values or options are not as above.
    """
    predicted, truth = label_map(prediction, "prediction"), label_map(reference, "reference")
    options = Options.checked((predicted, truth), spacing_mm, nsd_tolerances_mm, "surface", empty)
    counted = np.ones(truth.shape, dtype=bool) if ignore_label is None else truth != ignore_label
    faces = [_faces(each, counted, options.spacing_mm) for each in (predicted, truth)]
    result = {}
    for pair in label_pairs(labels):
        values = [numbers_of(labels[name]) for name in pair]
        between = [each.between(*values) for each in faces]
        result[pair] = _metrics(between, (predicted, truth), counted, values, options)
    return result


# --- faces ------------------------------------------------------------------------------------------------------------


class _Faces(NamedTuple):
    """All F faces between voxels of different labels.

    They lie on the *half lattice*: the centre of voxel i is at 2i, the face between voxels i and i + 1 at 2i + 1.
    """

    points: Points
    """Centres on the half lattice, ``(F, D)``."""
    areas: Floats
    """``(F,)``."""
    lower: NDArray[np.integer]
    """Label of the voxel with the lower index, ``(F,)``."""
    upper: NDArray[np.integer]

    def between(self, one: Sequence[int], other: Sequence[int]) -> _Faces:
        """The faces between two groups of labels."""
        chosen = np.isin(self.lower, one) & np.isin(self.upper, other)
        chosen |= np.isin(self.lower, other) & np.isin(self.upper, one)
        return _Faces(self.points[chosen], self.areas[chosen], self.lower[chosen], self.upper[chosen])


def _faces(labels: NDArray[np.integer], counted: Mask, spacing_mm: tuple[float, ...]) -> _Faces:
    points, areas, lower, upper = zip(*_faces_by_axis(labels, counted, spacing_mm), strict=True)
    return _Faces(np.concatenate(points), np.concatenate(areas), np.concatenate(lower), np.concatenate(upper))


def _faces_by_axis(labels: NDArray[np.integer], counted: Mask, spacing_mm: tuple[float, ...]) -> Iterator[_Faces]:
    for axis, mm in enumerate(spacing_mm):
        before, after = halves(axis)
        differ = (labels[before] != labels[after]) & counted[before] & counted[after]
        where = np.nonzero(differ)
        points = 2 * np.stack(where, axis=1)
        points[:, axis] += 1
        areas = np.full(len(points), math.prod(spacing_mm) / mm)
        yield _Faces(points, areas, labels[before][where], labels[after][where])


# --- numbers ----------------------------------------------------------------------------------------------------------


def _metrics(
    faces: Sequence[_Faces],
    images: tuple[NDArray[np.integer], NDArray[np.integer]],
    counted: Mask,
    values: Sequence[Sequence[int]],
    options: Options,
) -> InterfaceMetrics:
    size_prediction, size_reference = (float(each.areas.sum()) for each in faces)
    status: Status
    if size_prediction and size_reference:
        status = "both"
        half = tuple(mm / 2 for mm in options.spacing_mm)
        surfaces = _on_one_lattice(faces)
        directed = [directed_distances(a, b, half) for a, b in (surfaces, surfaces[::-1])]
        shares = {tolerance: nsd(directed, tolerance) for tolerance in options.tolerances_mm}
        hd95 = max(weighted_percentile_95(each) for each in directed)
    else:
        status = "reference empty" if size_prediction else "prediction empty" if size_reference else "both empty"
        share, hd95 = options.of_empty(status)
        shares = dict.fromkeys(options.tolerances_mm, share)
    confusion = _confusion(faces[1], images, counted, values, options.spacing_mm) if size_reference else math.nan
    return InterfaceMetrics(shares, hd95, confusion, size_prediction, size_reference, status)


def _on_one_lattice(faces: Sequence[_Faces]) -> list[Surface]:
    """Turn faces into surfaces on the smallest part of the half lattice that holds all faces."""
    low = np.min([each.points.min(0) for each in faces], axis=0)
    shape = np.max([each.points.max(0) for each in faces], axis=0) - low + 1
    return [_surface(each.points - low, each.areas, shape) for each in faces]


def _surface(points: Points, areas: Floats, shape: NDArray[np.intp]) -> Surface:
    lattice = np.zeros(shape, dtype=bool)
    lattice[tuple(points.T)] = True
    order = np.lexsort(points.T[::-1])  # in the order of the lattice
    return Surface(lattice, points[order], areas[order])


def _confusion(
    faces: _Faces,
    images: tuple[NDArray[np.integer], NDArray[np.integer]],
    counted: Mask,
    values: Sequence[Sequence[int]],
    spacing_mm: tuple[float, ...],
) -> float:
    """The share of the band around ``faces`` that is predicted as the other label."""
    reach = np.array([max(1, int(BAND_MM / mm)) for mm in spacing_mm])  # in voxels, around those with a face
    low = np.maximum(faces.points.min(0) // 2 - reach, 0)
    high = np.minimum((faces.points.max(0) + 1) // 2 + reach + 1, counted.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    predicted, truth = (each[box] for each in images)
    of_one, of_other = (np.isin(truth, each) & counted[box] for each in values)
    touching = np.zeros(truth.shape, dtype=bool)  # the voxels with a face
    for side in (faces.points // 2, (faces.points + 1) // 2):
        touching[tuple((side - low).T)] = True
    around = maximum_filter(touching, 2 * reach + 1)  # few enough voxels for exact distances
    voxels = np.nonzero((of_one | of_other) & around)
    surface = _surface(faces.points - 2 * low, faces.areas, 2 * (high - low) - 1)
    half = tuple(mm / 2 for mm in spacing_mm)
    band = touching[voxels] | (nearest(2 * np.stack(voxels, axis=1), surface, half) <= BAND_MM + ROUNDING_MM)
    other = np.where(of_one[voxels], np.isin(predicted[voxels], values[1]), np.isin(predicted[voxels], values[0]))
    return float(other[band].mean())
