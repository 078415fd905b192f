"""Files of landmarks: which format a file has, reading one or a folder of them, and writing.

A file holds one case and is called like it (``case_007.mrk.json``), or it is a CSV table with a column ``case``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from nnunet_ext.data.geometry import CoordinateSystem
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, replacing
from nnunet_ext.landmarks.fcsv import from_fcsv
from nnunet_ext.landmarks.markups import from_markups, to_markups
from nnunet_ext.landmarks.points import Landmark, Landmarks
from nnunet_ext.landmarks.simple_json import from_simple_json
from nnunet_ext.landmarks.tables import from_table, to_table

MARKUPS = ".mrk.json"
ENDINGS = (MARKUPS, ".json", ".fcsv", ".csv")
"""Of the files that can be read; the first that fits counts."""

NNUNETS_OWN = {"dataset.json", "plans.json", "predict_from_raw_data_args.json", "summary.json"}
"""JSON files that nnU-Net writes beside predictions."""

Cases = dict[str, dict[str, Landmark]]
"""Landmarks by case and name."""


def case_of(file: Path) -> str:
    """The name of a file without its ending.

    Raises:
        InputError: it has none of :data:`ENDINGS`.
    """
    for ending in ENDINGS:
        if file.name.lower().endswith(ending):
            return file.name[: -len(ending)]
    raise InputError(f"{file} is no file of landmarks; the endings are {', '.join(ENDINGS)}.")


def landmark_files(folder: Path) -> list[Path]:
    """The files of landmarks in a folder, in alphabetical order.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; it must hold landmarks ({', '.join(ENDINGS)}).")
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name.lower().endswith(ENDINGS))
    return [path for path in files if path.name not in NNUNETS_OWN and not path.name.startswith(".")]


def read_file(file: Path, system: CoordinateSystem | None = None) -> Cases:
    """The cases of one file, usually one.

    Args:
        file: in any of the formats.
        system: that counts instead of what the file says.

    Raises:
        InputError: it cannot be read, or names a landmark of a case twice.
    """
    case, where = case_of(file), str(file)
    rows: Iterable[tuple[str, str, Landmark]]
    if file.name.lower().endswith(".json"):
        content = read_json(file)
        read = from_markups if "markups" in content else from_simple_json
        rows = [(case, *point) for point in read(content, where, system)]
    elif file.name.lower().endswith(".fcsv"):
        rows = [(case, *point) for point in from_fcsv(_text(file), where, system)]
    else:
        rows = from_table(_text(file), where, case, system)
    cases: Cases = {}
    for name_of_case, name, landmark in rows:
        if name in cases.setdefault(name_of_case, {}):
            raise InputError(f"{where}: case {name_of_case} has the landmark {name!r} twice; remove or rename one.")
        cases[name_of_case][name] = landmark
    # a file without points says that its case was looked at, and nothing is known
    return cases or {case: {}}


def read_files(files: Iterable[Path], system: CoordinateSystem | None = None) -> Cases:
    """The cases of several files.

    Raises:
        InputError: a file cannot be read, or a case is in two files.
    """
    cases: Cases = {}
    for file in files:
        found = read_file(file, system)
        if twice := sorted(set(found) & set(cases)):
            raise InputError(f"Case {twice[0]} is in {file} and in another file; keep one of them.")
        cases |= found
    return cases


def read(source: str | Path) -> Cases:
    """The cases of a folder of files, or of one file.

    In a folder with ``.mrk.json`` files only these count, because a table there says the same once more.

    Raises:
        InputError: there is nothing to read, or it cannot be read.
    """
    source = Path(source)
    files = [source] if source.is_file() else landmark_files(source)
    if not files:
        raise InputError(f"{source} holds no landmarks ({', '.join(ENDINGS)}).")
    return read_files([file for file in files if file.name.lower().endswith(MARKUPS)] or files)


def write_markups(file: Path, landmarks: Landmarks) -> None:
    """One case for 3D Slicer, ``.mrk.json``."""
    _write(file, json.dumps(to_markups(landmarks), indent=1, ensure_ascii=False))


def write_table(file: Path, cases: Mapping[str, Landmarks]) -> None:
    """Many cases as CSV."""
    _write(file, to_table(cases))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as text ({error}).") from None


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
