"""Folds by subject or by kind of case, and few-shot subsets. Pure functions of names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnunet_ext.errors import InputError
from nnunet_ext.findings import few

Shots = int | Literal["all"]

NNUNET_SEED = 12345
"""Seed of nnU-Net's own default split."""


@dataclass(frozen=True)
class Fold:
    """One entry of ``splits_final.json``, and how it was made.

    Attributes:
        train: training cases, in alphabetical order.
        val: validation cases, in alphabetical order.
        shots: requested number of training subjects; None in a cross-validation.
        seed: seed that chose the training subjects; None if they were not drawn.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    shots: Shots | None = None
    seed: int | None = None


def default_folds(dataset: str, cases: Collection[str]) -> list[Fold]:
    """The folds by case that nnU-Net's first training would write.

    Args:
        dataset: name of the data set in messages.
        cases: its training cases.

    Raises:
        InputError: fewer than five cases.
    """
    if len(cases) < 5:
        raise InputError(
            f"{dataset} has {len(cases)} cases and no splits_final.json, but nnU-Net needs at least 5 cases to make 5 "
            "folds; write folds with nnunet-ext splits."
        )
    return cross_validation({case: case for case in cases})


def cross_validation(subject_of: Mapping[str, str], folds: int = 5) -> list[Fold]:
    """Folds by subject: nnU-Net's own function and seed, given subjects instead of cases.

    If every case is its own subject, these are nnU-Net's default folds. The names of the subjects do not matter.

    Args:
        subject_of: subject of every case.
        folds: number of folds.

    Raises:
        InputError: fewer than two folds, or fewer subjects than folds.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    first_of = _first_cases(subject_of)
    subjects = sorted(set(first_of.values()))
    if not 2 <= folds <= len(subjects):
        raise InputError(f"--folds is {folds}, but must be from 2 to the number of subjects, {len(subjects)}.")
    return [
        Fold(_cases_of(first_of, split["train"], first_of), _cases_of(first_of, split["val"], first_of))
        for split in generate_crossval_split(subjects, seed=NNUNET_SEED, n_splits=folds)
    ]


def stratified(kinds: Iterable[Collection[str]], folds: int = 5) -> list[Fold]:
    """Folds whose validation sets hold the same number of cases of every kind, up to one case; with nnU-Net's seed.

    The same is true for consecutive kinds counted together. If all cases are of one kind, these are nnU-Net's default
    folds.

    Args:
        kinds: the cases of each kind.
        folds: number of folds.

    Raises:
        InputError: fewer than two folds, or fewer cases than folds.
    """
    filled = [sorted(cases) for cases in kinds if cases]
    cases = sorted(case for kind in filled for case in kind)
    if not 2 <= folds <= len(cases):
        raise InputError(f"{folds} folds are not possible; their number must be from 2 to that of cases, {len(cases)}.")
    if len(filled) == 1:
        return cross_validation({case: case for case in cases}, folds)
    random = np.random.RandomState(NNUNET_SEED)
    # line up the kinds one after the other, then deal the cases to the folds like cards
    line = [str(case) for kind in filled for case in random.permutation(kind)]
    validating = [set(line[fold::folds]) for fold in range(folds)]
    return [
        Fold(tuple(case for case in cases if case not in val), tuple(case for case in cases if case in val))
        for val in validating
    ]


def few_shot(subject_of: Mapping[str, str], base: Fold, shots: Iterable[Shots], seeds: Iterable[int]) -> list[Fold]:
    """Folds that train on subsets of ``base`` and keep its validation set.

    For each seed the subsets are nested: the 4 subjects are among the 8, the 8 among the 16. Folds are ordered by the
    number of subjects, then by seed.

    Args:
        subject_of: subject of every case.
        base: fold whose training subjects are drawn from.
        shots: numbers of training subjects; ``"all"`` is one fold with all of them.
        seeds: one subset is drawn per number and seed.

    Raises:
        InputError: a number or seed is impossible, or a subject of ``base`` is on both sides.
    """
    if both := sorted({subject_of[case] for case in base.val} & {subject_of[case] for case in base.train}):
        raise InputError(
            f"{len(both)} subjects ({few(both)}) are in training and validation of the fold to start from, so its "
            "validation would not be fair; start from folds by subject."
        )
    first_of = _first_cases(subject_of)
    subjects = np.array(sorted({first_of[case] for case in base.train}))
    numbers = sorted({number for number in shots if number != "all"})
    if wrong := [number for number in numbers if not 1 <= number <= len(subjects)]:
        raise InputError(
            f"--few-shot {wrong[0]} is not possible: it counts training subjects, of which there are {len(subjects)}, "
            "from 1 to all of them."
        )
    chosen = list(dict.fromkeys(seeds))
    if wrong := [seed for seed in chosen if not 0 <= seed < 2**32]:
        raise InputError(f"--seeds {wrong[0]} is not possible; a seed is a whole number from 0 to 2³² − 1.")
    # numpy promises that RandomState gives the same numbers for ever; its newer generators may change
    order = {seed: np.random.RandomState(seed).permutation(subjects) for seed in chosen}
    made = [
        Fold(_cases_of(first_of, order[seed][:number], base.train), base.val, number, seed)
        for number in numbers
        for seed in chosen
    ]
    return [*made, Fold(base.train, base.val, "all")] if "all" in shots else made


# --- parts ------------------------------------------------------------------------------------------------------------


def _first_cases(subject_of: Mapping[str, str]) -> dict[str, str]:
    """Map every case to the alphabetically first case of its subject.

    Subjects are sorted by their first case, so that a pattern and a table with the same groups give the same folds.
    """
    first = {subject_of[case]: case for case in sorted(subject_of, reverse=True)}
    return {case: first[subject] for case, subject in subject_of.items()}


def _cases_of(first_of: Mapping[str, str], subjects: Iterable[str], among: Iterable[str]) -> tuple[str, ...]:
    """The cases of some subjects, in alphabetical order; a subject is given by its first case."""
    wanted = set(map(str, subjects))
    return tuple(sorted(case for case in among if first_of[case] in wanted))
