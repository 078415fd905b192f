"""Propagation that can be changed: the memory of every slice of a tile, and what a click makes it compute again.

A tile is propagated upwards and downwards, as in :mod:`nnunet_ext.s2vnet.predictor`. For every slice the final centres
and the mask of both chains are kept, because they are small, and logits are not; with the features of a slice they give
its logits at any time. Features are cached up to a number of bytes, and computed again otherwise, to the same bits.

A slice with a new mark is segmented from the chain that knows more there, and both chains continue from it, the upward
one above it and the downward one below it, so both know what earlier marks said. Each is followed until the volume
ends, or until it gives the same labels on three slices in a row (for every structure less than 1 % of its old and new
pixels differ, so that a small structure counts as much as a large one). The slices that it reached are blended again:
between two marked slices the upward chain counts most at the lower one and the downward chain at the upper one,
linearly; beyond the outermost marks the chain that comes from there counts alone; without marks both are blended as in
the automatic mode. The chain that knows more is the one that counts more.

Everything here is a function of its arguments: states are never changed, so a caller may keep earlier ones.

*Inferred*: all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nnunet_ext.s2vnet.centroid_aggregation import Bank
from nnunet_ext.s2vnet.column import share_of_chain
from nnunet_ext.s2vnet.feature_cache import FeatureCache
from nnunet_ext.s2vnet.network import S2VNet, slices_with_image
from nnunet_ext.s2vnet.packed import Packed, packed, unpacked
from nnunet_ext.s2vnet.prompts import Prompts

QUIET_SHARE, QUIET_SLICES = 0.01, 3
"""A chain ends when less than this share of every structure changes on so many slices in a row."""

PromptsOf = Callable[[int], Prompts]
"""Index of a slice → the prompts on it."""

Report = Callable[[int], None]
"""Receives how many slices were segmented since the last call."""


class Step(NamedTuple):
    """One slice of a chain.

    Attributes:
        centres: ``(1, N, D)``, final.
        labels: ``(h, w)``, which they give.
        mask: for the next slice; None without a memory of masks.
        before: the mask that this slice was segmented with; None for a first one.
    """

    centres: Tensor
    labels: Packed
    mask: Packed | None = None
    before: Packed | None = None


Chain = tuple[Step | None, ...]
"""Steps by slice; None where there is no image."""


@dataclass(frozen=True, eq=False)
class TileState:
    """State of a tile.

    Attributes:
        up: the upward chain.
        down: the downward chain.
        share: by slice, of the upward chain in the result; the downward one has the rest.
    """

    up: Chain
    down: Chain
    share: tuple[float, ...]


class Propagation:
    """Segments the tiles of one image.

    Args:
        network: in evaluation, on its device.
        image: ``(C, D, h, w)``; may be on another device.
        tiles: rows and columns.
        cache: of features.
        propagates: False: a mark changes its own slice only, the others keep their automatic result.
        early_stop: False: chains are followed to the last slice.
        gap: mm between two slices; None: as planned.
        bfloat16: compute in it, on a CPU.
    """

    def __init__(
        self,
        network: S2VNet,
        image: Tensor,
        tiles: Sequence[tuple[slice, slice]],
        cache: FeatureCache,
        propagates: bool = True,
        early_stop: bool = True,
        gap: float | None = None,
        bfloat16: bool = False,
    ) -> None:
        self.network = network
        self.image = image
        self.tiles = tiles
        self.cache = cache
        self.propagates = propagates
        self.early_stop = early_stop
        self.gap = gap
        self.bfloat16 = bfloat16
        self.device = next(network.parameters()).device
        self.depth = image.shape[1]
        self.there = [slices_with_image(image[None, :, :, rows, columns])[0].tolist() for rows, columns in tiles]

    def automatic(self, tile: int, report: Report = lambda done: None) -> TileState:
        """The state of a tile without marks."""
        nothing: Chain = (None,) * self.depth
        empty = Prompts.none(1, self.device)
        up, _ = self._follow(tile, nothing, True, (), None, lambda index: empty, report)
        down, _ = self._follow(tile, nothing, False, (), None, lambda index: empty, report)
        return TileState(up, down, tuple(share_of_upward(t, self.depth, ()) for t in range(self.depth)))

    def after_marks(
        self,
        tile: int,
        state: TileState,
        prompts: PromptsOf,
        changed: Iterable[int],
        marked: Sequence[int],
        automatic: TileState,
        report: Report = lambda done: None,
    ) -> tuple[TileState, set[int]]:
        """The state of a tile when marks have changed.

        Args:
            tile: index.
            state: before.
            prompts: in this tile.
            changed: slices whose prompts are no longer those of ``state``.
            marked: slices that have prompts, ascending.
            automatic: the state without marks.
            report: see there.

        Returns:
            The new state, and the slices in which it differs.
        """
        fresh = [index for index in sorted(changed) if self.there[tile][index]]
        others = [index for index in marked if index not in fresh] if self.propagates else []
        # where nothing propagates, what is known of the neighbours is what the automatic mode knows of them
        known = state if self.propagates else automatic

        @cache
        def start(index: int) -> Step:
            upwards = share_of_upward(index, self.depth, others) >= 0.5
            report(1)
            return self._segment(tile, known.up if upwards else known.down, index, upwards, prompts(index))

        if self.propagates:
            up, above = self._follow(tile, state.up, True, fresh, start, prompts, report)
            down, below = self._follow(tile, state.down, False, fresh, start, prompts, report)
            reached = above | below
        else:
            up, down = (
                tuple(start(t) if t in fresh else step for t, step in enumerate(chain))
                for chain in (state.up, state.down)
            )
            reached = set(fresh)
        share = [
            share_of_upward(t, self.depth, marked) if t in reached else before for t, before in enumerate(state.share)
        ]
        return TileState(up, down, tuple(share)), reached

    def logits(self, tile: int, state: TileState, index: int) -> Tensor:
        """Return the logits of one slice of a tile, ``(heads, h, w)``, float32."""
        heads, share = self.network.label_heads, state.share[index]
        up, down = state.up[index], state.down[index]
        with self._precision():
            if up is None or down is None:
                rows, columns = self.tiles[tile]
                size = (1, heads.num_labels, rows.stop - rows.start, columns.stop - columns.start)
                nothing = torch.zeros(size, device=self.device)
                no = torch.zeros(1, dtype=torch.bool, device=self.device)
                return heads.head_logits(self.network.where_image(nothing, no))[0]
            features = self._features(tile, index)
            total: Tensor | float = 0.0
            for step, weight in ((up, share), (down, 1 - share)):
                if weight:
                    labels = self.network.slice_logits(step.centres, features, self._bank((), step.before))
                    total = total + weight * heads.head_logits(labels)
            assert isinstance(total, Tensor)
            return total[0].float()

    # -- parts -----------------------------------------------------------------------------------------------------

    def _follow(
        self,
        tile: int,
        before: Chain,
        upwards: bool,
        changed: Collection[int],
        start: Callable[[int], Step] | None,
        prompts: PromptsOf,
        report: Report,
    ) -> tuple[Chain, set[int]]:
        """A chain from slices with changed prompts on, or all of it without ``start``; and its slices that are new."""
        chain = list(before)
        reached: set[int] = set()
        running, quiet = start is None, 0
        for index in range(self.depth) if upwards else reversed(range(self.depth)):
            if not self.there[tile][index] or not (running or index in changed):
                continue
            old = chain[index]
            if running or start is None:  # also on slices with new marks: what comes from before them must pass
                new = self._segment(tile, chain, index, upwards, prompts(index))
                report(1)
            else:
                new = start(index)
            chain[index] = new
            reached.add(index)
            quiet = quiet + 1 if old is not None and index not in changed and _is_quiet(old, new) else 0
            running = not (self.early_stop and quiet == QUIET_SLICES)
        return tuple(chain), reached

    def _segment(self, tile: int, chain: Sequence[Step | None], index: int, upwards: bool, prompts: Prompts) -> Step:
        size = self.network.options.bank
        past = chain[max(0, index - size) : index] if upwards else chain[index + 1 : index + 1 + size][::-1]
        steps = [step for step in past if step is not None]
        before = steps[-1].mask if steps else None
        bank = self._bank([step.centres for step in steps], before)
        with self._precision():
            one = self.network.cluster(self._features(tile, index), bank, prompts)
        labels = one.logits[0].argmax(0).to(torch.int16).cpu().numpy()
        return Step(one.centres, Packed.of(labels), packed(one.mask), before)

    def _bank(self, centres: Sequence[Tensor], mask: Packed | None) -> Bank:
        """Memory of these centres, newest last, and of the last mask."""
        filled = torch.ones(1, dtype=torch.bool, device=self.device)
        known = unpacked(mask, self.device)
        gap = None if self.gap is None else torch.full((1,), self.gap, device=self.device)
        return Bank(tuple(centres), (filled,) * len(centres), known, None if known is None else filled, gap)

    def _features(self, tile: int, index: int) -> list[Tensor]:
        rows, columns = self.tiles[tile]

        def compute() -> list[Tensor]:
            return self.network.features(self.image[None, :, index, rows, columns].to(self.device))

        return self.cache.get((tile, index), compute)

    def _precision(self) -> torch.autocast:
        kind = torch.bfloat16 if self.bfloat16 else None
        return torch.autocast(self.device.type, kind, enabled=self.bfloat16 or self.device.type == "cuda")


def share_of_upward(index: int, depth: int, marked: Sequence[int]) -> float:
    """Return the share of the upward chain on a slice, from 0 to 1; see the module's docstring.

    Args:
        index: of the slice.
        depth: number of slices.
        marked: slices with marks, ascending.
    """
    if not marked:
        return share_of_chain(index, depth)
    if index in marked:
        return 0.5
    below = [other for other in marked if other < index]
    above = [other for other in marked if other > index]
    if not below or not above:
        return 1.0 if below else 0.0
    return (above[0] - index) / (above[0] - below[-1])


def _is_quiet(old: Step, new: Step) -> bool:
    if old.labels.data == new.labels.data:
        return True
    a, b = old.labels.unpacked(), new.labels.unpacked()
    was, becomes = a[a != b], b[a != b]
    for label in np.union1d(was, becomes).tolist():
        either = np.count_nonzero((a == label) | (b == label))
        if label and np.count_nonzero((was == label) | (becomes == label)) >= QUIET_SHARE * either:
            return False
    return True
