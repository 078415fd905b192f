"""Files of 3D Slicer: ``.mrk.json`` (schema markups-v1.0.3), read and written, and the older ``.fcsv``, only read.

``.mrk.json``: all lists, lines and curves of a file are read as one set of points, named by the labels of their control
points. The status of a point gives its state: ``defined`` is present, ``missing`` is absent, ``undefined`` and
``preview`` are unknown. A point without a status is defined if it has a position, as in the example of Slicer's manual.
We write one list of points, in LPS, with every status, because some versions of Slicer 5 read a point without a status
as undefined.

``.fcsv``: the header names the coordinate system as a word or a number (0 is RAS, 1 is LPS). Before Slicer 4.3 it did
not, and positions were RAS. The header also names the columns, which were different in Slicer 3. Slicer 5 writes two
more columns than it names; the first of them is the status of the position.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any

from nnunet_ext.data.geometry import CoordinateSystem, to_lps
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.points import ABSENT, UNKNOWN, Landmark, Landmarks, State, present
from nnunet_ext.landmarks.stated import plain, stated_confidence, stated_system

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
STATUS = {"undefined": 0, "preview": 1, "defined": 2, "missing": 3}
"""Numbers of positionStatus in older files, by its word."""

FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
"""Columns of Slicer 4 and 5, used if the header names none."""


def from_markups(
    content: Mapping[str, Any], where: str, system: CoordinateSystem | None = None
) -> Iterator[tuple[str, Landmark]]:
    """The points of a file, in its order.

    Args:
        content: content of the file.
        where: name of the file in messages.
        system: coordinate system of the file, whatever it states.

    Raises:
        InputError: the file has another format or a unit other than mm, or a point has no name or position.
    """
    nodes = content.get("markups")
    if not isinstance(nodes, list) or not all(isinstance(node, Mapping) for node in nodes):
        raise InputError(f"{where} holds no list 'markups', which 3D Slicer's format has; is it another format?")
    around = stated_system({key: content[key] for key in content if key not in ("@schema", "markups")}, where, "LPS")
    for node in nodes:
        stated = stated_system(node, where, around)
        points = node.get("controlPoints") or []
        if not isinstance(points, list):
            raise InputError(f"{where}: controlPoints is {str(points)[:50]!r}, but a list of points is expected.")
        for point in points:
            own = stated_system(point, where, stated) if isinstance(point, Mapping) else stated
            yield _from_control_point(point, system or own, where)


def to_markups(landmarks: Landmarks) -> dict[str, Any]:
    """The content of a file; positions are rounded to 1e-6 mm."""
    return {
        "@schema": SCHEMA,
        "markups": [
            {
                "type": "Fiducial",
                "coordinateSystem": "LPS",
                "coordinateUnits": "mm",
                "controlPoints": [
                    _to_control_point(number, name, landmark)
                    for number, (name, landmark) in enumerate(landmarks.items(), start=1)
                ],
            }
        ],
    }


def from_fcsv(text: str, where: str, system: CoordinateSystem | None = None) -> Iterator[tuple[str, Landmark]]:
    """The points of a file, in its order.

    Args:
        text: content of the file.
        where: name of the file in messages.
        system: coordinate system of the file, whatever it states.

    Raises:
        InputError: the coordinate system, a name or a position cannot be read.
    """
    if not text.strip():
        raise InputError(f"{where} is empty, but an .fcsv file begins with a header.")
    columns = FCSV_COLUMNS.split(",")
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
            yield _from_row(row, columns, own, where)


def state_of_status(status: Any, where: str) -> State:
    """The state for a positionStatus of 3D Slicer, a word or a number.

    Raises:
        InputError: it is no positionStatus.
    """
    states = {0: State.UNKNOWN, 1: State.UNKNOWN, 2: State.PRESENT, 3: State.ABSENT}
    text = str(status).strip().lower()
    code = STATUS.get(text, int(text) if text.isdigit() else -1)
    if code not in states:
        raise InputError(f"{where}: positionStatus is {status!r}, but one of {sorted(STATUS)} is expected.")
    return states[code]


# --- parts ------------------------------------------------------------------------------------------------------------


def _from_control_point(point: Any, system: CoordinateSystem, where: str) -> tuple[str, Landmark]:
    name = point.get("label") if isinstance(point, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: a control point has no label; give every point the name of its landmark.")
    position = point.get("position")
    default = "undefined" if position is None else "defined"
    state = state_of_status(point.get("positionStatus", default), f"{where}: {name}")
    confidence = stated_confidence(point.get("confidence"), f"{where}: {name}")
    if state is not State.PRESENT:
        return name.strip(), Landmark(state, None, confidence)
    try:
        found = present(to_lps(position, system), confidence)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{where}: the position of {name} is {position!r}, but three finite numbers in mm are expected; place the "
            "point again, or set its positionStatus to undefined."
        ) from None
    return name.strip(), found


def _to_control_point(number: int, name: str, landmark: Landmark) -> dict[str, Any]:
    status = {State.PRESENT: "defined", State.ABSENT: "missing", State.UNKNOWN: "undefined"}[landmark.state]
    point: dict[str, Any] = {"id": str(number), "label": name}
    if landmark.position_mm is not None:
        point["position"] = [round(x, 6) + 0.0 for x in landmark.position_mm]
    if landmark.confidence is not None:
        point["confidence"] = landmark.confidence  # the schema allows additional keys
    return {**point, "positionStatus": status}


def _from_row(row: list[str], columns: list[str], system: CoordinateSystem, where: str) -> tuple[str, Landmark]:
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
