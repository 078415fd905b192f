"""``nnunet-ext splits``: writes folds by subject, or few-shot subsets with one validation set."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.findings import few
from nnunet_ext.nnunet.plans import plans_in
from nnunet_ext.splits.cases import Cases, find_cases
from nnunet_ext.splits.files import NAME, about_file, read_folds, table, write_folds
from nnunet_ext.splits.folds import Fold, Shots, cross_validation, few_shot
from nnunet_ext.splits.subjects import Grouping, group, subjects_from_names


@dataclass(frozen=True)
class WrittenSplits:
    """Folds that were written, and where. ``state``: ``new``, ``replaced``, or ``unchanged``."""

    path: Path
    cases: Cases
    grouping: Grouping
    folds: tuple[Fold, ...]
    validation: str
    state: str

    def report(self) -> str:
        """The text to print: a table of the folds, the files, and the commands to type next."""
        rows = table(self.folds, self.grouping)
        shown = ["fold", "seed", "training_subjects", "training_cases", "validation_subjects", "validation_cases"]
        texts = [[name.replace("_", " ") for name in shown]]
        texts += [["-" if row[name] is None else str(row[name]) for name in shown] for row in rows]
        keep = [column for column in range(len(shown)) if any(text[column] != "-" for text in texts[1:])]
        widths = {column: max(len(text[column]) for text in texts) for column in keep}
        by = f"{len(self.grouping.subjects)} subjects (--by {shlex.quote(self.grouping.by)})"
        lines = [
            f"{self.cases.dataset}: {len(self.cases.names)} cases of {by}; validation: {self.validation}",
            "",
            *("  ".join(text[column].rjust(widths[column]) for column in keep) for text in texts),
            "",
            f"{self.path}" + {"new": "", "replaced": "  (replaced)", "unchanged": "  (was there already)"}[self.state],
            f"{about_file(self.path)}  which fold is what, and the subject of every case",
            *self._warnings(),
            "",
            *self._next(),
        ]
        return "\n".join(lines)

    def _warnings(self) -> list[str]:
        warnings = []
        named = subjects_from_names(self.cases.names)
        if self.grouping.by == "case" and named is not None:
            warnings.append(
                f"Warning: the names look as if these were {len(set(named.subject_of.values()))} subjects and not "
                f"{len(self.cases.names)} ({named.rule}); cases of one subject in training and validation leak."
            )
        if self.state == "replaced":
            warnings.append(
                "Warning: models in nnUNet_results that were trained on the folds of before do not belong to these."
            )
        return warnings

    def _next(self) -> list[str]:
        lines = []
        if self.cases.folder is None or self.path != self.cases.folder / NAME:
            folder = f"$nnUNet_preprocessed/{self.cases.dataset}"
            if self.cases.folder is not None:
                folder = shlex.quote(str(self.cases.folder))
            own, about = (shlex.quote(str(path)) for path in (self.path, about_file(self.path)))
            lines.append(f"nnU-Net reads only {NAME}; to use these folds:  cp {own} {folder}/{NAME}")
            lines.append(f"and, so that --check knows the subjects:  cp {about} {folder}/{about_file(Path(NAME))}")
        folds = f"one of 0 to {len(self.folds) - 1} as FOLD" if len(self.folds) > 1 else "0 as FOLD"
        number = re.match(r"Dataset(\d+)_", self.cases.dataset)
        lines.append(
            f"Next, with {folds}:  nnUNetv2_train {int(number[1]) if number else self.cases.dataset} "
            f"{_to_train(self.cases)}"
        )
        return lines


def write_splits(
    dataset: str | int,
    by: str | None,
    *,
    folds: int = 5,
    shots: Sequence[Shots] = (),
    seeds: Sequence[int] | None = None,
    validation_from: str | Path | None = None,
    validation_fold: int = 0,
    out: str | Path | None = None,
    force: bool = False,
) -> WrittenSplits:
    """Write ``splits_final.json``.

    Without ``shots`` the folds are a cross-validation by subject. With ``shots`` they train on subsets of the training
    subjects of one fold, and all validate on that fold's validation set.

    Args:
        dataset: number or full name.
        by: rule for which cases are one subject; see :func:`nnunet_ext.splits.subjects.group`.
        folds: number of folds of the cross-validation.
        shots: numbers of training subjects, or ``"all"``.
        seeds: seeds of the subsets; 0 by default.
        validation_from: file of existing folds to start from, instead of the cross-validation.
        validation_fold: number of the fold to start from.
        out: file to write instead of ``splits_final.json`` in the preprocessed data set.
        force: replace a file that has other folds.

    Raises:
        InputError: something does not exist or does not fit.
    """
    cases = find_cases(dataset)
    path = _target(cases, out)
    if not shots and (seeds is not None or validation_from is not None or validation_fold):
        raise InputError(
            "--seeds and --validation-… belong to --few-shot; the folds of a cross-validation are always those of "
            "nnU-Net's seed."
        )
    grouping = group(cases.names, by)
    if not shots:
        made = cross_validation(grouping.subject_of, folds)
        validation = f"{folds} folds by subject"
    else:
        base, validation = _base(cases, grouping, folds, validation_from, validation_fold)
        made = few_shot(grouping.subject_of, base, shots, (0,) if seeds is None else seeds)
    state = _state(path, made)
    if state == "replaced" and not force:
        raise InputError(
            f"{path} exists and has other folds, on which models may have been trained already; write elsewhere with "
            "--out, or replace it with --force."
        )
    write_folds(path, made, cases.dataset, grouping, validation)
    return WrittenSplits(path, cases, grouping, tuple(made), validation, state)


# --- parts ------------------------------------------------------------------------------------------------------------


def _target(cases: Cases, out: str | Path | None) -> Path:
    if out is None:
        if cases.folder is None:
            raise InputError(
                f"{cases.dataset} is not in nnUNet_preprocessed, where nnU-Net looks for {NAME}; run "
                "nnUNetv2_plan_and_preprocess first, or write elsewhere with --out."
            )
        return cases.folder / NAME
    path = Path(out)
    if path.suffix != ".json" or path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"--out {out} must be a .json file in a folder that exists.")
    return path


def _base(
    cases: Cases, grouping: Grouping, folds: int, validation_from: str | Path | None, index: int
) -> tuple[Fold, str]:
    """The fold that few-shot subsets are drawn from, and its description in words."""
    if validation_from is None:
        source, there = f"{folds} by subject", cross_validation(grouping.subject_of, folds)
    else:
        source, there = str(validation_from), read_folds(Path(validation_from))
    if not 0 <= index < len(there):
        raise InputError(f"--validation-fold is {index}, but there are folds 0 to {len(there) - 1}.")
    base = Fold(tuple(sorted(set(there[index].train))), tuple(sorted(set(there[index].val))))
    unknown = sorted({*base.train, *base.val} - set(cases.names))
    if unknown or not base.train or not base.val:
        strangers = f"has cases that are not in {cases.dataset} ({few(unknown)})"
        found = strangers if unknown else "trains or validates on no case"
        raise InputError(f"Fold {index} of {source} {found}; start from folds of this data set.")
    return base, f"fold {index} of {source}, the same for every fold"


def _state(path: Path, folds: Sequence[Fold]) -> str:
    if not path.exists():
        return "new"
    try:
        there = [(fold.train, fold.val) for fold in read_folds(path)]
    except InputError:
        raise InputError(
            f"{path} holds no folds, so it is not replaced; move it away, or choose another --out."
        ) from None
    return "unchanged" if there == [(fold.train, fold.val) for fold in folds] else "replaced"


def _to_train(cases: Cases) -> str:
    """Arguments of the command to train: a configuration, preprocessed if possible, FOLD, and ``-p`` if needed."""
    folder = cases.folder or Path()
    for plans in sorted(plans_in(folder) if cases.folder else (), key=lambda name: (name != "nnUNetPlans", name)):
        planned: dict[str, Any] = read_json(folder / f"{plans}.json")["configurations"]
        folders = {name: str(settings.get("data_identifier") or "-") for name, settings in planned.items()}
        names = [name for name, data in folders.items() if (folder / data).is_dir()] or list(planned)
        if names:
            plans = "" if plans == "nnUNetPlans" else f" -p {shlex.quote(plans)}"
            return f"{'3d_fullres' if '3d_fullres' in names else names[0]} FOLD{plans}"
    return "CONFIGURATION FOLD"
