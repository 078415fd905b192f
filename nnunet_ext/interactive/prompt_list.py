"""Prompts as a JSON file, so that a session can be repeated.

::

    {
      "axes": "zyx",
      "prompts": [
        {"type": "point", "label": "liver", "at": [12, 140, 96]},
        {"type": "point", "label": 2, "at": [12, 150, 200], "include": false},
        {"type": "scribble", "label": 2, "line": [[20, 90, 70], [20, 95, 80]], "wait": true},
        {"type": "brush", "label": 2, "line": [[20, 90, 70], [20, 95, 80]], "width": 5, "across": "z"},
        {"type": "lasso", "label": 2, "line": [[21, 80, 60], [21, 80, 90], [21, 110, 75]]},
        {"type": "box", "label": 1, "box": [[30, 31], [80, 120], [60, 90]]},
        {"type": "scribble", "label": 1, "file": "scribble.nii.gz"},
        {"type": "initial", "file": "segmentation.nii.gz", "show": "prediction"},
        {"type": "lock", "label": "liver", "locked": true},
        {"type": "accept", "slice": 12, "accepted": true},
        {"type": "undo"}
      ]
    }

Positions are in voxels; 0 is the centre of the first voxel. ``axes`` is ``zyx`` (slice, row, column, the order of the
array that nnU-Net's reader delivers; the default) or ``xyz`` (the index that ITK, NIfTI viewers and 3D Slicer show;
refused where a reader turns the image to RAS). A line of a scribble or a brush may have a ``width``, in voxels of the
finer axis of its plane; ``across`` names the axis across the plane, by default the axis across the slices. Other types
have no further keys: ``automatic``, ``predict``, ``undo``, ``redo`` and ``reset``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from skimage.draw import line_nd, polygon

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json_value
from nnunet_ext.interactive.drawing import Box, widened
from nnunet_ext.interactive.session import S2VSession

AXES = ("zyx", "xyz")

Number = Annotated[float, Field(ge=-(2**31), le=2**31)]
"""A position along an axis, limited to what any image may have. The limits also refuse NaN."""

Position = Annotated[list[Number], Field(min_length=3, max_length=3)]
Range = Annotated[list[Number], Field(min_length=2, max_length=2)]

_ABSENT: Any = None
"""Default of an optional key. pydantic does not check defaults, so an explicit null is still refused."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Drawn(_Entry):
    label: Annotated[int, Field(ge=0, le=2**16 - 1)] | str = Field(default=_ABSENT, description="its value or its name")
    include: bool = Field(default=True, description="true or false")
    wait: bool = Field(default=False, description="true or false")


class _Point(_Drawn):
    type: Literal["point"]
    at: Position = Field(description="[z, y, x]")


class _Line(_Entry):
    line: list[Position] = Field(default=_ABSENT, min_length=1, description="[[z, y, x], ...]")
    file: str = Field(default=_ABSENT, description="a file name")


class _Pen(_Line):
    width: Annotated[float, Field(ge=1, le=1000)] = Field(default=1, description="a number of voxels from 1 to 1000")
    across: Literal["z", "y", "x"] = Field(default=_ABSENT, description="'z', 'y' or 'x'")


class _Lasso(_Line, _Drawn):
    type: Literal["lasso"]


class _Scribble(_Pen, _Drawn):
    type: Literal["scribble"]


class _Brush(_Pen):
    type: Literal["brush"]
    label: Annotated[int, Field(ge=0, le=2**16 - 1)] | str = Field(default=_ABSENT, description="its value or its name")
    include: bool = Field(default=True, description="true or false")


class _Box(_Drawn):
    type: Literal["box"]
    box: list[Range] = Field(min_length=3, max_length=3, description="[[z0, z1], [y0, y1], [x0, x1]]")


class _Initial(_Entry):
    type: Literal["initial"]
    file: str = Field(description="a file name")
    show: Literal["file", "prediction"] = Field(default="file", description="'file' or 'prediction'")


class _Lock(_Entry):
    type: Literal["lock"]
    label: Annotated[int, Field(ge=1, le=2**16 - 1)] | str = Field(description="its value or its name")
    locked: bool = Field(default=True, description="true or false")


