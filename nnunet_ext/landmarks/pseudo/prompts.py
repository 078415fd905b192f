"""Point prompts for an organ from its landmarks, and filters that refuse wrong masks.

For an organ with ``spans``, prompts lie on the line through a pair (a, b), at ``a + t (b − a)``: foreground between the
two, background beyond them, as in the figure of BaBLoss (Gong et al., IEEE TMI 2025). The paper does not say how many
points, nor where. Here foreground points are at a third and two thirds of the way, background points at 15 and 30 %
beyond each end.

An organ may be bent, and such a line leave it. Then two or more landmarks on its surface are enough: each gives a
foreground point a little towards the mean of them, and a background point a little away from it. This is our own. For
the extreme points of the right ventricle, which is bent around the septum (112 cases of ACDC), 97 % of these foreground
points lie in the organ, and of those on lines 80 %; all background points lie outside of it.

An engine always returns a mask, and simple measurements expose most wrong ones. A landmark beside which prompts lie
cannot test the mask that they made: an engine may obey them in a few voxels and be wrong everywhere else. So two masks
from half of the landmarks each are tested, each by the other half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import label as connected_components

from nnunet_ext.data.geometry import Floats, Geometry, are_thick, inside, slice_axis
from nnunet_ext.landmarks.points import Landmarks, State, as_arrays
from nnunet_ext.landmarks.surface import OrganSurface

BETWEEN = (1 / 3, 2 / 3)
BEYOND = (-0.3, -0.15, 1.15, 1.3)

INSIDE_MM, OUTSIDE_MM = 1.5, 3.0
"""Distances of prompts from a landmark on the surface, towards the mean of the organ's landmarks and away from it."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Points inside and outside one organ.

    Attributes:
        foreground_mm: ``(N, 3)``, LPS.
        background_mm: ``(N, 3)``, LPS.
    """

    foreground_mm: Floats
    background_mm: Floats

    @classmethod
    def between(cls, pairs_mm: ArrayLike) -> Prompts:
        """The points on the lines through pairs ``(P, 2, 3)``, mm."""
        pairs = np.asarray(pairs_mm, float).reshape(-1, 2, 3)
        a, b = pairs[:, 0], pairs[:, 1]

        def at(ts: Sequence[float]) -> Floats:
            return np.stack([a + t * (b - a) for t in ts], 1).reshape(-1, 3)

        return cls(at(BETWEEN), at(BEYOND))

    @classmethod
    def beside(cls, landmarks_mm: ArrayLike, geometry: Geometry, chosen: slice = slice(None)) -> Prompts:
        """The points beside landmarks ``(L, 3)``, mm, on the surface of one organ, in their slices if these are thick.

        A landmark so near to the mean of all that nothing says where the organ lies gives no points.

        Args:
            landmarks_mm: all landmarks of the organ; their mean says where inside is.
            geometry: geometry of the image.
            chosen: the landmarks to make points of.
        """
        points = np.asarray(landmarks_mm, float).reshape(-1, 3)
        steps = geometry.to_index(points.mean(0, keepdims=True)) - geometry.to_index(points)
        if are_thick(geometry.spacing_mm):
            steps[:, slice_axis(geometry.spacing_mm)] = 0
        inwards = steps @ geometry.matrix.T
        far = np.linalg.norm(inwards, axis=1)
        known = np.flatnonzero(far > OUTSIDE_MM)
        known = known[np.isin(known, np.arange(len(points))[chosen])]
        inwards, points = inwards[known] / far[known, None], points[known]
        return cls(points + INSIDE_MM * inwards, points - OUTSIDE_MM * inwards)

    def in_image(self, geometry: Geometry, shape: Sequence[int]) -> Prompts:
        """Return the prompts without points outside an image of shape ``(z, y, x)``."""

        def kept(points: Floats) -> Floats:
            return points[inside(geometry.to_index(points), shape)]

        return Prompts(kept(self.foreground_mm), kept(self.background_mm))

    def moved(self, mm: float, rng: np.random.Generator, geometry: Geometry, shape: Sequence[int]) -> Prompts:
        """Return the prompts with every point moved by this distance in a random direction, in a 2D image within it.

        Args:
            mm: distance.
            rng: generator of the directions.
            geometry: geometry of the image.
            shape: shape of the image, ``(z, y, x)``; axes of length 1 have no directions.
        """
        flat = np.flatnonzero(np.asarray(shape) == 1)

        def step(points: Floats) -> Floats:
            directions = rng.normal(size=points.shape)
            if len(flat):
                steps = np.linalg.solve(geometry.matrix, directions.T).T
                steps[:, flat] = 0
                directions = steps @ geometry.matrix.T
            return points + mm * directions / np.linalg.norm(directions, axis=1, keepdims=True)

        return Prompts(step(self.foreground_mm), step(self.background_mm))


def prompts_of(
    landmarks: Landmarks, pairs: Sequence[tuple[str, str]], geometry: Geometry, shape: Sequence[int]
) -> Prompts | None:
    """The prompts for one organ of one case from its spans, or None if no foreground point lies in the image.

    Args:
        landmarks: landmarks of the case.
        pairs: pairs that span the organ; a pair counts if both of its landmarks are present.
        geometry: geometry of the image.
        shape: shape of the image, ``(z, y, x)``.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    points, states = as_arrays(landmarks, names)
    place: Mapping[str, int] = {name: k for k, name in enumerate(names) if states[k] == State.PRESENT}
    found = [(points[place[a]], points[place[b]]) for a, b in pairs if a in place and b in place]
    prompts = Prompts.between(np.reshape(found, (-1, 2, 3))).in_image(geometry, shape)
    return prompts if len(prompts.foreground_mm) else None


