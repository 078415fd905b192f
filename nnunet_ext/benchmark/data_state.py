"""Whether the files that a job's result depends on have changed: training labels, images, and references.

The key of a job covers its settings. Data that a benchmark preprocesses has its state in the stamp beside it. Of data
that the user preprocessed this module compares the labels, what ``dataset.json`` declares, and the fingerprint of the
images, which changes with their shapes, spacings and intensities.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.folder import Job
from nnunet_ext.benchmark.preprocessed import contents, declared, digest, stamp
from nnunet_ext.benchmark.score import truth_of
from nnunet_ext.data.folders import case_names, dataset_folder
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json


class DataStates:
    """Digests of the data of jobs; files that several jobs share are read once."""

    def __init__(self) -> None:
        self._known: dict[Any, str] = {}

    def of(self, job: Job) -> str:
        """A digest that changes with the training data and the references of a job.

        Raises:
            InputError: a label map or reference is missing.
        """
        truth = truth_of(job)
        ending = read_json(truth.dataset_json)["file_ending"]
        return digest(self._training(job.dataset), self._labels(truth.references, truth.cases, ending))

    def _training(self, dataset: str) -> str:
        if dataset not in self._known:
            self._known[dataset] = self._of_training(dataset)
        return self._known[dataset]

    def _of_training(self, dataset: str) -> str:
        if made := stamp(dataset):
            return made.get("listed", "")
        folder = dataset_folder(dataset)
        fingerprint = folder / "dataset_fingerprint.json"
        images = read_json(fingerprint) if fingerprint.is_file() else {}
        labels, ending = folder / "gt_segmentations", read_json(folder / "dataset.json")["file_ending"]
        return digest(declared(dataset), images, self._labels(labels, tuple(case_names(labels, ending)), ending))

    def _labels(self, folder: Path, cases: tuple[str, ...], ending: str) -> str:
        key = (folder, cases)
        if key not in self._known:
            files = [folder / f"{case}{ending}" for case in cases]
            if missing := [file for file in files if not file.is_file()]:
                raise InputError(f"There is no label map {missing[0]}; restore it.")
            self._known[key] = digest(contents(folder, files))
        return self._known[key]
