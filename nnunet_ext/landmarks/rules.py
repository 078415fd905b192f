"""Landmarks that follow from a label map by a rule: extreme points of organs, or of the interfaces between two organs.

An image has one **direction** for each end of its axes, named after the nearest direction of the patient (``left``,
``right``, ``anterior``, ``posterior``, ``inferior``, ``superior``), so that images with differently ordered axes have
the same landmarks. The extreme point of an organ, or of the faces between two organs, in a direction lies

- in the **outermost layer** along that axis of the image: the voxels (or faces) with the largest or smallest index;
- in the middle of that layer: at its mean, or at its element nearest to the mean if there is nothing at the mean;
- **on the surface**: half a voxel farther out than the centres of these voxels. A face is on the surface already.

Thick slices are not divided: the point always lies at the centre of a slice, also when it is extreme across the slices.
An organ is its largest component, of voxels that share a face. Where it meets the border of the image or an unlabelled
voxel, its end is not known, and the point is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from nnunet_ext.data.geometry import Floats, Geometry, are_thick
from nnunet_ext.errors import InputError

Kind = Literal["extreme-points", "interface"]
Mask = NDArray[np.bool_]

DIRECTIONS = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))
"""Directions along x, y and z of LPS: towards smaller and towards larger coordinates."""


@dataclass(frozen=True)
class Rule:
    """The landmarks of a data set, and how they follow from a label map.

    Attributes:
        kind: extreme points of organs, or of interfaces.
        labels: one group of labels or regions per organ or interface: one name for an organ, two for an interface.
        directions: directions of the patient; each gives a landmark of every group.
        across: index in :data:`DIRECTIONS` of the axis across thick slices; None if slices are not thick.
    """

    kind: Kind
    labels: tuple[tuple[str, ...], ...]
    directions: tuple[str, ...]
    across: int | None

    @classmethod
    def of(cls, kind: Kind, labels: Sequence[str], directions: Sequence[str], across: int | None) -> Rule:
        """The rule for these labels: for each of them, or for the interface of every two.

        Raises:
            InputError: there is no such kind, or it needs more labels.
        """
        if kind not in get_args(Kind):
            raise InputError(f"--rule is {kind!r}, but must be one of {', '.join(get_args(Kind))}.")
        size = 1 if kind == "extreme-points" else 2
        if len(labels) < size:
            raise InputError(
                f"--labels names {list(labels)}, but an interface is between two labels; name at least two."
            )
        return cls(kind, tuple(combinations(labels, size)), tuple(directions), across)

    @property
    def surface_of(self) -> dict[str, list[str]]:
        """The labels on whose surface each landmark lies, in the order of the landmarks."""
        return {f"{'-'.join(group)}_{way}": list(group) for group in self.labels for way in self.directions}

    @property
    def spans(self) -> dict[str, list[tuple[str, str]]]:
        """For each label, pairs of opposite extreme points; empty for interfaces, which are no organs."""
        if self.kind == "interface":
            return {}
        pairs = [pair for pair in DIRECTIONS if set(pair) <= set(self.directions)]
        return {label: [(f"{label}_{one}", f"{label}_{other}") for one, other in pairs] for (label,) in self.labels}

    @property
    def mirror_pairs(self) -> dict[str, list[tuple[str, str]]]:
        """For each direction such as ``right-left``, the landmarks at its two ends, which change places in a mirror."""
        groups = ["-".join(group) for group in self.labels]
        ends = [pair for pair in DIRECTIONS if set(pair) <= set(self.directions)]
        return {f"{a}-{b}": [(f"{group}_{a}", f"{group}_{b}") for group in groups] for a, b in ends}

    def points(
        self, organs: Mapping[str, Mask], geometry: Geometry, labelled: Mask | None = None
    ) -> dict[str, Floats | None]:
        """The landmarks in one label map, by name, as continuous indices ``(3,)``.

        nan means unknown: the end of the organ is not known. None means absent: there is no such organ or interface.

        Args:
            organs: masks ``(z, y, x)`` of all labels of the rule.
            geometry: geometry of the array.
            labelled: mask of the labelled voxels; all by default.
        """
        shape = next(iter(organs.values())).shape
        labelled = np.ones(shape, bool) if labelled is None else labelled
        axes = array_axes(geometry)
        slices = None if self.across is None else axes[self.across][0]
        found: dict[str, Floats | None] = {}
        for group in self.labels:
            cloud = (
                _voxels(organs[group[0]]) if len(group) == 1 else _faces(organs[group[0]], organs[group[-1]], slices)
            )
            for way in self.directions:
                patient_axis = next(axis for axis, names in enumerate(DIRECTIONS) if way in names)
                axis, sign = axes[patient_axis]
                side = sign if way == DIRECTIONS[patient_axis][1] else -sign
                outwards = 0.5 * side if len(group) == 1 and axis != slices else 0.0
                place = None if not len(cloud) else _outermost(cloud, axis, side, geometry.spacing_mm, slices, labelled)
                found[f"{'-'.join(group)}_{way}"] = place if place is None else place + outwards * np.eye(3)[axis]
        return found


def array_axes(geometry: Geometry) -> list[tuple[int, int]]:
    """For x, y and z of LPS: the axis of the array nearest to it, and 1 or −1 for its sense.

    Every axis of the array is assigned once, so that the sum of the cosines is largest.
    """
    cosines = geometry.matrix / geometry.spacing_mm
    rows, columns = linear_sum_assignment(-np.abs(cosines))
    return [(int(a), 1 if cosines[p, a] > 0 else -1) for p, a in zip(rows, columns, strict=True)]


def thick_axis(geometry: Geometry, *, flat: bool = False) -> int | None:
    """The axis of :data:`DIRECTIONS` across the slices of an image, if these are thick; otherwise None.

    Args:
        geometry: geometry of the image.
        flat: whether the image is 2D, one slice of any thickness.
    """
    spacing = geometry.spacing_mm
    across = 0 if flat else int(spacing.argmax())
    if not flat and not are_thick(spacing):
        return None
    return [axis for axis, _ in array_axes(geometry)].index(across)


# --- parts ------------------------------------------------------------------------------------------------------------


def _largest_component(mask: Mask) -> Mask:
    parts, number = ndimage.label(mask)
    return mask if number < 2 else parts == 1 + np.argmax(np.bincount(parts.flat)[1:])


def _voxels(organ: Mask) -> Floats:
    """The voxels of the largest component, ``(N, 3)``."""
    return np.argwhere(_largest_component(organ)).astype(float)


def _faces(one: Mask, other: Mask, slices: int | None) -> Floats:
    """Centres of the faces between two organs, in the largest component of their union, ``(N, 3)``.

    Faces between thick slices are left out, because they lie in no slice.
    """
    together = _largest_component(one | other)
    points = []
    for axis in set(range(3)) - {slices}:
        first, second = np.moveaxis(one & together, axis, 0), np.moveaxis(other & together, axis, 0)
        touch = np.moveaxis((first[:-1] & second[1:]) | (second[:-1] & first[1:]), 0, axis)
        points.append(np.argwhere(touch) + np.eye(3)[axis] / 2)
    return np.concatenate(points)


def _outermost(
    cloud: Floats, axis: int, side: int, spacing_mm: ArrayLike, slices: int | None, labelled: Mask
) -> Floats:
    """The middle of the outermost layer of points; nan if a voxel beyond the layer is unlabelled or missing."""
    layer = cloud[cloud[:, axis] == (side * cloud[:, axis]).max() * side]
    following = np.concatenate([np.floor(layer), np.ceil(layer)]).astype(int)
    following[:, axis] += side
    inside = ((following >= 0) & (following < labelled.shape)).all()
    if not inside or not labelled[tuple(following.T)].all():
        return np.full(3, np.nan)
    if slices is not None:
        layer = layer[layer[:, slices] == _nearest(layer, spacing_mm)[slices]]
    nearest, mean = _nearest(layer, spacing_mm), layer.mean(0)
    return mean if (np.abs(nearest - mean) <= 0.5).all() else nearest


def _nearest(points: Floats, spacing_mm: ArrayLike) -> Floats:
    """The point nearest to the mean of all points, in mm; the first among equals."""
    return points[np.linalg.norm((points - points.mean(0)) * spacing_mm, axis=1).argmin()]
