"""Coordinate system, unit and confidences that a file of landmarks states.

An unknown key may mean another coordinate system for every position. So a file with a suspicious key is refused instead
of read without it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nnunet_ext.data.geometry import CoordinateSystem
from nnunet_ext.errors import InputError

_NO_SYSTEM = {"name", "label", "description", "type", "id"}
"""Keys whose text may look like a coordinate system by chance."""


def stated_system(content: Mapping[str, Any], where: str, default: CoordinateSystem) -> CoordinateSystem:
    """Return the coordinate system that a file states under ``coordinateSystem``, in any spelling of the key.

    Args:
        content: keys and values of the file.
        where: name of the file in messages.
        default: coordinate system of the format if the file states none.

    Raises:
        InputError: another key seems to state a system, or the unit is not mm.
    """
    found = default
    for key, value in content.items():
        word = plain(key)
        if word == "coordinatesystem":
            found = coordinate_system(value, where)
        elif "unit" in word:
            _require_mm(key, value, where)
        elif isinstance(value, str | int) and _may_be_a_system(word, value):
            raise InputError(
                f"{where} says {key!r}: {value!r}, which may be its coordinate system; say coordinateSystem: LPS "
                "or RAS instead, or remove it."
            )
    return found


def coordinate_system(code: object, where: str) -> CoordinateSystem:
    """The system that a file of 3D Slicer names: a word, or the number of older versions (0 is RAS, 1 is LPS).

    Raises:
        InputError: it names another system, such as IJK.
    """
    systems: dict[str, CoordinateSystem] = {"LPS": "LPS", "1": "LPS", "RAS": "RAS", "0": "RAS"}
    found = systems.get(str(code).strip().upper())
    if found is None:
        raise InputError(
            f"{where}: the coordinate system is {code!r}, but LPS (or 1) or RAS (or 0) is expected; save the file "
            "again from 3D Slicer."
        )
    return found


def stated_confidence(value: Any, where: str) -> float | None:
    """The confidence that a file states for a landmark, whatever its state; None if it states none.

    Args:
        value: the entry of the file; None or empty if there is none.
        where: name of the file and the landmark in messages.

    Raises:
        InputError: it is no finite number.
    """
    if value in (None, ""):
        return None
    try:
        confidence = float(value)
    except (TypeError, ValueError, OverflowError):
        confidence = math.nan
    if not math.isfinite(confidence):
        raise InputError(f"{where}: the confidence is {value!r}, but a number is expected; correct or remove it.")
    return confidence


def require_known_columns(columns: Iterable[str], where: str) -> None:
    """Raise InputError if a table has a column twice, or a column that may state a coordinate system or unit."""
    names = list(columns)
    for name in names:
        word = plain(name)
        if name and names.count(name) > 1:
            raise InputError(f"{where} has the column {name!r} twice; remove one.")
        if "unit" in word or _may_be_a_system(word, ""):
            raise InputError(
                f"{where} has a column {name!r}, but the names of the columns say what positions are: x, y, z or l, p, "
                "s (LPS) or r, a, s (RAS), in mm; remove it."
            )


def plain(key: object) -> str:
    """A key in lower case, letters only: ``coordinate_System`` becomes ``coordinatesystem``."""
    return re.sub("[^a-z]", "", str(key).lower())


def _may_be_a_system(word: str, value: object) -> bool:
    if word in _NO_SYSTEM or isinstance(value, bool):
        return False
    code = str(value).strip().upper()
    named = len(code) == 3 and all(len(set(code) & set(pair)) == 1 for pair in ("LR", "PA", "SI"))
    return named or re.search("coord|space|system|frame$|convention", word) is not None


def _require_mm(key: str, value: Any, where: str) -> None:
    units = {str(unit).strip().lower() for unit in (value if isinstance(value, list) else [value])}
    if not units & {"mm", "millimeter", "millimetre"}:
        raise InputError(f"{where}: {key} is {value!r}, but mm are expected; save it again in mm.")
