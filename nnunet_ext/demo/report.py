"""Compares predictions with their reference: Dice and HD95 for every case and class, a table, files, and a picture.

Rules for empty masks: neither reference nor prediction has the class — the case does not count for that class; only one
has it — Dice 0 and HD95 the diagonal of the image.
"""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_ext.version import __version__

HD95_DEFINITION = (
    "HD95: the larger of the two directed 95th percentiles of the surface distances, surface elements weighted by "
    "their area (package surface-distance of DeepMind); one mask empty: diagonal of the image; both empty: not counted"
)
DICE_DEFINITION = "Dice: twice the common voxels over the voxels of both masks; both empty: not counted"

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2")
"""By class; Okabe and Ito's, which colour-blind readers can tell apart."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class EvaluationCase:
    """One case: ``image`` is its first channel; ``predictions`` by trainer."""

    name: str
    image: Path
    reference: Path
    predictions: Mapping[str, Path]


class Score(NamedTuple):
    """``dice`` and ``hd95`` (mm) are nan where the class does not count."""

    trainer: str
    case: str
    label: str
    dice: float
    hd95: float


class Classes:
    """What is scored: the foreground labels or regions of ``dataset.json``; voxels with the ignore label are not."""

    def __init__(self, labels: Mapping[str, int | Sequence[int]]) -> None:
        self.ignore = labels.get("ignore")
        self.values: dict[str, list[int]] = {
            name: [value] if isinstance(value, int) else list(value)
            for name, value in labels.items()
            if name != "ignore" and value not in (0, [0])
        }

    def masks(self, segmentation: NDArray, reference: NDArray) -> dict[str, Mask]:
        """The mask of every class, without the voxels that ``reference`` says to ignore."""
        counted = np.ones(reference.shape, bool) if self.ignore is None else reference != self.ignore
        return {name: np.isin(segmentation, values) & counted for name, values in self.values.items()}


class Reader:
    """Reads images and segmentations as nnU-Net does, with the reader that the plans name."""

    def __init__(self, name: str) -> None:
        from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

        self._reader = recursive_find_reader_writer_by_name(name)()

    def image(self, path: Path) -> tuple[NDArray, tuple[float, ...]]:
        """``(z, y, x)`` or ``(y, x)`` and the spacing in mm of these axes; the first channel."""
        return self._spatial(*self._reader.read_images([str(path)]))

    def segmentation(self, path: Path) -> tuple[NDArray, tuple[float, ...]]:
        return self._spatial(*self._reader.read_seg(str(path)))

    @staticmethod
    def _spatial(array: NDArray, properties: Mapping[str, Any]) -> tuple[NDArray, tuple[float, ...]]:
        array, spacing = array[0], tuple(float(mm) for mm in properties["spacing"])
        return (array[0], spacing[1:]) if array.shape[0] == 1 else (array, spacing)  # nnU-Net's 2D is one slice


def dice(reference: Mask, prediction: Mask) -> float:
    """Dice of two masks of one shape; nan if both are empty."""
    size = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / size if size else math.nan


def hd95(reference: Mask, prediction: Mask, spacing: Sequence[float]) -> float:
    """:data:`HD95_DEFINITION`, in mm; nan if both are empty."""
    if not reference.any() and not prediction.any():
        return math.nan
    if not reference.any() or not prediction.any():
        return math.dist([0] * len(spacing), [n * mm for n, mm in zip(reference.shape, spacing, strict=True)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # surface-distance 0.1 uses old names of scipy
        from surface_distance import compute_robust_hausdorff, compute_surface_distances

        return float(compute_robust_hausdorff(compute_surface_distances(reference, prediction, spacing), 95))


def evaluate(cases: Sequence[EvaluationCase], classes: Classes, reader: Reader) -> list[Score]:
    """One score for every trainer, case and class."""
    scores = []
    for case in tqdm(cases, desc="evaluate", unit="case", bar_format="{desc} {percentage:3.0f}%|{bar:24}| {elapsed}"):
        reference, spacing = reader.segmentation(case.reference)
        truth = classes.masks(reference, reference)
        for trainer, file in case.predictions.items():
            predicted = classes.masks(reader.segmentation(file)[0], reference)
            scores += [
                Score(trainer, case.name, label, dice(mask, predicted[label]), hd95(mask, predicted[label], spacing))
                for label, mask in truth.items()
            ]
    return scores


def means(scores: Sequence[Score]) -> dict[str, dict[str, dict[str, float]]]:
    """``means[trainer][class]["dice" or "hd95_mm"]`` over the cases; class ``mean``: the mean of the classes."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for trainer in dict.fromkeys(score.trainer for score in scores):
        own = [score for score in scores if score.trainer == trainer]
        rows = {
            label: {
                "dice": _mean([score.dice for score in own if score.label == label]),
                "hd95_mm": _mean([score.hd95 for score in own if score.label == label]),
            }
            for label in dict.fromkeys(score.label for score in own)
        }
        overall = {key: _mean([row[key] for row in rows.values()]) for key in ("dice", "hd95_mm")}
        result[trainer] = {**rows, "mean": overall}
    return result


