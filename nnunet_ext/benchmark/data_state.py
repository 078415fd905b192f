"""Whether the files that a job's result depends on have changed: training labels, landmarks, images, and references.

The key of a job covers its settings, and the raw files of data that a benchmark preprocesses, by the stamp beside it.
Of data that the user preprocessed this module compares the labels, what ``dataset.json`` declares, and the fingerprint
of the images, which nnU-Net extracts again only with ``--clean``. Landmarks are read anew by every training. Images
without labels count for the trainings that draw them from the folder of ``nnunet-ext unlabelled``.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from nnunet_ext.benchmark.folder import Job
from nnunet_ext.benchmark.preprocessed import digest, plans_of, stamp
from nnunet_ext.benchmark.score import truth_of
from nnunet_ext.data.folders import case_names, dataset_folder, visible_files
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.landmarks.dataset import FOLDER
from nnunet_ext.nnunet.plans import resolved
from nnunet_ext.unlabelled.prepared import prepared_folder, read_prepared

DECLARED = (
    "labels",
    "regions_class_order",
    "channel_names",
    "modality",
    "file_ending",
    "landmarks",
    "annotated_labels",
)
"""Entries of ``dataset.json`` that change a training."""

NONE = "none"
"""State of the images without labels of a training that draws none."""


class DataStates:
    """Digests of the data of jobs; every file is read once."""

    def __init__(self) -> None:
        self._training: dict[str, str] = {}
        self._files: dict[Path, str] = {}
        self._images: dict[Path, list[tuple[str, str, int]]] = {}

    def of(self, job: Job) -> str:
        """A digest that changes with the training data and the references of a job.

        Raises:
            InputError: a label map or reference is missing.
        """
        truth = truth_of(job)
        ending = read_json(truth.dataset_json)["file_ending"]
        if job.dataset not in self._training:
            self._training[job.dataset] = self._of_training(job.dataset)
        references = [truth.references / f"{case}{ending}" for case in truth.cases]
        return digest(self._training[job.dataset], self._contents(references))

    def unlabelled_of(self, job: Job) -> str:
        """A digest that changes with the images without labels that the training of a job draws; "none" without any.

        Raises:
            InputError: a file of these images is missing.
        """
        from nnunet_ext.find_trainer import find_trainer
        from nnunet_ext.unlabelled.training import UnlabelledData

        settings, trainer = resolved(plans_of(job.dataset, job.plans), job.configuration), find_trainer(job.trainer)
        if not issubclass(trainer, UnlabelledData) or settings.get("previous_stage"):
            return NONE
        if trainer.resolve_options(settings).unlabelled.images != "folder":
            return NONE
        place = prepared_folder(dataset_folder(job.dataset), settings["data_identifier"])
        if place not in self._images:
            noted = sorted(read_prepared(place).items())
            if missing := [name for name, _ in noted if not (place / f"{name}.b2nd").is_file()]:
                raise InputError(f"{place} lacks {missing[0]}.b2nd; run nnunet-ext unlabelled again.")
            sizes = {name: (place / f"{name}.b2nd").stat().st_size for name, _ in noted}
            self._images[place] = [(name, notes.recipe, sizes[name]) for name, notes in noted]
        return digest(self._images[place]) if self._images[place] else NONE

    def _of_training(self, dataset: str) -> str:
        landmarks = self._contents(_landmarks(dataset))
        if made := stamp(dataset):
            return digest(made.get("listed", ""), landmarks)
        folder = dataset_folder(dataset)
        content, fingerprint = read_json(folder / "dataset.json"), folder / "dataset_fingerprint.json"
        images = read_json(fingerprint) if fingerprint.is_file() else {}
        labels, ending = folder / "gt_segmentations", content["file_ending"]
        own = [labels / f"{case}{ending}" for case in case_names(labels, ending)]
        return digest({key: content.get(key) for key in DECLARED}, images, self._contents(own), landmarks)

    def _contents(self, files: list[Path]) -> list[tuple[str, str]]:
        """Name and digest of files; equal for a copy of them."""
        for file in files:
            if not file.is_file():
                raise InputError(f"There is no label map {file}; restore it.")
            if file not in self._files:
                self._files[file] = sha256(file.read_bytes()).hexdigest()
        return [(file.name, self._files[file]) for file in files]


def _landmarks(dataset: str) -> list[Path]:
    """The files of landmarks that a training reads: those of the raw folder if it is there, otherwise the copy."""
    raw = os.environ.get("nnUNet_raw")
    places = [*([Path(raw) / dataset] if raw else []), dataset_folder(dataset)]
    there = [place / FOLDER for place in places if (place / FOLDER).is_dir()]
    return visible_files(there[0], "") if there else []
