"""Marks: a user's drawings on slices, and how much they still count after newer drawings.

Clicks, scribbles, lassos and boxes all become sets of pixels with a label and a total weight. Two rules hold for a
later mark, both *inferred*:

* It *supersedes* older ones: pixels of another label within 3 pixels of it, on the same slice, are forgotten, because a
  user who clicks again at the same place has changed their mind. A box supersedes nothing, because it contains more
  than the object.
* It *weighs more*: older marks on the same slice age by one round, and all older marks of one label together weigh at
  most half of the newest one; otherwise four old clicks would be as strong as the new one. Age is counted per slice, so
  that a mark changes only its own slice and the slices that it propagates to. Age stops at the largest age of the
  training, so that no mark vanishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nnunet_ext.s2vnet.prompts import Prompts

SUPERSEDED_WITHIN = 3.0
"""Distance within which a mark supersedes older ones, in pixels of the network's grid."""

OLDER_TOGETHER = 0.5
"""Largest total weight of all older marks of one label on a slice, as a share of the newest mark's weight."""

MAX_PIXELS = 4096
"""Largest number of pixels of a mark. Larger ones are thinned evenly, which hardly changes their mean features."""


@dataclass(frozen=True, eq=False)
class Mark:
    """Pixels of one slice with a label.

    Attributes:
        slice: index of the slice.
        label: index of the label.
        pixels: ``(P, 2)`` float, row and column, in pixels of the preprocessed slice.
        weight: total weight of all pixels; of a mark whose neighbourhood follows, A of
            :mod:`nnunet_ext.interactive.nearby`.
        round: round of interaction in which the mark was drawn.
        supersedes: whether the mark supersedes older marks of other labels.
        reach: of a mark whose neighbourhood follows, R of :mod:`nnunet_ext.interactive.nearby`; None stands for the
            largest.
    """

    slice: int
    label: int
    pixels: NDArray[np.float64]
    weight: float
    round: int
    supersedes: bool = True
    reach: float | None = None


def marks_of(
    pixels: NDArray[np.float64], label: int, weight: float, number: int, supersedes: bool = True
) -> tuple[Mark, ...]:
    """Turn pixels into one mark per slice.

    Args:
        pixels: ``(P, 3)``, slice, row and column; slices are rounded.
        label: index of the label.
        weight: total weight of the pixels of each slice.
        number: number of the round.
        supersedes: whether the marks supersede older marks of other labels.
    """
    slices = np.rint(pixels[:, 0]).astype(int)
    found = []
    for index in np.unique(slices):
        own = pixels[slices == index, 1:]
        if len(own) > MAX_PIXELS:
            own = own[np.linspace(0, len(own) - 1, MAX_PIXELS).astype(int)]
        found.append(Mark(int(index), label, own, weight, number, supersedes))
    return tuple(found)


def left_by(newer: Sequence[Mark], marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """The parts of marks that ``newer`` ones do not supersede."""
    kept = []
    winners = [mark for mark in newer if mark.supersedes]
    for old in marks:
        for new in winners:
            if new.slice == old.slice and new.label != old.label:
                distance, _ = cKDTree(new.pixels).query(old.pixels)
                old = replace(old, pixels=old.pixels[distance > SUPERSEDED_WITHIN])
                if not len(old.pixels):
                    break
        else:
            kept.append(old)
    return tuple(kept)


def prompts_in(
    marks: Sequence[Mark],
    rows: slice,
    columns: slice,
    oldest: int,
    decay: float,
    device: torch.device | str = "cpu",
) -> Prompts:
    """Return the marks of one slice as prompts of the network, for a tile of the slice.

    Args:
        marks: marks of one slice.
        rows: rows of the tile.
        columns: columns of the tile.
        oldest: age at which marks stop ageing.
        decay: factor by which the network multiplies weights per round of age.
        device: device of the result.

    Returns:
        Prompts for a batch of one, on slice 0; none if no pixel is in the tile.
    """
    rounds = sorted({mark.round for mark in marks})
    ages = [min(len(rounds) - 1 - rounds.index(mark.round), oldest) for mark in marks]
    there = [_in_tile(mark, rows, columns) for mark in marks]
    newest = max((mark.weight for mark, old in zip(marks, ages, strict=True) if not old), default=0.0)
    older: dict[int, float] = {}
    for mark, old, inside in zip(marks, ages, there, strict=True):
        if old and inside.any():
            older[mark.label] = older.get(mark.label, 0.0) + mark.weight * decay**old
    position, label, weight, age = [], [], [], []
    for mark, old, inside in zip(marks, ages, there, strict=True):
        if not inside.any():
            continue
        total = older.get(mark.label, 0.0) if old else 0.0
        scale = min(1.0, OLDER_TOGETHER * newest / total) if total else 1.0
        own = mark.pixels[inside] - [rows.start, columns.start]
        position.append(np.concatenate((np.zeros((len(own), 1)), own), 1))
        label.append(np.full(len(own), mark.label))
        weight.append(np.full(len(own), scale * mark.weight / len(own)))
        age.append(np.full(len(own), old))
    if not position:
        return Prompts.none(1, device)
    place, weights, since = (
        torch.as_tensor(np.concatenate(part), dtype=torch.float32, device=device)[None]
        for part in (position, weight, age)
    )
    return Prompts(place, torch.as_tensor(np.concatenate(label), device=device)[None], weights, since)


def touches(mark: Mark, rows: slice, columns: slice) -> bool:
    """Whether a mark has a pixel in this tile."""
    return bool(_in_tile(mark, rows, columns).any())


def _in_tile(mark: Mark, rows: slice, columns: slice) -> NDArray[np.bool_]:
    low, high = np.array([rows.start, columns.start]), np.array([rows.stop, columns.stop])
    return np.asarray(((mark.pixels >= low - 0.5) & (mark.pixels <= high - 0.5)).all(1))
