"""A data set from several sources, none of which annotated every label: labels of every subject become background.

::

    Dataset327_ACDCMissingLabels/
        dataset.json       refers to the images of the source; its entry annotated_labels says what was annotated
        labelsTr/          the labels, without those that "nobody annotated"
        nnunet_ext_missing_labels.json   options

The source holds all labels. So a benchmark shows what a trainer loses that takes missing labels for background, and
what one gets back that knows better, see :mod:`nnunet_ext.partial_labels`.

With ``alone`` the data set has one label, known in all cases, and folds that train on the subjects that were annotated
for it: the network per label that one would train without such a trainer.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.benchmark.spec import MissingLabels
from nnunet_ext.data.derived import derived_description, new_dataset_folder
from nnunet_ext.data.label_definitions import declared_labels
from nnunet_ext.data.raw import RawCase, RawDataset, open_dataset, require_labels, write_label_map
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json, written_as_a_whole
from nnunet_ext.partial_labels.declaration import KEY
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.splits.files import NAME, write_folds
from nnunet_ext.splits.folds import Fold
from nnunet_ext.splits.subjects import Grouping, group
from nnunet_ext.version import __version__

ABOUT = "nnunet_ext_missing_labels.json"


def removed_from(subject: str, labels: Collection[int], options: MissingLabels) -> frozenset[int]:
    """The labels that are removed from all cases of a subject; they depend on nothing but its name and the options."""
    rng = np.random.default_rng([options.seed, zlib.crc32(subject.encode())])
    count = options.removed[rng.integers(len(options.removed))]
    return frozenset(int(label) for label in rng.choice(sorted(labels), count, replace=False))


def remove_labels(
    dataset: str | int, out: str | int, options: MissingLabels, by: str, *, processes: int | None = None
) -> Path:
    """Write a data set with missing labels into ``nnUNet_raw`` and return its folder; after an error nothing is left.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw``.
        out: number of the new data set, or its whole name.
        options: how many labels to remove.
        by: rule for which cases are one subject, see :func:`nnunet_ext.splits.subjects.group`.
        processes: cases in parallel; by default one per core. The result does not depend on it.

    Raises:
        InputError: the source cannot be read, has regions or too few labels, some label would be left in no case, or
            the number is taken.
    """
    drawn = _draw(dataset, out, options, by)
    source, target = drawn.source, new_dataset_folder(drawn.source, str(out), "MissingLabels")
    annotated = {
        case: [name for value, name in drawn.organs.items() if value not in own] for case, own in drawn.removed.items()
    }
    text = f"{source.name} with labels missing in every case, by nnunet-ext {__version__}"
    description = {**derived_description(source, target, text), KEY: annotated}
    relabelled = {case: {value: value for value in source.known - own} for case, own in drawn.removed.items()}
    return _write(drawn, target, relabelled, description, options, processes)


def one_label(
    dataset: str | int,
    out: str | int,
    options: MissingLabels,
    by: str,
    folds: Sequence[Fold],
    *,
    processes: int | None = None,
) -> Path:
    """Write a data set whose only class is the label ``options.alone``; after an error nothing is left.

    Its folds are ``folds`` without the training cases in which :func:`remove_labels` would remove this label. All label
    maps hold it, so that every validation case can be scored.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw``.
        out: number of the new data set, or its whole name.
        options: the label, and how many labels to remove.
        by: rule for which cases are one subject, see :func:`nnunet_ext.splits.subjects.group`.
        folds: folds of the source.
        processes: cases in parallel; by default one per core. The result does not depend on it.

    Raises:
        InputError: as :func:`remove_labels`, or the source has no such label.
    """
    drawn = _draw(dataset, out, options, by)
    source = drawn.source
    values = [value for value, name in drawn.organs.items() if name == options.alone]
    if not values:
        raise InputError(
            f"drawn, {out}: missing_labels, alone: {source.name} has no label {options.alone!r}; it has "
            f"{', '.join(drawn.organs.values())}."
        )
    own = [
        replace(fold, train=tuple(case for case in fold.train if values[0] not in drawn.removed[case]))
        for fold in folds
    ]
    if not all(fold.train for fold in own):
        raise InputError(
            f"drawn, {out}: a fold would have no training case with {options.alone}; choose another seed, or remove "
            "fewer."
        )
    target = new_dataset_folder(source, str(out), re.sub(r"\W", "", str(options.alone)))
    text = f"{source.name}, {options.alone} alone, by nnunet-ext {__version__}"
    labels, relabelled = {source.classes[0]: 0, options.alone: 1}, {values[0]: 1}
    if source.ignore is not None:
        labels, relabelled = {**labels, "ignore": 2}, {**relabelled, source.ignore: 2}
    description = {**derived_description(source, target, text), "labels": labels}
    return _write(drawn, target, dict.fromkeys(drawn.removed, relabelled), description, options, processes, own)


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawn:
    """Labels that are removed from a data set, case by case.

    Attributes:
        source: the data set.
        organs: its labels without background.
        subjects: its subjects.
        removed: labels that are removed from each case.
    """

    source: RawDataset
    organs: Mapping[int, str]
    subjects: Grouping
    removed: Mapping[str, frozenset[int]]


def _draw(dataset: str | int, out: str | int, options: MissingLabels, by: str) -> _Drawn:
    source = open_dataset(dataset)
    if any(isinstance(values, tuple) for values in declared_labels(source.description).values()):
        raise InputError(f"drawn, {out}: {source.name} has regions, but missing_labels needs labels that are classes.")
    organs = {value: name for value, name in source.classes.items() if value != 0}
    if max(options.removed) >= len(organs):
        raise InputError(
            f"drawn, {out}: missing_labels removes {max(options.removed)} labels, but {source.name} has {len(organs)}; "
            "at least one must stay."
        )
    subjects = group([case.name for case in source.cases], by)
    removed = {case: removed_from(subject, organs, options) for case, subject in subjects.subject_of.items()}
    for value, name in organs.items():
        if all(value in own for own in removed.values()):
            raise InputError(f"drawn, {out}: {name} would be left in no case; choose another seed, or remove fewer.")
    return _Drawn(source, organs, subjects, removed)


def _write(
    drawn: _Drawn,
    target: Path,
    relabelled: Mapping[str, Mapping[int, int]],
    description: Mapping[str, Any],
    options: MissingLabels,
    processes: int | None,
    folds: Sequence[Fold] = (),
) -> Path:
    """Write the data set; ``relabelled`` gives new values of labels by case, and every other label is background."""
    source = drawn.source
    with written_as_a_whole(target) as folder:
        (folder / "labelsTr").mkdir()
        calls = [(case, source.reader().name, source.known, relabelled[case.name], folder) for case in source.cases]
        for _ in for_every_case(_relabel, calls, processes, "missing labels"):
            pass
        write_json(folder / "dataset.json", description)
        about = {"nnunet_ext": __version__, "options": options.model_dump(exclude_none=True), "by": drawn.subjects.by}
        write_json(folder / ABOUT, about)
        if folds:
            write_folds(folder / NAME, folds, target.name, drawn.subjects, "that of the source")
    return target


def _relabel(case: RawCase, reader_name: str, known: set[int], values: Mapping[int, int], folder: Path) -> None:
    reader = Reader(reader_name)
    dense = reader.labels(case.label)
    require_labels(dense.array, known, case.label)
    left = np.zeros_like(dense.array)
    for old, new in values.items():
        left[dense.array == old] = new
    write_label_map(reader, left, case.label, folder / "labelsTr" / case.label.name)
