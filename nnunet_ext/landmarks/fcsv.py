"""3D Slicer's older point lists, ``.fcsv``; only read, because Slicer itself gave the format up.

The header names the coordinate system as a word or a number (0 is RAS, 1 is LPS); before Slicer 4.3 it did not, and
positions were RAS. It also names the columns; those of Slicer 3 are others. Slicer 5 writes two more columns than it
names, of which the first is the status of the position.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from nnunet_ext.data.geometry import CoordinateSystem, to_lps
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.markups import state_of_status
from nnunet_ext.landmarks.points import ABSENT, UNKNOWN, Landmark, State, present
from nnunet_ext.landmarks.stated import plain, stated_system

COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
"""Of Slicer 4 and 5, if the header names none."""


def from_fcsv(text: str, where: str, system: CoordinateSystem | None = None) -> Iterator[tuple[str, Landmark]]:
    """The points of a file, in its order.

    Args:
        text: content of the file.
        where: its name, for messages.
        system: that counts instead of what the file says.

    Raises:
        InputError: the coordinate system, a name or a position cannot be read.
    """
    if not text.strip():
        raise InputError(f"{where} is empty, but an .fcsv file begins with a header.")
    columns = COLUMNS.split(",")
    lines, header = [], {}
    for line in text.splitlines():
        key, equals, value = line.lstrip("# ").partition("=")
        if not line.startswith("#"):
            lines.append(line)
        elif equals and plain(key) == "columns":
            columns = [column.strip().lower() for column in value.split(",")]
        elif equals:
            header[key.strip()] = value.strip()
    stated = stated_system(header, where, "RAS")
    own = system or stated
    if missing := {"x", "y", "z", "label"} - set(columns):
        raise InputError(f"{where}: the header names no columns {sorted(missing)}, but {columns}; is it an .fcsv file?")
    for row in csv.reader(lines):
        if any(cell.strip() for cell in row):
            yield _point(row, columns, own, where)


def _point(row: list[str], columns: list[str], system: CoordinateSystem, where: str) -> tuple[str, Landmark]:
    cells = dict(zip(columns, (cell.strip() for cell in row), strict=False))
    name = cells.get("label", "")
    if not name:
        raise InputError(
            f"{where}: the line {','.join(row)!r} has no label; give every point the name of its landmark."
        )
    unnamed = row[len(columns) :]
    state = state_of_status(unnamed[0], f"{where}: {name}") if len(unnamed) == 2 else State.PRESENT
    if state is not State.PRESENT:
        return name, ABSENT if state is State.ABSENT else UNKNOWN
    try:
        return name, present(to_lps([float(cells[axis]) for axis in "xyz"], system))
    except (KeyError, ValueError):
        raise InputError(
            f"{where}: the position of {name} is {[cells.get(axis) for axis in 'xyz']}, but three finite numbers in mm "
            "are expected; correct the line."
        ) from None
