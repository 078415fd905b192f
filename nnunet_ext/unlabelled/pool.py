"""The images without labels that one fold of a data set may use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.findings import few
from nnunet_ext.splits.files import About
from nnunet_ext.splits.subjects import subjects_from_names, told
from nnunet_ext.unlabelled.prepared import Notes


@dataclass(frozen=True)
class Pool:
    """The images without labels of a training.

    Attributes:
        files: preprocessed file by case, without its ending.
        source: where the images come from, in words.
        held_out: cases left out because they show validation subjects.
        transductive: cases used although they show validation subjects.
    """

    files: Mapping[str, Path]
    source: str
    held_out: tuple[str, ...] = ()
    transductive: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """Sentences for the log."""
        lines = [f"Images without labels: {len(self.files)}, {self.source}"]
        if self.held_out:
            lines.append(f"{_counted(self.held_out)} left out, which show validation subjects")
        if self.transductive:
            lines.append(
                f"WARNING: transductive: {_counted(self.transductive)} of them show validation subjects, as the option "
                "unlabelled.transductive allows; say so where you report the validation of this training"
            )
        return lines


def of_folder(
    folder: Path, notes: Mapping[str, Notes], held: Collection[str], about: About | None, *, transductive: bool
) -> Pool:
    """Choose among the images that ``nnunet-ext unlabelled`` has preprocessed.

    Args:
        folder: folder of the preprocessed images.
        notes: notes on every case.
        held: cases that validate and are not trained on.
        about: stored subjects; None guesses them from the names.
        transductive: use images of validation subjects, too.
    """
    copied = {case for note in notes.values() for case in note.same_as}
    secret = showing({*notes, *copied}, held, about)
    shown = {name for name, note in notes.items() if secret & {name, *note.same_as}}
    return _pool({name: folder / name for name in notes}, shown, f"of {folder}", transductive)


def others_of_the_split(
    folder: Path,
    cases: Sequence[str],
    trained: Collection[str],
    held: Collection[str],
    about: About | None,
    *,
    transductive: bool,
) -> Pool:
    """Choose among the labelled cases that a fold does not train on; their labels are not read.

    Args:
        folder: folder of the preprocessed data.
        cases: all preprocessed cases.
        trained: training cases of the fold.
        held: cases that validate and are not trained on.
        about: see :func:`of_folder`.
        transductive: see :func:`of_folder`.

    Raises:
        InputError: no case is left.
    """
    others = [case for case in cases if case not in trained]
    pool = of_cases(folder, others, "the others of the split", held, about, transductive=transductive)
    if not pool.files:
        raise InputError(
            "The fold leaves no case that neither trains nor validates, so there are no images without labels; set the "
            "option unlabelled.images to folder or none, or write few-shot folds (nnunet-ext splits --few-shot)."
        )
    return pool


def of_cases(
    folder: Path, cases: Sequence[str], source: str, held: Collection[str], about: About | None, *, transductive: bool
) -> Pool:
    """Choose among ``cases`` of the data set; the other arguments are those of :func:`others_of_the_split`.

    Args:
        folder: folder of the preprocessed data.
        cases: cases to choose from.
        source: what they are, in words.
        held: cases that validate and are not trained on.
        about: see :func:`of_folder`.
        transductive: see :func:`of_folder`.
    """
    return _pool({case: folder / case for case in cases}, showing(cases, held, about), source, transductive)


def showing(names: Collection[str], held: Collection[str], about: About | None) -> set[str]:
    """Return the cases that show the same subject as one of the cases ``held``.

    Subjects come from ``splits_final.about.json``: those that it lists, then what its rule says of the other names. For
    cases that neither knows, or without the file, they are guessed from the names. A guess needs no confirmation here,
    because it can only leave out more.

    Args:
        names: cases to choose from.
        held: cases whose subjects must not be seen.
        about: content of the file beside the folds.
    """
    known: dict[str, str] = {}
    if about is not None:
        known |= about.grouping.subject_of
        known |= told({*names, *held} - known.keys(), about.grouping.by)
    subjects = {known.get(case) for case in held} - {None}
    secret = {*held} | {case for case, subject in known.items() if subject in subjects}
    if guess := subjects_from_names(sorted({*names, *held, *known}), one=True):
        guessed = {guess.subject_of[case] for case in secret}
        secret |= {name for name in names if name not in known and guess.subject_of[name] in guessed}
    return secret & set(names)


def _pool(files: dict[str, Path], shown: Collection[str], source: str, transductive: bool) -> Pool:
    some_shown = tuple(sorted(shown))
    if transductive:
        return Pool(files, source, transductive=some_shown)
    return Pool({name: path for name, path in files.items() if name not in shown}, source, held_out=some_shown)


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} {'image' if len(names) == 1 else 'images'} ({few(names)})"