# --- filters ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """Limits that an accepted mask keeps.

    Attributes:
        landmark_mm: largest distance of the organ's landmarks from the surface of the mask.
        component: smallest share of the largest connected component.
        volume: smallest volume as a multiple of the smallest in labelled cases, largest as a multiple of the largest.
        agreement: smallest Dice with the masks from other prompts.
        jitter_mm: distance by which prompts on lines are moved.
    """

    landmark_mm: float = 3.0
    component: float = 0.95
    volume: tuple[float, float] = (0.5, 2.0)
    agreement: float = 0.8
    jitter_mm: float = 2.0


@dataclass(frozen=True)
class Verdict:
    """Verdict of the filters on one mask.

    Attributes:
        values: measurements by name; None if there is nothing to compare with, or no surface to measure from.
        reasons: filters that refuse the mask; empty if it is accepted.
    """

    values: Mapping[str, float | None] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return not self.reasons


def judge(
    mask: NDArray[np.bool_],
    others: Sequence[NDArray[np.bool_]],
    prompts: Prompts,
    geometry: Geometry,
    tests: Sequence[tuple[NDArray[np.bool_], Floats]],
    labelled_mm3: tuple[float, float] | None,
    limits: Limits,
) -> Verdict:
    """Apply all filters.

    Args:
        mask: mask of the organ, ``(z, y, x)``.
        others: masks from other prompts for the same organ.
        prompts: the prompts of the mask.
        geometry: geometry of the image.
        tests: masks of the organ, and positions ``(L, 3)`` of landmarks that should lie on their surface.
        labelled_mm3: smallest and largest volume of the organ in labelled cases, if there are any.
        limits: limits of the filters.
    """
    size = int(mask.sum())
    if size == 0:
        return Verdict({"volume_mm3": 0.0}, ("empty",))
    inside = _at(mask, geometry.to_index(prompts.foreground_mm)).mean()
    outside = 1 - _at(mask, geometry.to_index(prompts.background_mm)).mean() if len(prompts.background_mm) else 1.0
    far = [_farthest(tested, geometry, points) for tested, points in tests if len(points)]
    farthest = max(far, default=None)
    components, count = connected_components(mask)
    largest = np.bincount(components.ravel(), minlength=count + 1)[1:].max() / size
    volume = size * abs(np.linalg.det(geometry.matrix))
    agreement = min(2 * (mask & other).sum() / (size + other.sum()) for other in others)
    low, high = (0.0, np.inf) if labelled_mm3 is None else np.multiply(limits.volume, labelled_mm3)
    checks = {
        "foreground prompts": inside == 1,
        "background prompts": outside == 1,
        "landmarks": farthest is None or farthest <= limits.landmark_mm,
        "components": largest >= limits.component,
        "volume": low <= volume <= high,
        "agreement": agreement >= limits.agreement,
    }
    values = {
        "foreground_inside": inside,
        "background_outside": outside,
        "landmark_mm": farthest,
        "largest_component": largest,
        "volume_mm3": volume,
        "agreement": agreement,
    }
    return Verdict(
        {name: None if value is None or np.isinf(value) else float(value) for name, value in values.items()},
        tuple(name for name, passed in checks.items() if not passed),
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _at(mask: NDArray[np.bool_], index: Floats) -> NDArray[np.bool_]:
    """The mask at the voxels nearest to points in the image, ``(N,)``."""
    voxels = np.clip(np.rint(index).astype(int), 0, np.array(mask.shape) - 1)
    return mask[tuple(voxels.T)]


def _farthest(mask: NDArray[np.bool_], geometry: Geometry, landmarks_mm: Floats) -> float:
    """Largest distance of landmarks ``(L, 3)`` from the surface, mm; infinite if there is no surface."""
    surface = OrganSurface.find(mask, geometry.spacing_mm)
    if surface is None:
        return float("inf")
    return float(np.abs(surface.signed_distances_mm(geometry.to_index(landmarks_mm))).max())
