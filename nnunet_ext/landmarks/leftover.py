"""Contents of a file of landmarks that conversion loses: all but names, positions, states and confidences."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnunet_ext.files import read_json
from nnunet_ext.landmarks.slicer import FCSV_COLUMNS
from nnunet_ext.landmarks.stated import plain

_POINT = {"id", "label", "position", "positionStatus", "confidence"}
_LOOK = {"orientation", "selected", "locked", "visibility", "associatedNodeID", "display"}
"""Keys of control points that only set how a point looks in 3D Slicer."""
_COLUMNS = {"case", "landmark", "label", "name", *"xyzlpras", "state", "confidence", "defined"}
_LOOK_COLUMNS = {
    "id",
    "ow",
    "ox",
    "oy",
    "oz",
    "vis",
    "sel",
    "lock",
    "selected",
    "visible",
    "locked",
    "associatednodeid",
}


def leftover(file: Path) -> list[str]:
    """List the contents that converting a readable file loses, apart from how its points look.

    Args:
        file: file of landmarks.
    """
    if file.name.lower().endswith(".json"):
        return list(dict.fromkeys(_of_markups(read_json(file))))
    return list(dict.fromkeys(_of_table(file.read_text(encoding="utf-8-sig"), file.name.lower().endswith(".fcsv"))))


def _of_markups(content: Mapping[str, Any]) -> Iterator[str]:
    for node in content.get("markups", ()):
        if (kind := node.get("type", "Fiducial")) != "Fiducial":
            yield f"that its points are a {kind}"
        if node.get("description"):
            yield "the description of the list"
        if node.get("measurements"):
            yield "its measurements"
        for point in node.get("controlPoints") or ():
            name, status = point.get("label"), str(point.get("positionStatus", "defined")).lower()
            if status in ("preview", "1"):
                yield f"the status of {name} (preview)"
            if point.get("position") is not None and status not in ("defined", "2"):
                yield f"the position of {name} ({point['position']}, with status {status})"
            for key in sorted(set(point) - _POINT - _LOOK):
                if point[key] not in (None, "", [], {}):
                    yield f"the {key} of {name}"


def _of_table(text: str, fcsv: bool) -> Iterator[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    header = [line for line in lines if line.startswith("#")]
    rows = [line for line in lines if not line.startswith("#")]
    if fcsv:
        named = [line.partition("=")[2] for line in header if plain(line.partition("=")[0]) == "columns"]
        first = named[0] if named else FCSV_COLUMNS
        rows = [first, *rows]
    if not rows:
        return
    delimiter = next((mark for mark in ",;\t" if mark in rows[0]), ",")
    columns, *cells = ([cell.strip() for cell in row] for row in csv.reader(rows, delimiter=delimiter))
    columns = [column.lower() for column in columns]
    for row in cells:
        found = dict(zip(columns, row, strict=False))
        name = next((found[key] for key in ("landmark", "label", "name") if found.get(key)), "")
        for key, value in found.items():
            if value and key not in _COLUMNS | _LOOK_COLUMNS:
                yield f"the {'description' if key == 'desc' else key} of {name}"
        unnamed = row[len(columns) :]
        status = unnamed[0] if fcsv and len(unnamed) == 2 else found.get("state", "present").lower() or "present"
        status = "undefined" if found.get("defined") == "0" else status
        position = [found[axis] for axis in "xyzlpras" if found.get(axis)]
        if status not in ("present", "2", "defined") and any(value.strip("0.-") for value in position):
            yield f"the position of {name} ({', '.join(position)}, with status {status})"
