"""Data sets that a benchmark derives from dense labels: with scribbles, landmarks, moved borders, or missing labels.

They are stored in the benchmark's folder, beside links to the user's data sets.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.missing_labels import one_label, remove_labels
from nnunet_ext.benchmark.moved_borders import move_borders
from nnunet_ext.benchmark.own_folds import write_landmark_folds
from nnunet_ext.benchmark.preprocessed import contents, digest
from nnunet_ext.benchmark.spec import Drawn, MissingLabels, SplitRecipe
from nnunet_ext.data.folders import dataset_folder, visible_files
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, write_json
from nnunet_ext.refusals import meant
from nnunet_ext.splits.files import NAME, read_folds
from nnunet_ext.splits.write import write_splits

DRAWN = "nnunet_ext_drawn.json"
"""File in a drawn data set with the settings and the state of the source that it was drawn with."""


def link_datasets(source: Path, target: Path, drawn: Iterable[str]) -> None:
    """Link the data sets of ``source`` into ``target``, except those with the number of a drawn one."""
    own = {f"Dataset{int(number):03d}" for number in drawn}
    for folder in sorted(source.glob("Dataset[0-9][0-9][0-9]_*")):
        link = target / folder.name
        if folder.name[:10] in own or folder == link:
            continue
        if link.is_symlink() and link.readlink() != folder:  # raw has moved
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(folder, target_is_directory=True)


def drawn_folds(raw: Path, drawn: Mapping[str, Drawn]) -> Path | None:
    """The file of folds of a data set that is drawn with them; those of landmarks hold for all data sets beside them.

    Args:
        raw: folder of the data set.
        drawn: all drawn data sets, by number.
    """
    with_landmarks = [number for number, how in drawn.items() if how.landmarks is not None]
    numbers = [number for number in drawn if raw.name.startswith(f"Dataset{int(number):03d}_")] + with_landmarks
    folders = [folder for number in numbers for folder in raw.parent.glob(f"Dataset{int(number):03d}_*")]
    return next((folder / NAME for folder in folders if (folder / NAME).is_file()), None)


def draw(number: str, drawn: Drawn, splits: SplitRecipe | None, raw: Path) -> None:
    """Make the data set of this number in ``raw``, unless it exists already with the same settings and source.

    Args:
        number: number of the new data set.
        drawn: settings of the data set.
        splits: recipe of the folds, which says which cases are one subject.
        raw: ``nnUNet_raw`` of the benchmark.

    Raises:
        InputError: the data set cannot be made.
    """
    how = _settings({**drawn.model_dump(mode="json"), "splits": splits and splits.model_dump(mode="json")})
    state = _state_of(dataset_folder(drawn.source, "nnUNet_raw"))
    for folder in raw.glob(f"Dataset{int(number):03d}_*"):
        if (folder / DRAWN).is_file():
            before = _settings(read_json(folder / DRAWN))
            # files of earlier versions have no state
            if before.pop("state_of_source", state) == state and before == how:
                return
        for old in (folder, Path(os.environ["nnUNet_preprocessed"]) / folder.name):
            shutil.rmtree(old, ignore_errors=True)
    if drawn.scribbles is not None:
        made = _scribbles(number, drawn.source, drawn.scribbles)
    elif drawn.borders is not None:
        made = move_borders(drawn.source, number, drawn.borders)
    elif drawn.missing_labels is not None:
        made = _missing_labels(number, drawn.source, drawn.missing_labels, splits, raw)
    else:
        assert splits is not None  # the specification requires it
        made = _landmarks(number, drawn, splits, raw)
    write_json(made / DRAWN, {**how, "state_of_source": state})
    print(f"{made.name}: drawn from data set {drawn.source}", flush=True)


# --- parts ------------------------------------------------------------------------------------------------------------


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are there, so that a setting that is new changes nothing for older data sets."""
    return {
        key: _settings(value) if isinstance(value, Mapping) else value
        for key, value in content.items()
        if value is not None
    }


def _state_of(source: Path) -> str:
    """A digest of the labels of a data set, and of what its ``dataset.json`` says."""
    return digest(read_json(source / "dataset.json"), contents(source, visible_files(source / "labelsTr", "")))


def _scribbles(number: str, source: str, given: Mapping[str, Any]) -> Path:
    from nnunet_ext.scribbles.generate import generate_dataset
    from nnunet_ext.scribbles.label_map import Options

    return generate_dataset(source, number, _options(Options, given, number, "scribbles generate")).folder


def _missing_labels(number: str, source: str, how: MissingLabels, splits: SplitRecipe | None, raw: Path) -> Path:
    if how.alone is None:
        return remove_labels(source, number, how, splits.by if splits else "case")
    assert splits is not None  # the specification requires it
    return one_label(source, number, how, splits.by, read_folds(_folds_of(source, splits, raw)))


def _folds_of(source: str, splits: SplitRecipe, raw: Path) -> Path:
    """Write the folds of the source of a data set, as the recipe makes them, and return the file."""
    file = raw / f"folds_of_{source}.json"
    seeds = splits.seeds or None
    write_splits(source, splits.by, folds=splits.folds, shots=splits.few_shot, seeds=seeds, out=file, force=True)
    return file


def _landmarks(number: str, drawn: Drawn, splits: SplitRecipe, raw: Path) -> Path:
    """Make a data set with landmarks and its folds; each fold has masks of other subjects, and the same landmarks."""
    from nnunet_ext.landmarks.derive import derive_dataset
    from nnunet_ext.landmarks.derived import Options

    how = drawn.landmarks
    assert how is not None
    base = _folds_of(drawn.source, splits, raw)
    segmented = how.segmented * how.subsets
    given = {"segmented": segmented, "by": splits.by, "splits": base, "rule": how.rule, "labels": how.labels}
    made = derive_dataset(drawn.source, number, _options(Options, given, number, "landmarks derive"))
    write_landmark_folds(made.folder, read_folds(base)[0], how, splits.by)
    return made.folder


def _options(kind: type, given: Mapping[str, Any], number: str, command: str) -> Any:
    known = [field.name for field in fields(kind)]
    if unknown := [name for name in given if name not in known]:
        raise InputError(
            f"drawn, {number}: nnunet-ext {command} has no option {unknown[0]!r}{meant(unknown[0], known)}; there are "
            f"{', '.join(known)}."
        )
    return kind(**given)
