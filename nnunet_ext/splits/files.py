"""``splits_final.json``, the only file of folds that nnU-Net reads, and ``splits_final.about.json``, which explains it.

The first has nnU-Net's format: a list with ``{"train": [case, …], "val": [case, …]}`` for every fold. The second is for
people, and for ``--check``, which reads the subjects from it::

    {
        "nnunet_ext": "0.1.0",
        "dataset": "Dataset004_Hippocampus",
        "by": "pairs",                            # of a table its whole path, because it may hold other images, too
        "validation": "fold 0 of 5 by subject, the same for every fold",
        "splits_sha256": "…",                      # of splits_final.json; tells whether it has changed since
        "folds": [{"fold": 0, "shots": 4, "seed": 0, "training_subjects": 4, "training_cases": 6, …}, …],
        "subjects": {"hippocampus_001": "hippocampus_1+2", …}
    }
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, read_json_value, replacing
from nnunet_ext.splits.folds import Fold
from nnunet_ext.splits.subjects import Grouping, is_table
from nnunet_ext.version import __version__

NAME = "splits_final.json"
"""Name under which nnU-Net looks for folds, in the preprocessed data set."""


@dataclass(frozen=True)
class About:
    """Content of ``splits_final.about.json``.

    Attributes:
        grouping: subjects by case.
        few_shot: for each fold, whether it leaves cases out on purpose; empty if the folds have changed since.
        training_subjects: number of training subjects of each fold; empty if the folds have changed since.
    """

    grouping: Grouping
    few_shot: tuple[bool, ...]
    training_subjects: tuple[int, ...]


def read_folds(path: Path) -> list[Fold]:
    """Read a file in the format of ``splits_final.json``. Duplicate cases are kept.

    Raises:
        InputError: there is no such file, or it has another format.
    """
    if not path.exists():
        raise InputError(
            f"There is no file of folds {path}; nnunet-ext splits DATASET --by SUBJECTS --out {path} writes one."
        )
    content = read_json_value(path)
    if not isinstance(content, list) or not content:
        raise InputError(
            f'{path} holds no list of folds; nnU-Net expects [{{"train": [case, …], "val": [case, …]}}, …].'
        )
    folds = []
    for index, entry in enumerate(content):
        parts = [entry.get(key) if isinstance(entry, Mapping) else None for key in ("train", "val")]
        if not all(isinstance(part, list) and all(isinstance(case, str) for case in part) for part in parts):
            raise InputError(f'{path}: fold {index} is not {{"train": [case, …], "val": [case, …]}}; correct it.')
        folds.append(Fold(tuple(parts[0] or ()), tuple(parts[1] or ())))
    return folds


def about_file(path: Path) -> Path:
    """``splits_final.json`` → ``splits_final.about.json``."""
    return path.with_name(f"{path.stem}.about.json")


def read_about(path: Path) -> About | None:
    """Read the ``.about.json`` beside a file of folds; None if there is none.

    Raises:
        InputError: it has another format.
    """
    beside = about_file(path)
    if not beside.is_file():
        return None
    content = read_json(beside)
    subjects, folds = content.get("subjects"), content.get("folds")
    if not isinstance(subjects, Mapping) or not isinstance(folds, list):
        raise InputError(f"{beside} has no subjects or no folds; remove it, or write the folds again.")
    described = content.get("splits_sha256") == sha256(path.read_bytes()).hexdigest()
    return About(
        grouping=Grouping(str(content.get("by")), {str(case): str(name) for case, name in subjects.items()}),
        few_shot=tuple(entry.get("shots") is not None for entry in folds) if described else (),
        training_subjects=tuple(entry.get("training_subjects") for entry in folds) if described else (),
    )


def write_folds(path: Path, folds: Sequence[Fold], dataset: str, grouping: Grouping, validation: str) -> None:
    """Write both files. An interruption never leaves half a file.

    Args:
        path: the file for nnU-Net; the other one is written beside it.
        folds: folds to write.
        dataset: full name.
        grouping: subjects by case.
        validation: where the validation sets come from, in words.
    """
    text = json.dumps([{"train": fold.train, "val": fold.val} for fold in folds], indent=4)
    about = {
        "nnunet_ext": __version__,
        "dataset": dataset,
        "by": str(Path(grouping.by).absolute()) if is_table(grouping.by) else grouping.by,
        "validation": validation,
        "splits_sha256": sha256(text.encode()).hexdigest(),
        "folds": table(folds, grouping),
        "subjects": dict(sorted(grouping.subject_of.items())),
    }
    with replacing(about_file(path)) as beside, replacing(path) as main:
        beside.write_text(json.dumps(about, indent=4, ensure_ascii=False), encoding="utf-8")
        main.write_bytes(text.encode())


def table(folds: Sequence[Fold], grouping: Grouping) -> list[dict[str, Any]]:
    """Table of the folds, one row each: its shots and seed, and its numbers of subjects and cases."""

    def subjects(cases: Sequence[str]) -> int:
        return len({grouping.subject_of[case] for case in cases})

    return [
        {
            "fold": index,
            "shots": fold.shots,
            "seed": fold.seed,
            "training_subjects": subjects(fold.train),
            "training_cases": len(fold.train),
            "validation_subjects": subjects(fold.val),
            "validation_cases": len(fold.val),
        }
        for index, fold in enumerate(folds)
    ]
