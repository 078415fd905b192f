"""Pixels near a prompt that look like it get its label, too.

Centres, when they move, change pixels of whole slices by their features. Near the drawn pixels the network's own
embedding says more: what looks like them, and is not far away, belongs to the same structure. So drawn pixels of label
l whose shown label was another one add to the logits of l around them::

    w(p)   = exp(−d(p)² / 2R²) · max(0, cos(k(p), k̄))²
    z_l(p) ← z_l(p) + A · w(p)

A is a multiple of what the drawn pixels lack to win without it. So pixels of which the network is as sure as of these
change near them, and a prompt at a border, where little is lacking, changes few. ``k`` are the keys of the pixels at
full resolution (:meth:`nnunet_ext.s2vnet.network.S2VNet.embedding`), ``k̄`` is the mean key of the drawn pixels, and
``d`` is the distance to the nearest of them in mm. Across slices it counts 2.5 times: an error often ends where a
structure ends, so the next slice may be right where this one is wrong.

R is 1.5 times the distance from the drawn pixels to the nearest one that has their label already, at most a sixteenth
of the planned patch. Where a border is a little off, the drawn pixels are close to their structure, and the error is
about as thin as that. Where a structure is missing, they are far from it, and the error is large. The multiple in A
rises with R, from 1.25 to 2.

Prompts of one label add up. What older prompts of other labels add is multiplied by ``1 − w``, so the newest prompt
wins around it, however many older ones there are.

*Inferred*: all of it, chosen on eight patients of CHAOS and eight of ACDC (docs/s2vnet.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import normalize

from nnunet_ext.interactive.marks import Mark

LACKING_CLOSE, LACKING, AMPLITUDE = 1.25, 2.0, 24.0
"""A, as a multiple of what the drawn pixels lack to have their label, for the smallest and the largest R, and the
largest value of A."""

OF_REGIONS = 12.0
"""A if the heads are regions, whose logits do not say what a label lacks."""

REACH = 1 / 16
"""R, as a share of the longer side of the planned patch: 20 mm for patches of 320 mm."""

CLOSE = 1.5
"""R at most, as a multiple of the distance of the drawn pixels to pixels that have their label already."""

ACROSS = 2.5
"""Factor of distances across slices."""

FARTHEST = 2.0
"""Distance in R beyond which a prompt adds nothing; there it would be 0.14 A at most."""


def pixels_in(mark: Mark, corner: tuple[int, int], size: Sequence[int]) -> NDArray[np.int64]:
    """Return the whole pixels of a mark in a tile, ``(P, 2)``, counted from the tile's first row and column."""
    pixels = np.rint(mark.pixels).astype(np.int64) - np.asarray(corner)
    return pixels[((pixels >= 0) & (pixels < size)).all(1)]


def reach_at(pixels: NDArray[np.int64], own: NDArray[np.bool_], spacing: Sequence[float]) -> float | None:
    """Return R of drawn pixels in mm by their distance from their structure; None if there is no such structure.

    Args:
        pixels: rows and columns of the drawn pixels, ``(P, 2)``; the one that is farthest from the structure decides.
        own: where the slice has their label already, ``(H, W)``.
        spacing: mm between rows and between columns.
    """
    if not own.any():
        return None
    distance = float(distance_transform_edt(~own, spacing)[tuple(pixels.T)].max())
    return CLOSE * max(distance, *spacing)


@dataclass(frozen=True)
class Neighbourhood:
    """Lengths of an image in mm.

    Attributes:
        spacing: distance between rows and between columns.
        gap: what a step to the next slice counts as.
        reach: the largest R.
    """

    spacing: tuple[float, float]
    gap: float
    reach: float

    @classmethod
    def of(cls, spacing: Sequence[float], patch: Sequence[int], gap: float) -> Neighbourhood:
        """Return the neighbourhood for planned spacing and patch, rows and columns, and a distance between slices."""
        rows, columns = spacing
        return cls(
            (rows, columns), ACROSS * gap, REACH * max(mm * pixels for mm, pixels in zip(spacing, patch, strict=True))
        )

    def reach_of(self, mark: Mark) -> float:
        """R of a mark, in mm."""
        return self.reach if mark.reach is None else min(self.reach, mark.reach)

    def lacking(self, mark: Mark) -> float:
        """A of a mark, as a multiple of what its pixels lack."""
        return LACKING_CLOSE + (LACKING - LACKING_CLOSE) * self.reach_of(mark) / self.reach

    def farthest(self, mark: Mark) -> float:
        """Distance beyond which a mark adds nothing."""
        return FARTHEST * self.reach_of(mark)

    def slices(self, marks: Iterable[Mark], depth: int) -> set[int]:
        """Return the slices, of ``depth``, on which marks add something."""
        found: set[int] = set()
        for mark in marks:
            steps = int(self.farthest(mark) / self.gap)
            found.update(range(max(0, mark.slice - steps), min(depth, mark.slice + steps + 1)))
        return found

    def added(
        self,
        marks: Sequence[Mark],
        index: int,
        keys: Callable[[int], Tensor],
        corner: tuple[int, int],
        labels: int,
    ) -> Tensor | None:
        """Return what marks add to the logits of one slice of a tile, ``(labels, h, w)``; None if that is nothing.

        Args:
            marks: drawn pixels on any slices, newest last; A is their ``weight``.
            index: index of the slice.
            keys: index of a slice → keys of its pixels, ``(K, h, w)``, each of length 1.
            corner: first row and column of the tile, in the grid of the marks.
            labels: number of labels.
        """
        near = [mark for mark in marks if abs(index - mark.slice) * self.gap <= self.farthest(mark)]
        if not near:
            return None
        own = keys(index)
        size = own.shape[1:]
        added = own.new_zeros(labels, *size)
        found = False
        for mark in near:
            pixels = pixels_in(mark, corner, size)
            if not len(pixels):
                continue
            found = True
            reach, farthest = self.reach_of(mark), self.farthest(mark)
            rows, columns = self._window(pixels, size, farthest)
            drawn_rows, drawn_columns = pixels.T
            drawn = np.zeros(size, bool)
            drawn[drawn_rows, drawn_columns] = True
            within = torch.from_numpy(distance_transform_edt(~drawn[rows, columns], sampling=self.spacing)).to(own)
            square = within**2 + ((index - mark.slice) * self.gap) ** 2
            mean = normalize(keys(mark.slice)[:, drawn_rows, drawn_columns].mean(1), dim=0)
            alike = torch.einsum("k,khw->hw", mean, own[:, rows, columns]).clamp(min=0)
            weight = torch.exp(-square / (2 * reach**2)) * alike**2
            weight = torch.where(square <= farthest**2, weight, 0.0)
            there = added[:, rows, columns]
            same = there[mark.label] + mark.weight * weight
            there *= 1 - weight
            there[mark.label] = same
        return added if found else None

    def _window(self, pixels: NDArray[np.int64], size: Sequence[int], farthest: float) -> tuple[slice, slice]:
        """Rows and columns within ``farthest`` mm of pixels ``(P, 2)``."""
        reach = [int(farthest / mm) for mm in self.spacing]
        low, high = np.maximum(pixels.min(0) - reach, 0), np.minimum(pixels.max(0) + reach + 1, size)
        return slice(low[0], high[0]), slice(low[1], high[1])
