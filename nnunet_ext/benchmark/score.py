"""The references of a job, and the evaluation of its predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.preprocessed import splits
from nnunet_ext.benchmark.spec import Metrics
from nnunet_ext.data.folders import case_names, dataset_folder
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json

FEW = 8
"""Up to this number of cases one process scores them all, because starting several would take longer."""


@dataclass(frozen=True)
class Truth:
    """The references of some cases; ``dataset_json`` defines their labels."""

    references: Path
    dataset_json: Path
    cases: tuple[str, ...]


def truth_of(job: Job) -> Truth:
    """The references of a job.

    Raises:
        InputError: there is no such folder or data set, or no case to score.
    """
    if job.scored == "held-out":
        return _held_out(job)
    cases = tuple(splits(job.dataset)[job.fold]["val"])
    if job.truth and Path(job.truth).is_dir():
        return Truth(Path(job.truth), dataset_folder(job.compared) / "dataset.json", cases)
    folder = dataset_folder(job.truth or job.compared)
    return Truth(folder / "gt_segmentations", folder / "dataset.json", cases)


def held_out_cases(raw: Path, references: Path) -> tuple[str, ...]:
    """Sorted names of the cases with an image in ``imagesTs`` of a raw data set and a file in ``references``."""
    ending = read_json(raw / "dataset.json")["file_ending"]
    names = case_names(references, ending)
    return tuple(name for name in names if (raw / "imagesTs" / f"{name}_0000{ending}").is_file())


def evaluate(benchmark: BenchmarkFolder, job: Job, metrics: Metrics) -> dict[str, Any]:
    """Compare the predictions of a job with their references.

    This writes ``metrics.csv``, ``summary.json`` and, if interfaces are measured, ``interfaces.csv``.
    """
    from nnunet_ext.evaluation.folders import evaluate_folders

    truth = truth_of(job)
    evaluation = evaluate_folders(
        truth.references,
        benchmark.predictions(job),
        dataset_json=truth.dataset_json,
        plans=dataset_folder(job.dataset) / f"{job.plans}.json",
        cases=truth.cases,
        nsd_tolerances_mm=metrics.nsd_tolerances_mm,
        definition=metrics.definition,
        consistency=metrics.consistency,
        interfaces=metrics.interfaces,
        topology=metrics.topology,
        processes=1 if len(truth.cases) <= FEW else None,
    )
    evaluation.write(benchmark.of(job) / "summary.json", benchmark.of(job) / "metrics.csv")
    return {"cases": len(evaluation.cases), "definitions": evaluation.definitions}


def _held_out(job: Job) -> Truth:
    raw = dataset_folder(job.compared, "nnUNet_raw")
    if job.truth and Path(job.truth).is_dir():
        references, dataset_json = Path(job.truth), raw / "dataset.json"
    else:
        folder = dataset_folder(job.truth or job.compared, "nnUNet_raw")
        references, dataset_json = folder / "labelsTs", folder / "dataset.json"
    cases = held_out_cases(raw, references)
    if not cases:
        raise InputError(f"{raw}: no case of imagesTs has a reference in {references}; write scored: validation.")
    return Truth(references, dataset_json, cases)
