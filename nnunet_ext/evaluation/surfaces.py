"""Surfaces of masks, and distances between two surfaces.

There are two definitions of a surface. With both, a mask that touches the border of the image has a surface there.

``"surface"``
    One element at every corner between 2×2×2 (2D: 2×2) voxels that are not all equal. Its weight is the area (2D:
    length) of the surface that separates these voxels. Equal to DeepMind's package ``surface-distance``.
``"voxel"``
    One element at the centre of every voxel of the mask that has a face neighbour outside. All weights are 1. Equal to
    MedPy.

Where a mask meets an ignored voxel nobody knows its end, so it has no surface there. A corner between voxels cannot say
on which side of it a surface ends. So with the definition ``"surface"``, if ignored voxels touch either surface, both
surfaces consist of the faces between counted voxels of the mask and counted voxels outside, weighted by their area.

Elements of both definitions lie on a lattice. An element on both surfaces has distance 0 without a search. For the
others the search tries all steps up to two voxels, shortest first. The few elements still left are looked up in a k-d
tree, or, if there are very many, in a distance transform. Distances are always computed from differences of indices, so
that no sum of coordinates in mm is rounded. ``benchmarks/surface_metrics.py`` compares these methods.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

Definition = Literal["surface", "voxel"]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Points = NDArray[np.intp]

VOXELS_PER_QUERY = 10
"""Cost of one query of the k-d tree, in voxels of a distance transform. Noise has too many elements for the tree."""


class DirectedDistances(NamedTuple):
    """Distances from the elements of one surface to the nearest element of the other."""

    shared: float
    """Total weight of the elements that lie on both surfaces, at distance 0."""
    distances: Floats
    """Distances of the other elements in mm, ``(N,)``, all positive, in no particular order."""
    weights: Floats
    """Their weights, ``(N,)``: mm² (2D: mm), or 1 each."""

    @property
    def total(self) -> float:
        """Weight of the whole surface."""
        return self.shared + float(self.weights.sum())


class Surface(NamedTuple):
    """The N elements of a surface on a lattice of D axes."""

    lattice: Mask
    """True where there is an element."""
    points: Points
    """Indices of the elements, ``(N, D)``, in the order of the lattice."""
    weights: Floats
    """``(N,)``."""


def surface_distances(
    a: Mask, b: Mask, spacing_mm: Sequence[float], definition: Definition, ignored: Mask | None = None
) -> tuple[DirectedDistances, DirectedDistances] | None:
    """Distances from the surface of ``a`` to that of ``b``, and from ``b`` to ``a``; None if one has no surface.

    Args:
        a: bool mask, 2D or 3D, not empty.
        b: bool mask of the same shape, not empty.
        spacing_mm: spacing of their axes.
        definition: definition of a surface; see the module.
        ignored: voxels that do not count, in neither mask; beyond these arrays every voxel counts. Without them, masks
            that are not empty have a surface.
    """
    one, other = (find_surface(mask, spacing_mm, definition, ignored) for mask in (a, b))
    if definition == "surface" and ignored is not None:
        beside_ignored = neighbour_codes(np.pad(ignored, 1)) != 0
        if any(beside_ignored[tuple(each.points.T)].any() for each in (one, other)):
            one, other = (_faces(mask, ignored, spacing_mm) for mask in (a, b))
            spacing_mm = [mm / 2 for mm in spacing_mm]
    if not (len(one.points) and len(other.points)):
        return None
    return directed_distances(one, other, spacing_mm), directed_distances(other, one, spacing_mm)


def find_surface(
    mask: Mask, spacing_mm: Sequence[float], definition: Definition, ignored: Mask | None = None
) -> Surface:
    """The surface of a 2D or 3D mask, by one of the definitions of the module.

    Args:
        mask: its ignored voxels are outside.
        spacing_mm: spacing of its axes.
        definition: of a surface.
        ignored: voxels that do not count; only the definition ``"voxel"`` needs them.
    """
    padded = np.pad(mask, 1)
    if definition == "voxel":
        lattice = border(padded, None if ignored is None else np.pad(ignored, 1))
        flat = np.flatnonzero(lattice)  # far faster to search and to index with than one index per axis
        weights = np.ones(len(flat))
    else:
        codes, table = neighbour_codes(padded), surface_weights(tuple(spacing_mm))
        lattice = (codes != 0) & (codes != len(table) - 1)
        flat = np.flatnonzero(lattice)
        weights = table[codes.ravel()[flat]]
    return Surface(lattice, np.stack(np.unravel_index(flat, lattice.shape), 1), weights)


def directed_distances(start: Surface, end: Surface, spacing_mm: Sequence[float]) -> DirectedDistances:
    """Measure from every element of ``start`` to the nearest element of ``end``; both lie on one lattice."""
    shared = end.lattice[tuple(start.points.T)]
    distances = nearest(start.points[~shared], end, spacing_mm)
    return DirectedDistances(float(start.weights[shared].sum()), distances, start.weights[~shared])


def nearest(points: Points, end: Surface, spacing_mm: Sequence[float]) -> Floats:
    """Distances ``(N,)`` in mm from lattice points ``(N, D)`` to their nearest elements of ``end``."""
    distances = np.full(len(points), np.inf)
    steps = _steps(tuple(spacing_mm))
    margin = np.abs(steps).max(0)
    lattice = np.pad(end.lattice, [(n, n) for n in margin])
    strides = np.array([math.prod(lattice.shape[axis + 1 :]) for axis in range(lattice.ndim)])
    is_element, flat, left = lattice.ravel(), (points + margin) @ strides, np.arange(len(points))
    for step in steps:
        found = is_element[flat + step @ strides]
        distances[left[found]] = _length(step, spacing_mm)
        flat, left = flat[~found], left[~found]
        if not len(left):
            return distances
    distances[left] = _nearest_far(points[left], end, spacing_mm)
    return distances


@functools.lru_cache(maxsize=64)
def _steps(spacing_mm: tuple[float, ...]) -> Points:
    """Steps on the lattice, ``(S, D)``, shortest first: up to twice the mean spacing long, at most 64 steps."""
    radius = 2 * math.prod(spacing_mm) ** (1 / len(spacing_mm))  # 33 steps (2D: 13) if the spacing is isotropic
    reach = [int(radius / mm) for mm in spacing_mm]
    steps = np.array(list(itertools.product(*(range(-n, n + 1) for n in reach))))
    lengths = _length(steps, spacing_mm)
    order = np.argsort(lengths, kind="stable")
    return steps[order[lengths[order] <= radius][:64]]


def _nearest_far(points: Points, end: Surface, spacing_mm: Sequence[float]) -> Floats:
    """Like :func:`nearest`, for distances of any length."""
    if len(points) * VOXELS_PER_QUERY > end.lattice.size:
        every = distance_transform_edt(~end.lattice, spacing_mm, return_distances=False, return_indices=True)
        found = every[(slice(None), *points.T)].T
    else:
        spacing = np.asarray(spacing_mm)
        # without balancing and compacting, the tree is faster to build and as fast to query
        tree = cKDTree(end.points * spacing, balanced_tree=False, compact_nodes=False)
        found = end.points[tree.query(points * spacing)[1]]
    return _length(points - found, spacing_mm)


def _length(steps: Points, spacing_mm: Sequence[float]) -> Floats:
    """Length in mm of steps ``(…, D)`` on the lattice."""
    squares = np.zeros(steps.shape[:-1])
    for axis, mm in enumerate(spacing_mm):
        squares += (steps[..., axis] * mm) ** 2
    return np.sqrt(squares)


# -- the voxel definition ---------------------------------------------------------------------------------------------


def border(mask: Mask, ignored: Mask | None = None) -> Mask:
    """Voxels of ``mask`` with a counted face neighbour outside; ``mask`` has a margin of zeros one voxel wide."""
    inner, filled = mask.copy(), mask if ignored is None else mask | ignored
    for axis in range(mask.ndim):
        low, high = halves(axis)
        inner[low] &= filled[high]
        inner[high] &= filled[low]
    return mask & ~inner


# -- where voxels are ignored -----------------------------------------------------------------------------------------


def _faces(mask: Mask, ignored: Mask, spacing_mm: Sequence[float]) -> Surface:
    """The faces between counted voxels of ``mask`` and counted voxels outside.

    They lie on the half lattice: the centre of voxel i is at 2i, the face between voxels i and i + 1 at 2i + 1.
    """
    padded, counted = np.pad(mask, 1), np.pad(~ignored, 1, constant_values=True)
    lattice = np.zeros([2 * n - 1 for n in padded.shape], bool)
    for axis in range(mask.ndim):
        low, high = halves(axis)
        here = tuple(slice(int(other == axis), None, 2) for other in range(mask.ndim))
        lattice[here] = (padded[low] != padded[high]) & counted[low] & counted[high]
    points = np.argwhere(lattice)
    return Surface(lattice, points, points % 2 @ (math.prod(spacing_mm) / np.asarray(spacing_mm)))


# -- the surface definition -------------------------------------------------------------------------------------------


def neighbour_codes(mask: Mask) -> NDArray[np.uint8]:
    """Code of every corner between voxels, one bit per voxel around it; one corner fewer than voxels along each axis.

    The voxel at offset ``(i, j, k)`` in {0, 1}³ is bit ``4i + 2j + k`` (2D: ``2i + j``).
    """
    codes = mask.view(np.uint8)
    for bits, axis in zip((1, 2, 4), reversed(range(mask.ndim)), strict=False):
        low, high = halves(axis)
        codes = codes[low] | codes[high] << np.uint8(bits)
    return codes


def halves(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices that leave out the last layer along ``axis``, and slices that leave out the first."""
    before = (slice(None),) * axis
    return (*before, slice(None, -1)), (*before, slice(1, None))


