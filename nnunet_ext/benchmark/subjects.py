"""The subject of every case, from the file that ``nnunet-ext splits`` wrote beside the folds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nnunet_ext.splits.files import NAME, read_about


def with_subjects(cases: pd.DataFrame, dataset_of: Mapping[str, str]) -> pd.DataFrame:
    """Add a column ``subject`` to the scores of all cases; empty if a data set has no subjects.

    Args:
        cases: table with the columns ``group`` and ``case``, and others.
        dataset_of: name of the data set of every group.
    """
    subjects = {group: subjects_of(dataset) for group, dataset in dataset_of.items()}
    named = [subjects[group].get(case) for group, case in zip(cases["group"], cases["case"], strict=True)]
    return cases.assign(subject=pd.Series(named, index=cases.index, dtype=object))


def subjects_of(dataset: str) -> Mapping[str, str]:
    """Subjects by case; empty if ``splits_final.about.json`` is not in the preprocessed data set."""
    about = read_about(Path(os.environ.get("nnUNet_preprocessed", ".")) / dataset / NAME)
    return about.grouping.subject_of if about else {}