def _mean(values: Sequence[float]) -> float:
    counted = [value for value in values if not math.isnan(value)]
    return sum(counted) / len(counted) if counted else math.nan


def table(scores: Sequence[Score]) -> str:
    """The means as text: one line per class, two columns per trainer."""
    by_trainer = means(scores)
    labels = list(next(iter(by_trainer.values())))
    first = max(map(len, ["class", *labels]))
    width = max(18, *map(len, by_trainer))
    lines = [
        " ".join([" " * first, *(f"{trainer:>{width}}" for trainer in by_trainer)]),
        " ".join([f"{'class':<{first}}", *(f"{'Dice   HD95 (mm)':>{width}}" for _ in by_trainer)]),
    ]
    for label in labels:
        cells = [f"{rows[label]['dice']:.3f}   {rows[label]['hd95_mm']:9.2f}" for rows in by_trainer.values()]
        lines.append(" ".join([f"{label:<{first}}", *(f"{cell:>{width}}" for cell in cells)]))
    return "\n".join(lines)


def write_results(folder: Path, scores: Sequence[Score], **about: Any) -> None:
    """``results.json`` (means, every score, definitions, ``about``) and ``results.csv`` (every score)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    rows = [dict(zip(("trainer", "case", "class", "dice", "hd95_mm"), score, strict=True)) for score in scores]
    content = {
        **about,
        "nnunet_ext": __version__,
        "definitions": [DICE_DEFINITION, HD95_DEFINITION],
        "means": plain(means(scores)),
        "scores": [plain(row) for row in rows],
    }
    (folder / "results.json").write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# --- the picture ------------------------------------------------------------------------------------------------------


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


def draw_overlay(path: Path, cases: Sequence[EvaluationCase], classes: Classes, reader: Reader, seen: str) -> None:
    """One row per case: image, reference, every prediction; the same slice and window within a row.

    Args:
        path: the PNG file to write.
        cases: at least one.
        classes, reader: see :func:`evaluate`.
        seen: what kind of cases they are, for the title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    trainers = list(cases[0].predictions)
    figure = Figure(figsize=(3.2 * (2 + len(trainers)), 3.3 * len(cases) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen and leaves the user's matplotlib backend alone
    panels = figure.subplots(len(cases), 2 + len(trainers), squeeze=False)
    for row, case in zip(panels, cases, strict=True):
        image, spacing = reader.image(case.image)
        reference, _ = reader.segmentation(case.reference)
        truth = classes.masks(reference, reference)
        cut, place, mm = _slicer(np.where(reference == classes.ignore, 0, reference), spacing)
        low, high = np.percentile(image, (0.5, 99.5))
        for axes in row:
            axes.imshow(cut(image), cmap="gray", vmin=low, vmax=high, aspect=mm[0] / mm[1], interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{case.name}\n{place}")
        _contours(row[1], truth, cut)
        for axes, file in zip(row[2:], case.predictions.values(), strict=True):
            masks = classes.masks(reader.segmentation(file)[0], reference)
            _contours(axes, masks, cut)
            axes.set_xlabel(f"Dice {_mean([dice(truth[label], masks[label]) for label in truth]):.3f} (whole case)")
    for axes, title in zip(panels[0], ["image", "reference", *trainers], strict=True):
        axes.set_title(title, fontsize=10)
    shown = list(classes.values)[:12]
    figure.legend(
        [Line2D([], [], color=_colour(index), linewidth=2) for index in range(len(shown))],
        shown,
        loc="outside lower center",
        ncols=min(6, len(shown)),
        frameon=False,
    )
    figure.suptitle(f"{seen}{', the slice with the longest border between structures' if place else ''}", fontsize=11)
    figure.savefig(path, dpi=110)


def _slicer(
    reference: NDArray, spacing: Sequence[float]
) -> tuple[Callable[[NDArray], NDArray], str, tuple[float, float]]:
    """A function that cuts the slice to show out of an array, where it lies, and the spacing within it."""
    if reference.ndim == 2:
        return (lambda array: array), "", (spacing[0], spacing[1])
    axis = int(np.argmax(spacing))  # the acquired slices
    order = [axis, *(other for other in range(3) if other != axis)]
    mm = [spacing[i] for i in order]
    index = longest_interface(reference.transpose(order), mm)
    return (lambda array: array.take(index, axis)), f"slice {index + 1} of {reference.shape[axis]}", (mm[1], mm[2])


def _contours(axes: Any, masks: Mapping[str, Mask], cut: Callable[[NDArray], NDArray]) -> None:
    limits = axes.axis()
    for index, mask in enumerate(masks.values()):
        # a border of background closes contours at the edge of the image; subtracting 1 puts them in place again
        inside = np.pad(cut(mask).astype(float), 1)
        if inside.any():
            rows, columns = (np.arange(n) - 1 for n in inside.shape)
            axes.contour(columns, rows, inside, levels=[0.5], colors=[_colour(index)], linewidths=1.4)
    axes.axis(limits)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]