@functools.lru_cache(maxsize=64)
def surface_weights(spacing_mm: tuple[float, ...]) -> Floats:
    """Area in mm² (2D: length in mm) of the surface between the voxels of each neighbour code, ``(2^2^D,)``."""
    codes, normals = _facets(len(spacing_mm))
    # scaling a unit cube by the spacing scales the x part of an area vector by the spacings of y and z
    scale = math.prod(spacing_mm) / np.asarray(spacing_mm)
    table = np.zeros(2 ** (2 ** len(spacing_mm)))
    np.add.at(table, codes, np.linalg.norm(normals * scale, axis=1))
    return table


@functools.cache
def _facets(dim: int) -> tuple[NDArray[np.intp], Floats]:
    """Facets of marching cubes (2D: squares) for spacing 1: the code ``(F,)`` and area vector ``(F, D)`` of each.

    A code and its complement have the same surface. On the side with fewer corners, each set of corners connected by
    cube edges has its own surface: a polygon through the midpoints of the edges that leave the set. If the polygon is
    not flat, it is divided into triangles with the largest total area. We found this rule by comparing with the lookup
    table of ``surface-distance``; it yields the same areas for every code and spacing.
    """
    corners = np.array(list(itertools.product((0, 1), repeat=dim)))
    facets = []
    for code in range(2 ** len(corners)):
        inside = {bit for bit in range(len(corners)) if code >> bit & 1}
        if 2 * len(inside) > len(corners):
            inside = set(range(len(corners))) - inside
        for part in _connected(corners, inside):
            facets += [(code, normal) for normal in _area_vectors(_midpoints(corners, part))]
    return np.array([code for code, _ in facets]), np.array([normal for _, normal in facets])


