"""The spacing of a 3D tif, which nnU-Net keeps in a ``.json`` beside it: ``{"spacing": [z, y, x]}``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json


def spacing_file(file: Path, *, image: bool = False) -> Path | None:
    """Return the file beside a tif in which nnU-Net looks for the spacing, there or not; None for other formats.

    Args:
        file: a label map, ``CASE.tif``, or the first channel of an image, ``CASE_0000.tif``.
        image: whether it is an image; the spacing of both is in ``CASE.json``.
    """
    if file.suffix.lower() not in (".tif", ".tiff"):
        return None
    return file.with_name(f"{file.stem.removesuffix('_0000') if image else file.stem}.json")


def known_spacing(file: Path, *, image: bool = False) -> Path | None:
    """Return :func:`spacing_file` if it is there."""
    found = spacing_file(file, image=image)
    return found if found is not None and found.is_file() else None


def has_spacing(file: Path) -> bool:
    """Whether a file has the entry that nnU-Net reads from beside a 3D tif; False if it cannot be read."""
    return "spacing" in _content(file)


def is_spacing_file(file: Path) -> bool:
    """Whether a file holds the spacing of a 3D tif and nothing else, wherever it lies; False if it cannot be read."""
    return set(_content(file)) == {"spacing"}


def _content(file: Path) -> dict[str, Any]:
    if file.suffix.lower() != ".json":
        return {}
    try:
        return read_json(file)
    except InputError:
        return {}
