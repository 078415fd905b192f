"""Scribbles of one label map: slice by slice, class by class.

The random numbers depend only on the seed, the case, the slice and the class. So a case looks the same alone or in a
data set, and regardless of the order and the number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.geometry import slice_axis
from nnunet_ext.errors import InputError
from nnunet_ext.scribbles.strokes import MODES, Components, scribble_class


@dataclass(frozen=True)
class Options:
    """Options for drawing scribbles.

    Attributes:
        mode: a key of :data:`nnunet_ext.scribbles.strokes.MODES`.
        slice_fraction: share of the slices to annotate, among slices with foreground and among empty ones alike; 1 for
            images of one slice.
        thickness: width of the strokes, in voxels.
        min_area: smallest area of a class in a slice that gets a scribble, in voxels.
        components: components to draw in, per class and slice: ``one`` (larger ones are more probable) or ``all``.
        background: whether the background gets scribbles. Without them a network has no reason to predict background.
        seed: any whole number.

    Raises:
        InputError: a value is out of range.
    """

    mode: str = "interior+border"
    slice_fraction: float = 1.0
    thickness: int = 3
    min_area: int = 1
    components: Components = "one"
    background: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("mode", tuple(MODES)), ("components", get_args(Components))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(choices)}.")
        if not 0 < self.slice_fraction <= 1:
            raise InputError(f"slice_fraction is {self.slice_fraction}; it must lie above 0 and not above 1.")
        for name in ("thickness", "min_area"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 voxel or more.")


def scribble_label_map(
    labels: NDArray,
    spacing_mm: Sequence[float],
    classes: Iterable[int],
    ignore: int,
    case: str,
    options: Options,
) -> NDArray[np.int32]:
    """Draw scribbles for a dense label map.

    Args:
        labels: ``(z, y, x)`` or ``(y, x)``, whole numbers.
        spacing_mm: spacing of these axes. Scribbles are drawn in slices across the coarsest axis, as a person would.
        classes: values that get scribbles; 0 is left out if the options say so.
        ignore: the value of voxels without a scribble.
        case: name of the case; part of the seed.
        options: how to draw.

    Returns:
        An array of the same shape: the label where there is a scribble, ``ignore`` elsewhere.

    Raises:
        InputError: a share of the slices is asked for, but there is only one.
    """
    classes = sorted(value for value in classes if value or options.background)
    axis = slice_axis(spacing_mm, labels.shape)
    slices = slices_of(labels, axis)
    if len(slices) == 1 and options.slice_fraction < 1:
        raise InputError(
            f"Case {case} has one slice, so a share of {options.slice_fraction:g} of the slices cannot be annotated; "
            "leave out --slice-fraction."
        )
    result = np.full(slices.shape, ignore, np.int32)
    known = np.flatnonzero(slices_with(labels != ignore, axis))  # dense labels may leave whole slices out
    foreground = slices_with((labels > 0) & (labels != ignore), axis)[known]
    for index in known[np.array(chosen_slices(foreground, case, options), int)]:
        for value in np.intersect1d(slices[index], classes):
            drawn = scribble_class(
                slices[index] == value,
                generator(options.seed, case, int(index), int(value)),
                MODES[options.mode],
                thickness=options.thickness,
                min_area=options.min_area,
                components=options.components,
            )
            result[index][drawn] = value
    return result[0] if labels.ndim == 2 else np.ascontiguousarray(np.moveaxis(result, 0, axis))


def slices_of(array: NDArray, axis: int) -> NDArray:
    """A view of the array as ``(slices, rows, columns)``; a 2D image is one slice."""
    return array[None] if array.ndim == 2 else np.moveaxis(array, axis, 0)


def slices_with(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """One boolean per slice along ``axis``: whether it has a voxel of the mask."""
    return np.asarray(slices_of(mask, axis).any((1, 2)))


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First and last row, first and last column of a mask ``(rows, columns)`` that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def chosen_slices(with_foreground: NDArray[np.bool_], case: str, options: Options) -> list[int]:
    """Indices of the slices to annotate.

    At least one slice with foreground and one without are chosen, if there are any. A larger fraction only adds slices.

    Args:
        with_foreground: for each slice, whether it has foreground.
        case: name of the case; part of the seed.
        options: seed and fraction.
    """
    order = generator(options.seed, case, "slices").permutation(len(with_foreground))
    chosen: list[int] = []
    for kind in (True, False):
        of_kind = [int(index) for index in order if with_foreground[index] == kind]
        chosen += of_kind[: max(1, round(options.slice_fraction * len(of_kind)))]
    return sorted(chosen)


def generator(*words: int | str) -> np.random.Generator:
    """A random generator that depends on these words only; Python's own hash would differ between processes."""
    digest = hashlib.sha256("\n".join(map(str, words)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest, "little")))
