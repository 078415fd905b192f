"""Landmarks as a simple JSON object: name → position.

::

    {"tip": [12.5, -3.0, 40.0], "notch": null, "fabella": "absent"}
    {"coordinateSystem": "RAS", "landmarks": {"tip": [-12.5, 3.0, 40.0]}}

Positions are in mm, LPS unless the file says otherwise; null is unknown. Only read: ``.mrk.json`` says more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nnunet_ext.data.geometry import CoordinateSystem, to_lps
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.points import ABSENT, UNKNOWN, Landmark, present
from nnunet_ext.landmarks.stated import plain, stated_system


def from_simple_json(
    content: Mapping[str, Any], where: str, system: CoordinateSystem | None = None
) -> Iterator[tuple[str, Landmark]]:
    """The points of a file, in its order.

    Args:
        content: of the file.
        where: its name, for messages.
        system: that counts instead of what the file says.

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
            yield name, _present(position, system or own, f"{where}: {name}")


def _present(position: Any, system: CoordinateSystem, where: str) -> Landmark:
    try:
        return present(to_lps(position, system))
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{where} is {position!r}, but a position [x, y, z] in mm (LPS), null (unknown) or 'absent' is expected."
        ) from None
