"""Options and result of ``nnunet-ext landmarks derive``: who keeps masks, the landmarks of every case, numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from nnunet_ext.data.geometry import Floats
from nnunet_ext.errors import InputError
from nnunet_ext.findings import aligned
from nnunet_ext.landmarks.points import Landmark, State
from nnunet_ext.landmarks.rules import Kind, Rule
from nnunet_ext.splits.files import NAME
from nnunet_ext.splits.subjects import some
from nnunet_ext.version import __version__

ORACLE = "oracle"
ABOUT = "landmarks.json"

Axes = Literal["auto", "in-plane", "all"]
Kept = Literal["segmentation", "landmarks", "both"]

SPANNING = 0.9
"""Share of the cases with masks in which an organ has to lie between two landmarks, for these to be its ``spans``."""


@dataclass(frozen=True)
class Options:
    """Which landmarks there are, and which cases keep their masks.

    Attributes:
        rule: of :mod:`nnunet_ext.landmarks.rules`.
        labels: labels or regions; all by default. An interface is one of every two of them.
        axes: along which axes of the image; ``auto`` leaves out the one across thick slices.
        segmented: number of subjects that keep their masks.
        by: which cases are one subject, see :func:`nnunet_ext.splits.subjects.group`.
        seed: of the choice of subjects.
        splits: file of folds, such as ``splits_final.json``; None chooses from all subjects.
        fold: of this file, from whose training subjects is chosen.
        landmarks_everywhere: cases with masks have landmarks as well.

    Raises:
        InputError: a value that does not exist, or a fold without folds.
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
        kept: what nnU-Net sees of it.
        landmarks: all of them, also where they are withheld.
        place: ``(K, 3)``, position of each landmark as a share of the image along its axes; nan unless present.
        size_mm: ``(3,)``, of the image.
        spanned: by pair of opposite landmarks, whether the organ lies between them.
    """

    name: str
    kept: Kept
    landmarks: Mapping[str, Landmark]
    place: Floats
    size_mm: Floats
    spanned: Mapping[tuple[str, str], bool]


@dataclass(frozen=True)
class Derived:
    """Result of :func:`derive_dataset`, which it wrote.

    Attributes:
        folder: of the new data set.
        source: name of the one it was made from.
        subjects: that keep their masks.
        validation: cases of the fold that validate; empty without a file of folds.
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
        """The landmarks that are present in some case; the data set declares these.

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
        """By label, the opposite landmarks between which it lies in the cases whose masks are known."""
        training = [case for case in self.cases if case.kept != "landmarks" and case.name not in self.validation]

        def lies_between(pair: tuple[str, str]) -> bool:
            known = [case.spanned[pair] for case in training if pair in case.spanned]
            return bool(known) and float(np.mean(known)) >= SPANNING

        kept = {label: [pair for pair in pairs if lies_between(pair)] for label, pairs in self.rule.spans.items()}
        return {label: pairs for label, pairs in kept.items() if pairs}

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
        """Return the text to print: who keeps what, the landmarks, and the commands to type next."""
        kinds = Counter(case.kept for case in self.cases)
        guess = self._constant_guess_mm()
        rows: list[tuple[str, ...]] = [("landmark", "present", "absent", "unknown", "constant guess")]
        for name, error in zip(self.rule.surface_of, guess, strict=True):
            counts = [str(self._count(name, state)) for state in (State.PRESENT, State.ABSENT, State.UNKNOWN)]
            rows.append((name, *counts, "-" if np.isnan(error) else f"{error:.1f} mm"))
        lost = [name for name in self.rule.surface_of if name not in self.names]
        number = int(self.folder.name[7:10])
        lines = [
            f"{len(self.subjects)} subjects keep their masks: {some(self.subjects)}",
            f"cases: {kinds['segmentation']} with masks, {kinds['landmarks']} with landmarks, {kinds['both']} with both"
            + (f", of which {len(self.validation)} validate" if self.validation else ""),
            "",
            *aligned(rows),
            *([f"Not declared, because no case has them: {some(lost)}."] if lost else []),
            "A constant guess is the mean place of a landmark in the image: a network has to be better than that.",
            f"\n{self.folder}: what was withheld is in {ORACLE}. Next:",
            f"  nnunet-ext landmarks check {number}",
            f"  nnUNetv2_plan_and_preprocess -d {number}",
        ]
        if self.splits is not None:
            target = f"$nnUNet_preprocessed/{self.folder.name}"
            lines += [
                f"  cp {self.splits.with_name('splits_final*.json')} {target}/",
                f"Train fold {self.options.fold} only: in the other folds its validation cases have masks, too.",
            ]
        return "\n".join(lines)

    def _count(self, name: str, state: State) -> int:
        return sum(case.landmarks[name].state is state for case in self.cases)

    def _constant_guess_mm(self) -> Floats:
        """``(K,)``: mean radial error of the mean place in the cases that train; in those that validate, if any do."""
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
