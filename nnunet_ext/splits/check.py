"""``nnunet-ext splits --check``: errors in the folds of a data set, and subjects in both training and validation."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nnunet_ext.data.raw import open_dataset
from nnunet_ext.errors import InputError
from nnunet_ext.findings import CheckReport, Finding, Severity, few, some
from nnunet_ext.splits.cases import Cases, find_cases
from nnunet_ext.splits.files import NAME, About, about_file, read_about, read_folds
from nnunet_ext.splits.folds import Fold, default_folds
from nnunet_ext.splits.images import Neighbours, look_at_neighbours
from nnunet_ext.splits.subjects import Grouping, group, in_pairs, numbered, subjects_from_names, told


@dataclass(frozen=True)
class SplitsReport(CheckReport):
    """Findings in folds. ``error``: wrong; ``warning``: probably wrong; ``note``: how they were checked.

    Attributes:
        cases: cases of the data set.
        source: where the folds come from, in words.
        folds: the folds that were checked.
    """

    severities: ClassVar[tuple[Severity, ...]] = ("error", "warning", "note")
    failing: ClassVar[tuple[Severity, ...]] = ("error", "warning")

    cases: Cases
    source: str
    folds: tuple[Fold, ...]

    def report(self) -> str:
        """The text to print."""
        counts = f"{len(self.cases.names)} cases, {len(self.folds)} folds"
        head = f"{self.cases.dataset}: {counts}, {self.source}; {self.verdict()}"
        lines = (
            f"{found.severity:<7} {f'{found.case}: ' if found.case else ''}{found.text}" for found in self.findings
        )
        return "\n".join([head, *lines])


def check_splits(
    dataset: str | int,
    file: str | Path | None = None,
    *,
    by: str | None = None,
    images: bool = True,
    processes: int | None = None,
) -> SplitsReport:
    """Check folds.

    The subjects come from ``by``, or else from the file that ``nnunet-ext splits`` stored beside the folds. Without
    either they are guessed from the names of the cases, and if the names do not tell, from the images.

    Args:
        dataset: number or full name.
        file: file of folds; by default ``splits_final.json`` of the preprocessed data set, or nnU-Net's default folds
            if there is none.
        by: see :func:`nnunet_ext.splits.subjects.group`; ``case`` means that the subjects are unknown.
        images: whether to compare images, which takes about as long as reading 100 of them.
        processes: images read in parallel; by default one per core.

    Raises:
        InputError: a file cannot be read, or does not fit the data set.
    """
    cases = find_cases(dataset)
    path = Path(file) if file else cases.folder / NAME if cases.folder else None
    about = None
    if path is not None and (file or path.is_file()):
        source, folds, about = str(path), read_folds(path), read_about(path)
    else:
        source, folds = f"nnU-Net's default, since there is no {NAME}", default_folds(cases.dataset, cases.names)
    findings = [*consistency(folds, cases, about.few_shot if about else ())]
    known, remarks = _known_subjects(cases, by, about, path)
    findings += remarks
    if known is not None:
        findings.append(Finding("note", "subjects", f"{len(known.subjects)} subjects, {known.by}"))
        findings += leaks(folds, known)
    if known is None or remarks:
        findings += _likely_leaks(folds, cases, images, processes)
    return SplitsReport(SplitsReport.by_severity(findings), cases, source, tuple(folds))


def consistency(folds: Sequence[Fold], cases: Cases, few_shot: Sequence[bool] = ()) -> Iterator[Finding]:
    """Find errors that do not depend on the subjects.

    Args:
        folds: folds to check.
        cases: cases of the data set.
        few_shot: for each fold, whether it leaves cases out on purpose.
    """
    for index, fold in enumerate(folds):
        for part, names in (("training", fold.train), ("validation", fold.val)):
            if not names:
                yield Finding("error", "folds", f"fold {index}: {part} has no cases")
            if twice := sorted(name for name, count in Counter(names).items() if count > 1):
                yield Finding("error", "folds", f"fold {index}: {some(twice)} more than once in {part}")
            if unknown := sorted(set(names) - set(cases.names)):
                text = f"fold {index}: {some(unknown)} in {part}, but not in the data set; nnU-Net would stop there"
                yield Finding("error", "folds", text)
        if both := sorted(set(fold.train) & set(fold.val)):
            yield Finding("error", "folds", f"fold {index}: {some(both)} in training and validation")
    used = {case for fold in folds for case in (*fold.train, *fold.val)}
    if unused := sorted(set(cases.names) - used):
        severity: Severity = "note" if any(few_shot) else "warning"
        yield Finding(severity, "folds", f"{some(unused)} in no fold, neither for training nor for validation")
    for index, fold in enumerate(folds):
        absent = sorted((used & set(cases.names)) - {*fold.train, *fold.val})
        if absent and not (few_shot and few_shot[index]):
            yield Finding("warning", "folds", f"fold {index}: {some(absent)} missing, which another fold has")


def leaks(folds: Sequence[Fold], grouping: Grouping, *, likely: bool = False) -> Iterator[Finding]:
    """Find validation cases whose subject also has a case in training, one finding per fold.

    Args:
        folds: folds to check; cases without a subject are skipped.
        grouping: subject of every case.
        likely: whether the subjects are only guessed.
    """
    severity: Severity = "warning" if likely else "error"
    title, have = ("likely leak", "seem to have") if likely else ("leak", "have")
    for index, fold in enumerate(folds):
        partner = {grouping.subject_of[case]: case for case in sorted(fold.train) if case in grouping.subject_of}
        leaked = [
            (case, partner[subject])
            for case in sorted(set(fold.val) - set(fold.train))
            if (subject := grouping.subject_of.get(case)) in partner and subject is not None
        ]
        if leaked:
            yield Finding(
                severity,
                title,
                f"{title}, fold {index}: {len(leaked)} of {len(fold.val)} validation cases {have} their subject in "
                f"training, such as {leaked[0][0]} ({leaked[0][1]} is trained on)",
            )


# --- parts ------------------------------------------------------------------------------------------------------------


def _known_subjects(
    cases: Cases, by: str | None, about: About | None, path: Path | None
) -> tuple[Grouping | None, list[Finding]]:
    """The subjects that the user named, now or when writing the folds; None if unknown. Remarks: on cases without."""
    if by:
        said = group(cases.names, by)
        return (None if by == "case" else Grouping(f"--by {shlex.quote(by)}", said.subject_of)), []
    if about is None or path is None or about.grouping.by == "case":
        return None, []
    beside = about_file(path)
    by, stored = about.grouping.by, about.grouping.subject_of
    added = set(cases.names) - set(stored)
    said = Grouping(f"--by {shlex.quote(by)}, as {beside.name} says", {**stored, **told(added, by)})
    if unknown := sorted(added - set(said.subject_of)):
        text = f"{beside.name} does not know {some(unknown)}, so the subjects are guessed, too"
        return said, [Finding("note", "subjects", text)]
    return said, []


def _likely_leaks(folds: Sequence[Fold], cases: Cases, images: bool, processes: int | None) -> Iterator[Finding]:
    """Leaks that names or images suggest. They are guesses, so the findings ask the user to confirm the subjects."""
    named = subjects_from_names(cases.names)
    if named is not None:
        grouping = Grouping(named.rule, named.subject_of)
        count = len(grouping.subjects)
        text = f"the names look as if these were {count} subjects ({named.rule}); if so, say --by subject"
        yield Finding("note", "subjects", text)
        yield from _guessed(folds, grouping)
        return
    yield Finding(
        "note",
        "subjects",
        f"the names ({few(cases.names)}) do not tell which cases are one subject; if you know, say --by",
    )
    if not images:
        return
    if not os.environ.get("nnUNet_raw"):
        yield Finding("note", "images", "nnUNet_raw is not set, so images were not compared")
        return
    try:
        found = look_at_neighbours(open_dataset(cases.dataset), processes)
    except InputError as error:  # the other checks do not need images
        yield Finding("note", "images", f"images were not compared: {error}")
        return
    yield Finding("note", "images", _seen(found))
    for case, text in (found.not_finite if found is not None else {}).items():
        yield Finding("warning", "not finite", text, case)
    if found is not None and found.first is not None:
        names = [case for case in cases.names if (parts := numbered(case)) and int(parts[1]) >= found.first]
        yield from _guessed(folds, Grouping("images", in_pairs(names, found.first)))


def _guessed(folds: Sequence[Fold], grouping: Grouping) -> list[Finding]:
    found = list(leaks(folds, grouping, likely=True))
    return found or [Finding("note", "subjects", "with these subjects, no fold has one in training and validation")]


def _seen(found: Neighbours | None) -> str:
    if found is None:
        return "too few cases have neighbouring numbers to compare their images"
    numbers = f"(ranks of {found.cases} cases, p = {found.p_value:.1g})"
    odd_even, even_odd = f"2k-1 and 2k ({found.odd_even:.2f})", f"2k and 2k+1 ({found.even_odd:.2f})"
    if found.first is None:
        return (
            f"images with the numbers {odd_even} are not clearly more or less alike in brightness than {even_odd} "
            f"{numbers}: no sign of pairs of one subject, which is no proof"
        )
    low, high, way = (odd_even, even_odd, "pairs") if found.first else (even_odd, odd_even, "pairs-from-0")
    return (
        f"images with the numbers {low} differ less in brightness than {high} {numbers}: probably one subject; if so, "
        f"say --by {way}"
    )
