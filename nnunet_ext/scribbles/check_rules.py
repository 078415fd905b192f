"""Rules that find mistakes in scribbles: pure functions of arrays, and every threshold with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude, label

from nnunet_ext.findings import Finding, some
from nnunet_ext.scribbles.label_map import slice_axis, slices_of
from nnunet_ext.scribbles.strokes import EIGHT

DENSE_FRACTION = 0.5
"""Annotated share above which labels are no scribbles: published scribbles cover 1 to 5 % of the voxels, dense
labels with a masked region usually more than half."""

SPARSE_FRACTION = 1e-4
"""Annotated share below which few patches hold an annotated voxel; the scribbles of ACDC cover 100 times as much."""

LEAK_SHARE = 0.02
"""Share of the voxels of a scribble that may have another dense label: two people disagree about voxels at a border.
The scribbles of ACDC, drawn by a person, stay below 0.001."""

MISSED_VOXELS = 10
"""Components of the dense labels below this are often errors of the labelling, and no loss if they are missed."""

EDGE_PERCENTILE = 95
"""Gradients above this percentile of their slice are a strong edge: about what the borders of organs take up."""

EDGE_CONTRAST = 0.25
"""Difference of the two sides of an edge, as a share of the grey values from the 0.5th to the 99.5th percentile of the
image. Tissue varies less within most organs."""

EDGE_SIDE, EDGE_SHARE = 5, 0.15
"""Voxels, and share of the stroke, that must lie on either side: less is a vessel that it passes, or just touches the
border. Measured on abdominal and cardiac MR: with this share 13 of 868 correct strokes are reported instead of 89, and
93 of 239 strokes that were shifted over the border of their organ instead of 141. So this is a hint and no proof."""

EDGE_SIGMA = 1.0
"""Width of the Gaussian that smooths a slice before edges are looked for, in voxels; noise is no edge."""


@dataclass(frozen=True)
class CheckedScribbles:
    """Numbers and findings of one case; ``voxels``: annotated ones by label value."""

    name: str
    voxels: Mapping[int, int]
    size: int
    annotated_slices: int
    slices: int
    findings: tuple[Finding, ...]

    @property
    def fraction(self) -> float:
        """Annotated share of all voxels."""
        return sum(self.voxels.values()) / self.size


def coverage(case: str, voxels: Mapping[int, int], size: int) -> Iterator[Finding]:
    """Report a case of which too much or too little is annotated.

    Args:
        case: name.
        voxels: annotated ones by label value.
        size: voxels of the case.
    """
    fraction = sum(voxels.values()) / size
    if not fraction:
        yield Finding("warning", "empty", "nothing is annotated; leave the case out", case)
        return
    if fraction > DENSE_FRACTION:
        yield Finding("warning", "dense", f"{100 * fraction:.1f} % is annotated: dense labels by mistake?", case)
    elif fraction < SPARSE_FRACTION:
        yield Finding("warning", "sparse", f"only {100 * fraction:.4f} % is annotated ({sum(voxels.values())})", case)
    if not voxels[0]:
        yield Finding("warning", "no background", "the background has no scribble here", case, "background")


def against_dense(
    case: str,
    scribbles: NDArray,
    dense: NDArray,
    spacing_mm: Sequence[float],
    classes: Mapping[int, str],
    ignore: int,
) -> Iterator[Finding]:
    """Scribbles that lie on another class, and what they miss.

    Args:
        case: name.
        scribbles: label map.
        dense: label map of the same shape.
        spacing_mm: of their axes.
        classes: names by label value.
        ignore: value of voxels that do not count, in both.
    """
    axis = slice_axis(spacing_mm)
    for value, name in classes.items():
        drawn = (scribbles == value) & (dense != ignore)
        wrong = drawn & (dense != value)
        if drawn.any() and wrong.sum() > LEAK_SHARE * drawn.sum():
            share = 100 * wrong.sum() / drawn.sum()
            text = f"{share:.1f} % of the scribble of {name} ({wrong.sum()} voxels) lies on other dense labels"
            yield Finding("warning", "leak", text, case, name, _fullest_slice(wrong, axis))
        if value:
            yield from _missed(case, scribbles == value, dense == value, axis, name)


def _missed(case: str, drawn: NDArray, dense: NDArray, axis: int, name: str) -> Iterator[Finding]:
    """Connected components of one class (in the volume) without any scribble of the class."""
    pieces, count = label(dense, np.ones((3,) * dense.ndim, bool))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    large = np.flatnonzero(sizes >= MISSED_VOXELS)
    large = large[large > 0]
    missed = np.setdiff1d(large, pieces[drawn])
    if not missed.size:
        return
    largest = missed[np.argmax(sizes[missed])]
    text = (
        f"{len(missed)} of {len(large)} components of {name} have no scribble; the largest has {sizes[largest]} voxels"
    )
    yield Finding("warning", "missed", text, case, name, _fullest_slice(pieces == largest, axis))


def across_edges(
    case: str,
    scribbles: NDArray,
    image: NDArray,
    spacing_mm: Sequence[float],
    classes: Mapping[int, str],
) -> Iterator[Finding]:
    """Strokes that cross a strong edge of the image, at most one finding per class: that of the largest contrast.

    A stroke is cut where it lies on a strong edge. If parts with clearly different grey values remain, it crosses the
    edge; one that runs along an edge does not. The background is left out: it consists of many tissues.

    Args:
        case: name.
        scribbles: label map.
        image: one channel, of the same shape.
        spacing_mm: of their axes.
        classes: names by label value.
    """
    axis = slice_axis(spacing_mm)
    low, high = np.percentile(image, (0.5, 99.5))
    if not high > low:
        return
    worst: dict[int, tuple[float, int]] = {}
    strokes: dict[int, int] = {}
    foreground = [value for value in classes if value]
    for index, (labels, grey) in enumerate(zip(slices_of(scribbles, axis), slices_of(image, axis), strict=True)):
        present = np.intersect1d(labels, foreground)
        if not present.size:
            continue
        gradient = gaussian_gradient_magnitude(grey.astype(np.float32), EDGE_SIGMA)
        strong = gradient > np.percentile(gradient, EDGE_PERCENTILE)
        smooth = gaussian_filter(grey.astype(np.float32), EDGE_SIGMA)
        for value in map(int, present):
            pieces, count = label(labels == value, EIGHT)
            for stroke in range(1, count + 1):
                contrast = _contrast_across(pieces == stroke, strong, smooth) / (high - low)
                if contrast > EDGE_CONTRAST:
                    strokes[value] = strokes.get(value, 0) + 1
                    worst[value] = max(worst.get(value, (0.0, 0)), (contrast, index))
    for value, (contrast, index) in worst.items():
        text = (
            f"{strokes[value]} {'stroke' if strokes[value] == 1 else 'strokes'} of {classes[value]} over a strong edge "
            f"of the image, whose sides differ by up to {100 * contrast:.0f} % of the grey values"
        )
        yield Finding("warning", "edge", text, case, classes[value], index)


def _contrast_across(stroke: NDArray, strong: NDArray, grey: NDArray) -> float:
    """Largest difference between the median grey values of the parts of a stroke between strong edges."""
    parts, count = label(stroke & ~strong, EIGHT)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    sides = np.flatnonzero((sizes >= EDGE_SIDE) & (sizes >= EDGE_SHARE * stroke.sum()))
    medians = [float(np.median(grey[parts == side + 1])) for side in sides]
    return max(medians) - min(medians) if len(medians) > 1 else 0.0


def of_all(cases: Sequence[CheckedScribbles], classes: Mapping[int, str], with_dense: bool) -> Iterator[Finding]:
    """Find what only the whole data set shows.

    Args:
        cases: all of them.
        classes: names by label value.
        with_dense: whether they were compared with dense labels, which say more about absent classes.
    """
    if all(case.fraction > DENSE_FRACTION for case in cases):
        share = f"more than {100 * DENSE_FRACTION:.0f} % of every case"
        yield Finding("fatal", "dense", f"{share} is annotated: these are dense labels, no scribbles")
    for value, name in classes.items():
        without = [case.name for case in cases if not case.voxels[value]]
        if len(without) == len(cases):
            reason = "a network would predict foreground everywhere" if value == 0 else "a network cannot learn it"
            yield Finding("fatal", f"no {name}", f"{name} is never scribbled: {reason}", about=name)
        elif without and value and not with_dense:
            text = f"{name} has no scribble in {some(without)}; is it absent there?"
            yield Finding("note", "absent", text, about=name)
    empty = sum(case.slices - case.annotated_slices for case in cases)
    if empty:
        total = sum(case.slices for case in cases)
        yield Finding("note", "slices", f"{empty} of {total} slices have no scribble, not even of the background")


def _fullest_slice(mask: NDArray, axis: int) -> int:
    return int(np.argmax(slices_of(mask, axis).sum((1, 2))))
