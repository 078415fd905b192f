"""One tile through all slices of a volume, and its logits from chains of centres.

A chain goes from end to end, upwards or downwards, in one or several in-plane flips at once. With both directions the
logits of a slice need the upward and the downward chain. The upward chain goes first. For every slice its final centres
and the incoming mask are kept, because they are small, and logits are not. Then the downward chain passes, and with the
features of a slice the kept centres give their logits again, to the same bits.

Both directions are blended linearly: an upward chain has seen most at the top, a downward one at the bottom
(*inferred*).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nnunet_ext.s2vnet.centroid_aggregation import Bank
from nnunet_ext.s2vnet.feature_cache import FeatureCache
from nnunet_ext.s2vnet.network import Passed, S2VNet, slices_with_image
from nnunet_ext.s2vnet.packed import Packed, packed, unpacked

Direction = Literal["forward", "backward", "both"]

Flip = tuple[int, ...]
"""Axes of ``(C, h, w)`` that are mirrored."""

Parts = tuple[tuple[float, Tensor], ...]
"""Share of each direction in one slice, and the sum of its logits ``(heads, h, w)`` over the flips."""


class Known(NamedTuple):
    """Memory of a slice that a chain has passed.

    Attributes:
        centres: ``(B, N, D)``, final.
        mask: that it was segmented with; None for a first slice, or without a memory of masks.
        masked: ``(B,)`` bool; see :class:`nnunet_ext.s2vnet.centroid_aggregation.Bank`.
    """

    centres: Tensor
    mask: Packed | None
    masked: Tensor | None


def share_of_chain(step: int, depth: int) -> float:
    """Return the share of a chain in the blend of both directions: each counts as much as it has seen.

    Args:
        step: of the slice in the chain, from 0.
        depth: number of slices.
    """
    return (step + 1) / (depth + 1)


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
        cache: of features, for both directions; may be shared with other columns.
        name: of this column in the cache.
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
    ) -> None:
        self.network = network
        self.slice_of = slice_of
        self.depth = depth
        self.flips = flips
        self.cache = cache
        self.name = name
        self.device = network.centres.device
        some = torch.stack([(slice_of(index) != 0).any() for index in range(depth)])
        self.there = slices_with_image(some.view(1, 1, depth, 1, 1))[0].to(self.device)
        self.gap = None if gap is None else torch.full((len(flips),), gap, device=self.device)

    def slices(self, direction: Direction) -> Iterator[Parts]:
        """Parts of the slices, one after the other; upwards the first slice comes first, otherwise the last one."""
        return self._both_ways() if direction == "both" else self._one_way(direction == "forward")

    # -- parts -----------------------------------------------------------------------------------------------------

    def _one_way(self, upwards: bool) -> Iterator[Parts]:
        for passed in self._chain(upwards):
            total = self._summed(passed.logits)
            del passed  # with its features, before other columns, and the next slice, come
            yield ((1.0, total),)

    def _both_ways(self) -> Iterator[Parts]:
        known = list(map(self._kept, self._chain(True, self.cache.get)))
        for passed in self._chain(False, self.cache.take):
            step = passed.step
            index = self.depth - 1 - step
            upward = self._summed(self._again(known.pop(), index, passed))
            downward = self._summed(passed.logits)
            del passed
            yield (share_of_chain(index, self.depth), upward), (share_of_chain(step, self.depth), downward)

    def _chain(
        self,
        upwards: bool,
        cached: Callable[[Hashable, Callable[[], list[Tensor]]], list[Tensor]] = lambda _, compute: compute(),
    ) -> Iterator[Passed]:
        order = range(self.depth) if upwards else range(self.depth)[::-1]
        there = (self.there if upwards else self.there.flip(0)).expand(len(self.flips), -1)

        def features_of(step: int, x: Tensor) -> list[Tensor]:
            return cached((self.name, order[step]), lambda: self.network.features(x))

        slices = (self._flipped(index) for index in order)
        return self.network.propagate(slices, there, features_of=features_of, gap=self.gap)

    def _flipped(self, index: int) -> Tensor:
        x = self.slice_of(index)
        return torch.stack([x.flip(axes) for axes in self.flips]).to(self.device)

    def _summed(self, logits: Tensor) -> Tensor:
        total = sum(one.flip(axes) for axes, one in zip(self.flips, logits, strict=True))
        assert isinstance(total, Tensor)
        return total

    @staticmethod
    def _kept(passed: Passed) -> Known | None:
        if passed.centres is None:
            return None
        return Known(passed.centres, packed(passed.bank.mask), passed.bank.masked)

    def _again(self, known: Known | None, index: int, passed: Passed) -> Tensor:
        """Logits ``(B, heads, h, w)`` of a slice that a chain has passed, from the features that another one needed."""
        if known is None or passed.features is None:
            return passed.logits  # there is no image
        bank = Bank(mask=unpacked(known.mask, self.device), masked=known.masked, gap=self.gap)
        labels = self.network.slice_logits(known.centres, passed.features, bank)
        return self.network.label_heads.head_logits(self.network.where_image(labels, self.there[index]))