class _Accept(_Entry):
    type: Literal["accept"]
    slice: Annotated[int, Field(ge=0, le=2**31)] = Field(description="a number from 0 on")
    accepted: bool = Field(default=True, description="true or false")


class _Command(_Entry):
    type: Literal["automatic", "predict", "undo", "redo", "reset"]


Entry = _Point | _Scribble | _Brush | _Lasso | _Box | _Initial | _Lock | _Accept | _Command
ENTRY: TypeAdapter[Any] = TypeAdapter(Annotated[Entry, Field(discriminator="type")])

KEYS: dict[str, dict[str, str | None]] = {
    kind: {key: field.description for key, field in entry.model_fields.items() if key != "type"}
    for entry in get_args(Entry)
    for kind in get_args(entry.model_fields["type"].annotation)
}
"""Keys that a prompt may have, by its type, with the expected values."""

ReadMask = Callable[[Path], NDArray]
"""Function that reads a file as a label map ``(z, y, x)`` with the shape of the image."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """One checked entry of the list.

    Attributes:
        content: the entry as it was written.
        where: file and number of the entry in messages.
        reversed: whether positions are x, y, z.
        mask: content of ``file``, if the entry names one.
    """

    content: Mapping[str, Any]
    where: str
    reversed: bool = False
    mask: NDArray | None = None

    @property
    def waits(self) -> bool:
        """Whether the prompt waits for the next one before a prediction."""
        return bool(self.content.get("wait"))

    @property
    def as_array(self) -> dict[str, Any]:
        """The entry with positions in the order of the array: z, y, x."""
        given = dict(self.content)
        if self.reversed:
            given |= {"at": given["at"][::-1]} if "at" in given else {}
            given |= {"line": [position[::-1] for position in given["line"]]} if "line" in given else {}
            given |= {"box": given["box"][::-1]} if "box" in given else {}
        return given

    def apply(self, session: S2VSession) -> Box | None:
        """Give the prompt to a session.

        Returns:
            Box of the changes in the label map; None if there are none.

        Raises:
            InputError: the prompt does not fit the image or the model; the session does not change.
        """
        try:
            return self._apply(session)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None

    def _apply(self, session: S2VSession) -> Box | None:
        kind, content = self.content["type"], self.content
        if kind == "initial":
            assert self.mask is not None
            return session.add_initial_seg_interaction(self.mask, content.get("show") == "prediction")
        if kind == "automatic":
            return session.predict_automatic()
        if kind == "predict":
            return session.predict()
        if kind == "undo":
            return session.undo()
        if kind == "redo":
            return session.redo()
        if kind in ("reset", "lock", "accept"):  # none of them has a box of changes
            if kind == "reset":
                session.reset_interactions()
            elif kind == "lock":
                session.lock_structure(content["label"], content.get("locked", True))
            else:
                session.accept_slice(content["slice"], content.get("accepted", True))
            return None
        how = (content.get("include", True), not self.waits)
        label = content.get("label")
        if kind == "point":
            return session.add_point_interaction(self._positions([content["at"]])[0].tolist(), *how, label=label)
        if kind == "box":
            ranges = content["box"][::-1] if self.reversed else content["box"]
            return session.add_bbox_interaction(ranges, *how, label=label)
        mask, box = self._mask(session, closed=kind == "lasso")
        if kind == "brush":
            return session.add_brush_interaction(mask, how[0], interaction_bbox=box, label=label)
        add = session.add_scribble_interaction if kind == "scribble" else session.add_lasso_interaction
        return add(mask, *how, interaction_bbox=box, label=label)

    def _mask(self, session: S2VSession, closed: bool) -> tuple[NDArray, Box | None]:
        """The drawing as a mask, and its place in the image; None if the mask covers the image."""
        if self.mask is not None:
            return self.mask, None
        case, content = session.case, self.content
        voxels = self._line(case.shape, closed)
        if "width" in content:
            flat = np.flatnonzero((voxels == voxels[0]).all(0)).tolist()
            across = case.slice_axis if case.slice_axis in flat or not flat else flat[0]
            across = "zyx".index(content["across"]) if "across" in content else across
            voxels = widened(voxels, content["width"], across, case.properties["spacing"], case.shape)
        low = voxels.min(0)
        mask = np.zeros(voxels.max(0) - low + 1, bool)
        mask[tuple((voxels - low).T)] = True
        return mask, np.stack((low, low + mask.shape), 1).tolist()

    def _positions(self, given: Sequence[Sequence[float]]) -> NDArray[np.float64]:
        """Positions in the order z, y, x, ``(P, 3)``."""
        array = np.asarray(given, float)
        return array[:, ::-1] if self.reversed else array

    def _line(self, shape: Sequence[int], closed: bool) -> NDArray[np.int64]:
        """The voxels of a line through positions, or of a polygon and its inside, ``(P, 3)``."""
        corners = self._positions(self.content["line"])
        if not ((corners >= -0.5) & (corners <= np.asarray(shape) - 0.5)).all():
            raise InputError(f"A position of the line is outside of the image, whose shape is {tuple(shape)}.")
        corners = np.clip(np.rint(corners), 0, np.asarray(shape) - 1).astype(int)
        ends = [*corners[1:], corners[0]] if closed else corners[1:]
        lines = [np.stack(line_nd(a, b, endpoint=True), 1) for a, b in zip(corners, ends, strict=False)]
        voxels = np.concatenate([corners, *lines])
        flat = np.flatnonzero((corners == corners[0]).all(0))
        if closed and len(flat):
            others = [axis for axis in range(3) if axis != flat[0]]
            inside = np.stack(polygon(*corners[:, others].T), 1)
            voxels = np.concatenate((voxels, np.insert(inside, int(flat[0]), corners[0, flat[0]], axis=1)))
        return np.unique(voxels, axis=0)


def read_prompts(file: str | Path, read_mask: ReadMask) -> list[Prompt]:
    """Read the prompts of a file. Files that they name lie beside it.

    Raises:
        InputError: the file cannot be read, or has another format than in the module's docstring.
    """
    path = Path(file)
    return parse_prompts(read_json_value(path), str(path), lambda name: read_mask(path.parent / name))


def parse_prompts(content: Any, where: str, read_mask: Callable[[str], NDArray]) -> list[Prompt]:
    """Check the content of a JSON file and return its prompts.

    Args:
        content: content of the file.
        where: name of the file in messages.
        read_mask: function that reads a file of this name as a label map with the shape of the image.

    Raises:
        InputError: see :func:`read_prompts`.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("prompts"), list):
        raise InputError(f'{where} holds no list of prompts; write {{"axes": "zyx", "prompts": [...]}}.')
    axes = content.get("axes", AXES[0])
    if axes not in AXES or set(content) - {"axes", "prompts"}:
        raise InputError(
            f"{where} has axes {axes!r} and the entries {sorted(content)}; expected are axes (zyx or xyz) and prompts."
        )
    return [
        _parsed(entry, f"{where}, prompt {number}", axes == "xyz", read_mask)
        for number, entry in enumerate(content["prompts"], 1)
    ]


