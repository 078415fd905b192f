"""The scores of all cases of a folder: rows, means, and their files and texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.data.spacing_files import known_spacing
from nnunet_ext.evaluation import interfaces, slice_consistency, topology
from nnunet_ext.evaluation.interfaces import InterfaceMetrics
from nnunet_ext.evaluation.metrics import DEFINITIONS, EMPTY_RULES, CaseMetrics, EmptyRule, mean, shown
from nnunet_ext.evaluation.slice_consistency import Consistency
from nnunet_ext.evaluation.surfaces import Definition
from nnunet_ext.evaluation.topology import Topology
from nnunet_ext.files import replacing, write_rows
from nnunet_ext.findings import aligned, some
from nnunet_ext.version import __version__

COUNTS = ("counted", "both_empty", "one_empty")
"""The last columns of the means."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Settings:
    """Settings for scoring every case; see :func:`nnunet_ext.evaluation.metrics.label_metrics`.

    ``slice_axis`` is the axis along which neighbouring slices are compared; None compares none.
    """

    labels: ScoredLabels
    reader: str
    nsd_tolerances_mm: tuple[float, ...]
    definition: Definition
    empty: EmptyRule
    slice_axis: int | None = None
    interfaces: bool = False
    topology: bool = False


@dataclass(frozen=True)
class Case:
    """One case, with its numbers by label or region; the last three fields are empty unless they were requested."""

    name: str
    reference: Path
    prediction: Path
    metrics: Mapping[str, CaseMetrics]
    dimensions: int = 3
    consistency: Mapping[str, Consistency] = field(default_factory=dict)
    topology: Mapping[str, Topology] = field(default_factory=dict)
    interfaces: Mapping[Pair, InterfaceMetrics] = field(default_factory=dict)

    def mean_dice(self) -> float:
        """Mean Dice over the labels with a value."""
        return mean(metrics.dice for metrics in self.metrics.values())


