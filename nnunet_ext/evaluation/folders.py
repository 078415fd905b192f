"""``nnunet-ext evaluate``: scores every case of a folder of predictions against its reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.data.folders import case_names, visible_files
from nnunet_ext.data.label_definitions import ANNOTATED, ScoredLabels, numbers_of
from nnunet_ext.data.pairs import beside, matched
from nnunet_ext.data.reading import Reader, require_same_geometry
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.interfaces import interface_metrics
from nnunet_ext.evaluation.metrics import EmptyRule, label_metrics
from nnunet_ext.evaluation.scores import Case, Evaluation, Settings
from nnunet_ext.evaluation.slice_consistency import Consistency, slice_consistency
from nnunet_ext.evaluation.surfaces import Definition
from nnunet_ext.evaluation.topology import label_topology
from nnunet_ext.files import read_json
from nnunet_ext.processes.parallel import for_every_case

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl", ".png", ".bmp", ".tif", ".tiff")
"""Endings of the files that nnU-Net reads."""


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
    interfaces: bool = False,
    topology: bool = False,
    subjects: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
    processes: int | None = None,
) -> Evaluation:
    """Score every case of ``reference`` with the file of the same name in ``prediction``.

    Args:
        reference: folder of label maps in any format that nnU-Net reads.
        prediction: folder like the reference.
        labels: labels to score; by default those of ``dataset.json``.
        dataset_json: file to read; by default it is searched beside the predictions, then beside the references.
        plans: plans file; by default it is searched beside the predictions. It only gives the reader and the axis of
            the slices.
        cases: cases to score; all of ``reference`` by default.
        common: score the cases that are in both folders, instead of refusing folders that differ.
        nsd_tolerances_mm: see :func:`nnunet_ext.evaluation.metrics.label_metrics`.
        definition: see there.
        empty: see there.
        consistency: also compare neighbouring slices, see :mod:`nnunet_ext.evaluation.slice_consistency`.
        interfaces: also measure where two labels touch, see :mod:`nnunet_ext.evaluation.interfaces`.
        topology: also count components and holes, see :mod:`nnunet_ext.evaluation.topology`.
        subjects: function from the names of all cases to the subject of each; by default subjects are unknown.
        processes: cases in parallel; by default one per core.

    Raises:
        InputError: something does not exist or does not fit; the sentence names the case and the fix.
    """
    reference, prediction = Path(reference), Path(prediction)
    for name, folder in (("reference", reference), ("prediction", prediction)):
        if not folder.is_dir():
            raise InputError(f"The {name} folder {folder} does not exist.")
    found = beside(dataset_json, "dataset.json", prediction, reference)
    description = read_json(found) if found else {}
    if labels is None:
        if found is None:
            raise InputError(
                f"There is no dataset.json beside {prediction} or {reference}; give it with --dataset-json, or name "
                "what is scored: --labels left=1 right=2."
            )
        labels = ScoredLabels.from_dataset_json(description, str(found))
        if "mean" in labels.values:
            raise InputError(
                f"{found}: a label is called mean, which is the last row here; name it anew with --labels."
            )
    elif labels.ignore is None:
        labels = replace(labels, ignore=_ignored(description, labels))
    ending = description.get("file_ending") or _ending(reference)
    names, left_out = _cases(reference, prediction, ending, cases, common)
    plans_file = beside(plans, "plans.json", prediction)
    planned = read_json(plans_file) if plans_file else {}
    axis = _slice_axis(planned, plans_file, prediction) if consistency else None
    reader = planned.get("image_reader_writer")
    if reader is None:
        reader = Reader.for_file(reference / f"{names[0]}{ending}", ending, description).name
    tolerances = tuple(map(float, nsd_tolerances_mm))
    settings = Settings(labels, reader, tolerances, definition, empty, axis, interfaces, topology)
    subject_of = {} if subjects is None else subjects(names)
    pairs = [(name, reference / f"{name}{ending}", prediction / f"{name}{ending}") for name in names]
    calls = [(*pair, settings) for pair in pairs]
    scores = tuple(for_every_case(evaluate_case, calls, processes, "evaluate"))
    partly = tuple(name for name in names if name in description.get(ANNOTATED, {}))
    return Evaluation(scores, settings, left_out, subject_of, partly)


def evaluate_case(name: str, reference: Path, prediction: Path, settings: Settings) -> Case:
    """Score one case.

    Raises:
        InputError: the two do not lie on the same voxels, or hold values that are no labels.
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
        if truth.array.ndim != 3 or truth.array.shape[settings.slice_axis] == 1:
            raise InputError(f"{reference} is a single slice, which has no neighbours; leave --consistency out.")
        found = slice_consistency(
            predicted.array,
            truth.array,
            settings.labels.values,
            settings.slice_axis,
            ignore_label=settings.labels.ignore,
        )
    images, chosen, ignored = (predicted.array, truth.array), settings.labels.values, settings.labels.ignore
    return Case(
        name,
        reference,
        prediction,
        metrics,
        truth.array.ndim,
        found,
        label_topology(*images, chosen, ignore_label=ignored, empty=settings.empty) if settings.topology else {},
        interface_metrics(
            *images,
            truth.spacing_mm,
            chosen,
            ignore_label=ignored,
            nsd_tolerances_mm=settings.nsd_tolerances_mm,
            empty=settings.empty,
        )
        if settings.interfaces
        else {},
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _ignored(description: Mapping[str, Any], labels: ScoredLabels) -> int | None:
    """The ignore label of ``dataset.json``; it holds for labels that the user names, too, unless one of them is it."""
    declared = description.get("labels", {})
    ignore = declared.get("ignore") if isinstance(declared, Mapping) else None
    chosen = {number for value in labels.values.values() for number in numbers_of(value)}
    return ignore if isinstance(ignore, int) and ignore not in chosen else None


def _slice_axis(plans: Mapping[str, Any], file: Path | None, prediction: Path) -> int:
    """The axis, in arrays of nnU-Net's reader, along which the configuration ``2d`` slices: the plans put it first."""
    if file is None:
        raise InputError(
            f"There is no plans.json beside {prediction}, which says along which axis nnU-Net slices; give "
            "nnUNetPlans.json of the data set with --plans."
        )
    order = plans.get("transpose_forward")
    if not isinstance(order, list) or sorted(order) != [0, 1, 2]:
        raise InputError(f"{file} has transpose_forward {order!r}, but plans of nnU-Net have an order of three axes.")
    return int(order[0])


def _ending(folder: Path) -> str:
    endings = Counter(e for path in visible_files(folder, "") for e in ENDINGS if path.name.endswith(e))
    if not endings:
        raise InputError(f"{folder} holds no file that nnU-Net reads ({', '.join(ENDINGS)}).")
    return endings.most_common(1)[0][0]


def _cases(
    reference: Path, prediction: Path, ending: str, cases: Sequence[str] | None, common: bool
) -> tuple[list[str], tuple[str, ...]]:
    """The cases to score, and the cases left out."""

    def inside(folder: Path) -> set[str]:
        return set(case_names(folder, ending))

    references, predictions = inside(reference), inside(prediction)
    if not references:
        raise InputError(f"{reference} holds no {ending} files; is it the folder of the references?")
    if not predictions:
        raise InputError(f"{prediction} holds no {ending} files; is it the folder of the predictions?")
    if cases is not None:
        references, predictions = references & set(cases), predictions & set(cases)
        for case in sorted(set(cases) - references):
            raise InputError(f"{reference} holds no reference for case {case}.")
    return matched(references, predictions, reference, prediction, common)
