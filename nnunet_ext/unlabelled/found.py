"""The raw images without labels of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.data.channels import images_by_case
from nnunet_ext.data.raw import RawDataset
from nnunet_ext.errors import InputError

FOLDER = "imagesUn"
"""Folder in a raw data set; nnU-Net ignores it."""


@dataclass(frozen=True)
class UnlabelledImages:
    """Images without labels.

    Attributes:
        folder: folder of the images.
        cases: files by case, in the order of the channels.
    """

    folder: Path
    cases: Mapping[str, tuple[Path, ...]]


def find_images(raw: RawDataset, folder: str | Path | None = None) -> UnlabelledImages:
    """List the images of ``imagesUn``, or of another folder.

    Args:
        raw: data set that they belong to.
        folder: folder of the images; ``imagesUn`` of the data set by default.

    Raises:
        InputError: there is no such folder, or it holds no images.
    """
    place = raw.folder / FOLDER if folder is None else Path(folder)
    named = f"named like CASE_0000{raw.ending}"
    if not place.is_dir():
        raise InputError(f"There is no folder {place}; put the images there, {named}, or name theirs with --images.")
    cases = {name: tuple(files) for name, files in sorted(images_by_case(place, raw.ending).items())}
    if not cases:
        raise InputError(f"{place} holds no images {named}; rename them, or name another folder with --images.")
    return UnlabelledImages(place, cases)
