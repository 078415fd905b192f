"""Strokes: how a person would mark one class in one slice.

Our own implementation of published ideas: *interior* and *border* after ScribbleBench (Gotkowski et al., MICCAI 2025),
*skeleton* after WSL4MIS (Luo et al., MICCAI 2022), *line* after ScribblePrompt (Wong et al., ECCV 2024).

Every stroke is a function ``(mask, rng, thickness) -> mask``: ``mask`` is boolean, ``(rows, columns)``; ``thickness``
is in voxels; the result is a part of ``mask``, and empty only if ``mask`` is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.ndimage import binary_dilation, convolve, distance_transform_edt, find_objects, label
from skimage.draw import line as line_between
from skimage.graph import MCP
from skimage.measure import find_contours
from skimage.morphology import skeletonize

Mask = NDArray[np.bool_]
Stroke = Callable[[Mask, np.random.Generator, int], Mask]
Components = Literal["one", "all"]

EIGHT = np.ones((3, 3), bool)
"""A stroke may run diagonally, so voxels that touch at a corner are connected."""

TRIES = 5
"""Number of random strokes to try. If all leave the mask, the longest part inside is used."""

CONTROL_POINTS = 4
KNOTS = (0, 0, 0, 0.5, 1, 1, 1)
"""Knots of a spline of degree 2 that begins at the first of four control points and ends at the last."""

BORDER_SHARE = (0.07, 0.15)
"""Range of a border stroke's length, as a share of the contour; from ScribbleBench."""

BORDER_DISTANCE = (1, 4)
"""Range of the voxels between the edge of a border stroke and the border of the class; from ScribbleBench."""

LARGE = 900
"""Area in voxels above which a mask is eroded before its skeleton is taken, so that skeletons vary; from WSL4MIS."""

EROSION = (1, 4)
"""Range of the erosion of a large mask, in voxels."""


def scribble_class(
    mask: Mask,
    rng: np.random.Generator,
    strokes: tuple[Stroke, ...],
    *,
    thickness: int = 3,
    min_area: int = 1,
    components: Components = "one",
) -> Mask:
    """Draw the scribbles of one class in one slice.

    Args:
        mask: ``(rows, columns)``, voxels of the class.
        rng: the only source of randomness.
        strokes: strokes to draw in each chosen component.
        thickness: width of the strokes, in voxels.
        min_area: in voxels; a class with a smaller area gets no scribble, and smaller components are skipped if there
            is a larger one.
        components: ``one``, chosen with a probability proportional to its area, or ``all``.

    Returns:
        A part of ``mask``; empty only if ``mask`` is empty or has fewer than ``min_area`` voxels.
    """
    result = np.zeros_like(mask, dtype=bool)
    if not mask.any() or mask.sum() < min_area:
        return result
    pieces, _ = label(mask, EIGHT)
    areas = np.bincount(pieces.ravel())[1:]
    chosen = np.flatnonzero(areas >= min_area)
    if not chosen.size:
        chosen = np.array([np.argmax(areas)])
    if components == "one":
        chosen = rng.choice(chosen, 1, p=areas[chosen] / areas[chosen].sum())
    boxes = find_objects(pieces)
    for index in chosen:
        # one voxel around the component makes its border visible; the window ends at the edge of the image
        window = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in boxes[index])
        piece = pieces[window] == index + 1
        for stroke in strokes:
            result[window] |= stroke(piece, rng, thickness)
    return result


def interior(mask: Mask, rng: np.random.Generator, thickness: int = 3) -> Mask:
    """A smooth curve: a B-spline of degree 2 with random control points in the mask, cut where it leaves the mask."""
    places = np.argwhere(_far_from_border(mask, thickness / 2))
    best = np.empty((0, 2), int)
    for _ in range(TRIES if len(places) else 0):
        points = places[rng.integers(len(places), size=CONTROL_POINTS)].astype(float)
        # order the points along their longest direction, so that the stroke does not cross itself
        centred = points - points.mean(0)
        points = points[np.argsort(centred @ np.linalg.svd(centred, full_matrices=False)[2][0], kind="stable")]
        # the speed is at most 4 times the longest step between control points, so at least two samples per voxel
        samples = 8 * int(np.abs(np.diff(points, axis=0)).sum(1).max()) + 2
        curve = np.rint(BSpline(KNOTS, points, 2)(np.linspace(0, 1, samples))).astype(int)
        best = max(best, inside := _longest_part_inside(curve, mask), key=len)
        if len(inside) == len(curve):
            best = curve
            break
    return _painted(best, mask, thickness)


