"""Picture of cases: image, reference and predictions of one slice in the same window, with classes as outlines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.geometry import slice_axis
from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.data.reading import Reader
from nnunet_ext.files import replacing

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2")
"""Colours of the classes, by Okabe and Ito; colour-blind readers can tell them apart."""

Choice = Literal["interface", "disagreement"]
"""Slice to show: the one with the longest border between structures, or with the most different predictions."""


@dataclass(frozen=True)
class OverlayCase:
    """One row of the picture.

    Attributes:
        name: name of the case.
        image: file of the first channel.
        reference: label map.
        predictions: label maps by column title.
        notes: text below the panels, by column title.
    """

    name: str
    image: Path
    reference: Path
    predictions: Mapping[str, Path]
    notes: Mapping[str, str]


def draw_overlay(
    path: Path,
    cases: Sequence[OverlayCase],
    labels: ScoredLabels,
    reader: Reader,
    title: str,
    choice: Choice,
    axis: int | None = None,
) -> None:
    """Draw one row per case.

    Args:
        path: the PNG file to write.
        cases: at least one case; all with the same titles of predictions.
        labels: the classes to outline.
        reader: reader of images and label maps.
        title: title of the figure.
        choice: rule for the slice of a volume.
        axis: of the array, across which volumes are cut; by default across their slices.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = list(cases[0].predictions)
    figure = Figure(figsize=(3.2 * (2 + len(columns)), 3.3 * len(cases) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)  # needs no screen and leaves the user's matplotlib backend alone
    panels = figure.subplots(len(cases), 2 + len(columns), squeeze=False)
    for row, case in zip(panels, cases, strict=True):
        image = reader.image(case.image)
        reference = reader.labels(case.reference).array
        segmentations = [reader.labels(file).array for file in case.predictions.values()]
        across, index = chosen_slice(reference, segmentations, image.spacing_mm, labels.ignore, choice, axis)
        cut, place, mm = _slicer(image.array.shape, image.spacing_mm, across, index)
        low, high = np.percentile(image.array, (0.5, 99.5))
        for axes in row:
            axes.imshow(
                cut(image.array), cmap="gray", vmin=low, vmax=high, aspect=mm[0] / mm[1], interpolation="nearest"
            )
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{case.name}\n{place}")
        _contours(row[1], masks(reference, reference, labels), cut)
        for axes, name, segmentation in zip(row[2:], columns, segmentations, strict=True):
            _contours(axes, masks(segmentation, reference, labels), cut)
            axes.set_xlabel(case.notes.get(name, ""))
    for axes, heading in zip(panels[0], ["image", "reference", *columns], strict=True):
        axes.set_title(heading, fontsize=10)
    shown = list(labels.values)[:12]
    figure.legend(
        [Line2D([], [], color=_colour(index), linewidth=2) for index in range(len(shown))],
        shown,
        loc="outside lower center",
        ncols=min(6, len(shown)),
        frameon=False,
    )
    figure.suptitle(title, fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def masks(segmentation: NDArray, reference: NDArray, labels: ScoredLabels) -> dict[str, NDArray[np.bool_]]:
    """The mask of every class, without the voxels that have the ignore label in ``reference``."""
    counted = np.ones(reference.shape, bool) if labels.ignore is None else reference != labels.ignore
    return {name: np.isin(segmentation, value) & counted for name, value in labels.values.items()}


def chosen_slice(
    reference: NDArray,
    segmentations: Sequence[NDArray],
    spacing: Sequence[float],
    ignore: int | None,
    choice: Choice,
    axis: int | None = None,
) -> tuple[int, int]:
    """The axis across the slices of a volume (the coarsest, unless given), and the index of the slice to show."""
    if reference.ndim == 2:
        return 0, 0
    axis = slice_axis(spacing, reference.shape) if axis is None else axis
    order = [axis, *(other for other in range(3) if other != axis)]
    known = np.where(reference == ignore, 0, reference)
    if choice == "disagreement" and len(segmentations) > 1:
        differs = sum((one != segmentations[0]) & (reference != ignore) for one in segmentations[1:])
        counts = np.asarray(differs).sum(axis=tuple(order[1:]))
        if counts.any():
            return axis, int(np.argmax(counts))
    return axis, longest_interface(known.transpose(order), [spacing[i] for i in order])


def longest_interface(segmentation: NDArray, spacing: Sequence[float]) -> int:
    """Index along axis 0 of the slice with the longest border between two structures.

    Without such a border, the slice with most foreground.

    Args:
        segmentation: ``(slices, rows, columns)``, 0 is background.
        spacing: mm of these axes.
    """

    def borders(a: NDArray, b: NDArray) -> NDArray:
        return ((a != b) & (a > 0) & (b > 0)).sum((1, 2))

    between_rows = borders(segmentation[:, 1:], segmentation[:, :-1])
    between_columns = borders(segmentation[:, :, 1:], segmentation[:, :, :-1])
    length = between_rows * spacing[2] + between_columns * spacing[1]
    return int(np.argmax(length if length.any() else (segmentation > 0).sum((1, 2))))


def _slicer(
    shape: Sequence[int], spacing: Sequence[float], axis: int, index: int
) -> tuple[Callable[[NDArray], NDArray], str, tuple[float, float]]:
    """A function that cuts the slice out of an array, the place of the slice in words, and its pixel spacing."""
    if len(shape) == 2:
        return (lambda array: array), "", (spacing[0], spacing[1])
    rows, columns = (mm for other, mm in enumerate(spacing) if other != axis)
    return (lambda array: array.take(index, axis)), f"slice {index + 1} of {shape[axis]}", (rows, columns)


def _contours(axes: Any, by_class: Mapping[str, NDArray], cut: Callable[[NDArray], NDArray]) -> None:
    limits = axes.axis()
    for index, mask in enumerate(by_class.values()):
        # a margin of background closes contours at the edge of the image; subtracting 1 shifts them back
        inside = np.pad(cut(mask).astype(float), 1)
        if inside.any():
            rows, columns = (np.arange(n) - 1 for n in inside.shape)
            axes.contour(columns, rows, inside, levels=[0.5], colors=[_colour(index)], linewidths=1.4)
    axes.axis(limits)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]
