"""A data set with landmarks: nnU-Net's raw format, the folder ``landmarksTr``, and two entries of ``dataset.json``.

::

    Dataset204_Knee/
      imagesTr/CASE_0000.nii.gz
      labelsTr/CASE.nii.gz            in a case with only landmarks every voxel has the ignore label
      landmarksTr/CASE.mrk.json       or .fcsv, .json, .csv; without a file all landmarks are unknown
      dataset.json                    nnU-Net's keys, "landmarks", and perhaps "annotated_labels"

    "labels": {"background": 0, "femur": 1, "cartilage": 2, "ignore": 3},
    "landmarks": {
        "names": ["FemurMedial", "FemurLateral"],
        "surface_of": {"FemurMedial": ["femur", "cartilage"], "FemurLateral": ["femur", "cartilage"]},
        "mirror_pairs": [["FemurMedial", "FemurLateral"]],
        "spans": {"femur": [["FemurMedial", "FemurLateral"]]}
    }

Only ``names`` is required; ``"landmarks"`` may also be a plain list of names. nnU-Net tolerates unknown keys, and
copies ``dataset.json`` into the model folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.data.label_definitions import Label, ScoredLabels, numbers_of
from nnunet_ext.data.raw import RawDataset, open_dataset
from nnunet_ext.data.reading import Volume
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.formats import Cases, landmark_files, read_files
from nnunet_ext.landmarks.rules import DIRECTIONS
from nnunet_ext.landmarks.surface import OrganSurface
from nnunet_ext.partial_labels.declaration import (
    IN_LANDMARKS,
    annotated_labels,
    keys_like_ours,
    known_names,
    organs,
)
from nnunet_ext.refusals import meant

FOLDER = "landmarksTr"
KEY = "landmarks"
_EXAMPLE = '"landmarks": {"names": ["tip"], "surface_of": {"tip": ["liver"]}}'

Pair = tuple[str, str]

MIRRORED = tuple("-".join(ends) for ends in DIRECTIONS)
"""Directions along which a patient can be mirrored: right-left, anterior-posterior, inferior-superior."""


@dataclass(frozen=True)
class Declaration:
    """The block ``landmarks`` of ``dataset.json``.

    Attributes:
        names: names of the landmarks, in the order of a network's channels.
        surface_of: for each landmark, the labels or regions on whose surface it lies. A landmark without an entry may
            lie anywhere.
        mirror_pairs: by direction of :data:`MIRRORED`, landmarks that change places when the patient is mirrored
            along it.
        spans: for each label, pairs of landmarks at two ends of the organ.
    """

    names: tuple[str, ...]
    surface_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mirror_pairs: Mapping[str, tuple[Pair, ...]] = field(default_factory=dict)
    spans: Mapping[str, tuple[Pair, ...]] = field(default_factory=dict)

    @classmethod
    def from_dataset_json(cls, content: Mapping[str, Any], where: str = "dataset.json") -> Declaration:
        """Read the block ``landmarks``.

        Args:
            content: content of ``dataset.json``.
            where: name of the file in messages.

        Raises:
            InputError: the block is missing, or contradicts itself or the labels.
        """
        if KEY not in content:
            hint = keys_like_ours(content)
            raise InputError(f"{where} has no {KEY!r}{hint and f' ({hint})'}; add for example {_EXAMPLE}.")
        block = content[KEY]
        if isinstance(block, list):
            block = {"names": block}
        if not isinstance(block, Mapping):
            raise InputError(f"{where}: {KEY!r} is {block!r}, but it must be an object such as {_EXAMPLE}.")
        if unknown := [f"{key!r}{meant(key, IN_LANDMARKS)}" for key in sorted(set(block) - set(IN_LANDMARKS))]:
            raise InputError(
                f"{where}: {KEY!r} has unknown keys {', '.join(unknown)}; known are {', '.join(IN_LANDMARKS)}."
            )
        names = _names(block.get("names"), where)
        labels = organs(content)
        return cls(
            names,
            _surface_of(block.get("surface_of", {}), names, labels, where),
            _mirror_pairs(block.get("mirror_pairs", []), names, where),
            _spans(block.get("spans", {}), names, labels, where),
        )

    def mirrored_order(self, direction: str) -> list[int]:
        """For each landmark, the index of the one that takes its place when the patient is mirrored, ``(K,)``."""
        pairs = self.mirror_pairs.get(direction, ())
        partner = dict(pairs) | {b: a for a, b in pairs}
        return [self.names.index(partner.get(name, name)) for name in self.names]


@dataclass(frozen=True)
class Organs:
    """The labels of a data set on whose surfaces landmarks lie.

    Attributes:
        values: label or region by name, without background and ignore.
        ignore: the ignore label, if there is one.
        annotated: for each case, the labels that were annotated in it; a case without an entry has all.
    """

    values: Mapping[str, Label]
    ignore: int | None
    annotated: Mapping[str, frozenset[str]]

    @property
    def known(self) -> set[int]:
        """Every value that a label map may hold."""
        numbers = {n for value in self.values.values() for n in numbers_of(value)}
        return numbers | {0} | ({self.ignore} if self.ignore is not None else set())

    def at(self, place: Path, own: Path) -> Organs:
        """The labels in the label maps at a place: ``annotated_labels`` describes the data set's ``own`` alone."""
        return self if place.resolve() == own.resolve() else replace(self, annotated={})

    def surface(self, case: str, organ: str, labels: Volume) -> OrganSurface | None:
        """The surface of an organ in the label map of a case; None if it is absent there or was not annotated."""
        if organ not in self.annotated.get(case, {organ}):
            return None
        array = as_3d(labels.array)
        labelled = None if self.ignore is None else array != self.ignore
        mask = np.isin(array, self.values[organ])
        return OrganSurface.find(mask, Geometry.from_volume(labels).spacing_mm, labelled)


