"""Correction of one image: turns marks and strokes into a label map.

States are immutable, so undo is an earlier state, and a cancelled prediction leaves no trace.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label as connected

from nnunet_ext.interactive.drawing import Box
from nnunet_ext.interactive.marks import Mark, left_by, marks_of, prompts_in, touches
from nnunet_ext.interactive.nearby import Neighbourhood, reach_at
from nnunet_ext.interactive.propagation import Propagation, TileState
from nnunet_ext.interactive.provenance import Origin, Sheet
from nnunet_ext.interactive.renaming import renames
from nnunet_ext.interactive.strokes import Stroke, in_slices
from nnunet_ext.nnunet.precision import planned_precision
from nnunet_ext.nnunet.sliced_case import SlicedCase
from nnunet_ext.s2vnet.feature_cache import FeatureCache
from nnunet_ext.s2vnet.network import S2VNet
from nnunet_ext.s2vnet.prompts import Prompts

Progress = Callable[[int, int], None]
"""Callback that gets the number of segmented slices, and the largest possible number. If it raises an exception, the
call is cancelled and the session does not change."""


@dataclass(frozen=True, eq=False)
class State:
    """Everything that a prompt can change.

    Attributes:
        marks: the marks that count.
        seen: the marks that the label map takes into account.
        spreading: drawn pixels with another label before, whose neighbourhood follows; see
            :mod:`nnunet_ext.interactive.nearby`.
        round: number of predictions.
        waiting: strokes that are not in the label map yet.
        tiles: states of the tiles; None before the first prediction.
        sheets: the label map, by slice of the image; None means all background.
        start: the sheets before any prompt; None if there is no label map yet.
        locked: values of the locked labels, whose voxels do not change.
        accepted: indices of the accepted slices, on which nothing changes.
    """

    marks: tuple[Mark, ...] = ()
    seen: tuple[Mark, ...] = ()
    spreading: tuple[Mark, ...] = ()
    round: int = 0
    waiting: tuple[Stroke, ...] = ()
    tiles: tuple[TileState, ...] | None = None
    sheets: tuple[Sheet, ...] | None = None
    start: tuple[Sheet, ...] | None = None
    locked: frozenset[int] = frozenset()
    accepted: frozenset[int] = frozenset()

    @property
    def heard(self) -> tuple[Stroke, ...]:
        """The strokes that wait and that the network hears."""
        return tuple(stroke for stroke in self.waiting if stroke.heard)

    def with_drawn(self, marks: Sequence[Mark], stroke: Stroke, spreading: Sequence[Mark] = ()) -> State:
        """The state after a prompt, before its prediction.

        Args:
            marks: marks of the prompt.
            stroke: stroke of the prompt, which waits for the prediction.
            spreading: the part of the marks whose neighbourhood follows.
        """
        return replace(
            self,
            marks=(*left_by(marks, self.marks), *marks),
            spreading=(*left_by(marks, self.spreading), *spreading),
            waiting=(*self.waiting, stroke),
        )

    def protecting(self, before: State) -> State:
        """The state with the locks of the state ``before``, and with the protected voxels as they are there."""
        locked, accepted = before.locked, before.accepted
        if before.sheets is None or self.sheets is None or not (locked or accepted):
            return replace(self, locked=locked, accepted=accepted)
        sheets = [
            new.protecting(old, locked, index in accepted)
            for index, (old, new) in enumerate(zip(before.sheets, self.sheets, strict=True))
        ]
        return replace(self, sheets=tuple(sheets), locked=locked, accepted=accepted)


def shown(sheets: Sequence[Sheet], voxels: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
    """Return the shown labels of voxels ``(P, 3)``: slice, row and column."""
    found = np.zeros(len(voxels), sheets[0].labels.unpacked().dtype)
    for index in np.unique(voxels[:, 0]):
        here = voxels[:, 0] == index
        found[here] = sheets[index].labels.unpacked()[tuple(voxels[here, 1:].T)]
    return found


def grown(
    answers: Mapping[int, NDArray[np.unsignedinteger]],
    before: Mapping[int, NDArray[np.unsignedinteger]],
    strokes: Sequence[Stroke],
) -> dict[int, NDArray[np.unsignedinteger]]:
    """Answers of the network whose changes are connected to what was drawn; elsewhere they are as before.

    Changes of each label are connected by the 26 neighbours of a voxel, also from slice to slice.

    Args:
        answers: by slice, ``(H, W)``.
        before: the same slices before the prompts.
        strokes: the prompts, none of which is a box.
    """
    if not answers:
        return {}
    first, last = min(answers), max(answers)
    found = {index: old.copy() for index, old in before.items()}
    for label in {stroke.label for stroke in strokes}:
        changed = np.zeros((last - first + 1, *next(iter(answers.values())).shape), bool)
        for index, answer in answers.items():
            changed[index - first] = (answer == label) & (before[index] != label)
        drawn = np.concatenate([stroke.voxels for stroke in strokes if stroke.label == label])
        drawn = drawn[(drawn[:, 0] >= first) & (drawn[:, 0] <= last)] - [first, 0, 0]
        changed[tuple(drawn.T)] = True
        regions, _ = connected(changed, np.ones((3, 3, 3)))
        kept = changed & np.isin(regions, np.unique(regions[tuple(drawn.T)]))
        for index, answer in answers.items():
            found[index] = np.where(kept[index - first] & (answer == label), answer, found[index])
    return found


class Correction:
    """Predictions for one image.

    Args:
        case: the image.
        network: network in evaluation mode, on its device.
        propagates: see :class:`nnunet_ext.interactive.propagation.Propagation`.
        early_stop: see there.
        cache_bytes: size of the cache of features.
        threads: number of PyTorch's threads during predictions; None leaves it as it is.
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
        self.precision = planned_precision(network.centres.device, case.model.configuration_manager)
        settings = case.model.configuration_manager
        around = Neighbourhood.of(settings.spacing[-2:], settings.patch_size[-2:], case.gap)
        self.engine = Propagation(
            network, case.image, case.tiles, FeatureCache(cache_bytes), around, case.gap, propagates, early_stop
        )
        self.threads = threads
        self._automatic: tuple[tuple[TileState, ...], tuple[Sheet, ...]] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image in the order of its slices: slices, rows, columns."""
        return tuple(self.case.shape[axis] for axis in self.case.grid.transpose)

    def automatic(self, progress: Progress | None = None) -> State:
        """The state without marks; it is computed only once."""
        tiles, sheets = self._start(progress)
        return State(tiles=tiles, sheets=sheets, start=sheets)

    def predicted(self, state: State, progress: Progress | None = None) -> State:
        """The state after a prediction with its marks and strokes; the same state if there is nothing to predict."""
        if state.marks == state.seen and not state.waiting and state.tiles is not None:
            return state
        automatic = self._start(progress)[1]
        start, sheets = state.start or automatic, list(state.sheets or automatic)
        state, tiles, answers, spreading = self._heard(state, sheets, progress)
        asked = self._asked(state) if state.waiting else None
        if state.heard and not any(len(stroke.around) for stroke in state.heard):
            answers = grown(answers, {index: sheets[index].answer.unpacked() for index in answers}, state.heard)
        for index, answer in answers.items():
            sheets[index] = sheets[index].answered(answer, start[index], state.locked, index in state.accepted, asked)
        for stroke in state.waiting:
            for index in stroke.slices:
                sheets[index] = stroke.on(index, sheets[index])
        return replace(
            state,
            seen=state.marks,
            spreading=spreading,
            round=state.round + 1,
            waiting=(),
            tiles=tiles,
            sheets=tuple(sheets),
            start=start,
        )

    def painted(self, state: State, stroke: Stroke, progress: Progress | None = None) -> State:
        """The state after a stroke that the network does not see; without a label map it starts from the automatic."""
        if state.sheets is None or state.start is None:
            tiles, automatic = self._start(progress)
            state = replace(state, tiles=tiles, sheets=automatic, start=automatic)
        sheets = list(state.sheets or ())
        for index in stroke.slices:
            sheets[index] = stroke.on(index, sheets[index])
        # waiting strokes enter the label map later, so draw this one again after them
        waiting = (*state.waiting, replace(stroke, heard=False)) if state.waiting else ()
        return replace(state, sheets=tuple(sheets), waiting=waiting)

    def of_label_map(self, labels: NDArray, values: Sequence[int], keep: bool, progress: Progress | None) -> State:
        """A state that starts from a segmentation: each label of each slice is a mark.

        Args:
            labels: label map with the shape of the image.
            values: value of each label, by its index.
            keep: show the segmentation unchanged, not the network's answer to it.
            progress: see :data:`Progress`.
        """
        labels = labels.astype(self.case.label_type)
        within = self.case.cropped_view(labels)
        marks: list[Mark] = []
        for (index, value), z in itertools.product(enumerate(values), range(len(within))):
            pixels = np.argwhere(within[z] == value)
            if len(pixels):
                places = self.case.uncropped(np.insert(pixels, 0, z, axis=1))
                marks += marks_of(self.case.to_pixels(places), index, 1.0, 0)
        state = self.predicted(State(tuple(marks)), progress)
        assert state.sheets is not None
        answers = [sheet.answer.unpacked() for sheet in state.sheets]
        shown = labels.transpose(self.case.grid.transpose) if keep else answers
        origin = np.full(self.shape[1:], Origin.GIVEN if keep else Origin.PROPAGATED)
        sheets = tuple(Sheet.of(part, answer, origin) for part, answer in zip(shown, answers, strict=True))
        return replace(state, sheets=sheets, start=sheets)

    def origins(self, state: State) -> NDArray[np.uint8]:
        """Values of :class:`Origin`, an array with the shape of the image."""
        if state.sheets is None:
            return np.zeros(self.case.shape, np.uint8)
        found = np.stack([sheet.origin.unpacked() for sheet in state.sheets])
        return np.ascontiguousarray(found.transpose(np.argsort(self.case.grid.transpose)))

    def write(self, before: State, after: State, buffer: NDArray) -> Box | None:
        """Update a buffer from the label map of one state to that of another.

        Args:
            before: state whose label map the buffer holds.
            after: state whose label map it should hold.
            buffer: array with the shape of the image; slices on which the states agree are not written.

        Returns:
            Box of the differences; None if there are none.
        """
        view = buffer.transpose(self.case.grid.transpose)
        boxes = []
        for index in range(len(view)):
            parts = [state.sheets and state.sheets[index].labels for state in (before, after)]
            if parts[0] == parts[1]:
                continue
            was, becomes = (part.unpacked() if part else np.zeros(view.shape[1:], view.dtype) for part in parts)
            rows, columns = np.nonzero(was != becomes)
            if len(rows):
                view[index] = becomes
                boxes.append((index, index + 1, rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
        if not boxes:
            return None
        found = np.array(boxes)
        low, high = found[:, ::2].min(0), found[:, 1::2].max(0)
        return [[int(low[axis]), int(high[axis])] for axis in np.argsort(self.case.grid.transpose)]

    # -- parts -----------------------------------------------------------------------------------------------------

    def _start(self, progress: Progress | None) -> tuple[tuple[TileState, ...], tuple[Sheet, ...]]:
        if self._automatic is None:
            with self._computing(progress) as report:
                tiles = tuple(self.engine.automatic(tile, report) for tile in range(len(self.engine.tiles)))
                empty = np.zeros(self.shape[1:], self.case.label_type)
                origin = np.full(empty.shape, Origin.AUTOMATIC)
                sheets = [Sheet.of(empty, empty, origin)] * self.shape[0]
                for index in range(self.engine.depth):
                    answer = self._answer(tiles, index)
                    sheets[self._first + index] = Sheet.of(answer, answer, origin)
                self._automatic = tiles, tuple(sheets)
        return self._automatic

    def _heard(
        self, state: State, sheets: Sequence[Sheet], progress: Progress | None
    ) -> tuple[State, tuple[TileState, ...], dict[int, NDArray[np.unsignedinteger]], tuple[Mark, ...]]:
        """The state with those marks alone that move centres, the states of all tiles, answers, and marks that spread.

        There are answers on the reached slices.
        """
        start, _ = self._start(progress)
        after: list[TileState] = []
        reached: set[int] = set()
        with self._computing(progress) as report:
            state = replace(state, marks=self._moving(state, sheets, start, report))
            for tile, known in enumerate(state.tiles or start):
                old, new = self._in_tile(state.seen, tile), self._in_tile(state.marks, tile)
                changed = [index for index in {*old, *new} if old.get(index) != new.get(index)]
                if changed:
                    known, there = self.engine.after_marks(
                        tile, known, self._prompts(tile, new), changed, sorted(new), start[tile], report
                    )
                    reached |= there
                after.append(known)
            older = tuple(mark for mark in state.spreading if mark.round < state.round)
            fresh = [mark for mark in state.spreading if mark.round == state.round]
            fresh = [replace(mark, reach=self._reach(mark, sheets)) for mark in fresh]
            fresh = [replace(mark, weight=self.engine.amplitude(mark, after, older)) for mark in fresh]
            reached |= self.engine.near(fresh)
            spreading = (*older, *fresh)
            answers = {self._first + index: self._answer(after, index, spreading) for index in sorted(reached)}
            return state, tuple(after), answers, spreading

    def _reach(self, mark: Mark, sheets: Sequence[Sheet]) -> float | None:
        """R of a mark, in mm."""
        case = self.case
        own = sheets[self._first + mark.slice].labels.unpacked() == case.model.label_manager.all_labels[mark.label]
        places = case.to_voxels(np.insert(mark.pixels, 0, mark.slice, axis=1))
        return reach_at(in_slices(places, case.grid, case.shape)[:, 1:], own, case.in_plane)

    def _moving(
        self, state: State, sheets: Sequence[Sheet], start: Sequence[TileState], report: Callable[[int], None]
    ) -> tuple[Mark, ...]:
        """The marks of a state that move centres: all but new ones that only change a part of a structure."""
        values = self.case.model.label_manager.all_labels
        drawn: dict[tuple[int, int], list[NDArray[np.int64]]] = {}
        for stroke in state.heard:
            for index in np.unique(stroke.voxels[:, 0]).tolist():
                own = stroke.voxels[stroke.voxels[:, 0] == index, 1:]
                drawn.setdefault((index - self._first, stroke.label), []).append(own)
        older = tuple(mark for mark in state.marks if mark.round < state.round)
        kept = []
        for mark in state.marks:
            place = mark.slice, int(values[mark.label])
            if mark.supersedes and mark.round == state.round and place in drawn:
                tried = self._on_slice(state, (*older, mark), mark.slice, start, report)
                before = sheets[self._first + mark.slice].labels.unpacked()
                if not renames(before, tried, np.concatenate(drawn[place]), place[1]):
                    continue
            kept.append(mark)
        return tuple(kept)

    def _on_slice(
        self,
        state: State,
        marks: Sequence[Mark],
        index: int,
        start: Sequence[TileState],
        report: Callable[[int], None],
    ) -> NDArray[np.unsignedinteger]:
        """The network's labels on one slice if it alone hears these marks."""
        tiles = []
        for tile, known in enumerate(state.tiles or start):
            own = self._in_tile(marks, tile)
            tiles.append(
                self.engine.on_slice(tile, known, self._prompts(tile, own), index, sorted(own), start[tile], report)
                if index in own
                else known
            )
        return self._answer(tiles, index, [mark for mark in state.spreading if mark.round < state.round])

    @staticmethod
    def _asked(state: State) -> set[int]:
        """The labels of the waiting strokes that the network hears, and background if one of them is a box."""
        return {stroke.label for stroke in state.heard} | {0 for stroke in state.heard if len(stroke.around)}

    @property
    def _first(self) -> int:
        """Index in the image of the first slice of the crop."""
        return self.case.grid.start[0]

    def _in_tile(self, marks: Sequence[Mark], tile: int) -> dict[int, tuple[Mark, ...]]:
        """The marks that touch a tile, by slice."""
        found: dict[int, tuple[Mark, ...]] = {}
        for mark in marks:
            if touches(mark, *self.engine.tiles[tile]):
                found[mark.slice] = (*found.get(mark.slice, ()), mark)
        return found

    def _prompts(self, tile: int, marks: Mapping[int, tuple[Mark, ...]]) -> Callable[[int], Prompts]:
        network, (rows, columns) = self.engine.network, self.engine.tiles[tile]
        oldest, decay = network.options.rounds - 1, network.options.click_decay  # training had no older marks
        return lambda index: prompts_in(marks.get(index, ()), rows, columns, oldest, decay, self.engine.device)

    def _answer(
        self, tiles: Sequence[TileState], index: int, spreading: Sequence[Mark] = ()
    ) -> NDArray[np.unsignedinteger]:
        """The network's labels on one slice of the crop, from all tiles, ``(H, W)`` of the image."""
        of_tiles = (self.engine.logits(tile, known, index, spreading) for tile, known in enumerate(tiles))
        logits = ((x.cpu() for x in terms) for terms in of_tiles)
        found = np.zeros(self.shape[1:], self.case.label_type)
        (_, row, column), (_, height, width) = self.case.grid.start, self.case.grid.cropped
        found[row : row + height, column : column + width] = self.case.labels_of(self.case.tiling.blended(logits))
        return found

    @contextmanager
    def _computing(self, progress: Progress | None) -> Iterator[Callable[[int], None]]:
        """Context for predictions: with the requested number of threads, and bit-for-bit repeatable."""
        at_most = 2 * sum(map(len, self.engine.seen))
        done = 0

        def report(slices: int) -> None:
            nonlocal done
            done += slices
            if progress is not None:
                progress(min(done, at_most), at_most)  # slices that try a prompt are not in it

        with (
            self.precision.inference(self.threads),
            torch.backends.cudnn.flags(benchmark=False, deterministic=True),
        ):
            yield report
