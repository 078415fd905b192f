"""Landmarks as a CSV table: one row per landmark, of one case or of many.

Written are ``case, landmark, x, y, z, state, confidence`` with x, y, z in mm, LPS. Read are also tables that 3D Slicer
exports (``label, l, p, s`` or ``label, r, a, s``, whose names say the coordinate system), semicolons or tabs instead
of commas, and tables with fewer columns: without ``case`` the file is the case, without ``state`` a landmark with a
position is present and one without is unknown, without ``z`` it is 0.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from itertools import takewhile

from nnunet_ext.data.geometry import CoordinateSystem, to_lps
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.points import ABSENT, UNKNOWN, Landmark, Landmarks, State, present
from nnunet_ext.landmarks.stated import require_known_columns, stated_system

COLUMNS = ("case", "landmark", "x", "y", "z", "state", "confidence")
_NAMES = ("landmark", "label", "name")
_AXES: dict[str, CoordinateSystem] = {"xyz": "LPS", "lps": "LPS", "ras": "RAS", "xy": "LPS"}
_STATES = {state.name.lower(): state for state in State}


def from_table(
    text: str, where: str, case: str, system: CoordinateSystem | None = None
) -> Iterator[tuple[str, str, Landmark]]:
    """Case, name and landmark of every row, in the order of the table.

    Args:
        text: content of the file.
        where: its name, for messages.
        case: of a table without such a column.
        system: that counts instead of LPS, or of what the names of the columns say.

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
        if not any(cells.values()):  # a row of separators, which spreadsheets leave behind
            continue
        if not name:
            raise InputError(f"{where}: line {reader.line_num} names no landmark; fill in the column {names}.")
        yield cells.get("case") or case, name, _landmark(cells, axes, own, f"{where}: {name}")


def to_table(cases: Mapping[str, Landmarks]) -> str:
    """The text of a table, with positions to 1e-6 mm."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for case, landmarks in cases.items():
        for name, found in landmarks.items():
            position = [""] * 3 if found.position_mm is None else [f"{x:.6f}" for x in found.position_mm]
            confidence = "" if found.confidence is None else f"{found.confidence:.6g}"
            writer.writerow([case, name, *position, found.state.name.lower(), confidence])
    return file.getvalue()


def _landmark(cells: Mapping[str, str], axes: str, system: CoordinateSystem, where: str) -> Landmark:
    position = [cells.get(axis, "") for axis in axes]
    given = cells.get("state", "").lower() or ("present" if any(position) else "unknown")
    # column of 3D Slicer
    given = "unknown" if cells.get("defined") == "0" else given
    if given not in _STATES:
        raise InputError(f"{where}: the state is {given!r}, but one of {list(_STATES)} is expected.")
    state = _STATES[given]
    if state is not State.PRESENT:
        return ABSENT if state is State.ABSENT else UNKNOWN
    try:
        point = [float(x) for x in position] + [0.0] * (3 - len(position))
        confidence = float(cells["confidence"]) if cells.get("confidence") else None
        return present(to_lps(point, system), confidence)
    except ValueError:
        raise InputError(
            f"{where}: the position is {position} and the confidence {cells.get('confidence')!r}, but finite numbers "
            "are expected; correct the row, or leave the position empty."
        ) from None
