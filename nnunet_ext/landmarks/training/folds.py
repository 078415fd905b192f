"""Folds of a data set in which not every case has both a segmentation and landmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ext.files import replacing
from nnunet_ext.landmarks.annotation import Annotation
from nnunet_ext.splits.folds import stratified

ByAnnotation = Mapping[Annotation, Sequence[str]]


def write_stratified_folds(path: Path, cases: ByAnnotation) -> None:
    """Write nnU-Net's ``splits_final.json`` with 5 folds, each of which validates every kind of case.

    Nothing is written beside it: as in nnU-Net's own folds, nobody said which cases are one subject.

    Args:
        path: of the file.
        cases: all of the data set.

    Raises:
        InputError: fewer cases than folds.
    """
    ordered = [cases.get(kind, ()) for kind in Annotation]
    folds = [{"train": fold.train, "val": fold.val} for fold in stratified(ordered)]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(folds, indent=4), encoding="utf-8")


def not_validated(validation: ByAnnotation, training: ByAnnotation) -> str | None:
    """One sentence if a fold trains something that none of its validation cases can judge.

    Args:
        validation: cases of the fold.
        training: the same.
    """

    def any_with(cases: ByAnnotation, what: str) -> bool:
        return any(names and getattr(kind, what) for kind, names in cases.items())

    missing = [
        what for what in ("segmentation", "landmarks") if any_with(training, what) and not any_with(validation, what)
    ]
    if not missing:
        return None
    return (
        f"No validation case of this fold has {' or '.join(missing)}, so nothing will be known about how well "
        f"{'both are' if len(missing) > 1 else 'that is'} predicted; remove splits_final.json to get folds with both."
    )
