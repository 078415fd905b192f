"""Pictures of single slices: the image, and label maps drawn over it. A marked place is circled and enlarged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.geometry import slice_axis
from nnunet_ext.data.reading import Volume
from nnunet_ext.evaluation.overlay import COLOURS
from nnunet_ext.scribbles.label_map import slices_of

BACKGROUND = "#ffffff"
FOREGROUND_ALPHA, FILLED_ALPHA = 1.0, 0.45
"""Opacity of classes: scribbles hide the image below them, dense labels let it show through."""

FILLED = 0.25
"""Share of labelled voxels above which a label map is drawn as translucent areas, without the background, which would
hide the image."""

MARK = "#ff2d2d"
MARGIN = 3
"""Voxels between a marked place and the circle around it."""

ZOOM = 56
"""Smallest size of an enlarged picture, in rows and columns; larger places get twice their own size."""

Box = tuple[int, int, int, int]
"""First and last row, first and last column."""


@dataclass(frozen=True)
class Panels:
    """One row of pictures: a slice of an image, and the same slice of label maps.

    Attributes:
        title: text at the left.
        image: ``(rows, columns)``.
        window: grey values that are drawn black and white.
        aspect: height of a pixel divided by its width.
        maps: label maps ``(rows, columns)`` by title.
        marked: place to circle in the label maps, which then show only its surroundings; the image frames these.
    """

    title: str
    image: NDArray
    window: tuple[float, float]
    aspect: float
    maps: Mapping[str, NDArray]
    marked: Box | None = None

    @classmethod
    def cut(
        cls, name: str, image: Volume, maps: Mapping[str, NDArray], index: int, marked: Box | None = None
    ) -> Panels:
        """Cut slice ``index`` along the axis in which slices were acquired."""
        axis = slice_axis(image.spacing_mm, image.array.shape)
        mm = [spacing for place, spacing in enumerate(image.spacing_mm) if image.array.ndim == 2 or place != axis]
        low, high = np.percentile(image.array, (0.5, 99.5))
        slices = slices_of(image.array, axis)
        return cls(
            f"{name}\nslice {index + 1} of {len(slices)}" if image.array.ndim == 3 else name,
            slices[index],
            (float(low), float(high)),
            mm[0] / mm[1],
            {title: slices_of(labels, axis)[index] for title, labels in maps.items()},
            marked,
        )

    @property
    def enlarged(self) -> Box | None:
        """Rows and columns around the marked place."""
        if self.marked is None:
            return None
        sides: list[int] = []
        rows, columns = self.marked[:2], self.marked[2:]
        longest = max(ZOOM, 2 * (rows[1] - rows[0]), 2 * (columns[1] - columns[0]))
        for (first, last), size in zip((rows, columns), self.image.shape, strict=True):
            length = min(size, longest)
            start = min(max(0, (first + last - length) // 2), size - length)
            sides += [start, start + length - 1]
        return sides[0], sides[1], sides[2], sides[3]


def most_annotated_slice(scribbles: NDArray, spacing_mm: Sequence[float], ignore: int | None) -> int:
    """The slice with most classes; among equals, the one with most annotated foreground voxels."""
    slices = slices_of(scribbles, slice_axis(spacing_mm, scribbles.shape))
    marked = (slices > 0) & (slices != ignore)
    classes = [len(np.unique(one[here])) for one, here in zip(slices, marked, strict=True)]
    return int(np.lexsort((marked.sum((1, 2)), classes))[-1])


def draw_panels(file: Path | BinaryIO, rows: Sequence[Panels], classes: Mapping[int, str]) -> None:
    """Draw a PNG.

    Args:
        file: file to write.
        rows: at least one row; all with the same titles of label maps.
        classes: names by label value; other values are transparent.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    titles = list(rows[0].maps)
    foreground = sorted(value for value in classes if value)
    colours = {0: BACKGROUND, **{value: COLOURS[place % len(COLOURS)] for place, value in enumerate(foreground)}}
    figure = Figure(figsize=(3.4 * (1 + len(titles)), 3.5 * len(rows) + 0.6), layout="constrained", facecolor="#f4f4f4")
    FigureCanvasAgg(figure)  # needs no screen and leaves the user's matplotlib backend alone
    panels = figure.subplots(len(rows), 1 + len(titles), squeeze=False)
    for axes_of_row, row in zip(panels, rows, strict=True):
        for axes in axes_of_row:
            axes.imshow(
                row.image,
                cmap="gray",
                vmin=row.window[0],
                vmax=row.window[1],
                aspect=row.aspect,
                interpolation="nearest",
            )
            axes.set(xticks=[], yticks=[])
        axes_of_row[0].set_ylabel(row.title)
        for axes, labels in zip(axes_of_row[1:], row.maps.values(), strict=True):
            filled = np.isin(labels, list(classes)).mean() > FILLED
            painted = np.zeros((*labels.shape, 4))
            for value, colour in colours.items():
                if value or not filled:
                    painted[labels == value] = to_rgba(colour, FILLED_ALPHA if filled else FOREGROUND_ALPHA)
            axes.imshow(painted, aspect=row.aspect, interpolation="nearest")
        if row.marked is not None and row.enlarged is not None:
            _mark(axes_of_row, row.marked, row.enlarged)
    for axes, heading in zip(panels[0], ["image", *titles], strict=True):
        axes.set_title(heading, fontsize=10)
    shown = list(colours)[:12]
    figure.legend(
        [Line2D([], [], color=colours[value], linewidth=4) for value in shown],
        [classes[value] for value in shown],
        loc="outside lower center",
        ncols=min(6, len(shown)),
        frameon=False,
    )
    figure.savefig(file, dpi=100, format="png")


def _mark(axes_of_row: Sequence[Any], marked: Box, enlarged: Box) -> None:
    """Frame the surroundings in the first picture; in the others, circle the marked place and show only these."""
    from matplotlib.patches import Ellipse, Rectangle

    top, bottom, left, right = enlarged
    corner, width, height = (left - 0.5, top - 0.5), right - left + 1, bottom - top + 1
    axes_of_row[0].add_patch(Rectangle(corner, width, height, fill=False, edgecolor=MARK, linewidth=1.2))
    first, last, start, end = marked
    centre, corner_to_corner = ((start + end) / 2, (first + last) / 2), 2**0.5
    size = [corner_to_corner * length + 2 * MARGIN for length in (end - start, last - first)]
    for axes in axes_of_row[1:]:
        axes.add_patch(Ellipse(centre, *size, fill=False, edgecolor=MARK, linewidth=2))
        axes.set(xlim=(left - 0.5, right + 0.5), ylim=(bottom + 0.5, top - 0.5))