@dataclass(frozen=True)
class RawLandmarkDataset:
    """A data set in nnU-Net's raw format, with landmarks.

    Attributes:
        raw: images and label maps.
        declaration: the block ``landmarks`` of ``dataset.json``.
        organs: the labels of the data set.
        files: files of landmarks in ``landmarksTr``.
    """

    raw: RawDataset
    declaration: Declaration
    organs: Organs
    files: tuple[Path, ...]

    def landmarks(self) -> Cases:
        """Return the landmarks by case; all landmarks of a missing case are unknown.

        Raises:
            InputError: a file cannot be read, or a case is in two files.
        """
        return read_files(self.files)


def open_landmarks(dataset: str | int | Path) -> RawLandmarkDataset:
    """Read ``dataset.json``, and list the training cases and the files of landmarks.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw``, or a folder.

    Raises:
        InputError: there is no such data set, it declares no landmarks, or a file or an entry is missing.
    """
    raw = open_dataset(dataset)
    where = str(raw.folder / "dataset.json")
    labels = Organs(
        ScoredLabels.from_dataset_json(raw.description, where).values,
        raw.ignore,
        annotated_labels(raw.description, where),
    )
    declaration = Declaration.from_dataset_json(raw.description, where)
    return RawLandmarkDataset(raw, declaration, labels, tuple(landmark_files(raw.folder / FOLDER)))


def as_3d(array: NDArray) -> NDArray:
    """Return ``(y, x)`` as one slice ``(1, y, x)``, as nnU-Net does; ``(z, y, x)`` stays as it is."""
    return array if array.ndim == 3 else array[None]


# --- parts of the block -----------------------------------------------------------------------------------------------


def _names(names: Any, where: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise InputError(f'{where}: the names of the landmarks are {names!r}, but they must be a list such as ["tip"].')
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{where}: the landmarks {twice} are named twice; every name must occur once.")
    return tuple(names)


def _object(found: Any, what: str, where: str) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise InputError(f"{where}: {what} is {found!r}, but it must be an object.")
    return found


def _surface_of(block: Any, names: tuple[str, ...], labels: list[str], where: str) -> dict[str, tuple[str, ...]]:
    block = _object(block, "surface_of", where)
    known_names(list(block), names, f"{where}: surface_of")
    given = [name for name in names if block.get(name, []) != []]
    return {name: known_names(block[name], labels, f"{where}: surface_of {name}") for name in given}


def _pair(found: Any, names: tuple[str, ...], where: str) -> Pair:
    one_two = known_names(found, names, where)
    if len(one_two) != 2:
        raise InputError(f"{where} has {found!r}, but a pair is two different landmarks.")
    return one_two[0], one_two[1]


def _pairs(found: Any, names: tuple[str, ...], where: str) -> tuple[Pair, ...]:
    if not isinstance(found, list):
        raise InputError(f'{where} is {found!r}, but it must be a list of pairs such as [["left", "right"]].')
    return tuple(_pair(pair, names, where) for pair in found)


def _mirror_pairs(block: Any, names: tuple[str, ...], where: str) -> dict[str, tuple[Pair, ...]]:
    """Pairs by direction; a list alone means right and left."""
    where = f"{where}: mirror_pairs"
    by_direction = block if isinstance(block, Mapping) else {MIRRORED[0]: block}
    if unknown := sorted(set(by_direction) - set(MIRRORED)):
        raise InputError(f"{where} has the directions {unknown}; known are {', '.join(MIRRORED)}.")
    found = {}
    for direction, listed in by_direction.items():
        pairs = _pairs(listed, names, where if by_direction is not block else f"{where} {direction}")
        used = [name for pair in pairs for name in pair]
        if twice := sorted({name for name in used if used.count(name) > 1}):
            raise InputError(f"{where} has {twice} in several pairs, but a landmark has one mirror image.")
        if pairs:
            found[direction] = pairs
    return found


def _spans(block: Any, names: tuple[str, ...], labels: list[str], where: str) -> dict[str, tuple[Pair, ...]]:
    block = _object(block, "spans", where)
    known_names(list(block), labels, f"{where}: spans")
    return {label: _pairs(pairs, names, f"{where}: spans of {label}") for label, pairs in block.items()}
