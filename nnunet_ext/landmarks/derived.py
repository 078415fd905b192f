"""Options and result of ``nnunet-ext landmarks derive``: subjects that keep masks, landmarks and counts."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from nnunet_ext.data.geometry import Floats
from nnunet_ext.errors import InputError
from nnunet_ext.findings import aligned, few
from nnunet_ext.landmarks.points import Landmark, State
from nnunet_ext.landmarks.rules import Kind, Rule
from nnunet_ext.splits.files import NAME
from nnunet_ext.version import __version__

ORACLE = "oracle"
ABOUT = "landmarks.json"

Axes = Literal["auto", "in-plane", "all"]
Kept = Literal["segmentation", "landmarks", "both"]

SPANNING = 0.9
"""Smallest share of cases with masks in which an organ lies between two landmarks that become its ``spans``."""


@dataclass(frozen=True)
class Options:
    """Options: which landmarks to derive, and which cases keep their masks.

    Attributes:
        rule: a rule of :mod:`nnunet_ext.landmarks.rules`.
        labels: labels or regions; all by default. An interface is derived for every two of them.
        axes: axes of the image to derive landmarks along; ``auto`` leaves out the axis across thick slices.
        segmented: number of subjects that keep their masks.
        by: which cases are one subject, see :func:`nnunet_ext.splits.subjects.group`.
        seed: seed of the choice of subjects.
        splits: file of folds, such as ``splits_final.json``; None chooses from all subjects.
        fold: fold of this file whose training subjects are chosen from.
        landmarks_everywhere: cases with masks have landmarks as well.

    Raises:
        InputError: an unknown value, or a fold without a file of folds.
    """

    segmented: int
    by: str | None
    rule: Kind = "extreme-points"
    labels: tuple[str, ...] = ()
    axes: Axes = "auto"
    seed: int = 0
    splits: str | Path | None = None
    fold: int = 0
    landmarks_everywhere: bool = False

    def __post_init__(self) -> None:
        if self.rule not in get_args(Kind):
            raise InputError(f"--rule is {self.rule!r}, but must be one of {', '.join(get_args(Kind))}.")
        if self.axes not in get_args(Axes):
            raise InputError(f"--axes is {self.axes!r}, but must be one of {', '.join(get_args(Axes))}.")
        if self.splits is None and self.fold:
            raise InputError(f"--fold {self.fold} belongs to --splits; give the file of folds, too.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed} is not possible; a seed is a whole number from 0 to 2³² − 1.")


@dataclass(frozen=True)
class DerivedCase:
    """One case as it was written.

    Attributes:
        kept: annotation that nnU-Net sees.
        landmarks: all landmarks, also withheld ones.
        place: ``(K, 3)``, position of each landmark as a fraction of the image along its axes; nan unless present.
        size_mm: ``(3,)``, size of the image.
        spanned: for each pair of opposite landmarks, whether the organ lies between them.
    """

    name: str
    kept: Kept
    landmarks: Mapping[str, Landmark]
    place: Floats
    size_mm: Floats
    spanned: Mapping[tuple[str, str], bool]


@dataclass(frozen=True)
class Derived:
    """The data set that :func:`~nnunet_ext.landmarks.derive.derive_dataset` wrote.

    Attributes:
        folder: folder of the new data set.
        source: name of the data set it was derived from.
        subjects: subjects that keep their masks.
        validation: validation cases of the fold; empty without a file of folds.
    """

    folder: Path
    source: str
    options: Options
    rule: Rule
    subjects: tuple[str, ...]
    validation: tuple[str, ...]
    cases: tuple[DerivedCase, ...]

    @property
    def splits(self) -> Path | None:
        """The file of folds, to be copied to ``nnUNet_preprocessed``; None if none was given."""
        return None if self.options.splits is None else self.folder / NAME

    @property
    def references(self) -> Path:
        """The folder of dense label maps of all cases."""
        return self.folder / ORACLE / "labelsTr"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The landmarks that are present in at least one case; the data set declares these.

        Raises:
            InputError: there are none.
        """
        names = tuple(name for name in self.rule.surface_of if self._count(name, State.PRESENT))
        if not names:
            raise InputError(
                f"No landmark of the rule {self.rule.kind} is present in any case of {self.source} (such as "
                f"{next(iter(self.rule.surface_of))}); name other --labels, or another --rule."
            )
        return names

    @cached_property
    def spans(self) -> dict[str, list[tuple[str, str]]]:
        """For each label, the pairs of opposite landmarks between which it lies in the training cases with masks."""
        training = [case for case in self.cases if case.kept != "landmarks" and case.name not in self.validation]

        def lies_between(pair: tuple[str, str]) -> bool:
            known = [case.spanned[pair] for case in training if pair in case.spanned]
            return bool(known) and float(np.mean(known)) >= SPANNING

        kept = {label: [pair for pair in pairs if lies_between(pair)] for label, pairs in self.rule.spans.items()}
        return {label: pairs for label, pairs in kept.items() if pairs}

    @property
    def mirror_pairs(self) -> dict[str, list[tuple[str, str]]]:
        """For each direction, the declared landmarks that change places when the patient is mirrored along it."""
        found = {
            direction: [pair for pair in pairs if set(pair) <= set(self.names)]
            for direction, pairs in self.rule.mirror_pairs.items()
        }
        return {direction: pairs for direction, pairs in found.items() if pairs}

    def statistics(self) -> dict[str, Any]:
        """The content of ``landmarks.json``."""
        options = asdict(self.options)
        guess = self._constant_guess_mm()
        return {
            "nnunet_ext": __version__,
            "source": self.source,
            "options": {**options, "splits": None if self.options.splits is None else str(self.options.splits)},
            "rule": asdict(self.rule),
            "segmented_subjects": list(self.subjects),
            "validation_cases": list(self.validation),
            "landmarks": {
                name: {
                    **{state.name.lower(): self._count(name, state) for state in State},
                    "constant_guess_mm": None if np.isnan(error) else round(float(error), 3),
                }
                for name, error in zip(self.rule.surface_of, guess, strict=True)
            },
            "cases": {case.name: case.kept for case in self.cases},
        }

    def report(self) -> str:
        """The text to print: subjects with masks, the landmarks, and the commands to type next."""
        kinds = Counter(case.kept for case in self.cases)
        guess = self._constant_guess_mm()
        rows: list[tuple[str, ...]] = [("landmark", "present", "absent", "unknown", "constant guess")]
        for name, error in zip(self.rule.surface_of, guess, strict=True):
            counts = [str(self._count(name, state)) for state in (State.PRESENT, State.ABSENT, State.UNKNOWN)]
            rows.append((name, *counts, "-" if np.isnan(error) else f"{error:.1f} mm"))
        lost = [name for name in self.rule.surface_of if name not in self.names]
        number = int(self.folder.name[7:10])
        lines = [
            f"{len(self.subjects)} subjects keep their masks: {few(self.subjects)}",
            f"cases: {kinds['segmentation']} with masks, {kinds['landmarks']} with landmarks, {kinds['both']} with both"
            + (f", of which {len(self.validation)} validate" if self.validation else ""),
            "",
            *aligned(rows),
            *([f"Not declared, because no case has them: {few(lost)}."] if lost else []),
            "A constant guess is the mean place of a landmark in the image: a network has to be better than that.",
            f"\n{self.folder}: what was withheld is in {ORACLE}. Next:",
            f"  nnunet-ext landmarks check {number}",
            f"  nnUNetv2_plan_and_preprocess -d {number}",
        ]
        if self.splits is not None:
            target = f"$nnUNet_preprocessed/{self.folder.name}"
            lines += [
                f"  cp {shlex.quote(str(self.splits.parent))}/splits_final*.json {target}/",
                f"Train fold {self.options.fold} only: in the other folds its validation cases have masks, too.",
            ]
        return "\n".join(lines)

    def _count(self, name: str, state: State) -> int:
        return sum(case.landmarks[name].state is state for case in self.cases)

    def _constant_guess_mm(self) -> Floats:
        """Mean radial error of guessing each landmark's mean place in the training cases, ``(K,)``.

        It is measured in the validation cases if there are any, otherwise in all cases.
        """
        place = np.stack([case.place for case in self.cases])
        size = np.stack([case.size_mm for case in self.cases])
        validates = np.array([case.name in self.validation for case in self.cases])
        errors = np.full(place.shape[:2], np.nan)
        for k in range(place.shape[1]):
            known = np.isfinite(place[:, k]).all(-1)
            if (known & ~validates).any():
                errors[:, k] = np.linalg.norm((place[:, k] - place[known & ~validates, k].mean(0)) * size, axis=1)
        if validates.any():
            errors = errors[validates]
        counts = np.isfinite(errors).sum(0)
        return np.where(counts > 0, np.nansum(errors, 0) / np.maximum(counts, 1), np.nan)
