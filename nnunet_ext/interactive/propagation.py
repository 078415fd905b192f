"""Propagation with corrections: the memory of every slice of a tile, and the slices that a click changes.

A tile is propagated upwards and downwards, by the walk of the automatic mode (:mod:`nnunet_ext.s2vnet.chain`). Both
chains are kept, as what is known of each slice and its labels. Here is what a session adds: which slices are walked
again, and how much each chain counts.

A slice with a new mark is segmented from the chain with the larger share there. From this slice both chains continue,
the upward one above it and the downward one below it, so both take earlier marks into account. Each chain is followed
until the volume ends, or until its labels stay the same on three slices in a row: for every structure less than 1 % of
its old and new pixels differ, so a small structure counts as much as a large one.

The reached slices are blended again, as they now lie between the marks (:func:`.share_of_upward`).

States are immutable, so a caller may keep earlier ones.

*Inferred*: all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from nnunet_ext.interactive.marks import Mark
from nnunet_ext.interactive.nearby import AMPLITUDE, OF_REGIONS, Neighbourhood, pixels_in
from nnunet_ext.s2vnet.chain import Column, Known, share_of_upward
from nnunet_ext.s2vnet.feature_cache import FeatureCache
from nnunet_ext.s2vnet.network import S2VNet
from nnunet_ext.s2vnet.packed import Packed
from nnunet_ext.s2vnet.prompts import Prompts

QUIET_SHARE, QUIET_SLICES = 0.01, 3
"""A chain ends if less than this share of every structure changes, on this number of slices in a row."""

PromptsOf = Callable[[int], Prompts]
"""Function from the index of a slice to its prompts."""

Report = Callable[[int], None]
"""Callback that gets the number of slices segmented since its last call."""


@dataclass(frozen=True, eq=False)
class Step(Known):
    """One slice of a chain.

    Attributes:
        labels: labels of the slice, ``(h, w)``.
    """

    labels: Packed


Chain = Mapping[int, Step]
"""Steps of the slices with image."""


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
        around: lengths of the image, for :mod:`nnunet_ext.interactive.nearby`.
        gap: distance of two slices in mm, for the network.
        propagates: if False, a mark changes only its own slice, and the others keep their automatic result.
        early_stop: if False, chains are followed to the last slice.
    """

    def __init__(
        self,
        network: S2VNet,
        image: Tensor,
        tiles: Sequence[tuple[slice, slice]],
        cache: FeatureCache,
        around: Neighbourhood,
        gap: float,
        propagates: bool = True,
        early_stop: bool = True,
    ) -> None:
        self.network = network
        self.tiles = tiles
        self.cache = cache
        self.around = around
        self.propagates = propagates
        self.early_stop = early_stop
        self.device = network.centres.device
        self.depth = image.shape[1]

        def column(tile: int) -> Column:
            rows, columns = tiles[tile]
            return Column(network, lambda index: image[:, index, rows, columns], self.depth, [()], gap, cache, tile)

        self.columns = [column(tile) for tile in range(len(tiles))]
        self.seen = [one.there.nonzero().flatten().tolist() for one in self.columns]

    def automatic(self, tile: int, report: Report = lambda done: None) -> TileState:
        """The state of a tile without marks."""
        up, down = (
            dict(zip(order, self._walk(tile, {}, order, 0, None, report), strict=True)) for order in self._orders(tile)
        )
        return TileState(up, down, tuple(share_of_upward(index, self.depth) for index in range(self.depth)))

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
        fresh = [index for index in self.seen[tile] if index in changed]

        @cache
        def start(index: int) -> Step:
            return self._start(tile, state, automatic, prompts, index, set(marked).difference(fresh), report)

        upwards, downwards = self._orders(tile)
        if self.propagates:
            up, above = self._follow(tile, state.up, upwards, fresh, start, prompts, report)
            down, below = self._follow(tile, state.down, downwards, fresh, start, prompts, report)
            reached = above | below
        else:
            up, down = ({**chain, **{index: start(index) for index in fresh}} for chain in (state.up, state.down))
            reached = set(fresh)
        share = [
            share_of_upward(t, self.depth, marked) if t in reached else before for t, before in enumerate(state.share)
        ]
        return TileState(up, down, tuple(share)), reached

    def on_slice(
        self,
        tile: int,
        state: TileState,
        prompts: PromptsOf,
        index: int,
        marked: Sequence[int],
        automatic: TileState,
        report: Report,
    ) -> TileState:
        """The state of a tile in which one slice has heard its prompts, and no other slice has heard of it.

        Args:
            tile: index of the tile.
            state: state before.
            prompts: prompts in this tile.
            index: index of the slice.
            marked: slices with prompts, ascending.
            automatic: the state without marks.
            report: see :data:`Report`.
        """
        if index not in state.up:
            return state
        others = set(marked).difference([index])
        step = self._start(tile, state, automatic, prompts, index, others, report)
        return TileState({**state.up, index: step}, {**state.down, index: step}, state.share)

    def amplitude(self, mark: Mark, states: Sequence[TileState], older: Sequence[Mark]) -> float:
        """Return A of :mod:`nnunet_ext.interactive.nearby` for a mark.

        Args:
            mark: the mark.
            states: states of all tiles.
            older: the marks before it.
        """
        if self.network.label_heads.regions is not None:
            return OF_REGIONS
        lacking = [0.0]
        for tile, (rows, columns) in enumerate(self.tiles):
            size = rows.stop - rows.start, columns.stop - columns.start
            pixels = pixels_in(mark, (rows.start, columns.start), size)
            if len(pixels) and mark.slice in states[tile].up:
                terms = self.logits(tile, states[tile], mark.slice, older)
                there = torch.stack(terms).sum(0)[:, pixels[:, 0], pixels[:, 1]]
                own = there[mark.label].clone()
                there[mark.label] = -torch.inf
                lacking.append(float((there.amax(0) - own).mean()))
        return min(AMPLITUDE, self.around.lacking(mark) * max(lacking))

    def near(self, marks: Sequence[Mark]) -> set[int]:
        """Return the slices on which marks change pixels that look like them."""
        return self.around.slices(marks, self.depth) if self.propagates else {mark.slice for mark in marks}

    def logits(self, tile: int, state: TileState, index: int, spreading: Sequence[Mark] = ()) -> list[Tensor]:
        """Return terms that add up to the logits of one slice of a tile, ``(heads, h, w)``, float32.

        Args:
            tile: index of the tile.
            state: state of the tile.
            index: index of the slice.
            spreading: marks that change pixels that look like them.
        """
        column, share = self.columns[tile], state.share[index]
        chains = ((share, state.up.get(index)), (1 - share, state.down.get(index)))
        features = column.features(index) if index in state.up else ()
        added = self._added(tile, index, spreading) if features else None
        return [weight * column.logits(index, step, features, added) for weight, step in chains if weight]

    # -- parts -----------------------------------------------------------------------------------------------------

    def _start(
        self,
        tile: int,
        state: TileState,
        automatic: TileState,
        prompts: PromptsOf,
        index: int,
        others: Collection[int],
        report: Report,
    ) -> Step:
        """A slice with new prompts, from the chain that counts more there; ``others`` are slices with older prompts."""
        # without propagation the neighbours keep their automatic state
        known, others = (state, sorted(others)) if self.propagates else (automatic, [])
        upwards, downwards = self._orders(tile)
        up = share_of_upward(index, self.depth, others) >= 0.5
        chain, order = (known.up, upwards) if up else (known.down, downwards)
        return next(self._walk(tile, chain, order, order.index(index), prompts, report))

    def _added(self, tile: int, index: int, marks: Sequence[Mark]) -> Tensor | None:
        """Additions of marks to the logits of labels on a slice, ``(L, h, w)``."""
        rows, columns = self.tiles[tile]

        @cache
        def keys(index: int) -> Tensor:
            return self.network.embedding(self.columns[tile].features(index))[0]

        if not self.propagates:
            marks = [mark for mark in marks if mark.slice == index]
        labels = self.network.label_heads.num_labels
        return self.around.added(marks, index, keys, (rows.start, columns.start), labels)

    def _follow(
        self,
        tile: int,
        before: Chain,
        order: Sequence[int],
        changed: Collection[int],
        start: Callable[[int], Step],
        prompts: PromptsOf,
        report: Report,
    ) -> tuple[Chain, set[int]]:
        """Compute a chain again, from slices with changed prompts on.

        Returns:
            The chain, and the slices that were computed.
        """
        chain, reached = dict(before), set[int]()
        steps: Iterator[Step] | None = None
        quiet = 0
        for number, index in enumerate(order, 1):
            if steps is not None:  # also on slices with new marks, so that earlier changes pass
                chain[index] = next(steps)
            elif index in changed:
                chain[index] = start(index)
                steps = self._walk(tile, chain, order, number, prompts, report)
            else:
                continue
            reached.add(index)
            quiet = quiet + 1 if index not in changed and _is_quiet(before[index], chain[index]) else 0
            if self.early_stop and quiet == QUIET_SLICES:
                steps = None
        return chain, reached

    def _walk(
        self, tile: int, chain: Chain, order: Sequence[int], first: int, prompts: PromptsOf | None, report: Report
    ) -> Iterator[Step]:
        """Steps of the slices ``order[first:]``, one after the other; they continue the chain."""
        past = [chain[index] for index in order[:first]]
        last: Known | None = past[-1] if past else None
        for passed in self.columns[tile].walk(order[first:], past, prompts):
            report(1)
            assert passed.clustered is not None
            last = Known.of(passed.clustered, last)
            labels = passed.clustered.logits[0].argmax(0).to(torch.int16).cpu().numpy()
            del passed  # with its features
            yield Step(last.centres, last.mask, last.before, Packed.of(labels))

    def _orders(self, tile: int) -> tuple[list[int], list[int]]:
        """The slices of the upward and of the downward chain, in order."""
        return self.seen[tile], self.seen[tile][::-1]


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
