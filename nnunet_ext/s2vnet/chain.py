"""How a chain of centres walks through a volume: one tile, from slice to slice, and the logits of its slices.

A chain goes upwards or downwards, in one or several in-plane flips at once. Every slice starts from those that the
chain has passed: from the final centres of the last few, and from the mask of the last one (the loop over slices is
:meth:`nnunet_ext.s2vnet.network.S2VNet.propagate`). Slices without image are skipped. Centres and mask of a slice are
small, so they can be kept as :class:`Known`; logits are not small. From what is known of a slice and its features come
its logits, to the same bits, and a chain can go on from there.

Two use this. ``s2v predict`` walks from end to end (:meth:`Column.slices`). If it walks both ways, the upward chain
goes first and is kept. Then the downward chain passes, and with its features the upward one gives its logits, too. A
session (:mod:`nnunet_ext.interactive.propagation`) keeps both chains, and walks from prompts on (:meth:`Column.walk`).

Both directions are blended (:func:`share_of_upward`). Without prompts each counts as much as it has seen: an upward
chain has seen most at the top, a downward one at the bottom. Between two slices with prompts the share of the upward
chain falls linearly, from 1 at the lower slice to 0 at the upper one; on a slice with prompts both count half; beyond
the outermost prompts only the chain that comes from them counts (*inferred*).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from nnunet_ext.s2vnet.centroid_aggregation import Bank
from nnunet_ext.s2vnet.feature_cache import FeatureCache
from nnunet_ext.s2vnet.network import Clustered, Passed, S2VNet, slices_with_image
from nnunet_ext.s2vnet.packed import Packed, packed, unpacked
from nnunet_ext.s2vnet.prompts import Prompts

Direction = Literal["forward", "backward", "both"]

Flip = tuple[int, ...]
"""Axes of ``(C, h, w)`` that are mirrored."""

Parts = tuple[tuple[float, Tensor], ...]
"""Share of each direction in one slice, and the sum of its logits ``(heads, h, w)`` over the flips."""


@dataclass(frozen=True, eq=False)
class Known:
    """Memory of a slice that a chain has passed.

    Attributes:
        centres: ``(B, N, D)``, final.
        mask: for the next slice; None without a memory of masks.
        before: mask that the slice was segmented with; None on a first slice.
    """

    centres: Tensor
    mask: Packed | None
    before: Packed | None

    @classmethod
    def of(cls, one: Clustered, last: Known | None) -> Known:
        """Return what is known of a slice after ``last``, the one before it."""
        return cls(one.centres, packed(one.mask), None if last is None else last.mask)


def share_of_upward(index: int, depth: int, marked: Sequence[int] = ()) -> float:
    """Return the share of the upward chain on a slice, from 0 to 1; the downward chain has the rest.

    Args:
        index: of the slice.
        depth: number of slices.
        marked: slices with prompts, ascending.
    """
    if not marked:
        return (index + 1) / (depth + 1)
    if index in marked:
        return 0.5
    below = [other for other in marked if other < index]
    above = [other for other in marked if other > index]
    if not below or not above:
        return 1.0 if below else 0.0
    return (above[0] - index) / (above[0] - below[-1])


def next_logits(columns: Sequence[Iterator[Parts]], flips: int) -> list[Tensor]:
    """Terms that add up to the logits ``(heads, h, w)`` of the next slice of a tile.

    Args:
        columns: :meth:`Column.slices` of columns that share the flips.
        flips: of all columns.
    """
    totals = next(columns[0])
    for column in columns[1:]:
        totals = tuple(
            (share, total + logits) for (share, total), (_, logits) in zip(totals, next(column), strict=True)
        )
    return [share * (total / flips) for share, total in totals]


class Column:
    """One tile through a volume.

    Args:
        network: in evaluation, on its device.
        slice_of: index → ``(C, h, w)``; may be on another device.
        depth: number of slices.
        flips: that the network sees as one batch.
        gap: mm between two slices; None: as planned.
        cache: of features, for all walks; may be shared with other columns.
        name: of this column in the cache.
        together: slices whose features are computed in one pass. Then so many are in memory.
    """

    def __init__(
        self,
        network: S2VNet,
        slice_of: Callable[[int], Tensor],
        depth: int,
        flips: Sequence[Flip],
        gap: float | None,
        cache: FeatureCache,
        name: Hashable = None,
        together: int = 1,
    ) -> None:
        self.network = network
        self.slice_of = slice_of
        self.depth = depth
        self.flips = flips
        self.cache = cache
        self.name = name
        self.together = together
        self.device = network.centres.device
        some = torch.stack([(slice_of(index) != 0).any() for index in range(depth)])
        self.there = slices_with_image(some.view(1, 1, depth, 1, 1))[0].to(self.device)
        self.gap = None if gap is None else torch.full((len(flips),), gap, device=self.device)

    def walk(
        self,
        order: Sequence[int],
        past: Sequence[Known] = (),
        prompts: Callable[[int], Prompts] | None = None,
        again: bool = True,
    ) -> Iterator[Passed]:
        """Segment slices one after the other; drop each before you ask for the next.

        Args:
            order: of the slices.
            past: of the chain so far, newest last.
            prompts: index of a slice → its prompts; none by default.
            again: False: nobody will need the features of these slices another time, so the cache gives them away.
        """
        cached = self.cache.get if again else self.cache.take
        past = past[-self.network.options.bank :]
        ahead: dict[int, list[Tensor]] = {}

        def features(step: int, x: Tensor) -> list[Tensor]:
            if self.together == 1:
                return self.network.features(x)
            if step not in ahead:
                ahead.update(self._computed_together(order, step, x))
            return ahead.pop(step)

        return self.network.propagate(
            map(self._flipped, order),
            self.there[list(order)].expand(len(self.flips), -1),
            prompts and (lambda step: prompts(order[step])),
            lambda step, x: cached((self.name, order[step]), lambda: features(step, x)),
            self._bank([one.centres for one in past], past[-1].mask if past else None),
        )

    def logits(
        self, index: int, known: Known | None, features: Sequence[Tensor], added: Tensor | None = None
    ) -> Tensor:
        """Logits ``(heads, h, w)`` of a slice that a chain has passed, summed over the flips.

        Args:
            index: of the slice.
            known: of the slice; None if it has no image.
            features: of the slice; not needed if it has no image.
            added: ``(L, h, w)``, added to the logits of labels.
        """
        network = self.network
        if known is None:
            size = (len(self.flips), network.label_heads.num_labels, *self.slice_of(index).shape[1:])
            labels = torch.zeros(size, device=self.device)
        else:
            labels = network.slice_logits(known.centres, features, self._bank((), known.before))
            labels = labels if added is None else labels + added
        return self._summed(network.label_heads.head_logits(network.where_image(labels, self.there[index])))

    def features(self, index: int) -> list[Tensor]:
        """Features of a slice, finest first."""
        return self.cache.get((self.name, index), lambda: self.network.features(self._flipped(index)))

    def slices(self, direction: Direction) -> Iterator[Parts]:
        """Parts of the slices, one after the other; upwards the first slice comes first, otherwise the last one."""
        order = range(self.depth)
        if direction == "both":
            return self._both_ways(order)
        return self._one_way(order if direction == "forward" else order[::-1])

    # -- parts -----------------------------------------------------------------------------------------------------

    def _one_way(self, order: Sequence[int]) -> Iterator[Parts]:
        for passed in self.walk(order, again=False):
            total = self._summed(passed.logits)
            del passed  # with its features, before other columns, and the next slice, come
            yield ((1.0, total),)

    def _both_ways(self, order: Sequence[int]) -> Iterator[Parts]:
        known: list[Known | None] = [None]
        for passed in self.walk(order):
            known.append(passed.clustered and Known.of(passed.clustered, known[-1]))
            del passed
        for passed in self.walk(order[::-1], again=False):
            index = self.depth - 1 - passed.step
            upward = self.logits(index, known.pop(), passed.features or ())
            downward = self._summed(passed.logits)
            del passed
            share = share_of_upward(index, self.depth)
            yield (share, upward), (1 - share, downward)

    def _bank(self, centres: Sequence[Tensor], mask: Packed | None) -> Bank:
        """The memory of these centres, newest last, and of the last mask."""
        filled = torch.ones(len(self.flips), dtype=torch.bool, device=self.device)
        return Bank(tuple(centres), (filled,) * len(centres), unpacked(mask, self.device), filled, self.gap)

    def _computed_together(self, order: Sequence[int], first: int, x: Tensor) -> dict[int, list[Tensor]]:
        """Features of the slice ``x`` at a step, and of the next ones that will be asked for: step → features."""
        later = (
            step
            for step in range(first + 1, len(order))
            if self.there[order[step]] and (self.name, order[step]) not in self.cache
        )
        others = list(islice(later, self.together - 1))
        stages = self.network.features(torch.cat([x, *(self._flipped(order[step]) for step in others)]))
        parts = [stage.split(len(self.flips)) for stage in stages]
        # copies, since a view would keep the whole batch in the cache
        copies = ([part.clone() for part in of_step] for of_step in zip(*parts, strict=True))
        return dict(zip((first, *others), copies, strict=True))

    def _flipped(self, index: int) -> Tensor:
        x = self.slice_of(index)
        return torch.stack([x.flip(axes) for axes in self.flips]).to(self.device)

    def _summed(self, logits: Tensor) -> Tensor:
        total = sum(one.flip(axes) for axes, one in zip(self.flips, logits, strict=True))
        assert isinstance(total, Tensor)
        return total