IGNORED = (
    "voxels whose reference is {} (ignore) are left out of both masks, which have no surface where they meet them; if "
    "they touch a surface of the definition surface, it consists of the faces between counted voxels, weighted by area"
)
"""The definition in one sentence, with the label."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of all cases, and the settings they were computed with."""

    cases: tuple[Case, ...]
    settings: Settings
    left_out: tuple[str, ...] = ()
    """Cases that are in only one of the folders."""
    subject_of: Mapping[str, str] = field(default_factory=dict)
    """The subject of every case; empty if subjects are unknown, and every case counts as one."""
    partly: tuple[str, ...] = ()
    """Cases of which ``dataset.json`` says that only some labels were annotated."""

    @property
    def definitions(self) -> list[str]:
        """Definitions of the numbers; every output quotes them."""
        ignored = self.settings.labels.ignore
        return [
            f"definition {self.settings.definition}: {DEFINITIONS[self.settings.definition]}",
            f"empty masks: {EMPTY_RULES[self.settings.empty]}",
            *([] if ignored is None else [IGNORED.format(ignored)]),
            *([slice_consistency.DEFINITION] if self.settings.slice_axis is not None else []),
            *([topology.DEFINITION] if self.settings.topology else []),
            *([interfaces.DEFINITION] if self.settings.interfaces else []),
        ]

    @property
    def unit(self) -> str:
        """The text with the numbers of cases and subjects, and the unit over which means are taken."""
        count = f"{len(self.cases)} cases"
        if not self.subject_of:
            return f"{count}, the case is the unit"
        subjects = len({self.subject_of[case.name] for case in self.cases})
        return f"{subjects} subjects, {count}; the subject is the unit: its cases are averaged first"

    def numbers(self, case: Case, label: str) -> dict[str, float]:
        """The numbers of one case and label, by the column names of the CSV file."""
        metrics = case.metrics[label]
        unit = "ml" if self.cases[0].dimensions == 3 else "mm2"
        return {
            "dice": metrics.dice,
            "iou": metrics.iou,
            "hd95_mm": metrics.hd95_mm,
            "assd_mm": metrics.assd_mm,
            **{f"nsd_{tolerance:g}mm": value for tolerance, value in metrics.nsd.items()},
            f"reference_{unit}": metrics.size_reference,
            f"prediction_{unit}": metrics.size_prediction,
            **_of_consistency(case.consistency.get(label)),
            **_of_topology(case.topology.get(label)),
        }

    def interface_numbers(self, case: Case, pair: Pair) -> dict[str, float]:
        """The numbers of one case and pair of labels, by the column names of the CSV file."""
        found = case.interfaces[pair]
        unit = "mm2" if self.cases[0].dimensions == 3 else "mm"
        return {
            "interface_hd95_mm": found.hd95_mm,
            **{f"interface_nsd_{tolerance:g}mm": value for tolerance, value in found.nsd.items()},
            "interface_confusion": found.confusion,
            f"interface_reference_{unit}": found.size_reference,
            f"interface_prediction_{unit}": found.size_prediction,
        }

    @property
    def pairs(self) -> list[Pair]:
        """Pairs of labels that touch in at least one reference or prediction."""
        pairs = self.cases[0].interfaces
        return [pair for pair in pairs if any(case.interfaces[pair].status != "both empty" for case in self.cases)]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Tidy rows, one per case and label."""
        for case in self.cases:
            for label, metrics in case.metrics.items():
                yield {**self._names(case), "label": label, **self.numbers(case, label), "status": metrics.status}

    def interface_rows(self) -> Iterator[dict[str, Any]]:
        """Tidy rows, one per case and pair of labels."""
        for case in self.cases:
            for pair in self.pairs:
                numbers, status = self.interface_numbers(case, pair), case.interfaces[pair].status
                yield {**self._names(case), "labels": _title(pair), **numbers, "status": status}

    def means(self) -> dict[str, dict[str, float]]:
        """Means of every label over the cases with a value, with the numbers of these cases and of empty masks.

        If subjects are known, the cases of each subject are averaged first. The entry ``mean`` averages the labels.
        """
        result = {
            label: self._mean_row(
                [self.numbers(case, label) for case in self.cases],
                [case.metrics[label].status for case in self.cases],
            )
            for label in self.settings.labels.values
        }
        keys = next(iter(result.values()))
        result["mean"] = {key: mean(row[key] for row in result.values()) for key in keys}
        return result

    def interface_means(self) -> dict[str, dict[str, float]]:
        """Like :meth:`means`, for every pair of labels."""
        return {
            _title(pair): self._mean_row(
                [self.interface_numbers(case, pair) for case in self.cases],
                [case.interfaces[pair].status for case in self.cases],
            )
            for pair in self.pairs
        }

    def table(self) -> str:
        """The means as text."""
        return "\n".join(_table(self.means()))

    def report(self) -> str:
        """The text to print: tables, definitions of the numbers, and the cases left out."""
        lines = [self.table(), ""]
        if self.settings.interfaces:
            touching = self.interface_means()
            lines += [*_table(touching), ""] if touching else ["no two labels touch each other in any case", ""]
        lines += [self.unit, *self.definitions]
        if self.left_out:
            lines.append(f"left out, because they are in one folder only: {some(self.left_out)}")
        if unknown := self._without_spacing():
            lines.append(
                f"WARNING: the files of {some(unknown)} hold no spacing, so distances and sizes are in pixels, also "
                "where mm stands here"
            )
        if self.partly:
            lines.append(
                f"WARNING: of {some(self.partly)} only some labels were annotated (annotated_labels of dataset.json). "
                "If the references are those annotations, every prediction of another label counts as false there; "
                "compare with complete labels, or choose labels that all cases have with --labels"
            )
        return "\n".join(lines)

    def _without_spacing(self) -> list[str]:
        """Cases whose files hold no spacing, for which nnU-Net's readers take 1."""
        if self.settings.reader not in ("NaturalImage2DIO", "Tiff3DIO"):
            return []
        if self.settings.reader == "NaturalImage2DIO":
            return [case.name for case in self.cases]
        return [case.name for case in self.cases if known_spacing(case.reference) is None]

    def write(self, summary: Path, table: Path) -> None:
        """Write a superset of nnU-Net's ``summary.json``, and a CSV file with one row per case and label.

        If interfaces were measured, ``interfaces.csv`` beside the table has one row per case and pair of labels.
        """
        rows = list(self.rows())
        for path in (summary, table):
            path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self._summary(), indent=4, sort_keys=True, ensure_ascii=False)
        with replacing(summary) as temporary:
            temporary.write_text(content, encoding="utf-8")
        write_rows(table, rows[0], rows)
        if self.settings.interfaces:
            rows = list(self.interface_rows())
            write_rows(interfaces_beside(table), rows[0] if rows else ["case", "labels"], rows)
        else:
            self._remove_outdated(interfaces_beside(table))

    def _remove_outdated(self, table: Path) -> None:
        """Remove a table of interfaces that is older than a prediction, so that it does not pass for one of these."""
        if not table.is_file() or table.stat().st_mtime >= max(case.prediction.stat().st_mtime for case in self.cases):
            return
        with table.open(encoding="utf-8", errors="replace") as lines:
            if {"case", "labels", "interface_hd95_mm"} <= set(lines.readline().strip().split(",")):
                table.unlink()

    def _names(self, case: Case) -> dict[str, str]:
        return {"case": case.name, **({"subject": self.subject_of[case.name]} if self.subject_of else {})}

    def _mean_row(self, rows: list[dict[str, float]], states: list[str]) -> dict[str, float]:
        count = Counter(states)
        return {
            **{key: self._mean(row[key] for row in rows) for key in rows[0]},
            "counted": len(rows) - (count["both empty"] if self.settings.empty == "diagonal" else 0),
            "both_empty": count["both empty"],
            "one_empty": count["prediction empty"] + count["reference empty"],
        }

    def _mean(self, values: Iterable[float]) -> float:
        """Mean over subjects of one value per case."""
        of_subject: dict[str, list[float]] = {}
        for case, value in zip(self.cases, values, strict=True):
            of_subject.setdefault(self.subject_of.get(case.name, case.name), []).append(value)
        return mean(mean(own) for own in of_subject.values())

    def _summary(self) -> dict[str, Any]:
        labels = self.settings.labels.values
        keys = {name: ScoredLabels.key(value) for name, value in labels.items()}
        if len(set(keys.values())) < len(keys):  # the same label under two names
            keys = {name: name for name in labels}
        cases: list[dict[str, Any]] = [
            {
                "reference_file": str(case.reference),
                "prediction_file": str(case.prediction),
                "metrics": {keys[name]: self._nnunet_names(case, name) for name in case.metrics},
                "status": {keys[name]: metrics.status for name, metrics in case.metrics.items()},
            }
            for case in self.cases
        ]
        means = {
            key: {metric: mean(case["metrics"][key][metric] for case in cases) for metric in cases[0]["metrics"][key]}
            for key in keys.values()
        }
        columns = next(iter(means.values()))
        # as in nnU-Net, unless nothing but the background is scored
        foreground = [row for key, row in means.items() if key != "0"] or list(means.values())
        return {
            "metric_per_case": cases,
            "mean": means,
            "foreground_mean": {metric: mean(row[metric] for row in foreground) for metric in columns},
            "nnunet_ext": {
                "version": __version__,
                "definitions": self.definitions,
                "unit": self.unit,
                "labels": {name: keys[name] for name in labels},
                "means": self.means(),
                "left_out": list(self.left_out),
                **({"subjects": dict(self.subject_of)} if self.subject_of else {}),
                **({"interfaces": self.interface_means()} if self.settings.interfaces else {}),
            },
        }

    def _nnunet_names(self, case: Case, label: str) -> dict[str, float]:
        metrics, numbers = case.metrics[label], self.numbers(case, label)
        return {
            "Dice": numbers.pop("dice"),
            "IoU": numbers.pop("iou"),
            "TP": metrics.tp,
            "FP": metrics.fp,
            "FN": metrics.fn,
            "TN": metrics.tn,
            "n_pred": metrics.n_pred,
            "n_ref": metrics.n_ref,
            **numbers,
        }


def interfaces_beside(table: Path) -> Path:
    """The path of ``interfaces.csv`` beside ``metrics.csv``."""
    return table.with_name("interfaces.csv")


# --- parts ------------------------------------------------------------------------------------------------------------


def _title(pair: Pair) -> str:
    return " | ".join(pair)


def _table(means: Mapping[str, Mapping[str, float]]) -> list[str]:
    columns = list(next(iter(means.values())))
    rows = [["", *columns]]
    for label, row in means.items():
        hidden = COUNTS if label == "mean" else ()
        cells = ["" if key in hidden else shown(row[key], 0 if key in COUNTS else 3) for key in columns]
        rows.append([label, *cells])
    return aligned(rows)


def _of_consistency(consistency: Consistency | None) -> dict[str, float]:
    if consistency is None:
        return {}
    return {
        "consistency": consistency.prediction,
        "consistency_reference": consistency.reference,
        "consistency_difference": consistency.difference,
    }


def _of_topology(found: Topology | None) -> dict[str, float]:
    return {f"betti_{number}_error": error for number, error in enumerate(found.errors)} if found else {}
