"""Reads splits and plans of preprocessed data, and computes the key of everything that a job's result depends on."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.folder import Job
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.splits.files import read_about

STAMP = "nnunet_ext_preprocessed.json"
"""File beside data that a benchmark preprocessed itself, with its key and the finished configurations."""


def splits(dataset: str) -> list[dict[str, list[str]]]:
    """Read ``splits_final.json``: for every fold the cases ``train`` and ``val``.

    Raises:
        InputError: the file has another format.
    """
    file = dataset_folder(dataset) / "splits_final.json"
    with contextlib.suppress(ValueError, TypeError, KeyError):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, list) and all(
            isinstance(fold[part], list) for fold in content for part in ("train", "val")
        ):
            return content
    raise InputError(
        f"{file} is no list of folds with train and val; restore it, or remove it to get nnU-Net's own folds."
    )


def subsets(dataset: str) -> list[str]:
    """Training data of each fold in words, if folds share validation cases; empty for a cross-validation.

    Folds with the same words are repeats of one experiment, such as few-shot subsets of one size.
    """
    validated = Counter(case for fold in splits(dataset) for case in fold["val"])
    if max(validated.values(), default=0) < 2:
        return []
    about = read_about(dataset_folder(dataset) / "splits_final.json")
    if about is None or not about.training_subjects:
        return [f"fold {fold}" for fold in range(len(splits(dataset)))]
    return [f"{number} training subjects" for number in about.training_subjects]


def plans_of(dataset: str, name: str) -> dict[str, Any]:
    """The content of a plans file."""
    return read_json(dataset_folder(dataset) / f"{name}.json")


def stamp(dataset: str) -> dict[str, Any]:
    """Read :data:`STAMP`, beside data that a benchmark preprocessed itself; empty for data of the user."""
    file = dataset_folder(dataset) / STAMP
    return read_json(file) if file.is_file() else {}


def declared(dataset: str) -> str:
    """A key of what ``dataset.json`` declares: labels, channels, landmarks, annotated labels; without any folder."""
    content = read_json(dataset_folder(dataset) / "dataset.json")
    return digest({key: value for key, value in content.items() if key not in ("dataset", "description", "name")})


def job_key(job: Job) -> str:
    """Key that changes with the plans, the split, the trainer, the seed, the device, the start, and the truth's place.

    :mod:`~nnunet_ext.benchmark.data_state` looks at the files.
    """
    split = splits(job.dataset)[job.fold]
    plans = plans_of(job.dataset, job.plans)
    parts = (plans["configurations"][job.configuration], plans["transpose_forward"], plans["image_reader_writer"])
    held_out = job.scored if job.scored != "validation" else ""
    given = [part for part in (job.truth, held_out, stamp(job.dataset).get("key"), job.start) if part]
    return digest(parts, sorted(split["train"]), sorted(split["val"]), job.trainer, job.seed, job.device, *given)


def digest(*parts: Any) -> str:
    """A short key that changes with any of the parts, which are JSON values."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def contents(folder: Path, files: Iterable[Path]) -> list[tuple[str, str]]:
    """Name and digest of files of a folder; equal for a copy of the files."""
    return [(str(path.relative_to(folder)), sha256(path.read_bytes()).hexdigest()) for path in files]
