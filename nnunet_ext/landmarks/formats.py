"""Files of landmarks: reading and writing, and ``nnunet-ext landmarks convert``.

A file holds one case and has its name (``case_007.mrk.json``), or it is a CSV table with a column ``case``. The module
``slicer`` reads the files of 3D Slicer; the other formats are:

**Tables**, one row per landmark, of one case or of many. We write the columns ``case, landmark, x, y, z, state,
confidence`` with x, y, z in mm, LPS. We also read tables that 3D Slicer exports (``label, l, p, s`` or ``label, r, a,
s``; the names state the coordinate system), semicolons or tabs instead of commas, and tables with fewer columns.
Without ``case``, the file name is the case. Without ``state``, a landmark with a position is present and one without is
unknown. Without ``z``, z is 0.

**Simple JSON** maps names to positions in mm, LPS unless the file says otherwise; null is unknown. We only read it,
because ``.mrk.json`` says more::

    {"tip": [12.5, -3.0, 40.0], "notch": null, "fabella": "absent"}
    {"coordinateSystem": "RAS", "landmarks": {"tip": [-12.5, 3.0, 40.0]}}
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from nnunet_ext.data.geometry import CoordinateSystem, to_lps
from nnunet_ext.data.spacing_files import has_spacing, is_spacing_file, spacing_file
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, replacing, require_folder
from nnunet_ext.landmarks.leftover import leftover
from nnunet_ext.landmarks.points import ABSENT, UNKNOWN, Landmark, Landmarks, State, present
from nnunet_ext.landmarks.slicer import from_fcsv, from_markups, to_markups
from nnunet_ext.landmarks.stated import plain, require_known_columns, stated_confidence, stated_system

MARKUPS = ".mrk.json"
ENDINGS = (MARKUPS, ".json", ".fcsv", ".csv")
"""Endings of the files that can be read; the first matching one counts."""

NO_LANDMARKS = {"dataset.json", "plans.json", "predict_from_raw_data_args.json", "summary.json"}
NO_LANDMARKS |= {"summary_annotated.json", "landmarks_summary.json", "landmarks_metrics.csv"}
"""Files that trainings, nnU-Net and ``landmarks evaluate`` write beside predictions."""

TABLE_COLUMNS = ("case", "landmark", "x", "y", "z", "state", "confidence")
_NAMES = ("landmark", "label", "name")
_AXES: dict[str, CoordinateSystem] = {"xyz": "LPS", "lps": "LPS", "ras": "RAS", "xy": "LPS"}
_STATES = {state.name.lower(): state for state in State}

Format = Literal["mrk.json", "csv"]
TABLE = "landmarks.csv"
"""Name of a table of all cases."""

Cases = dict[str, dict[str, Landmark]]
"""Landmarks by case and name."""


def case_of(file: Path) -> str:
    """The name of a file without its ending.

    Raises:
        InputError: its ending is not in :data:`ENDINGS`.
    """
    for ending in ENDINGS:
        if file.name.lower().endswith(ending):
            return file.name[: -len(ending)]
    raise InputError(f"{file} is no file of landmarks; the endings are {', '.join(ENDINGS)}.")


def landmark_files(folder: Path) -> list[Path]:
    """The files of landmarks in a folder, in alphabetical order; the spacing of a 3D tif is left out.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; it must hold landmarks ({', '.join(ENDINGS)}).")
    there = sorted(path for path in folder.iterdir() if path.is_file())
    # nnU-Net reads one entry of such a file, so it may have others
    beside = {file for path in there if (file := spacing_file(path)) is not None and has_spacing(file)}
    files = [path for path in there if path.name.lower().endswith(ENDINGS) and path not in beside]
    files = [path for path in files if path.name not in NO_LANDMARKS and not path.name.startswith(".")]
    return [path for path in files if not is_spacing_file(path)]


