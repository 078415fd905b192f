"""Rules that compare strokes with the image and with one another. Every threshold has its reason beside it.

Grey values alone cannot tell a stroke that leaves its structure from one that passes a vessel. Other strokes help:
somebody who draws inside structures stays away from the strokes of neighbouring structures, and draws the same
structure in the next slice at about the same place and with about the same grey values. So :func:`touching` and
:func:`misplaced` give warnings, but only if they are rare in the data set (:func:`only_rare`), and :func:`across_edges`
gives notes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, gaussian_gradient_magnitude, label
from scipy.spatial import KDTree

from nnunet_ext.data.geometry import slice_axis
from nnunet_ext.findings import Finding
from nnunet_ext.scribbles.check_rules import CheckedScribbles
from nnunet_ext.scribbles.label_map import box_of, slices_of
from nnunet_ext.scribbles.strokes import EIGHT

TOUCHING = "touching"
MISPLACED = "misplaced"

RARE, FEW = 0.02, 3
"""Share of the possible places, and number of places, that a pattern must both exceed to count as usual.

A usual pattern shows how the data set was drawn and is no mistake: strokes along borders touch, and random strokes lie
elsewhere in every slice."""

TOUCHING_VOXELS = 3
"""Smallest number of voxels along which two strokes touch; fewer are a corner. In 1516 slices of ACDC, drawn by a
person, one pair of strokes touches."""

SIGMA = 1.0
"""Width in voxels of the Gaussian that removes noise from a slice before grey values are compared."""

PLACE_VOXELS, GREY_SHARE = 4, 0.1
"""Units of distance in the slice (voxels) and in grey values (share of the range from the 0.5th to the 99.5th
percentile of the image): about the changes of a structure from one slice to the next."""

CLOSER, FARTHEST = 2.0, 5.0
"""How much closer a misplaced stroke is to another class than to its own, as a mean over its voxels, in those units.
The second number clips the difference of each voxel, so that a few voxels do not decide."""

ON_OTHERS = 3
"""Smallest number of voxels of a misplaced stroke that lie on strokes of the other class in a neighbouring slice."""

SMALL = 10
"""Strokes with fewer voxels are not compared: they are the ends of structures and say too little about their place."""

EDGE_PERCENTILE = 95
"""Gradients above this percentile of their slice are strong edges; about as many voxels are borders of organs."""

EDGE_CONTRAST = 0.25
"""Smallest difference between the two sides of an edge, as a share of the range from the 0.5th to the 99.5th percentile
of the image. Most organs vary less within themselves."""

EDGE_SIDE, EDGE_SHARE = 5, 0.15
"""Smallest number of voxels, and smallest share of the stroke, on either side of an edge. With less, the stroke passes
a vessel or just touches the border."""


def touching(
    case: str, scribbles: NDArray, spacing_mm: Sequence[float], classes: Mapping[int, str]
) -> tuple[Counter[tuple[str, str]], list[Finding]]:
    """Find slices in which the strokes of two classes touch, so that one of them probably crosses a border.

    Args:
        case: name of the case.
        scribbles: label map.
        spacing_mm: spacing of its axes.
        classes: names by label value.

    Returns:
        For each pair of classes the number of slices with strokes of both, and one finding per slice where they touch.
    """
    looked: Counter[tuple[str, str]] = Counter()
    findings = []
    for index, labels in enumerate(slices_of(scribbles, slice_axis(spacing_mm, scribbles.shape))):
        grown = {value: binary_dilation(labels == value, EIGHT) for value in _present(labels, classes)}
        for one, other in combinations(grown, 2):
            names = f"{classes[one]} and {classes[other]}"
            looked[TOUCHING, names] += 1
            sides = [grown[other] & (labels == one), grown[one] & (labels == other)]
            if (count := max(int(side.sum()) for side in sides)) >= TOUCHING_VOXELS:
                text = (
                    f"strokes of {names} touch along {count} voxels, which hardly any do in this data set: does one of "
                    "them cross a border?"
                )
                findings.append(Finding("warning", TOUCHING, text, case, names, index, box=box_of(sides[0] | sides[1])))
    return looked, findings


def misplaced(
    case: str, scribbles: NDArray, image: NDArray, spacing_mm: Sequence[float], classes: Mapping[int, str]
) -> tuple[Counter[tuple[str, str]], list[Finding]]:
    """Find strokes that fit the strokes of another class better than those of their own.

    Each stroke is compared with all other strokes of its slice and of the two neighbouring slices. Every voxel is
    matched, by place in the slice and grey value, with the closest voxel of each class. The background is never
    suggested as the other class, because it looks like anything.

    Args:
        case: name of the case.
        scribbles: label map.
        image: one channel, of the same shape.
        spacing_mm: spacing of their axes.
        classes: names by label value.

    Returns:
        The number of strokes compared by class, and one finding per misplaced stroke.
    """
    looked: Counter[tuple[str, str]] = Counter()
    findings: list[Finding] = []
    low, high = np.percentile(image, (0.5, 99.5))
    if not high > low:
        return looked, findings
    axis = slice_axis(spacing_mm, scribbles.shape)
    all_labels = slices_of(scribbles, axis)
    looks: dict[int, NDArray] = {}  # smoothed slices, three at a time

    def look(index: int, mask: NDArray) -> NDArray:
        """Place and grey value of the voxels of a mask, ``(N, 3)``, in comparable units."""
        if index not in looks:
            grey = slices_of(image, axis)[index].astype(np.float32)
            looks[index] = gaussian_filter(grey, SIGMA) / ((high - low) * GREY_SHARE)
        return np.column_stack([np.argwhere(mask) / PLACE_VOXELS, looks[index][mask]])

    for index, labels in enumerate(all_labels):
        beside = [near for near in (index - 1, index + 1) if 0 <= near < len(all_labels)]
        trees: dict[int, KDTree] = {}
        for value in _present(labels, classes):
            pieces, count = label(labels == value, EIGHT)
            for piece in range(1, count + 1):
                stroke = pieces == piece
                if stroke.sum() < SMALL:
                    continue
                others_of_class = [look(near, all_labels[near] == value) for near in beside]
                own = np.concatenate([*others_of_class, look(index, (labels == value) & ~stroke)])
                if not len(own):
                    continue
                looked[MISPLACED, classes[value]] += 1
                here = look(index, stroke)
                to_own = KDTree(own).query(here)[0]
                for other in filter(None, classes):
                    on_others = max((int((stroke & (all_labels[near] == other)).sum()) for near in beside), default=0)
                    if other == value or on_others < ON_OTHERS:
                        continue
                    if other not in trees:
                        near_by = [look(near, all_labels[near] == other) for near in (index, *beside)]
                        trees[other] = KDTree(np.concatenate(near_by))
                    closer = np.clip(to_own - trees[other].query(here)[0], -FARTHEST, FARTHEST).mean()
                    if closer > CLOSER:
                        text = (
                            f"a stroke of {classes[value]} ({stroke.sum()} voxels) has place and grey values of the "
                            f"strokes of {classes[other]} in the slices beside it: was the wrong label chosen?"
                        )
                        found = Finding("warning", MISPLACED, text, case, classes[value], index, box=box_of(stroke))
                        findings.append(found)
                        break
        looks.pop(index - 1, None)
    return looked, findings


def only_rare(cases: Sequence[CheckedScribbles]) -> tuple[list[CheckedScribbles], list[Finding]]:
    """Remove findings of kinds that are usual in the data set.

    Args:
        cases: all cases of the data set.

    Returns:
        The cases with the remaining findings, and a note for every kind that is usual.
    """
    looked: Counter[tuple[str, str]] = Counter()
    for case in cases:
        looked.update(case.looked)
    found = Counter(key for case in cases for finding in case.findings if (key := _key(finding)) in looked)
    usual = {key for key, count in found.items() if count > max(FEW, RARE * looked[key])}
    notes = [
        Finding("note", kind, _USUAL[kind].format(about=about, found=found[kind, about], looked=looked[kind, about]))
        for kind, about in sorted(usual)
    ]
    kept = [replace(case, findings=tuple(f for f in case.findings if _key(f) not in usual)) for case in cases]
    return kept, notes


def across_edges(
    case: str,
    scribbles: NDArray,
    image: NDArray,
    spacing_mm: Sequence[float],
    classes: Mapping[int, str],
) -> Iterator[Finding]:
    """Find strokes that cross a strong edge of the image; at most one note per class, for the largest contrast.

    A stroke is cut where it lies on a strong edge. If the remaining parts have clearly different grey values, the
    stroke crosses the edge; a stroke along an edge does not. The background is left out, because it consists of many
    tissues. Most of the strokes found are correct: they pass vessels, muscles and air inside their structure.

    Args:
        case: name of the case.
        scribbles: label map.
        image: one channel, of the same shape.
        spacing_mm: spacing of their axes.
        classes: names by label value.
    """
    axis = slice_axis(spacing_mm, scribbles.shape)
    low, high = np.percentile(image, (0.5, 99.5))
    if not high > low:
        return
    worst: dict[int, tuple[float, int, tuple[int, int, int, int]]] = {}
    strokes: Counter[int] = Counter()
    for index, (labels, grey) in enumerate(zip(slices_of(scribbles, axis), slices_of(image, axis), strict=True)):
        present = list(filter(None, _present(labels, classes)))
        if not present:
            continue
        gradient = gaussian_gradient_magnitude(grey.astype(np.float32), SIGMA)
        strong = gradient > np.percentile(gradient, EDGE_PERCENTILE)
        smooth = gaussian_filter(grey.astype(np.float32), SIGMA)
        for value in present:
            pieces, count = label(labels == value, EIGHT)
            for piece in range(1, count + 1):
                stroke = pieces == piece
                contrast = _contrast_across(stroke, strong, smooth) / (high - low)
                if contrast > EDGE_CONTRAST:
                    strokes[value] += 1
                    worst[value] = max(worst.get(value, (0.0, 0, (0, 0, 0, 0))), (contrast, index, box_of(stroke)))
    for value, (contrast, index, box) in worst.items():
        text = (
            f"{strokes[value]} {'stroke' if strokes[value] == 1 else 'strokes'} of {classes[value]} over a strong edge "
            f"of the image, whose sides differ by up to {100 * contrast:.0f} % of the grey values"
        )
        yield Finding("note", "edge", text, case, classes[value], index, box=box)


_USUAL = {
    TOUCHING: "strokes of {about} touch in {found} of {looked} slices: usual in this data set, so not looked at",
    MISPLACED: "{found} of {looked} strokes of {about} are closer to those of another class: usual in this data set, "
    "so not looked at",
}


def _key(found: Finding) -> tuple[str, str]:
    return found.kind, found.about or ""


def _present(labels: NDArray, classes: Mapping[int, str]) -> list[int]:
    """The classes that have strokes in a slice."""
    return [int(value) for value in np.intersect1d(labels, list(classes))]


def _contrast_across(stroke: NDArray, strong: NDArray, grey: NDArray) -> float:
    """Largest difference between the median grey values of the parts of a stroke between strong edges."""
    parts, count = label(stroke & ~strong, EIGHT)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    sides = np.flatnonzero((sizes >= EDGE_SIDE) & (sizes >= EDGE_SHARE * stroke.sum()))
    medians = [float(np.median(grey[parts == side + 1])) for side in sides]
    return max(medians) - min(medians) if len(medians) > 1 else 0.0
