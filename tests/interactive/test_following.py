"""Voxels follow a prompt to its own label alone, none of them alone, and in small structures as far as they exist."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.interactive.propagation import Propagation, Step
from nnunet_ext.interactive.provenance import supported
from nnunet_ext.s2vnet.packed import Packed
from tests.interactive.sessions import session, trained_session

# --- no checkerboards -------------------------------------------------------------------------------------------------


def alternates(labels):
    """Pixels ``(H, W)`` without a neighbour of their label, of four."""
    alone = np.ones(labels.shape, bool)
    for axis in (0, 1):
        for step in (1, -1):
            moved = np.roll(labels, step, axis)
            edge = [slice(None)] * 2
            edge[axis] = 0 if step == 1 else -1
            same = moved == labels
            same[tuple(edge)] = False
            alone &= ~same
    return alone


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_no_pixel_changes_alone(seed, share):
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 3, (7, 9))
    after = np.where(rng.random(before.shape) < share, rng.integers(0, 3, before.shape), before)
    found = supported(before, after)
    assert not (alternates(found) & (found != before)).any()
    assert ((found == before) | (found == after)).all()
    whole = np.zeros((7, 9), int)
    whole[2:5, 3:7] = 1
    assert np.array_equal(supported(np.zeros((7, 9), int), whole), whole)
    line = np.zeros((7, 9), int)
    line[3, 2:8] = 2
    assert np.array_equal(supported(np.zeros((7, 9), int), line), line)


def test_a_checkerboard_is_not_heard():
    nothing, board = np.zeros((8, 8), int), np.indices((8, 8)).sum(0) % 2
    assert alternates(board).all()
    assert not supported(nothing, board).any()


def test_a_corrected_region_of_a_weak_model_does_not_alternate():
    changes = 0
    for seed in range(3):
        made, truth = trained_session(seed=seed)
        made.predict_automatic()
        rng = np.random.default_rng(seed)
        for _ in range(4):
            at = np.argwhere(truth > 0)[rng.integers(np.count_nonzero(truth))].tolist()
            before = answers(made)
            made.add_point_interaction(at, label=int(rng.integers(0, 3)))
            for was, becomes in zip(before, answers(made), strict=True):
                assert not (alternates(becomes) & (was != becomes)).any()
                changes += np.count_nonzero(was != becomes)
    assert changes > 100


def answers(made):
    return np.stack([sheet.answer.unpacked() for sheet in made._state.sheets])


# --- what follows, and how far ----------------------------------------------------------------------------------------


def test_a_prompt_gives_its_own_label_and_no_other():
    made = session((12, 16, 16))
    made.predict_automatic()
    rng = np.random.default_rng(0)
    for number in range(6):
        before = made.target_buffer.copy()
        label = number % 3
        made.add_point_interaction(rng.integers(0, (12, 16, 16)).tolist(), label=label)
        changed = before != made.target_buffer
        assert (made.target_buffer[changed] == label).all()


def test_small_structures_propagate_as_far_as_they_exist():
    """16 × 16 pixels of 512 × 512, a thousandth of the slice, in 14 of 24 slices."""
    first_slice, last_slice, clicked, depth = 4, 17, 10, 24
    there = np.zeros((512, 512), np.int16)
    there[100:116, 200:216] = 1

    class Follows(Propagation):
        """Finds the structure on every slice after a slice on which it was found."""

        def __init__(self):
            self.early_stop = True

        def _walk(self, tile, chain, order, first, prompts, report):
            known = chain[order[first - 1]].labels.unpacked().any()
            for index in order[first:]:
                known = known and first_slice <= index <= last_slice
                yield step(there if known else 0 * there)

    def step(labels):
        return Step(torch.zeros(1, 1, 1), None, None, Packed.of(labels))

    engine = Follows()
    nothing = dict.fromkeys(range(depth), step(0 * there))
    up = list(range(depth))
    for order, expected in ((up, range(clicked, last_slice + 1)), (up[::-1], range(first_slice, clicked + 1))):
        chain, reached = engine._follow(
            0, nothing, order, [clicked], lambda index: step(there), lambda index: None, lambda slices: None
        )
        assert [index for index in range(depth) if chain[index].labels.unpacked().any()] == list(expected)
        assert len(reached) == len(expected) + 3  # and three slices that stay as they were