def read_file(file: Path, system: CoordinateSystem | None = None) -> Cases:
    """Read the landmarks of one file, usually of one case.

    Args:
        file: a file in any of the formats.
        system: coordinate system of the file, whatever it states.

    Raises:
        InputError: the file cannot be read, or names a landmark of a case twice.
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
    # a file without points means that its case was looked at and nothing is known
    return cases or {case: {}}


def read_files(files: Iterable[Path], system: CoordinateSystem | None = None) -> Cases:
    """Read the landmarks of several files.

    Raises:
        InputError: a file cannot be read, or a case is in two files.
    """
    return _together((file, read_file(file, system)) for file in files)


def _together(read: Iterable[tuple[Path, Cases]]) -> Cases:
    cases: Cases = {}
    for file, found in read:
        if twice := sorted(set(found) & set(cases)):
            raise InputError(f"Case {twice[0]} is in {file} and in another file; keep one of them.")
        cases |= found
    return cases


def read(source: str | Path) -> Cases:
    """Read the landmarks of a folder of files, or of one file.

    Beside ``.mrk.json`` files, a file of which they hold all cases is left out: a table that repeats their content.
    That is for what is evaluated; what a network learns from must be in one file (:func:`read_files`), or a correction
    of one of the two could go unseen.

    Raises:
        InputError: there are no files of landmarks, one cannot be read, or a case is in two others.
    """
    source = Path(source)
    files = [source] if source.is_file() else landmark_files(source)
    if not files:
        raise InputError(f"{source} holds no landmarks ({', '.join(ENDINGS)}).")
    found = [(file, read_file(file)) for file in files]
    markups = [one for one in found if one[0].name.lower().endswith(MARKUPS)]
    held = {case for _, cases in markups for case in cases}
    others = [one for one in found if one not in markups and not one[1].keys() <= held]
    return _together([*markups, *others])


def write_markups(file: Path, landmarks: Landmarks) -> None:
    """Write one case as ``.mrk.json``, for 3D Slicer."""
    _write(file, json.dumps(to_markups(landmarks), indent=1, ensure_ascii=False))


def write_table(file: Path, cases: Mapping[str, Landmarks]) -> None:
    """Write all cases as one CSV table."""
    _write(file, to_table(cases))


def convert(
    sources: Sequence[str | Path],
    to: Format,
    *,
    out: str | Path,
    coordinates: CoordinateSystem | None = None,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write landmarks as one ``.mrk.json`` per case, or as one table of all cases, ``landmarks.csv``.

    Args:
        sources: files, or folders of them.
        to: the format to write.
        out: folder to write to.
        coordinates: coordinate system of the sources, whatever they state; this repairs a mislabelled file.
        force: replace existing files, all together at the end.
        say: called with a sentence about content of a source that the new files do not hold.

    Returns:
        The files that were written.

    Raises:
        InputError: a file cannot be read, a case is in two files or has no name for a file, ``out`` is a file, a file
            to write exists already, or it would replace a source with more content.
    """
    require_folder(out)
    files = [
        file for source in map(Path, sources) for file in (landmark_files(source) if source.is_dir() else [source])
    ]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise InputError(f"There is no file of landmarks {[*missing, *sources][0]}; correct the path.")
    cases: Cases = read_files(files, coordinates)
    wrong = [case for case in cases if re.search(r"[/\\]", case) or case in (".", "..")]
    if wrong and to != "csv":
        raise InputError(f"The case {wrong[0]!r} in a table cannot be the name of a file; rename it.")
    out = Path(out)
    targets = [out / TABLE] if to == "csv" else [out / f"{case}{MARKUPS}" for case in cases]
    existing = [target for target in targets if target.exists()]
    if existing and not force:
        raise InputError(f"{existing[0]} is there already; choose another folder with -o, or replace it with --force.")
    for file in files:
        if lost := leftover(file):
            if file.resolve() in {target.resolve() for target in targets}:
                raise InputError(
                    f"{file} would be replaced, and that loses {'; '.join(lost)}; convert into another folder."
                )
            say(f"{file}: not kept: {'; '.join(lost)}")
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as all_of_them:
        written = [all_of_them.enter_context(replacing(target)) for target in targets]
        if to == "csv":
            write_table(written[0], cases)
        else:
            for file, landmarks in zip(written, cases.values(), strict=True):
                write_markups(file, landmarks)
    return targets


# --- tables -----------------------------------------------------------------------------------------------------------


