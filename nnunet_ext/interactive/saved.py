"""Saved sessions: everything that a prompt can change, as one file, so that work can continue.

The file is a zip archive of ``session.json`` and of arrays, which it refers to by number; each array is stored once. It
belongs to one image and one network, and holds their checksums. It does not hold the history for undo.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing, require_folder_of
from nnunet_ext.interactive.correction import State
from nnunet_ext.interactive.marks import Mark
from nnunet_ext.interactive.propagation import Chain, Step, TileState
from nnunet_ext.interactive.provenance import Sheet
from nnunet_ext.interactive.strokes import Stroke
from nnunet_ext.s2vnet.packed import Packed

FORMAT = 2


def checksum(image: Tensor, network: nn.Module) -> dict[str, str]:
    """Return the SHA-256 checksums of a preprocessed image and of a network's weights."""
    weights = hashlib.sha256()
    for name, value in network.state_dict().items():
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    pixels = hashlib.sha256(str(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes())
    return {"image": pixels.hexdigest(), "network": weights.hexdigest()}


def write_session(file: str | Path, state: State, active: int, belongs: Mapping[str, str], notes: Any = None) -> None:
    """Write a session as a whole or not at all.

    Args:
        file: file to write.
        state: state of the session.
        active: value of the active label.
        belongs: checksums of image and network, from :func:`checksum`.
        notes: notes of the caller as JSON values; :func:`read_notes` returns them.

    Raises:
        InputError: the folder of the file does not exist.
    """
    path = Path(file)
    require_folder_of(path)
    arrays = _Arrays()
    marks = list(
        dict.fromkeys((*state.marks, *state.seen, *state.spreading))
    )  # each once; marks are compared by identity
    content = {
        "format": FORMAT,
        **belongs,
        "active": active,
        "marks": [
            [mark.slice, mark.label, arrays.add(mark.pixels), mark.weight, mark.round, mark.supersedes, mark.reach]
            for mark in marks
        ],
        "count": [marks.index(mark) for mark in state.marks],
        "seen": [marks.index(mark) for mark in state.seen],
        "spreading": [marks.index(mark) for mark in state.spreading],
        "round": state.round,
        "waiting": [[s.label, arrays.add(s.voxels), arrays.add(s.around), s.heard] for s in state.waiting],
        "tiles": state.tiles and [arrays.tile(tile) for tile in state.tiles],
        "sheets": state.sheets and [arrays.sheet(sheet) for sheet in state.sheets],
        "start": state.start and [arrays.sheet(sheet) for sheet in state.start],
        "locked": sorted(state.locked),
        "accepted": sorted(state.accepted),
        "notes": notes,
    }
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr("session.json", json.dumps({**content, "arrays": arrays.described()}))
        for number, packed in enumerate(arrays.kept):
            archive.writestr(str(number), packed.data)


def read_session(
    file: str | Path, belongs: Mapping[str, str], shape: Sequence[int], device: torch.device
) -> tuple[State, int]:
    """Read the state and the active label of a saved session.

    Args:
        file: file written by :func:`write_session`.
        belongs: checksums that it must have.
        shape: shape of the image, in the order of its slices.
        device: device of the network.

    Raises:
        InputError: the file cannot be read, is no saved session, or belongs to another image or network.
    """
    path = Path(file)
    with _opened(path) as (archive, content):
        for what, said in belongs.items():
            if content[what] != said:
                raise InputError(f"{path} is a session with another {what}; open the {what} that it was saved with.")
        arrays = [
            Packed(archive.read(str(number)), tuple(size), kind)
            for number, (size, kind) in enumerate(content["arrays"])
        ]
        return _state(content, arrays, shape, device), int(content["active"])


def read_notes(file: str | Path) -> Any:
    """Read the notes of a saved session; see :func:`write_session`.

    Raises:
        InputError: the file cannot be read, or is no saved session.
    """
    with _opened(Path(file)) as (_, content):
        return content["notes"]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any]]]:
    """Context with the archive and its ``session.json``; any fault in them becomes an InputError."""
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            content = json.loads(archive.read("session.json"))
            if content["format"] != FORMAT:
                raise InputError(
                    f"{path} is a session of format {content['format']}, but this version reads {FORMAT}; read it "
                    "with the version that wrote it."
                )
            yield archive, content
    except InputError:
        raise
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path} is no saved session, or a broken one ({reason}).") from None


class _Arrays:
    """The arrays of a file, each stored once."""

    def __init__(self) -> None:
        self.kept: dict[Packed, int] = {}

    def packed(self, packed: Packed) -> int:
        return self.kept.setdefault(packed, len(self.kept))

    def add(self, array: NDArray) -> int:
        return self.packed(Packed.of(array))

    def sheet(self, sheet: Sheet) -> list[int]:
        return [self.packed(part) for part in sheet]

    def tile(self, tile: TileState) -> list[Any]:
        slices = range(len(tile.share))
        return [*([self._step(chain.get(index)) for index in slices] for chain in (tile.up, tile.down)), tile.share]

    def _step(self, step: Step | None) -> list[int | None] | None:
        if step is None:
            return None
        masks = [part and self.packed(part) for part in (step.mask, step.before)]
        return [self.add(step.centres.cpu().numpy()), self.packed(step.labels), *masks]

    def described(self) -> list[tuple[tuple[int, ...], str]]:
        return [(packed.shape, packed.type) for packed in self.kept]


def _state(content: Mapping[str, Any], arrays: Sequence[Packed], shape: Sequence[int], device: torch.device) -> State:
    def array(number: int) -> NDArray:
        return arrays[number].unpacked().copy()

    def sheets(given: Any) -> tuple[Sheet, ...] | None:
        if given is None:
            return None
        found = tuple(Sheet(*(arrays[number] for number in one)) for one in given)
        if len(found) != shape[0] or any(part.shape != tuple(shape[1:]) for one in found for part in one):
            raise ValueError("its label map has another shape")
        return found

    def step(centres: int, *parts: int | None) -> Step:
        labels, mask, before = (None if number is None else arrays[number] for number in parts)
        assert labels is not None
        return Step(torch.from_numpy(array(centres)).to(device), mask, before, labels)

    def chain(given: Any) -> Chain:
        return {index: step(*one) for index, one in enumerate(given) if one is not None}

    marks = [Mark(index, label, array(pixels), *rest) for index, label, pixels, *rest in content["marks"]]
    tiles = content["tiles"]
    return State(
        marks=tuple(marks[number] for number in content["count"]),
        seen=tuple(marks[number] for number in content["seen"]),
        spreading=tuple(marks[number] for number in content.get("spreading", ())),
        round=content["round"],
        waiting=tuple(Stroke(label, array(a), array(b), *rest) for label, a, b, *rest in content["waiting"]),
        tiles=None if tiles is None else tuple(TileState(chain(a), chain(b), tuple(share)) for a, b, share in tiles),
        sheets=sheets(content["sheets"]),
        start=sheets(content["start"]),
        locked=frozenset(content["locked"]),
        accepted=frozenset(content["accepted"]),
    )
