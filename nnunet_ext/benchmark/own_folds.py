"""Folds of data that a benchmark brings itself: by subject, few-shot subsets, or subsets of the cases with masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nnunet_ext.benchmark.spec import DrawnLandmarks, SplitRecipe
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.files import read_json
from nnunet_ext.splits.files import NAME, read_about, read_folds, write_folds
from nnunet_ext.splits.folds import Fold
from nnunet_ext.splits.subjects import group
from nnunet_ext.splits.write import write_splits


def write_own_folds(dataset: str, recipe: SplitRecipe, drawn: Path | None) -> None:
    """Write the folds of one preprocessed data set.

    Args:
        dataset: full name.
        recipe: recipe of the benchmark.
        drawn: file of the folds that came with a drawn data set, if there is one; they are taken over.
    """
    if drawn is None:
        seeds = recipe.seeds or None
        write_splits(dataset, recipe.by, folds=recipe.folds, shots=recipe.few_shot, seeds=seeds, force=True)
        return
    about = read_about(drawn)
    assert about is not None
    write_folds(dataset_folder(dataset) / NAME, read_folds(drawn), dataset, about.grouping, "that of the drawn data")


def write_landmark_folds(folder: Path, base: Fold, how: DrawnLandmarks, by: str) -> None:
    """Write one fold per subset: it trains on the masks of its own subjects, and on all cases with only landmarks.

    The folds validate on the same cases, so they are repeats of one experiment.

    Args:
        folder: data set that ``nnunet-ext landmarks derive`` wrote, with the masks of all subsets together.
        base: fold that the subjects with masks were chosen from.
        how: number of subsets, and of subjects in each.
        by: rule for which cases are one subject.
    """
    about = read_json(folder / "landmarks.json")
    kept: Mapping[str, str] = about["cases"]
    grouping = group(sorted(kept), by)
    subjects = np.random.RandomState(0).permutation(sorted(about["segmented_subjects"]))
    folds = []
    for subset in range(how.subsets):
        own = set(subjects[subset * how.segmented : (subset + 1) * how.segmented])
        train = [case for case in base.train if kept[case] == "landmarks" or grouping.subject_of[case] in own]
        folds.append(Fold(tuple(train), base.val, how.segmented, subset))
    write_folds(folder / NAME, folds, folder.name, grouping, "the same for every fold")