def _parsed(entry: Any, where: str, is_xyz: bool, read_mask: Callable[[str], NDArray]) -> Prompt:
    try:
        ENTRY.validate_python(entry)
    except ValidationError as error:
        raise InputError(f"{where}{_fault(entry, error)}.") from None
    if entry["type"] in ("scribble", "brush", "lasso") and ("line" in entry) == ("file" in entry):
        raise InputError(f"{where} ({entry['type']}) needs either line or file.")
    if "file" in entry and (pen := sorted({"width", "across"} & set(entry))):
        raise InputError(f"{where} ({entry['type']}) has {pen[0]}, which is of a line; a file is drawn as it is.")
    mask = None
    if "file" in entry:
        try:
            mask = read_mask(entry["file"])
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return Prompt(dict(entry), where, is_xyz, mask)


def _fault(entry: Any, error: ValidationError) -> str:
    """The first error of pydantic, as the end of a sentence."""
    place = error.errors(include_url=False)[0]["loc"]
    if not place:
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        return f" is of type {shortened(kind)}; the types are {', '.join(KEYS)}"
    kind, key = str(place[0]), str(place[1])
    known = KEYS[kind]
    if key not in known:
        return f" ({kind}) has {shortened(key)}; it may have {', '.join(known) or 'nothing else'}"
    found = f"is {shortened(entry[key])}" if key in entry else "is missing"
    return f" ({kind}): {key} {found}; expected is {known[key]}"


def shortened(value: Any) -> str:
    """A value as text for a message, with at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
