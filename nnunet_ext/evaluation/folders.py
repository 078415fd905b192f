"""``nnunet-ext evaluate``: every case of a folder of predictions against its reference."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.data.reading import Reader, require_same_geometry
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.metrics import DEFINITIONS, EMPTY_RULES, CaseMetrics, EmptyRule, label_metrics, mean, shown
from nnunet_ext.evaluation.slice_consistency import DEFINITION, Consistency, slice_consistency
from nnunet_ext.evaluation.surfaces import Definition
from nnunet_ext.files import read_json, replacing, write_rows
from nnunet_ext.findings import aligned, some
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.version import __version__

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl", ".png", ".bmp", ".tif", ".tiff")
"""Of the files that nnU-Net reads."""


@dataclass(frozen=True)
class Settings:
    """How every case is scored; see :func:`nnunet_ext.evaluation.metrics.label_metrics`.

    ``slice_axis``: along which neighbouring slices are compared; None: they are not.
    """

    labels: ScoredLabels
    reader: str
    nsd_tolerances_mm: tuple[float, ...]
    definition: Definition
    empty: EmptyRule
    slice_axis: int | None = None


@dataclass(frozen=True)
class Case:
    """One case; ``metrics`` and ``consistency`` by the name of the label or region, the latter only if asked for."""

    name: str
    reference: Path
    prediction: Path
    metrics: Mapping[str, CaseMetrics]
    dimensions: int = 3
    consistency: Mapping[str, Consistency] = field(default_factory=dict)

    def mean_dice(self) -> float:
        """Over the labels that count."""
        return mean(metrics.dice for metrics in self.metrics.values())


@dataclass(frozen=True)
class Evaluation:
    """All cases, and what their numbers mean."""

    cases: tuple[Case, ...]
    settings: Settings
    left_out: tuple[str, ...] = ()
    """Cases that are in one folder only."""

    @property
    def definitions(self) -> list[str]:
        """The sentences that every output quotes."""
        ignored = self.settings.labels.ignore
        return [
            f"definition {self.settings.definition}: {DEFINITIONS[self.settings.definition]}",
            f"empty masks: {EMPTY_RULES[self.settings.empty]}",
            *([f"voxels whose reference is {ignored} (ignore) are left out of both masks"] if ignored else []),
            *([DEFINITION] if self.settings.slice_axis is not None else []),
        ]

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
            **_columns(case.consistency.get(label)),
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per case and label: tidy."""
        for case in self.cases:
            for label, metrics in case.metrics.items():
                yield {"case": case.name, "label": label, **self.numbers(case, label), "status": metrics.status}

    def means(self) -> dict[str, dict[str, float]]:
        """Per label the mean over the cases that count, how many they are, and how many masks were empty.

        The label ``mean`` is the mean of the labels.
        """
        result: dict[str, dict[str, float]] = {}
        for label in self.settings.labels.values:
            columns = [self.numbers(case, label) for case in self.cases]
            means = {key: mean(row[key] for row in columns) for key in columns[0]}
            states = Counter(case.metrics[label].status for case in self.cases)
            result[label] = {
                **means,
                "counted": len(columns) - states["both empty"],
                "both_empty": states["both empty"],
                "one_empty": states["prediction empty"] + states["reference empty"],
            }
        keys = next(iter(result.values()))
        result["mean"] = {key: mean(row[key] for row in result.values()) for key in keys}
        return result

    def table(self) -> str:
        """The means, as text."""
        means = self.means()
        columns = list(next(iter(means.values())))
        rows = [["", *columns]]
        for label, row in means.items():
            counts = ("counted", "both_empty", "one_empty")
            cells = [shown(row[key], 0 if key in counts else 3) for key in columns]
            rows.append([label, *cells[: len(columns) - 3], *(["", "", ""] if label == "mean" else cells[-3:])])
        return "\n".join(aligned(rows))

    def report(self) -> str:
        """Table, what its numbers mean, and what was left out: everything a reader needs."""
        lines = [self.table(), "", f"{len(self.cases)} cases, the case is the unit", *self.definitions]
        if self.left_out:
            lines.append(f"left out, because they are in one folder only: {some(self.left_out)}")
        return "\n".join(lines)

    def write(self, summary: Path, table: Path) -> None:
        """Write a superset of nnU-Net's ``summary.json`` and a CSV file with one row per case and label."""
        rows = list(self.rows())
        for path in (summary, table):
            path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self._summary(), indent=4, sort_keys=True, ensure_ascii=False)
        with replacing(summary) as temporary:
            temporary.write_text(content, encoding="utf-8")
        write_rows(table, rows[0], rows)

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
        return {
            "metric_per_case": cases,
            "mean": means,
            "foreground_mean": {metric: mean(row[metric] for row in means.values()) for metric in columns},
            "nnunet_ext": {
                "version": __version__,
                "definitions": self.definitions,
                "labels": {name: keys[name] for name in labels},
                "means": self.means(),
                "left_out": list(self.left_out),
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


def evaluate_folders(
    reference: str | Path,
    prediction: str | Path,
    *,
    labels: ScoredLabels | None = None,
    dataset_json: str | Path | None = None,
    plans: str | Path | None = None,
    cases: Sequence[str] | None = None,
    common: bool = False,
    nsd_tolerances_mm: Sequence[float] = (1.0,),
    definition: Definition = "surface",
    empty: EmptyRule = "diagonal",
    consistency: bool = False,
    processes: int | None = None,
) -> Evaluation:
    """Score every case of ``reference`` with the file of the same name in ``prediction``.

    Args:
        reference, prediction: folders of label maps in any format that nnU-Net reads.
        labels: what is scored; from ``dataset.json`` by default.
        dataset_json, plans: looked for beside the predictions, then beside the references, by default. The plans only
            name the reader, and the axis of the slices.
        cases: only these; all of ``reference`` by default.
        common: score what is in both folders instead of refusing when they differ.
        nsd_tolerances_mm, definition, empty: see :func:`nnunet_ext.evaluation.metrics.label_metrics`.
        consistency: compare neighbouring slices too, see :mod:`nnunet_ext.evaluation.slice_consistency`.
        processes: how many cases at a time; as many as there are cores by default.

    Raises:
        InputError: in one sentence, with the case and the fix, whatever does not fit.
    """
    reference, prediction = Path(reference), Path(prediction)
    for name, folder in (("reference", reference), ("prediction", prediction)):
        if not folder.is_dir():
            raise InputError(f"The {name} folder {folder} does not exist.")
    found = _beside(dataset_json, "dataset.json", prediction, reference)
    description = read_json(found) if found else {}
    if labels is None:
        if found is None:
            raise InputError(
                f"There is no dataset.json beside {prediction} or {reference}; give it with --dataset-json, or name "
                "what is scored: --labels left=1 right=2."
            )
        labels = ScoredLabels.from_dataset_json(description, str(found))
    ending = description.get("file_ending") or _ending(reference)
    names, left_out = _matched(reference, prediction, ending, cases, common)
    plans_file = _beside(plans, "plans.json", prediction)
    planned = read_json(plans_file) if plans_file else {}
    axis = _slice_axis(planned, plans_file, prediction) if consistency else None
    reader = planned.get("image_reader_writer")
    if reader is None:
        reader = Reader.for_file(reference / f"{names[0]}{ending}", ending, description).name
    settings = Settings(labels, reader, tuple(map(float, nsd_tolerances_mm)), definition, empty, axis)
    pairs = [(name, reference / f"{name}{ending}", prediction / f"{name}{ending}") for name in names]
    calls = [(*pair, settings) for pair in pairs]
    return Evaluation(tuple(for_every_case(evaluate_case, calls, processes, "evaluate")), settings, left_out)


def evaluate_case(name: str, reference: Path, prediction: Path, settings: Settings) -> Case:
    """Score one case.

    Raises:
        InputError: the two do not lie on the same voxels, or hold what is no label.
    """
    reader = Reader(settings.reader)
    truth, predicted = reader.labels(reference), reader.labels(prediction)
    require_same_geometry(name, truth, predicted)
    if settings.labels.known is not None:
        for file, volume in ((reference, truth), (prediction, predicted)):
            unknown = set(np.unique(volume.array).tolist()) - settings.labels.known
            if unknown:
                raise InputError(
                    f"{file}: the label values {sorted(unknown)} are not in dataset.json, which has "
                    f"{sorted(settings.labels.known)}; correct the file, or name what is scored with --labels."
                )
    metrics = label_metrics(
        predicted.array,
        truth.array,
        truth.spacing_mm,
        settings.labels.values,
        ignore_label=settings.labels.ignore,
        nsd_tolerances_mm=settings.nsd_tolerances_mm,
        definition=settings.definition,
        empty=settings.empty,
    )
    found: Mapping[str, Consistency] = {}
    if settings.slice_axis is not None:
        if truth.array.ndim != 3:
            raise InputError(f"{reference} is a single slice, which has no neighbours; leave --consistency out.")
        found = slice_consistency(
            predicted.array,
            truth.array,
            settings.labels.values,
            settings.slice_axis,
            ignore_label=settings.labels.ignore,
        )
    return Case(name, reference, prediction, metrics, truth.array.ndim, found)


# --- parts ------------------------------------------------------------------------------------------------------------


def _beside(given: str | Path | None, name: str, *folders: Path) -> Path | None:
    """The file that was given, or the one called ``name`` in or up to two folders above one of ``folders``."""
    if given is not None:
        if not Path(given).is_file():
            raise InputError(f"There is no file {given}.")
        return Path(given)
    places = [place for folder in folders for place in (folder, *folder.resolve().parents[:2])]
    return next((place / name for place in places if (place / name).is_file()), None)


def _slice_axis(plans: Mapping[str, Any], file: Path | None, prediction: Path) -> int:
    """Of the arrays that nnU-Net's reader gives: the axis that the plans put first, along which ``2d`` slices."""
    if file is None:
        raise InputError(
            f"There is no plans.json beside {prediction}, which says along which axis nnU-Net slices; give "
            "nnUNetPlans.json of the data set with --plans."
        )
    order = plans.get("transpose_forward")
    if not isinstance(order, list) or sorted(order) != [0, 1, 2]:
        raise InputError(f"{file} has transpose_forward {order!r}, but plans of nnU-Net have an order of three axes.")
    return int(order[0])


def _columns(consistency: Consistency | None) -> dict[str, float]:
    if consistency is None:
        return {}
    return {
        "consistency": consistency.prediction,
        "consistency_reference": consistency.reference,
        "consistency_difference": consistency.difference,
    }


def _ending(folder: Path) -> str:
    endings = Counter(e for path in folder.iterdir() for e in ENDINGS if path.name.endswith(e))
    if not endings:
        raise InputError(f"{folder} holds no file that nnU-Net reads ({', '.join(ENDINGS)}).")
    return endings.most_common(1)[0][0]


def _matched(
    reference: Path, prediction: Path, ending: str, cases: Sequence[str] | None, common: bool
) -> tuple[list[str], tuple[str, ...]]:
    """The cases to score, and those left out."""

    def inside(folder: Path) -> set[str]:
        return {path.name.removesuffix(ending) for path in folder.iterdir() if path.name.endswith(ending)}

    references, predictions = inside(reference), inside(prediction)
    if not references:
        raise InputError(f"{reference} holds no {ending} files; is it the folder of the references?")
    if not predictions:
        raise InputError(f"{prediction} holds no {ending} files; is it the folder of the predictions?")
    if cases is not None:
        references, predictions = references & set(cases), predictions & set(cases)
        for case in sorted(set(cases) - references):
            raise InputError(f"{reference} holds no reference for case {case}.")
    missing, extra = sorted(references - predictions), sorted(predictions - references)
    both = sorted(references & predictions)
    if not common and missing:
        raise InputError(
            f"{prediction} has no prediction for {some(missing)}; predict {'it' if len(missing) == 1 else 'them'}, or "
            "score only what is in both folders with --common."
        )
    if not common and extra:
        raise InputError(
            f"{reference} has no reference for {some(extra)} in {prediction}; remove "
            f"{'it' if len(extra) == 1 else 'them'}, or score only what is in both folders with --common."
        )
    if not both:
        raise InputError(f"{reference} and {prediction} have no case in common.")
    return both, tuple(missing + extra)
