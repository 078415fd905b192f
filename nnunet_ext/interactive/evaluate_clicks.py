"""``nnunet-ext s2v evaluate-clicks``: quality of segmentations over the number of clicks of a simulated user.

The user sees the reference and clicks once per round, in the largest connected region of one slice (eight neighbours,
in pixels of the image) that is wrong and belongs to one label. The click has this label, which may be background, and
is at the pixel farthest from the region's border and from earlier clicks. So nothing is random. Clicks go through the
session like those of a person.

Protocol: one click at a time over all labels, not one per label. *NoC@85* and *NoC@90* are the numbers of clicks until
the mean Dice over the labels of a case reaches 0.85 and 0.90. Cases that never reach it count with the largest number
of clicks, and their number is reported. ``click_effects`` counts the effects of the single clicks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.data.reading import Volume
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.metrics import DEFINITIONS, EMPTY_RULES, CaseMetrics, mean
from nnunet_ext.interactive.click_cases import ClickCases, rounded, scored, way_name
from nnunet_ext.interactive.click_effects import Click, Effect, effect_of, effects_of
from nnunet_ext.interactive.click_report import ClickReport, click_cells
from nnunet_ext.interactive.session import S2VSession

SHOWN = (0, 1, 2, 3, 5, 10, 15, 20)
"""Numbers of clicks in the report, up to the largest number."""

TARGETS = (0.85, 0.9)

Metric = Literal["dice", "nsd"]
METRICS: tuple[Metric, ...] = get_args(Metric)


def next_click(
    prediction: NDArray,
    reference: NDArray,
    spacing_mm: Sequence[float],
    slice_axis: int = 0,
    ignore: int | None = None,
    earlier: Sequence[Click] = (),
) -> Click | None:
    """Return a click into the largest wrong region; None if nothing is wrong.

    Args:
        prediction: label map, ``(z, y, x)``.
        reference: label map of the same shape.
        spacing_mm: spacing of their axes.
        slice_axis: axis across the slices.
        ignore: ignore label of the reference, whose voxels are never wrong.
        earlier: earlier clicks.
    """
    wrong = prediction != reference
    if ignore is not None:
        wrong &= reference != ignore
    slices, truth = np.moveaxis(wrong, slice_axis, 0), np.moveaxis(reference, slice_axis, 0)
    best, place = 0, None
    for index in np.flatnonzero(slices.any((1, 2))).tolist():
        values, numbers = np.unique(truth[index][slices[index]], return_counts=True)
        for value, number in zip(values, numbers, strict=True):
            if number <= best:  # no region of it can be larger
                continue
            regions, _ = label(slices[index] & (truth[index] == value), np.ones((3, 3)))
            sizes = np.bincount(regions.ravel())[1:]
            if sizes.max() > best:
                best, place = int(sizes.max()), (index, int(value), regions == sizes.argmax() + 1)
    if place is None:
        return None
    index, value, region = place
    in_plane = [mm for axis, mm in enumerate(spacing_mm) if axis != slice_axis]
    free = region.copy()
    for click in earlier:
        if click.voxel[slice_axis] == index:
            free[tuple(np.delete(click.voxel, slice_axis))] = False
    depth = distance_transform_edt(np.pad(free if free.any() else region, 1), in_plane)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    voxel = [int(row), int(column)]
    voxel.insert(slice_axis, index)
    return Click((voxel[0], voxel[1], voxel[2]), value, best)


@dataclass(frozen=True)
class Moment:
    """One case after a number of clicks.

    Attributes:
        clicks: number of clicks.
        metrics: metrics by label or region, with NSD at one tolerance.
        click: the last click.
        seconds: time of its prediction, or of the automatic one.
        effect: effect of the last click.
    """

    clicks: int
    metrics: Mapping[str, CaseMetrics]
    click: Click | None
    seconds: float
    effect: Effect | None = None

    def score(self, metric: Metric, name: str | None = None) -> float:
        """Score of a label; by default the mean over the labels with a value."""
        chosen = self.metrics.values() if name is None else [self.metrics[name]]
        return mean(m.dice if metric == "dice" else next(iter(m.nsd.values())) for m in chosen)

    @property
    def dice(self) -> float:
        """Mean Dice over the labels with a value."""
        return self.score("dice")


@dataclass(frozen=True)
class Clicked:
    """All moments of a case; they end early if nothing is wrong any more.

    Attributes:
        case: name of the case.
        propagation: whether clicks propagated.
        moments: moments from the automatic result on.
    """

    case: str
    propagation: bool
    moments: tuple[Moment, ...]

    def at(self, clicks: int) -> Moment:
        """Moment after this number of clicks; the last one if fewer were needed."""
        return self.moments[min(clicks, len(self.moments) - 1)]

    def clicks_to(self, dice: float) -> int | None:
        """Number of clicks until the mean Dice reaches ``dice``; None if it never does.

        Where no label is in the reference, it is reached when none is segmented, which has no Dice (nan).
        """
        return next((moment.clicks for moment in self.moments if not moment.dice < dice), None)


@dataclass
class ClickEvaluation(ClickReport[Clicked]):
    """Results of all cases, with propagation and without.

    Attributes:
        tolerance_mm: tolerance of the NSD.
        most: largest number of clicks.
    """

    labels: ScoredLabels
    tolerance_mm: float
    most: int
    device: str
    threads: int
    cases: list[Clicked] = field(default_factory=list)
    peak_mib: float | None = None
    peak_gpu_mib: float | None = None

    @property
    def shown(self) -> list[int]:
        """The numbers of clicks in the report."""
        return sorted({n for n in SHOWN if n <= self.most} | {self.most})

    def curve(self, propagation: bool, metric: Metric, name: str | None = None) -> list[float]:
        """Means over cases after 0, 1, … clicks, with propagation or without; ``name`` as in :meth:`Moment.score`."""
        own = self.of(propagation)
        return [mean(case.at(clicks).score(metric, name) for case in own) for clicks in range(self.most + 1)]

    def curves(self, propagation: bool, metric: Metric) -> dict[str, list[float]]:
        """The :meth:`curve` of the mean over labels, then of every label."""
        names = [None, *self.labels.values]
        return {name or "mean": self.curve(propagation, metric, name) for name in names}

    def protocol(self) -> dict[str, Any]:
        """Settings of the clicks and of the scores."""
        return {
            "clicks": self.most,
            "nsd_tolerance_mm": self.tolerance_mm,
            "definitions": [DEFINITIONS["surface"], EMPTY_RULES["diagonal"]],
        }

    def means(self, way: bool) -> dict[str, Any]:
        """Curves, clicks to the targets, seconds and effects of one way."""
        own = self.of(way)
        seconds = [moment.seconds for case in own for moment in case.moments[1:]]
        result: dict[str, Any] = {
            metric: {
                name: {str(n): rounded(curve[n]) for n in self.shown}
                for name, curve in self.curves(way, metric).items()
            }
            for metric in METRICS
        }
        for target in TARGETS:
            found = [case.clicks_to(target) for case in own]
            numbers = [self.most if n is None else n for n in found]
            result[f"noc_{round(100 * target)}"] = {"mean": rounded(mean(numbers)), "failed": found.count(None)}
        result["seconds_automatic"] = rounded(mean([case.moments[0].seconds for case in own]))
        result["seconds_per_click"] = {
            "mean": rounded(mean(seconds)),
            "median": rounded(float(np.median(seconds))) if seconds else None,
            "max": rounded(max(seconds, default=math.nan)),
            "clicks": len(seconds),
        }
        result["effects"] = effects_of([m.effect for case in own for m in case.moments if m.effect is not None])
        return result

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per case, way, number of clicks and label."""
        for case in self.cases:
            for moment in case.moments:
                click, effect = moment.click, moment.effect
                for name, metrics in moment.metrics.items():
                    yield {
                        "case": case.case,
                        "propagation": way_name(case.propagation),
                        "clicks": moment.clicks,
                        "label": name,
                        "dice": metrics.dice,
                        f"nsd_{self.tolerance_mm:g}mm": metrics.nsd[self.tolerance_mm],
                        "status": metrics.status,
                        "seconds": round(moment.seconds, 4),
                        **click_cells(click),
                        "obeyed": int(effect.obeyed) if effect else "",
                        "fixed": effect.fixed if effect else "",
                        "broken": effect.broken if effect else "",
                        "slices": effect.slices if effect else "",
                    }

    def lines(self) -> Iterator[str]:
        """The means, line by line."""
        yield f"{'clicks':<22}" + "".join(f"{n:>8}" for n in self.shown)
        for way in self.ways:
            own = self.means(way)
            for metric in METRICS:
                numbers = own[metric]["mean"].values()
                cells = "".join(f"{'–' if n is None else format(n, '.3f'):>8}" for n in numbers)
                yield f"{f'{metric}, propagation {way_name(way)}':<22}" + cells
            for target in TARGETS:
                found = own[f"noc_{round(100 * target)}"]
                yield (
                    f"clicks to Dice {target:g}: {found['mean']:.1f} on average, not reached in {found['failed']} of "
                    f"{self.number_of_cases} cases, which count as {self.most}"
                )
            found = own["effects"]
            if found["clicks"]:
                yield (
                    f"of {found['clicks']} clicks {found['obeyed_percent']:.1f} % obeyed, "
                    f"{found['harmful_percent']:.1f} % harmful; {found['fixed']} voxels fixed, {found['broken']} "
                    f"broken; {found['slices']['mean']:.1f} slices touched per click"
                )
            spent, automatic = own["seconds_per_click"]["mean"], own["seconds_automatic"]
            yield f"seconds: automatic {automatic:.2f}, per click {'–' if spent is None else f'{spent:.2f}'}"

    def panels(self) -> dict[str, dict[tuple[str, str], list[float]]]:
        """Curves of the figure, Dice and NSD."""
        titles: dict[str, Metric] = {"Dice": "dice", f"NSD at {self.tolerance_mm:g} mm": "nsd"}
        return {
            title: {
                (name, way_name(way)): curve for way in self.ways for name, curve in self.curves(way, metric).items()
            }
            for title, metric in titles.items()
        }


