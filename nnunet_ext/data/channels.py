"""The image files of a case and the channels in them, by nnU-Net's own rule.

nnU-Net reads all files ``CASE_0000``, ``CASE_0001``, … of a case, however many there are. Most files hold one channel,
but a png holds three or four, and a 4D image one per frame. Altogether the files of a case must hold as many channels
as ``dataset.json`` names.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_ext.data.folders import visible_files
from nnunet_ext.data.headers import values_of
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError


def channel_names(description: Mapping[str, Any]) -> list[str]:
    """Names of the channels, from the content of ``dataset.json``; older data sets say ``modality``."""
    return list(description[channels_key(description)].values())


def channels_key(description: Mapping[str, Any]) -> str:
    """The key of ``dataset.json`` that nnU-Net takes the number of input channels from."""
    return "modality" if "modality" in description else "channel_names"


def images_by_case(folder: Path, ending: str) -> dict[str, list[Path]]:
    """The image files of a folder by case, in the order of their channel numbers."""
    found: dict[str, list[Path]] = {}
    for path in visible_files(folder, ending):
        if match := re.fullmatch(r"(.+)_\d{4}", path.name.removesuffix(ending)):
            found.setdefault(match[1], []).append(path)
    return found


def require_channels(cases: Mapping[str, Sequence[Path]], description: Mapping[str, Any]) -> None:
    """Raise InputError unless the files of every case hold the channels that ``dataset.json`` names.

    Only headers are read. A file with an unreadable header counts as one channel here; reading the image reports it.

    Args:
        cases: image files by case.
        description: content of ``dataset.json``.
    """
    names, ending, reader = channel_names(description), description["file_ending"], ""
    if ending.lower() in (".tif", ".tiff"):  # the reader decides whether pages are slices
        with contextlib.suppress(InputError):
            reader = Reader.for_file(next(iter(cases.values()))[0], ending, description).name
    for case, files in cases.items():
        _require_count(case, files, sum(_channels_in(file, reader) for file in files), names)


def _channels_in(file: Path, reader: str) -> int:
    try:
        return values_of(file, reader).count
    except InputError:
        return 1


def _require_count(case: str, files: Sequence[Path], held: int, names: Sequence[str]) -> None:
    """Raise InputError unless the files of a case hold one channel per name."""
    if held == len(names):
        return
    if held == len(files) < len(names) and (number := re.search(r"_\d{4}(?=\.)", files[0].name)):
        missing = files[0].name.replace(number[0], f"_{held:04d}")
        raise InputError(
            f"Case {case}: {files[0].parent} has no {missing}, but dataset.json describes images with {len(names)} "
            "channels; add the file."
        )
    raise InputError(
        f"Case {case}: {files[0]}{' and the others hold' if len(files) > 1 else ' holds'} "
        f"{held} {'channel' if held == 1 else 'channels'}, but dataset.json names {len(names)} "
        f"({', '.join(map(str, names))}); correct dataset.json, or the files."
    )


def require_numbered(folder: Path, ending: str, case: str, found: Sequence[Path]) -> tuple[Path, ...]:
    """Return the files found for a case, if they are numbered 0, 1, 2, … without a gap.

    Raises:
        InputError: there is no file, or a number is missing.
    """
    names = [path.name for path in found] or [""]
    for number, name in enumerate(names):
        expected = f"{case}_{number:04d}{ending}"
        if name != expected:
            raise InputError(f"Case {case}: {folder} has no {expected}; add the file.")
    return tuple(found)
