"""``nnunet-ext s2v evaluate-clicks --protocol cvpr2025``: the areas and final numbers of a challenge's protocol.

``box_and_clicks`` makes the prompts and computes the areas. The session begins with its automatic result and gets all
boxes at once; then in each of five rounds it gets all clicks at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.data.reading import Volume
from nnunet_ext.evaluation.metrics import DEFINITIONS, CaseMetrics, mean, shown
from nnunet_ext.interactive.box_and_clicks import (
    CLICKS,
    LEAST_DSC,
    NSD_TOLERANCE_MM,
    area_under,
    boxes,
    round_of_clicks,
)
from nnunet_ext.interactive.click_cases import ClickCases, rounded, scored, way_name
from nnunet_ext.interactive.click_effects import Click
from nnunet_ext.interactive.click_report import ClickReport, click_cells
from nnunet_ext.interactive.session import S2VSession

NUMBERS = {"dsc_auc": "DSC-AUC", "nsd_auc": "NSD-AUC", "dsc_final": "final DSC", "nsd_final": "final NSD"}
"""Names of a case's numbers in print."""

RULE = (
    f"NSD at {NSD_TOLERANCE_MM:g} mm, 0 where the mean DSC of a case is not above {LEAST_DSC:g}; means over the "
    f"structures that a reference holds; areas over the {CLICKS} clicks, {CLICKS - 1} at most"
)


@dataclass(frozen=True)
class Round:
    """One case after its boxes, or after one more click per structure.

    Attributes:
        metrics: metrics by structure, with NSD at the tolerance of the protocol.
        clicks: clicks by structure; none after the boxes, and none for a perfect structure.
        seconds: time of the prediction; 0 if nothing was drawn.
    """

    metrics: Mapping[str, CaseMetrics]
    clicks: Mapping[str, Click]
    seconds: float

    @property
    def dsc(self) -> float:
        """Mean DSC over the structures of the reference; NaN if it holds none."""
        return mean(metrics.dice for metrics in self._there())

    @property
    def nsd(self) -> float:
        """Mean NSD over the structures of the reference; 0 if the DSC is too low, NaN if the reference holds none."""
        found = mean(metrics.nsd[NSD_TOLERANCE_MM] for metrics in self._there())
        return 0.0 if self.dsc <= LEAST_DSC else found

    def _there(self) -> list[CaseMetrics]:
        return [metrics for metrics in self.metrics.values() if metrics.n_ref]


@dataclass(frozen=True)
class BoxedCase:
    """All rounds of a case.

    Attributes:
        case: name of the case.
        propagation: whether prompts propagated.
        rounds: results after the boxes, then after each click.
    """

    case: str
    propagation: bool
    rounds: tuple[Round, ...]

    @property
    def numbers(self) -> dict[str, float]:
        """The four numbers of the protocol, see :data:`NUMBERS`."""
        dsc, nsd = ([getattr(each, name) for each in self.rounds] for name in ("dsc", "nsd"))
        return {
            "dsc_auc": area_under(dsc[1:]),
            "nsd_auc": area_under(nsd[1:]),
            "dsc_final": dsc[-1],
            "nsd_final": nsd[-1],
        }


