"""Brush and eraser change exactly what is under them, and undone calls can be done again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.errors import InputError
from nnunet_ext.interactive.drawing import widened
from nnunet_ext.interactive.prompt_list import parse_prompts
from nnunet_ext.interactive.provenance import Origin
from tests.interactive.sessions import SPACING, session

SHAPE = (6, 16, 16)


def disc(made, label, *, at=(2, 8, 8), width=5, include=True):
    prompt = {"type": "brush", "label": label, "line": [list(at)], "width": width, "include": include}
    (parsed,) = parse_prompts({"prompts": [prompt]}, "p.json", lambda name: None)
    return parsed.apply(made)


def pen(at=(2, 8, 8), width=5):
    """Brute force: distances in mm within the slice."""
    place = np.indices(SHAPE) - np.reshape(at, (3, 1, 1, 1))
    distance = np.hypot(place[1] * SPACING[1], place[2] * SPACING[2])
    return (place[0] == 0) & (distance <= width / 2 * min(SPACING[1:]))


def test_brush_and_eraser_change_what_is_under_them_and_nothing_else():
    made = session()
    made.predict_automatic()
    for label, include in ((2, True), (1, True), (1, False)):
        before, steps = made.target_buffer.copy(), made.undo_steps
        box = disc(made, label, include=include)
        expected = np.where(pen(), label if include else 0, before)
        assert np.array_equal(made.target_buffer, expected)
        assert (made.provenance[pen()] == Origin.DRAWN).all()
        assert (box is None) == np.array_equal(before, expected)
        assert made.undo_steps == steps + 1
    assert not (made.provenance[~pen()] == Origin.DRAWN).any()


def test_the_network_is_not_told_of_a_brush():
    drawn, plain = session(), session()
    for one in (drawn, plain):
        one.predict_automatic()
    disc(drawn, 2)
    for one in (drawn, plain):
        one.add_point_interaction([4, 3, 3], label=1)
    elsewhere = ~pen()
    assert np.array_equal(drawn.target_buffer[elsewhere], plain.target_buffer[elsewhere])
    assert (drawn.target_buffer[pen()] == 2).all()


def test_a_brush_alone_starts_from_the_automatic_result():
    made, automatic = session(), session()
    automatic.predict_automatic()
    disc(made, 2)
    assert np.array_equal(made.target_buffer, np.where(pen(), 2, automatic.target_buffer))


def test_a_brush_is_newer_than_prompts_that_wait():
    made = session()
    made.add_scribble_interaction(pen(), run_prediction=False, label=1)
    disc(made, 2, width=3)
    made.predict()
    assert (made.target_buffer[pen(width=3)] == 2).all()
    assert (made.target_buffer[pen() & ~pen(width=3)] == 1).all()


def test_the_network_is_not_told_of_a_brush_between_prompts_that_wait(tmp_path):
    drawn, plain = session(), session()
    for one in (drawn, plain):
        one.predict_automatic()
        one.add_point_interaction([4, 3, 3], label=1, run_prediction=False)
    disc(drawn, 2)
    disc(drawn, 1, include=False, at=(3, 8, 8))
    drawn.save(tmp_path / "brush.session")
    drawn.restore(tmp_path / "brush.session")
    assert [stroke.heard for stroke in drawn._state.waiting] == [True, False, False]
    for one in (drawn, plain):
        one.predict()
    under = pen() | pen((3, 8, 8))
    assert np.array_equal(drawn.target_buffer[~under], plain.target_buffer[~under])
    assert (drawn.target_buffer[pen()] == 2).all()
    assert (drawn.target_buffer[pen((3, 8, 8))] == 0).all()


def test_what_is_locked_stays_under_a_brush():
    made = session()
    disc(made, 1, at=(2, 8, 6))
    made.lock_structure(1)
    disc(made, 2, at=(2, 8, 8))
    held = pen((2, 8, 6))
    assert (made.target_buffer[held] == 1).all()
    assert (made.target_buffer[pen() & ~held] == 2).all()
    before = made.target_buffer.copy()
    made.accept_slice(3)
    for call, message in (
        (lambda: disc(made, 1), "is locked; unlock it to draw it"),
        (lambda: disc(made, 2, at=(2, 8, 6), width=1), "Everything under the brush is locked"),
        (lambda: disc(made, 2, at=(3, 8, 6)), "Slice 3 is accepted"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert np.array_equal(made.target_buffer, before)


def test_undone_calls_are_done_again_until_something_else_is_done():
    made = session()
    maps = [made.target_buffer.copy()]
    calls = [
        lambda: made.add_point_interaction([2, 8, 8], label=2),
        lambda: disc(made, 1),
        lambda: made.lock_structure(1),
        lambda: made.add_point_interaction([4, 3, 3], label=2),
    ]
    for call in calls:
        call()
        maps.append(made.target_buffer.copy())
    assert made.redo() is None
    for step in (3, 2, 1, 0):
        made.undo()
        assert np.array_equal(made.target_buffer, maps[step])
    assert (made.undo_steps, made.redo_steps) == (0, 4)
    for step in (1, 2, 3):
        made.redo()
        assert np.array_equal(made.target_buffer, maps[step])
    assert made.locked_structures == [1]
    made.lock_structure(1, False)
    assert made.redo_steps == 0
    assert made.redo() is None
    made.undo(), made.reset_interactions()
    assert (made.undo_steps, made.redo_steps) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2), st.sampled_from([1, 2, 3, 4.5, 7, 12]))
def test_a_pen_is_round_in_mm_and_stays_in_its_plane(seed, across, width):
    rng = np.random.default_rng(seed)
    shape, mm = (5, 6, 7), rng.uniform(0.5, 3, 3)
    line = rng.integers(0, shape, (4, 3))
    line[:, across] = line[0, across]
    found = widened(line, width, across, mm, shape)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    plane = [axis for axis in range(3) if axis != across]
    distance = np.linalg.norm((places[:, None] - line)[..., plane] * mm[plane], axis=-1).min(1)
    inside = (places[:, across] == line[0, across]) & (distance <= width / 2 * mm[plane].min() + 1e-9)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, places[inside].tolist()))


def test_a_wide_line_is_in_one_plane_which_can_be_named():
    made = session()
    made.predict_automatic()
    for prompt, message in (
        ({"line": [[1, 2, 3], [2, 3, 4]], "width": 3}, "crosses planes across z"),
        ({"line": [[1, 2, 3], [1, 3, 4]], "width": 3, "across": "y"}, "crosses planes across y"),
        ({"line": [[1, 2, 3]], "width": 0.5}, "width is 0.5; expected is a number of voxels from 1 to 1000"),
        ({"line": [[1, 2, 3]], "width": 3, "across": "w"}, "across is 'w'; expected is 'z', 'y' or 'x'"),
        ({"file": "x", "width": 3}, "has width, which is of a line"),
    ):
        with pytest.raises(InputError, match=message):
            parse_prompts({"prompts": [{"type": "brush", **prompt}]}, "p", lambda n: np.ones(SHAPE))[0].apply(made)
    prompt = {"type": "brush", "line": [[2, 8, 8]], "width": 7, "across": "y", "label": 2}
    parse_prompts({"prompts": [prompt]}, "p", lambda n: None)[0].apply(made)
    drawn = np.argwhere(made.provenance == Origin.DRAWN)
    assert set(drawn[:, 1]) == {8}
    assert set(drawn[:, 0]) == {1, 2, 3}  # 3 mm of 0.9 · 3.5
    assert len(drawn) > 3


def test_a_wide_scribble_is_the_scribble_of_its_voxels():
    made, other = session(), session()
    prompt = {"type": "scribble", "label": 2, "line": [[2, 8, 8]], "width": 5}
    parse_prompts({"prompts": [prompt]}, "p", lambda n: None)[0].apply(made)
    other.add_scribble_interaction(pen(), label=2)
    assert np.array_equal(made.target_buffer, other.target_buffer)
    assert (made.target_buffer[pen()] == 2).all()