def border(mask: Mask, rng: np.random.Generator, thickness: int = 3) -> Mask:
    """A piece of the contour of the eroded mask, 7 to 15 % of its length. The edge of the image is no border."""
    distance = thickness / 2 + rng.integers(BORDER_DISTANCE[0], BORDER_DISTANCE[1] + 1)
    inner = _far_from_border(mask, distance)
    contours = find_contours(inner.astype(float), 0.5) if min(mask.shape) > 1 else []
    if not contours:
        return _painted(np.empty((0, 2), int), mask, thickness)
    lengths = np.array([len(contour) for contour in contours])
    contour = contours[rng.choice(len(contours), p=lengths / lengths.sum())]
    count = max(1, round(rng.uniform(*BORDER_SHARE) * len(contour)))
    if np.array_equal(contour[0], contour[-1]):  # a closed contour: a piece may run over its seam
        start = rng.integers(len(contour))
        contour = np.roll(contour, -start, axis=0)
    else:
        start = rng.integers(len(contour) - count + 1)
        contour = contour[start:]
    pixels = np.rint(contour[:count]).astype(int)
    return _painted(pixels[mask[tuple(pixels.T)]], mask, thickness)


def line(mask: Mask, rng: np.random.Generator, thickness: int = 3) -> Mask:
    """A straight line between two random points of the mask, cut where it leaves the mask."""
    places = np.argwhere(_far_from_border(mask, thickness / 2))
    best = np.empty((0, 2), int)
    for _ in range(TRIES if len(places) else 0):
        start, end = places[rng.integers(len(places), size=2)]
        pixels = np.stack(line_between(*start, *end), axis=1)
        best = max(best, inside := _longest_part_inside(pixels, mask), key=len)
        if len(inside) == len(pixels):
            best = pixels
            break
    return _painted(best, mask, thickness)


def skeleton(mask: Mask, rng: np.random.Generator, thickness: int = 3) -> Mask:
    """One path from end to end through the skeleton of the mask, which is eroded first if it is large."""
    if not mask.any():
        return np.zeros_like(mask)
    kept = _far_from_border(mask, int(rng.integers(EROSION[0], EROSION[1] + 1))) if mask.sum() > LARGE else mask
    pieces, _ = label(kept, EIGHT)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return _painted(_path(skeletonize(largest), rng), mask, thickness)


MODES: dict[str, tuple[Stroke, ...]] = {
    "interior+border": (interior, border),
    "skeleton": (skeleton,),
    "line": (line,),
}
"""Strokes by the value of ``--mode``; the first mode is the default."""


# --- parts ------------------------------------------------------------------------------------------------------------


def _depth(mask: Mask) -> NDArray[np.float64]:
    """Distance to the nearest voxel outside the mask.

    The edge of the image does not count as outside, because the class may continue there, unless the mask fills the
    whole image.
    """
    if mask.all():
        return distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return distance_transform_edt(mask)


def _far_from_border(mask: Mask, distance: float) -> Mask:
    """The voxels deeper than ``distance``, or the deeper half if none is that deep."""
    depth = _depth(mask)
    return depth > min(distance, depth.max() / 2)


def _longest_part_inside(pixels: NDArray, mask: Mask) -> NDArray:
    """The longest run of consecutive ``pixels``, ``(n, 2)``, that are in the mask."""
    inside = mask[tuple(pixels.T)].astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], inside, [0]])))
    starts, ends = changes[::2], changes[1::2]
    if not starts.size:
        return pixels[:0]
    longest = np.argmax(ends - starts)
    return pixels[starts[longest] : ends[longest]]


def _painted(pixels: NDArray, mask: Mask, thickness: int) -> Mask:
    """Draw ``pixels`` of the mask with a round brush, clipped to the mask.

    Without pixels, draw the deepest voxel of the mask.
    """
    canvas = np.zeros_like(mask, dtype=bool)
    if not mask.any():
        return canvas
    if not len(pixels):
        pixels = np.array([np.unravel_index(np.argmax(_depth(mask)), mask.shape)])
    canvas[tuple(pixels.T)] = True
    return binary_dilation(canvas, _brush(thickness)) & mask


def _brush(thickness: int) -> Mask:
    """A disk that is ``thickness`` voxels wide."""
    along = np.arange(thickness) - (thickness - 1) / 2
    return np.hypot(along[:, None], along[None]) <= thickness / 2


def _path(thin: Mask, rng: np.random.Generator) -> NDArray:
    """A shortest path ``(n, 2)`` between two ends of a skeleton, without branches; long paths are more probable.

    A skeleton without ends is a loop; it is opened at a random pixel.
    """
    pixels = np.argwhere(thin)
    ends = pixels[convolve(thin.astype(np.uint8), EIGHT, mode="constant")[tuple(pixels.T)] == 2]  # with itself
    if not len(ends):
        opened = pixels[rng.integers(len(pixels))]
        ends = pixels[np.abs(pixels - opened).max(1) == 1]
        if not len(ends):
            return opened[None]
        thin = thin.copy()
        thin[tuple(opened)] = False
    search = MCP(np.where(thin, 1.0, np.inf))
    # every pixel costs 1, so costs count the pixels of a path
    lengths, _ = search.find_costs([ends[rng.integers(len(ends))]])
    lengths[~np.isfinite(lengths)] = 0
    others = ends[lengths[tuple(ends.T)] > 1]
    if not len(others):
        others = np.array([np.unravel_index(np.argmax(lengths), lengths.shape)])
    weights = lengths[tuple(others.T)]
    return np.array(search.traceback(others[rng.choice(len(others), p=weights / weights.sum())]))