def from_table(
    text: str, where: str, case: str, system: CoordinateSystem | None = None
) -> Iterator[tuple[str, str, Landmark]]:
    """Case, name and landmark of every row, in the order of the table.

    Args:
        text: content of the file.
        where: name of the file in messages.
        case: name of the case, for a table without a column ``case``.
        system: coordinate system of the table, whatever it states.

    Raises:
        InputError: a column is missing, or a cell cannot be read.
    """
    lines = [line for line in text.lstrip("\ufeff").splitlines() if line.strip()]
    comments = [line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines)]
    lines = lines[len(comments) :]
    header = lines[0] if lines else ""
    delimiter = next((mark for mark in (",", ";", "\t") if mark in header), ",")
    reader = csv.DictReader([header.lower(), *lines[1:]], delimiter=delimiter, skipinitialspace=True)
    columns = [column.strip() for column in reader.fieldnames or []]
    reader.fieldnames = columns
    require_known_columns(columns, where)
    names = next((name for name in _NAMES if name in columns), None)
    axes = next((axes for axes in _AXES if set(axes) <= set(columns)), None)
    if names is None or axes is None:
        raise InputError(
            f"{where}: the columns are {columns}, but one of {list(_NAMES)} and x, y, z (mm, LPS) or l, p, s or "
            "r, a, s are expected; rename them."
        )
    said = dict(re.split("[=:]", comment, maxsplit=1) for comment in comments if re.search("[=:]", comment))
    stated = stated_system({key.strip(): value.strip() for key, value in said.items()}, where, _AXES[axes])
    if stated != _AXES[axes] and axes not in ("xyz", "xy"):
        raise InputError(f"{where} says {stated}, but its columns {', '.join(axes)} say {_AXES[axes]}; correct one.")
    own = system or stated
    for row in reader:
        if any(row.get(None) or ()):
            raise InputError(
                f"{where}: line {reader.line_num} has more cells than there are columns; is a decimal comma in it?"
            )
        cells = {key: (value or "").strip() for key, value in row.items() if key is not None and isinstance(value, str)}
        name = cells.get(names, "")
        if not any(cells.values()):  # spreadsheets leave rows of separators behind
            continue
        if not name:
            raise InputError(f"{where}: line {reader.line_num} names no landmark; fill in the column {names}.")
        if cells.get("case") == "":
            raise InputError(f"{where}: line {reader.line_num} names no case; fill in the column case in every line.")
        yield cells.get("case", case), name, _from_cells(cells, axes, own, f"{where}: {name}")


def to_table(cases: Mapping[str, Landmarks]) -> str:
    """The text of a table, with positions to 1e-6 mm."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(TABLE_COLUMNS)
    for case, landmarks in cases.items():
        for name, found in landmarks.items():
            position = [""] * 3 if found.position_mm is None else [f"{x:.6f}" for x in found.position_mm]
            confidence = "" if found.confidence is None else f"{found.confidence:.6g}"
            writer.writerow([case, name, *position, found.state.name.lower(), confidence])
    return file.getvalue()


# --- simple JSON ------------------------------------------------------------------------------------------------------


def from_simple_json(
    content: Mapping[str, Any], where: str, system: CoordinateSystem | None = None
) -> Iterator[tuple[str, Landmark]]:
    """The points of a file, in its order.

    Args:
        content: content of the file.
        where: name of the file in messages.
        system: coordinate system of the file, whatever it states.

    Raises:
        InputError: a position cannot be read.
    """
    own: CoordinateSystem = "LPS"
    if isinstance(content.get("landmarks"), Mapping):
        own = stated_system(content, where, "LPS")
        known = {"landmarks", "coordinatesystem", "coordinateunits"}
        if unknown := [key for key in content if plain(key) not in known]:
            raise InputError(f"{where} has the key {unknown[0]!r} beside 'landmarks', which is not known; remove it.")
        content = content["landmarks"]
    for name, position in content.items():
        if position in (None, "unknown"):
            yield name, UNKNOWN
        elif position == "absent":
            yield name, ABSENT
        else:
            yield name, _from_position(position, system or own, f"{where}: {name}")


# --- parts ------------------------------------------------------------------------------------------------------------


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as text ({error}).") from None


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _from_cells(cells: Mapping[str, str], axes: str, system: CoordinateSystem, where: str) -> Landmark:
    position = [cells.get(axis, "") for axis in axes]
    given = cells.get("state", "").lower() or ("present" if any(position) else "unknown")
    # "defined" is a column of 3D Slicer
    given = "unknown" if cells.get("defined") == "0" else given
    if given not in _STATES:
        raise InputError(f"{where}: the state is {given!r}, but one of {list(_STATES)} is expected.")
    state, confidence = _STATES[given], stated_confidence(cells.get("confidence"), where)
    if state is not State.PRESENT:
        return Landmark(state, None, confidence)
    try:
        point = [float(x) for x in position] + [0.0] * (3 - len(position))
        return present(to_lps(point, system), confidence)
    except ValueError:
        raise InputError(
            f"{where}: the position is {position}, but finite numbers are expected; correct the row, or leave the "
            "position empty."
        ) from None


def _from_position(position: Any, system: CoordinateSystem, where: str) -> Landmark:
    try:
        return present(to_lps(position, system))
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{where} is {position!r}, but a position [x, y, z] in mm (LPS), null (unknown) or 'absent' is expected."
        ) from None
