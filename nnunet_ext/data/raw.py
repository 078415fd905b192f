"""A data set in nnU-Net's raw format: its folder, cases and labels. Also writes label maps with nnU-Net's writer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from nnunet_ext.data.channels import channel_names, channels_key, images_by_case, require_channels, require_numbered
from nnunet_ext.data.folders import case_names, dataset_folder, visible_files
from nnunet_ext.data.label_definitions import ANNOTATED, ScoredLabels, numbers_of
from nnunet_ext.data.reading import Reader
from nnunet_ext.data.spacing_files import known_spacing
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json

Item = TypeVar("Item")

DENSE_FRACTION = 0.5
"""Annotated share above which labels are not scribbles. Published scribbles cover 1 to 5 % of the voxels; dense labels
with a masked region usually cover more than half."""


BY_CASE = (ANNOTATED,)
"""Entries of ``dataset.json`` with names for each case, whose order means nothing."""


@dataclass(frozen=True)
class RawCase:
    """One training case; ``images`` are in the order of the channels, and one file may hold several channels."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class RawDataset:
    """A data set in nnU-Net's raw format.

    Attributes:
        folder: the folder with ``dataset.json``.
        description: content of ``dataset.json``.
        classes: names by label value; 0 is the background. A value that occurs only in regions is called ``label 2``.
        ignore: the ignore label, if there is one.
        cases: the training cases, in alphabetical order.
    """

    folder: Path
    description: Mapping[str, Any]
    classes: Mapping[int, str]
    ignore: int | None
    cases: tuple[RawCase, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def ending(self) -> str:
        return self.description["file_ending"]

    @property
    def known(self) -> set[int]:
        """Every value that a label map may hold."""
        return {*self.classes} | ({self.ignore} if self.ignore is not None else set())

    def reader(self) -> Reader:
        """The reader that nnU-Net would choose."""
        return Reader.for_file(self.cases[0].images[0], self.ending, self.description)


def open_dataset(dataset: str | int | Path) -> RawDataset:
    """Read ``dataset.json`` and list the training cases.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw``, or a folder.

    Raises:
        InputError: there is no such data set, a file or an entry is missing, or the files do not hold the channels
            that ``dataset.json`` names.
    """
    folder = _folder(dataset)
    source = folder / "dataset.json"
    description = read_json(source)
    channels = channels_key(description)
    for key in ("file_ending", channels):
        if not description.get(key):
            raise InputError(f"{source} has no {key!r}, which nnU-Net's format requires; add it.")
    if not str(ending := description["file_ending"]).startswith("."):
        raise InputError(f"{source}: file_ending is {ending!r}, but nnU-Net needs the dot, such as '.nii.gz'; add it.")
    if not isinstance(description[channels], Mapping):
        raise InputError(f"{source}: {channels} is no object such as {{'0': 'MRI'}}, which nnU-Net requires.")
    if strange := [name for name in channel_names(description) if not isinstance(name, str)]:
        raise InputError(
            f"{source}: {channels} gives a channel the name {strange[0]!r}, but expected are names by number, such "
            "as {'0': 'MRI'}."
        )
    classes, ignore = _classes(description, str(source))
    cases = _listed(folder, description) if "dataset" in description else _found(folder, description)
    if not cases:
        raise InputError(f"{folder} holds no training cases; labelsTr must hold {description['file_ending']} files.")
    for case in cases:
        for file in (case.label, *case.images):
            if not file.is_file():
                raise InputError(f"Case {case.name} of {folder.name}: there is no file {file}; restore it.")
    require_channels({case.name: case.images for case in cases}, description)
    return RawDataset(folder, description, classes, ignore, tuple(cases))


def other_in_raw(dataset: str, used: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    """One sentence if the preprocessed ``dataset.json`` has other entries than one in ``nnUNet_raw``.

    People and our checks read the raw file, trainings the copy, which only planning renews.

    Args:
        dataset: full name.
        used: content of the file that the training reads.
        keys: entries to compare; of entries by case only those of preprocessed cases.
    """
    root = os.environ.get("nnUNet_raw")
    file = Path(root, dataset, "dataset.json") if root else None
    if file is None or not file.is_file():
        return None
    original = read_json(file)
    known = set(case_names(dataset_folder(dataset) / "gt_segmentations", used["file_ending"]))

    def comparable(key: str, entry: Any) -> Any:
        if key not in BY_CASE or not isinstance(entry, Mapping):
            return entry
        preprocessed = {case: value for case, value in entry.items() if case in known}
        return {case: _in_order(value) for case, value in preprocessed.items()}

    for key in keys:
        if comparable(key, original.get(key, {})) != comparable(key, used.get(key, {})):
            return (
                f"{file} has another {key!r} than the copy in nnUNet_preprocessed, which the training reads; copy the "
                f"right one of the two over the other ({dataset}/dataset.json)."
            )
    return None


def _in_order(names: Any) -> Any:
    """Names of an entry in one order, a single one as a list; anything else as it is, refused where it is read."""
    names = [names] if isinstance(names, str) else names
    return sorted(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else names


def a_few(items: Sequence[Item], number: int) -> list[Item]:
    """Up to ``number`` of the items, evenly spread over all of them."""
    places = np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)
    return [items[place] for place in places]


def require_dense(source: RawDataset) -> None:
    """Raise InputError if the label maps are scribbles; three cases, evenly spread over the data set, are read."""
    if source.ignore is None:
        return
    reader = source.reader()
    for case in a_few(source.cases, 3):
        require_no_scribbles(reader.labels(case.label).array, source.ignore, case.label)


def require_no_scribbles(array: NDArray, ignore: int, where: Path) -> None:
    """Raise InputError if a label map holds scribbles, not labels of a region, of some slices, or of nothing.

    Args:
        array: ``(z, y, x)`` or ``(y, x)``.
        ignore: the ignore label.
        where: its file.
    """
    annotated = array != ignore
    if not annotated.any():
        return
    # Dense labels cover most of the box around them, or of its slices that somebody annotated, whichever way they lie.
    box = annotated[find_objects(annotated.astype(np.uint8))[0]]
    sizes = [box.size]
    for axis, length in enumerate(box.shape if box.ndim == 3 else ()):
        slices = box.any(axis=tuple({0, 1, 2} - {axis}))
        sizes.append(int(slices.sum()) * box.size // length)
    share = float(annotated.sum() / min(sizes))
    if share <= DENSE_FRACTION:
        raise InputError(
            f"{where} has the ignore label in {100 * (1 - share):.0f} % of the voxels between labels, so it "
            "holds scribbles; give dense labels."
        )


def training_images(folder: Path, description: Mapping[str, Any], case: str) -> tuple[Path, ...]:
    """The image files of a training case: those listed in ``dataset.json``, otherwise those in ``imagesTr``.

    Args:
        folder: folder of the data set.
        description: content of its ``dataset.json``.
        case: name of the case.
    """
    if listed := description.get("dataset", {}).get(case):
        return tuple(_place(folder, image) for image in listed["images"])
    ending = description["file_ending"]
    return tuple(images_by_case(folder / "imagesTr", ending).get(case, [folder / "imagesTr" / f"{case}_0000{ending}"]))


def write_label_map(reader: Reader, array: NDArray, like: Path, target: Path) -> None:
    """Write ``array`` with the geometry of the label map ``like``, through nnU-Net's own writer."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    writer = recursive_find_reader_writer_by_name(reader.name)()
    _, properties = writer.read_seg(str(like))
    writer.write_seg(array if array.ndim == 3 else array[None], str(target), properties)


def copy_label_map(file: Path, folder: Path) -> None:
    """Copy a label map into a folder, with the spacing that lies beside a 3D tif."""
    shutil.copyfile(file, folder / file.name)
    if beside := known_spacing(file):
        shutil.copyfile(beside, folder / beside.name)


def require_labels(array: NDArray, known: set[int], where: Path) -> None:
    """Raise InputError if a label map holds a value that is not in ``known``."""
    unknown = sorted(set(np.unique(array).tolist()) - known)
    if unknown:
        few = ", ".join(map(str, unknown[:10])) + (", …" if len(unknown) > 10 else "")  # an image has thousands
        raise InputError(
            f"{where}: the label values [{few}] are not in dataset.json, which has {sorted(known)}; correct the file "
            "or dataset.json."
        )


# --- parts ------------------------------------------------------------------------------------------------------------


def _folder(dataset: str | int | Path) -> Path:
    text = str(dataset)
    if not text.isdigit() and Path(text).is_dir():
        # nnU-Net joins paths without following links, and so do we
        folder = Path(os.path.abspath(text))
    else:
        folder = Path(os.path.abspath(dataset_folder(text, "nnUNet_raw")))
    if not (folder / "dataset.json").is_file():
        raise InputError(f"{folder} holds no dataset.json; give a data set in nnU-Net's raw format.")
    return folder


def _classes(description: Mapping[str, Any], where: str) -> tuple[dict[int, str], int | None]:
    scored = ScoredLabels.from_dataset_json(description, where)
    names = {0: "background"}
    for name, value in scored.values.items():
        numbers = numbers_of(value)
        for number in numbers:
            if len(numbers) == 1:
                names[number] = name
            else:
                names.setdefault(number, f"label {number}")
    return dict(sorted(names.items())), scored.ignore


def _listed(folder: Path, description: Mapping[str, Any]) -> list[RawCase]:
    """The cases that ``dataset.json`` lists."""
    for name, entry in description["dataset"].items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("label"), str) or not entry.get("images"):
            raise InputError(
                f"{folder / 'dataset.json'}: the entry of case {name} has no 'images' or no 'label'; add them."
            )
    return [
        RawCase(name, training_images(folder, description, name), _place(folder, entry["label"]))
        for name, entry in sorted(description["dataset"].items())
    ]


def _place(folder: Path, text: str) -> Path:
    """The absolute path of an entry of ``dataset.json``, relative to the folder; nnU-Net's own rule."""
    return Path(os.path.abspath(folder / os.path.expandvars(text)))


def _found(folder: Path, description: Mapping[str, Any]) -> list[RawCase]:
    """The cases of ``labelsTr``, with the images of ``imagesTr``."""
    ending = description["file_ending"]
    labels = visible_files(folder / "labelsTr", ending)
    names = [path.name.removesuffix(ending) for path in labels]
    place, images = folder / "imagesTr", images_by_case(folder / "imagesTr", ending)
    return [
        RawCase(name, require_numbered(place, ending, name, images.get(name, ())), path)
        for name, path in zip(names, labels, strict=True)
    ]
