"""A data set with landmarks: nnU-Net's raw format, the folder ``landmarksTr``, and two entries of ``dataset.json``.

::

    Dataset204_Knee/
      imagesTr/CASE_0000.nii.gz
      labelsTr/CASE.nii.gz            only landmarks: every voxel has the ignore label
      landmarksTr/CASE.mrk.json       or .fcsv, .json, .csv; no file: all landmarks are unknown
      dataset.json                    nnU-Net's keys, "landmarks", and perhaps "annotated_labels"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.data.label_definitions import Label, ScoredLabels
from nnunet_ext.data.raw import RawDataset, open_dataset
from nnunet_ext.data.reading import Volume
from nnunet_ext.landmarks.declaration import Declaration
from nnunet_ext.landmarks.formats import Cases, landmark_files, read_files
from nnunet_ext.landmarks.surface import OrganSurface
from nnunet_ext.partial_labels.declaration import annotated_labels

FOLDER = "landmarksTr"


@dataclass(frozen=True)
class Organs:
    """The labels of a data set, as what landmarks lie on.

    Attributes:
        values: label or region by name, without background and ignore.
        ignore: the ignore label, if there is one.
        annotated: by case, the labels that were annotated in it; all in a case without an entry.
    """

    values: Mapping[str, Label]
    ignore: int | None
    annotated: Mapping[str, frozenset[str]]

    @property
    def known(self) -> set[int]:
        """Every value that a label map may hold."""
        numbers = {n for value in self.values.values() for n in (value if isinstance(value, tuple) else (value,))}
        return numbers | {0} | ({self.ignore} if self.ignore is not None else set())

    def surface(self, case: str, organ: str, labels: Volume) -> OrganSurface | None:
        """The surface of an organ in the label map of a case; None if it is absent there or was not annotated."""
        if organ not in self.annotated.get(case, {organ}):
            return None
        array = as_3d(labels.array)
        labelled = None if self.ignore is None else array != self.ignore
        mask = np.isin(array, self.values[organ])
        return OrganSurface.find(mask, Geometry.from_volume(labels).spacing_mm, labelled)


@dataclass(frozen=True)
class LandmarkDataset:
    """A data set in nnU-Net's raw format, with landmarks.

    Attributes:
        raw: images and label maps.
        declaration: the block ``landmarks`` of ``dataset.json``.
        organs: its labels.
        files: in ``landmarksTr``.
    """

    raw: RawDataset
    declaration: Declaration
    organs: Organs
    files: tuple[Path, ...]

    def landmarks(self) -> Cases:
        """By case; a case that is not there has unknown landmarks.

        Raises:
            InputError: a file cannot be read, or a case is in two files.
        """
        return read_files(self.files)


def open_landmarks(dataset: str | int | Path) -> LandmarkDataset:
    """Read ``dataset.json``, and list the training cases and the files of landmarks.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw``, or a folder.

    Raises:
        InputError: there is no such data set, it declares no landmarks, or a file or an entry is missing.
    """
    raw = open_dataset(dataset)
    where = str(raw.folder / "dataset.json")
    organs = Organs(
        ScoredLabels.from_dataset_json(raw.description, where).values,
        raw.ignore,
        annotated_labels(raw.description, where),
    )
    declaration = Declaration.from_dataset_json(raw.description, where)
    return LandmarkDataset(raw, declaration, organs, tuple(landmark_files(raw.folder / FOLDER)))


def as_3d(array: NDArray) -> NDArray:
    """``(y, x)`` → one slice ``(1, y, x)``, as nnU-Net does; ``(z, y, x)`` stays."""
    return array if array.ndim == 3 else array[None]