def evaluate_clicks(
    images: str | Path,
    references: str | Path,
    model: str | Path,
    *,
    clicks: int = 10,
    propagation: Sequence[bool] = (True,),
    nsd_tolerance_mm: float = 1.0,
    done: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> ClickEvaluation:
    """Click in all cases of a folder.

    Args:
        images: folder of images, named as for nnU-Net.
        references: folder of their label maps.
        model: folder with ``plans.json`` and ``fold_…``.
        clicks: largest number of clicks per case.
        propagation: True, False for clicks that change only their slice, or both.
        nsd_tolerance_mm: tolerance of the NSD.
        done: called with a line after every case.
        options: options of :meth:`ClickCases.opened`, such as ``cases`` and ``fold``.

    Raises:
        InputError: the model, a file or a case is missing, or does not fit.
    """
    if clicks < 1:
        raise InputError(f"The number of clicks is {clicks}; it is at least 1.")
    opened = ClickCases.opened(images, references, model, **options)
    found = ClickEvaluation(opened.labels, float(nsd_tolerance_mm), clicks, str(opened.session.device), opened.threads)
    for name, way, truth in opened.each(propagation):
        moments = click_through(opened.session, truth, opened.labels, clicks, float(nsd_tolerance_mm))
        case = Clicked(name, way, tuple(moments))
        found.cases.append(case)
        first, last = case.moments[0], case.moments[-1]
        done(
            f"{name}, propagation {way_name(way)}: Dice {first.dice:.3f}, after {last.clicks} clicks {last.dice:.3f}, "
            f"{sum(moment.seconds for moment in case.moments):.1f} s"
        )
    found.peak_mib, found.peak_gpu_mib = opened.peak_mib()
    return found


def click_through(
    session: S2VSession, truth: Volume, labels: ScoredLabels, most: int, nsd_tolerance_mm: float
) -> Iterator[Moment]:
    """Segment the image of a session automatically, then click until nothing is wrong, and yield every moment.

    Args:
        session: session with the image.
        truth: reference of the image.
        labels: labels to score.
        most: largest number of clicks.
        nsd_tolerance_mm: tolerance of the NSD.
    """
    reference = truth.array.reshape(session.case.shape)
    spacing = truth.spacing_mm if truth.array.ndim == 3 else (1.0, *truth.spacing_mm)
    axis = session.case.slice_axis
    start = time.perf_counter()
    session.predict_automatic()
    click, effect, spent = None, None, time.perf_counter() - start
    clicks: list[Click] = []
    for number in range(most + 1):
        yield Moment(number, scored(session, truth, labels, nsd_tolerance_mm), click, spent, effect)
        click = next_click(session.target_buffer, reference, spacing, axis, labels.ignore, clicks)
        if click is None or number == most:
            return
        clicks.append(click)
        before, start = session.target_buffer.copy(), time.perf_counter()
        session.add_point_interaction(click.voxel, label=click.label)
        spent = time.perf_counter() - start
        effect = effect_of(before, session.target_buffer, reference, clicks, axis, labels.ignore)
