"""Propagation with corrections: the memory of every slice of a tile, and the slices that a click changes.

A tile is propagated upwards and downwards, as in :mod:`nnunet_ext.s2vnet.predictor`. For every slice the final centres
and the mask of both chains are kept, because they are small; logits are large and are not kept. Centres, mask and the
features of a slice give its logits at any time. Features are cached up to a number of bytes and otherwise computed
again, with the same bits.

A slice with a new mark is segmented from the chain with the larger share there. From this slice both chains continue,
the upward one above it and the downward one below it, so both take earlier marks into account. Each chain is followed
until the volume ends, or until its labels stay the same on three slices in a row: for every structure less than 1 % of
its old and new pixels differ, so a small structure counts as much as a large one.

The reached slices are blended again. Between two marked slices the share of the upward chain falls linearly, from 1 at
the lower slice to 0 at the upper one; the downward chain has the rest. On a marked slice both count half. Beyond the
outermost marks only the chain that comes from them counts. Without marks both are blended as in the automatic mode.

States are immutable, so a caller may keep earlier ones.

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
"""A chain ends if less than this share of every structure changes, on this number of slices in a row."""

PromptsOf = Callable[[int], Prompts]
"""Function from the index of a slice to its prompts."""

Report = Callable[[int], None]
"""Callback that gets the number of slices segmented since its last call."""


class Step(NamedTuple):
    """One slice of a chain.

    Attributes:
        centres: final centres, ``(1, N, D)``.
        labels: labels from these centres, ``(h, w)``.
        mask: mask for the next slice; None without a memory of masks.
        before: mask that this slice was segmented with; None on a first slice.
    """

    centres: Tensor
    labels: Packed
    mask: Packed | None = None
    before: Packed | None = None


Chain = tuple[Step | None, ...]
"""Steps by slice; None for a slice without image."""


@dataclass(frozen=True, eq=False)
class TileState:
    """State of a tile.

    Attributes:
        up: the upward chain.
        down: the downward chain.
        share: share of the upward chain in the result, by slice; the downward chain has the rest.
    """

    up: Chain
    down: Chain
    share: tuple[float, ...]


class Propagation:
    """Segments the tiles of one image.

    Args:
        network: network in evaluation mode, on its device.
        image: ``(C, D, h, w)``; may be on another device.
        tiles: rows and columns of each tile.
        cache: cache of features.
        propagates: if False, a mark changes only its own slice, and the others keep their automatic result.
        early_stop: if False, chains are followed to the last slice.
        gap: distance between two slices in mm; None means as planned.
        bfloat16: whether to compute in bfloat16 on a CPU.
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
        """The state of a tile after marks have changed.

        Args:
            tile: index of the tile.
            state: state before the change.
            prompts: prompts in this tile.
            changed: slices whose prompts have changed since ``state``.
            marked: slices with prompts, ascending.
            automatic: the state without marks.
            report: see :data:`Report`.

        Returns:
            The new state, and the slices that were computed again.
        """
        fresh = [index for index in sorted(changed) if self.there[tile][index]]
        others = [index for index in marked if index not in fresh] if self.propagates else []
        # without propagation the neighbours keep their automatic state
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
        """Compute a chain from slices with changed prompts on; without ``start`` all of it.

        Returns:
            The chain, and the slices that were computed.
        """
        chain = list(before)
        reached: set[int] = set()
        running, quiet = start is None, 0
        for index in range(self.depth) if upwards else reversed(range(self.depth)):
            if not self.there[tile][index] or not (running or index in changed):
                continue
            old = chain[index]
            if running or start is None:  # also on slices with new marks, so that earlier changes pass
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
        """The memory of these centres, newest last, and of the last mask."""
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
        index: index of the slice.
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
