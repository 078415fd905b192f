"""Pictures of single slices: the image, and label maps drawn over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.reading import Volume
from nnunet_ext.evaluation.overlay import COLOURS
from nnunet_ext.scribbles.label_map import slice_axis, slices_of

BACKGROUND = "#ffffff"
FOREGROUND_ALPHA, FILLED_ALPHA = 1.0, 0.45
"""Opacity of classes: scribbles hide what is below them, dense labels let it through."""

FILLED = 0.25
"""Share of labelled voxels from which a label map is drawn as areas: then without the background, which would hide
the image."""


@dataclass(frozen=True)
class Panels:
    """One row of pictures: a slice of an image, and the same slice of label maps by title.

    ``window``: the grey values that are black and white. ``aspect``: height of a pixel by its width.
    """

    title: str
    image: NDArray
    window: tuple[float, float]
    aspect: float
    maps: Mapping[str, NDArray]

    @classmethod
    def cut(cls, name: str, image: Volume, maps: Mapping[str, NDArray], index: int) -> Panels:
        """Slice ``index`` along the axis in which slices were acquired."""
        axis = slice_axis(image.spacing_mm)
        mm = [spacing for place, spacing in enumerate(image.spacing_mm) if image.array.ndim == 2 or place != axis]
        low, high = np.percentile(image.array, (0.5, 99.5))
        slices = slices_of(image.array, axis)
        return cls(
            f"{name}\nslice {index + 1} of {len(slices)}" if image.array.ndim == 3 else name,
            slices[index],
            (float(low), float(high)),
            mm[0] / mm[1],
            {title: slices_of(labels, axis)[index] for title, labels in maps.items()},
        )


def most_annotated_slice(scribbles: NDArray, spacing_mm: Sequence[float], ignore: int | None) -> int:
    """The slice with most classes, and among those with most annotated foreground voxels."""
    slices = slices_of(scribbles, slice_axis(spacing_mm))
    marked = (slices > 0) & (slices != ignore)
    classes = [len(np.unique(one[here])) for one, here in zip(slices, marked, strict=True)]
    return int(np.lexsort((marked.sum((1, 2)), classes))[-1])


def draw_panels(file: Path | BinaryIO, rows: Sequence[Panels], classes: Mapping[int, str]) -> None:
    """Draw a PNG.

    Args:
        file: to write.
        rows: at least one, all with the same titles of label maps.
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
    FigureCanvasAgg(figure)  # draws without a screen and leaves the user's matplotlib backend alone
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
