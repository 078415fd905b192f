"""Rules that find mistakes in scribbles. Pure functions of arrays; every threshold has its reason beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from nnunet_ext.data.geometry import slice_axis
from nnunet_ext.data.raw import DENSE_FRACTION
from nnunet_ext.findings import Finding, some
from nnunet_ext.scribbles.label_map import box_of, slices_of

SPARSE_FRACTION = 1e-4
"""Annotated share below which few patches hold an annotated voxel. The scribbles of ACDC cover 100 times as much."""

LEAK_SHARE = 0.02
"""Share of a scribble's voxels that may have another dense label, because two people disagree about voxels at a border.
The scribbles of ACDC, drawn by a person, stay below 0.001."""

MISSED_VOXELS = 10
"""Smallest dense component that must have a scribble, in voxels. Smaller ones are often labelling errors, and missing
them costs little."""


@dataclass(frozen=True)
class CheckedScribbles:
    """Numbers and findings of one case.

    Attributes:
        voxels: number of annotated voxels by label value.
        size: number of all voxels.
        looked: number of places where each (kind, about) of findings that must be rare could occur.
    """

    name: str
    voxels: Mapping[int, int]
    size: int
    annotated_slices: int
    slices: int
    looked: Mapping[tuple[str, str], int]
    findings: tuple[Finding, ...]

    @property
    def fraction(self) -> float:
        """Annotated share of all voxels."""
        return sum(self.voxels.values()) / self.size


def coverage(case: str, voxels: Mapping[int, int], size: int) -> Iterator[Finding]:
    """Report a case with too many or too few annotated voxels.

    Args:
        case: name of the case.
        voxels: number of annotated voxels by label value.
        size: number of all voxels.
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
    """Find scribbles that lie on another class, and components without a scribble.

    Args:
        case: name of the case.
        scribbles: label map.
        dense: label map of the same shape.
        spacing_mm: spacing of their axes.
        classes: names by label value.
        ignore: the ignore label of both maps.
    """
    axis = slice_axis(spacing_mm, scribbles.shape)
    for value, name in classes.items():
        drawn = (scribbles == value) & (dense != ignore)
        wrong = drawn & (dense != value)
        if drawn.any() and wrong.sum() > LEAK_SHARE * drawn.sum():
            share = 100 * wrong.sum() / drawn.sum()
            text = f"{share:.1f} % of the scribble of {name} ({wrong.sum()} voxels) lies on other dense labels"
            index = _fullest_slice(wrong, axis)
            yield Finding("warning", "leak", text, case, name, index, box=box_of(slices_of(wrong, axis)[index]))
        if value:
            yield from _missed(case, scribbles == value, dense == value, axis, name)


def _missed(case: str, drawn: NDArray, dense: NDArray, axis: int, name: str) -> Iterator[Finding]:
    """Find connected components of one class, in the volume, that have no scribble of the class."""
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
    index = _fullest_slice(pieces == largest, axis)
    box = box_of(slices_of(pieces == largest, axis)[index])
    yield Finding("warning", "missed", text, case, name, index, box=box)


def of_all(cases: Sequence[CheckedScribbles], classes: Mapping[int, str], with_dense: bool) -> Iterator[Finding]:
    """Find mistakes that only the whole data set shows.

    Args:
        cases: all cases of the data set.
        classes: names by label value.
        with_dense: whether all cases have dense labels, which say more about absent classes.
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
