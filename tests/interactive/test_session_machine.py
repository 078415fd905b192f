"""Random sequences of prompts: nothing crashes, and the label map is that of the same prompts in a fresh session.

The suite runs a few; many are for ``NNUNET_EXT_SESSION_STEPS=10000 pytest tests/interactive/test_session_machine.py``.
"""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from nnunet_ext.errors import InputError
from tests.interactive.sessions import quietly, session
from tests.interactive.test_session import BAD

STEPS = int(os.environ.get("NNUNET_EXT_SESSION_STEPS", "150"))
"""In all, over sequences of at most 25."""
PER_SEQUENCE = 25

CASES = [
    {"shape": (6, 16, 16)},
    {"shape": (7, 16, 23), "border": 1, "kind": "regions"},
    {"shape": (16, 7, 18), "transpose": (1, 2, 0), "resampled": (1.1, 2.2), "border": 1},
    {"shape": (6, 16, 16), "propagation": False},
    {"shape": (1, 17, 16)},
]
LABELS = st.integers(0, 2)
unit = st.floats(0, 1, width=16)
positions = st.tuples(unit, unit, unit)
taken = {"steps": 0, "sequences": 0}


class Sessions(RuleBasedStateMachine):
    """One session, and the calls that count: those that were not undone."""

    @initialize(case=st.sampled_from(CASES), cache=st.sampled_from([0, 20_000, 2**30]))
    def start(self, case, cache):
        self.case = case
        self.session = session(cache_bytes=cache, **case)
        self.session.progress = self.is_on_its_way
        self.shape = self.session.case.shape
        self.calls = []
        self.maps = [self.session.target_buffer.copy()]
        self.undone = []
        taken["sequences"] += 1

    @staticmethod
    def is_on_its_way(done, at_most):
        assert 0 < done <= at_most

    def voxel(self, place):
        return [round(share * (n - 1)) for share, n in zip(place, self.shape, strict=True)]

    def do(self, name, *args, **settings):
        taken["steps"] += 1
        before, steps = self.session.target_buffer.copy(), self.session.undo_steps
        box = quietly(getattr(self.session, name), *args, **settings)
        after = self.session.target_buffer
        where = np.argwhere(before != after)
        assert (box is None) == (not len(where))
        if box is not None:
            assert np.array_equal(np.array(box), np.stack((where.min(0), where.max(0) + 1), 1))
        assert set(np.unique(after)) <= {0, 1, 2}
        if self.session.undo_steps > steps:
            self.calls.append((name, args, settings))
            self.maps.append(after.copy())
            self.undone = []
        else:
            assert np.array_equal(before, after)

    @rule(place=positions, include=st.booleans(), run=st.booleans(), label=LABELS)
    def click(self, place, include, run, label):
        self.do("add_point_interaction", self.voxel(place), include, run, label=label)

    @rule(place=positions, include=st.booleans(), run=st.booleans(), label=LABELS, size=st.integers(1, 6))
    def scribble(self, place, include, run, label, size):
        low = self.voxel(place)
        high = [min(start + length, n) for start, length, n in zip(low, (1, size, 1), self.shape, strict=True)]
        box = [list(pair) for pair in zip(low, high, strict=True)]
        mask = np.ones([b - a for a, b in box])
        self.do("add_scribble_interaction", mask, include, run, interaction_bbox=box, label=label)

    @rule(place=positions, run=st.booleans(), label=LABELS, axis=st.integers(0, 2), lasso=st.booleans())
    def plane(self, place, run, label, axis, lasso):
        """A lasso or a box, in any plane."""
        low = self.voxel(place)
        high = [start + 1 if a == axis else min(start + 4, self.shape[a]) for a, start in enumerate(low)]
        box = [list(pair) for pair in zip(low, high, strict=True)]
        if lasso:
            mask = np.ones([b - a for a, b in box])
            self.do("add_lasso_interaction", mask, True, run, interaction_bbox=box, label=label)
        else:
            self.do("add_bbox_interaction", box, True, run, label=label)

    @rule(seed=st.integers(0, 9), run=st.booleans())
    def start_from_labels(self, seed, run):
        labels = np.random.default_rng(seed).integers(0, 3, [-(-n // 4) for n in self.shape])
        for axis in range(3):
            labels = labels.repeat(4, axis)
        labels = labels[tuple(slice(0, n) for n in self.shape)].astype(np.uint8)
        self.do("add_initial_seg_interaction", labels, run)

    @rule()
    def automatic(self):
        self.do("predict_automatic")

    @rule()
    def predict(self):
        self.do("predict")

    @precondition(lambda self: self.calls)
    @rule()
    def undo(self):
        taken["steps"] += 1
        self.session.undo()
        self.undone.append((self.calls.pop(), self.maps.pop()))
        assert np.array_equal(self.session.target_buffer, self.maps[-1])

    @precondition(lambda self: self.undone)
    @rule()
    def redo(self):
        taken["steps"] += 1
        self.session.redo()
        call, labels = self.undone.pop()
        self.calls.append(call)
        self.maps.append(labels)
        assert np.array_equal(self.session.target_buffer, labels)

    @rule(place=positions, include=st.booleans(), label=LABELS, size=st.integers(1, 6))
    def brush(self, place, include, label, size):
        low = self.voxel(place)
        high = [min(start + length, n) for start, length, n in zip(low, (1, size, size), self.shape, strict=True)]
        box = [list(pair) for pair in zip(low, high, strict=True)]
        mask = np.ones([b - a for a, b in box])
        self.do("add_brush_interaction", mask, include, interaction_bbox=box, label=label)
        assert (self.session.target_buffer[tuple(slice(*ends) for ends in box)] == (label if include else 0)).all()

    @rule()
    def reset(self):
        taken["steps"] += 1
        self.session.reset_interactions()
        self.calls.clear()
        self.undone.clear()
        del self.maps[1:]
        assert not self.session.target_buffer.any()

    @rule(kind=st.sampled_from(["two numbers", "unknown label", "empty scribble", "thick lasso", "shape of a buffer"]))
    def mistake(self, kind):
        taken["steps"] += 1
        steps = self.session.undo_steps
        with pytest.raises(InputError):
            BAD[kind][0](self.session)
        assert self.session.undo_steps == steps
        assert np.array_equal(self.session.target_buffer, self.maps[-1])

    def teardown(self):
        if not hasattr(self, "calls"):
            return
        fresh = session(**self.case)
        for name, args, options in self.calls:
            quietly(getattr(fresh, name), *args, **options)
        assert np.array_equal(fresh.target_buffer, self.session.target_buffer)


def test_any_sequence_of_prompts_can_be_repeated():
    taken.update(steps=0, sequences=0)
    few = settings(
        max_examples=max(1, STEPS // 15),  # sequences are not all of that length
        stateful_step_count=PER_SEQUENCE,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Sessions, settings=few)
    print(f"{taken['steps']} steps in {taken['sequences']} sequences")
    assert taken["steps"] > STEPS / 10