@dataclass
class BoxAndClicks(ClickReport[BoxedCase]):
    """Results of all cases, with propagation and without."""

    across = "clicks per structure, after a box"

    labels: ScoredLabels
    device: str
    threads: int
    cases: list[BoxedCase] = field(default_factory=list)
    peak_mib: float | None = None
    peak_gpu_mib: float | None = None

    def curves(self, way: bool) -> dict[str, dict[str, list[float]]]:
        """Means over cases after the boxes and after each click, by ``dsc`` or ``nsd``, for ``mean`` and structures."""
        rounds = list(zip(*(case.rounds for case in self.of(way)), strict=True))
        found = {
            name: {"mean": [mean(getattr(one, name) for one in each) for each in rounds]} for name in ("dsc", "nsd")
        }
        for name in self.labels.values:
            there = [[one.metrics[name] for one in each if one.metrics[name].n_ref] for each in rounds]
            found["dsc"][name] = [mean(metrics.dice for metrics in each) for each in there]
            found["nsd"][name] = [mean(metrics.nsd[NSD_TOLERANCE_MM] for metrics in each) for each in there]
        return found

    def protocol(self) -> dict[str, Any]:
        """Settings of the clicks and of the scores."""
        return {"protocol": "cvpr2025", "definitions": [DEFINITIONS["surface"], RULE]}

    def means(self, way: bool) -> dict[str, Any]:
        """The four numbers, seconds and curves of one way, and the numbers of each case."""
        own = self.of(way)
        curves = {
            metric: {name: [rounded(value) for value in curve] for name, curve in found.items()}
            for metric, found in self.curves(way).items()
        }
        return {
            **{name: rounded(mean(case.numbers[name] for case in own)) for name in NUMBERS},
            "seconds": rounded(mean(each.seconds for case in own for each in case.rounds if each.seconds)),
            **curves,
            "of each case": {case.case: {name: rounded(value) for name, value in case.numbers.items()} for case in own},
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per case, way, round and structure."""
        for case in self.cases:
            for number, each in enumerate(case.rounds):
                for name, metrics in each.metrics.items():
                    click = each.clicks.get(name)
                    yield {
                        "case": case.case,
                        "propagation": way_name(case.propagation),
                        "clicks": number,
                        "label": name,
                        "dsc": metrics.dice,
                        f"nsd_{NSD_TOLERANCE_MM:g}mm": metrics.nsd[NSD_TOLERANCE_MM],
                        "status": metrics.status,
                        "seconds": round(each.seconds, 4),
                        **click_cells(click),
                    }

    def lines(self) -> Iterator[str]:
        """The means, line by line."""
        yield f"{'':<22}{'box':>8}" + "".join(f"{f'{n + 1}. click':>10}" for n in range(CLICKS))
        for way in self.ways:
            own = self.of(way)
            for metric, curves in self.curves(way).items():
                first, *others = (shown(value, 3) for value in curves["mean"])
                title = f"{metric.upper()}, propagation {way_name(way)}"
                yield f"{title:<22}{first:>8}" + "".join(f"{value:>10}" for value in others)
            means = {name: mean(case.numbers[name] for case in own) for name in NUMBERS}
            yield ", ".join(f"{title} {shown(means[name], 3)}" for name, title in NUMBERS.items())
            spent = mean(each.seconds for case in own for each in case.rounds if each.seconds)
            yield f"seconds per round: {shown(spent, 2)}"
        yield RULE

    def panels(self) -> dict[str, dict[tuple[str, str], list[float]]]:
        """Curves of the figure, DSC and NSD."""
        found = {way_name(way): self.curves(way) for way in self.ways}
        return {
            title: {(name, way): curve for way, curves in found.items() for name, curve in curves[metric].items()}
            for title, metric in {"DSC": "dsc", f"NSD at {NSD_TOLERANCE_MM:g} mm": "nsd"}.items()
        }


def evaluate_box_and_clicks(
    images: str | Path,
    references: str | Path,
    model: str | Path,
    *,
    propagation: Sequence[bool] = (True,),
    done: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> BoxAndClicks:
    """Draw boxes and click in all cases of a folder.

    Args:
        images: folder of images, named as for nnU-Net.
        references: folder of their label maps.
        model: folder with ``plans.json`` and ``fold_…``.
        propagation: True, False for prompts that change only their slice, or both.
        done: called with a line after every case.
        options: options of :meth:`ClickCases.opened`, such as ``cases`` and ``fold``.

    Raises:
        InputError: the model, a file or a case is missing, or does not fit.
    """
    opened = ClickCases.opened(images, references, model, **options)
    found = BoxAndClicks(opened.labels, str(opened.session.device), opened.threads)
    for name, way, truth in opened.each(propagation):
        case = BoxedCase(name, way, tuple(_rounds(opened.session, truth, opened.labels, name)))
        found.cases.append(case)
        numbers = ", ".join(f"{title} {shown(case.numbers[key], 3)}" for key, title in NUMBERS.items())
        done(f"{name}, propagation {way_name(way)}: {numbers}, {math.fsum(r.seconds for r in case.rounds):.1f} s")
    found.peak_mib, found.peak_gpu_mib = opened.peak_mib()
    return found


def _rounds(session: S2VSession, truth: Volume, labels: ScoredLabels, case: str) -> Iterator[Round]:
    reference = truth.array.reshape(session.case.shape)
    structures = [value for value in session.labels.values() if value]
    drawn = boxes(reference, structures, session.case.slice_axis, case)
    start = time.perf_counter()
    session.predict_automatic()
    for value, box in drawn.items():
        session.add_bbox_interaction(box, run_prediction=False, label=value)
    session.predict()
    clicks: dict[str, Click] = {}
    for number in range(CLICKS + 1):
        if number:
            clicks = round_of_clicks(session.target_buffer, reference, labels)
            start = time.perf_counter()
            for voxel, value in dict.fromkeys((click.voxel, click.label) for click in clicks.values()):
                session.add_point_interaction(voxel, run_prediction=False, label=value)
            session.predict()
        spent = time.perf_counter() - start if clicks or not number else 0.0
        yield Round(scored(session, truth, labels, NSD_TOLERANCE_MM), clicks, spent)
