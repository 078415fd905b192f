"""Corrects one image: from marks to a label map.

States are never changed, so that undo is an earlier state, and a prediction that is broken off leaves no trace.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_ext.interactive.drawing import Box
from nnunet_ext.interactive.marks import Mark, marks_of, prompts_in, touches, with_newer
from nnunet_ext.interactive.propagation import Packed, Propagation, TileState
from nnunet_ext.nnunet.sliced_case import SlicedCase
from nnunet_ext.s2vnet.feature_cache import FeatureCache
from nnunet_ext.s2vnet.network import S2VNet
from nnunet_ext.s2vnet.prompts import Prompts

Progress = Callable[[int, int], None]
"""Is told how many slices were segmented, and how many it will be at most. An exception from it ends the call, and the
session stays what it was."""


@dataclass(frozen=True, eq=False)
class State:
    """Everything that a prompt can change.

    Attributes:
        marks: that count.
        seen: those that the result knows.
        round: number of predictions.
        tiles: None before the first prediction.
        shown: the label map, by slice of the crop; None: background.
    """

    marks: tuple[Mark, ...] = ()
    seen: tuple[Mark, ...] = ()
    round: int = 0
    tiles: tuple[TileState, ...] | None = None
    shown: tuple[Packed, ...] | None = None

    def with_drawn(self, pixels: NDArray, label: int, weight: float, supersedes: bool) -> State:
        """State after a prompt that no prediction knows yet; see :func:`nnunet_ext.interactive.marks.marks_of`."""
        return replace(self, marks=with_newer(self.marks, marks_of(pixels, label, weight, self.round, supersedes)))


class Correction:
    """Predictions for one image.

    Args:
        case: the image.
        network: in evaluation, on its device.
        propagates: see :class:`nnunet_ext.interactive.propagation.Propagation`.
        early_stop: see there.
        cache_bytes: for features.
        threads: of PyTorch during predictions; None: as it is.
    """

    def __init__(
        self,
        case: SlicedCase,
        network: S2VNet,
        *,
        propagates: bool = True,
        early_stop: bool = True,
        cache_bytes: int = 0,
        threads: int | None = None,
    ) -> None:
        self.case = case
        self.engine = Propagation(
            network, case.image, case.tiles, FeatureCache(cache_bytes), propagates, early_stop, case.gap
        )
        self.threads = threads
        self._automatic: tuple[tuple[TileState, ...], tuple[Packed, ...]] | None = None

    def automatic(self, progress: Progress | None = None) -> State:
        """The state without marks; computed once."""
        tiles, shown = self._start(progress)
        return State(tiles=tiles, shown=shown)

    def predicted(self, state: State, progress: Progress | None = None) -> State:
        """The state after its marks were looked at; itself if there was nothing to do."""
        start, start_shown = self._start(progress)
        before, shown = state.tiles or start, list(state.shown or start_shown)
        if state.marks == state.seen and state.tiles is not None:
            return state
        after: list[TileState] = []
        reached: set[int] = set()
        with self._computing(progress) as report:
            for tile, known in enumerate(before):
                old, new = self._in_tile(state.seen, tile), self._in_tile(state.marks, tile)
                changed = [index for index in {*old, *new} if old.get(index) != new.get(index)]
                if changed:
                    known, there = self.engine.after_marks(
                        tile, known, self._prompts(tile, new), changed, sorted(new), start[tile], report
                    )
                    reached |= there
                after.append(known)
            for index in reached:
                shown[index] = self._shown(after, index)
        return replace(state, seen=state.marks, round=state.round + 1, tiles=tuple(after), shown=tuple(shown))

    def of_label_map(self, labels: NDArray, values: Sequence[int], keep: bool, progress: Progress | None) -> State:
        """A state that starts from a segmentation: each label of each slice is a mark.

        Args:
            labels: like the image.
            values: of the labels, by their index.
            keep: show it as it is, not what the network makes of it.
            progress: see there.
        """
        given = self.case.cropped_view(labels.astype(self.case.label_type))
        marks: list[Mark] = []
        for (index, value), z in itertools.product(enumerate(values), range(len(given))):
            pixels = np.argwhere(given[z] == value)
            if len(pixels):
                places = self.case.uncropped(np.insert(pixels, 0, z, axis=1))
                marks += marks_of(self.case.to_pixels(places), index, 1.0, 0)
        state = self.predicted(State(tuple(marks)), progress)
        return replace(state, shown=tuple(Packed.of(part) for part in given)) if keep else state

    def write(self, before: State, after: State, buffer: NDArray) -> Box | None:
        """Bring a buffer from the label map of one state to that of another.

        Args:
            before: what the buffer holds.
            after: what it shall hold.
            buffer: like the image; nothing is written where the states agree.

        Returns:
            Where they differ; None if nowhere.
        """
        view = self.case.cropped_view(buffer)
        boxes = []
        for index in range(self.case.depth):
            parts = [state.shown and state.shown[index] for state in (before, after)]
            if parts[0] == parts[1]:
                continue
            was, becomes = (part.unpacked() if part else np.zeros(view.shape[1:], view.dtype) for part in parts)
            rows, columns = np.nonzero(was != becomes)
            if len(rows):
                view[index] = becomes
                boxes.append((index, index + 1, rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
        if not boxes:
            return None
        start, found = self.case.grid.start, np.array(boxes)
        low, high = found[:, ::2].min(0) + start, found[:, 1::2].max(0) + start
        return [[int(low[axis]), int(high[axis])] for axis in np.argsort(self.case.grid.transpose)]

    # -- parts -----------------------------------------------------------------------------------------------------

    def _start(self, progress: Progress | None) -> tuple[tuple[TileState, ...], tuple[Packed, ...]]:
        if self._automatic is None:
            with self._computing(progress) as report:
                tiles = tuple(self.engine.automatic(tile, report) for tile in range(len(self.engine.tiles)))
                self._automatic = tiles, tuple(self._shown(tiles, index) for index in range(self.engine.depth))
        return self._automatic

    def _in_tile(self, marks: Sequence[Mark], tile: int) -> dict[int, tuple[Mark, ...]]:
        """The marks that a tile sees, by slice."""
        found: dict[int, tuple[Mark, ...]] = {}
        for mark in marks:
            if touches(mark, *self.engine.tiles[tile]):
                found[mark.slice] = (*found.get(mark.slice, ()), mark)
        return found

    def _prompts(self, tile: int, marks: Mapping[int, tuple[Mark, ...]]) -> Callable[[int], Prompts]:
        network, (rows, columns) = self.engine.network, self.engine.tiles[tile]
        oldest = network.options.rounds - 1  # ages beyond were in no training
        return lambda index: prompts_in(marks.get(index, ()), rows, columns, oldest, self.engine.device)

    def _shown(self, tiles: Sequence[TileState], index: int) -> Packed:
        """Labels of one slice on the grid of the image, from all tiles."""
        image, weight = self.case.image, self.case.weight
        total = torch.zeros((self.case.heads, *image.shape[2:]))
        weights = torch.zeros(image.shape[2:])
        for tile, (rows, columns) in enumerate(self.engine.tiles):
            total[:, rows, columns] += weight * self.engine.logits(tile, tiles[tile], index).cpu()
            weights[rows, columns] += weight
        return Packed.of(self.case.labels_of(total / weights))

    @contextmanager
    def _computing(self, progress: Progress | None) -> Iterator[Callable[[int], None]]:
        """PyTorch as predictions need it: as many threads as asked for, no gradients, the same bits again."""
        at_most = 2 * sum(sum(there) for there in self.engine.there)
        done = 0

        def report(slices: int) -> None:
            nonlocal done
            done += slices
            if progress is not None:
                progress(done, at_most)

        before = torch.get_num_threads()
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False, deterministic=True):
                yield report
        finally:
            torch.set_num_threads(before)