def _connected(corners: NDArray[np.intp], chosen: set[int]) -> list[set[int]]:
    """Group the chosen corners into sets connected by cube edges."""
    parts: list[set[int]] = []
    for corner in chosen:
        touching = [part for part in parts if any(_is_edge(corners[corner], corners[other]) for other in part)]
        parts = [part for part in parts if part not in touching] + [{corner}.union(*touching)]
    return parts


def _is_edge(corner: NDArray[np.intp], other: NDArray[np.intp]) -> bool:
    return int(np.abs(corner - other).sum()) == 1


def _midpoints(corners: NDArray[np.intp], part: set[int]) -> list[Floats]:
    """Midpoints of the edges that leave ``part``, in their order along the polygon, from face to face."""
    outside = set(range(len(corners))) - part
    left = [(corners[i] + corners[j]) / 2 for i in part for j in outside if _is_edge(corners[i], corners[j])]
    path = [left.pop()]
    while left:
        on_one_face = [((point == path[-1]) & (point != 0.5)).any() for point in left]
        path.append(left.pop(int(np.argmax(on_one_face))))
    return path


def _area_vectors(polygon: list[Floats]) -> list[Floats]:
    """Area vectors of the division of a polygon into triangles with the largest total area; in 2D of the line."""
    if len(polygon[0]) == 2:
        along = polygon[1] - polygon[0]
        return [np.array([along[1], -along[0]])]
    first, last = polygon[0], polygon[-1]
    divisions = (  # one for each third corner of the triangle at the edge from the last point to the first
        [
            *_area_vectors(polygon[: k + 1]),
            np.cross(polygon[k] - first, last - first) / 2,
            *_area_vectors(polygon[k:]),
        ]
        for k in range(1, len(polygon) - 1)
    )
    return max(divisions, key=lambda vectors: sum(map(np.linalg.norm, vectors)), default=[])
