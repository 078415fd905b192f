"""Marks that are drawn: voxels of lassos, what newer marks leave of older ones, and what the network is told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.interactive.drawing import filled
from nnunet_ext.interactive.marks import MAX_PIXELS, SUPERSEDED_WITHIN, left_by, marks_of, prompts_in, touches

WHOLE = slice(0, 40), slice(0, 40)


def mark(pixels, label=1, number=0, index=3, supersedes=True, weight=1.0):
    table = np.array([[index, *pixel] for pixel in pixels], float)
    return marks_of(table, label, weight, number, supersedes)


def test_one_mark_per_slice():
    found = marks_of(np.array([[2.0, 1, 1], [3, 1, 1], [2.2, 4, 4]]), 1, 0.5, 7)
    assert [(m.slice, len(m.pixels), m.weight, m.round) for m in found] == [(2, 2, 0.5, 7), (3, 1, 0.5, 7)]


def test_large_marks_are_thinned_and_keep_their_mean():
    grid = np.argwhere(np.ones((1, 150, 150), bool)).astype(float)
    (found,) = marks_of(grid, 1, 1.0, 0)
    assert len(found.pixels) <= MAX_PIXELS
    np.testing.assert_allclose(found.pixels.mean(0), [74.5, 74.5], atol=2)


@given(st.lists(st.tuples(*[st.floats(0, 12)] * 2), min_size=1, max_size=12), st.tuples(*[st.floats(0, 12)] * 2))
def test_newer_marks_delete_what_is_near_of_other_labels_on_their_slice(old, new):
    older = (*mark(old, label=1), *mark(old, label=2), *mark(old, label=1, index=4))
    kept = left_by(mark([new], label=2, number=1), older)
    far = [pixel for pixel in old if np.hypot(pixel[0] - new[0], pixel[1] - new[1]) > SUPERSEDED_WITHIN]
    by = {(m.slice, m.label, m.round): m.pixels for m in kept}
    assert ((3, 1, 0) in by) == bool(far)
    if far:
        np.testing.assert_array_equal(by[3, 1, 0], far)
    assert len(by[3, 2, 0]) == len(by[4, 1, 0]) == len(old)


def test_a_box_deletes_nothing():
    assert left_by(mark([(5, 5)], label=2, supersedes=False), old := mark([(5, 5)])) == old


def test_prompts_of_a_tile():
    marks = (*mark([(5, 5), (30, 5)], number=2), *mark([(6, 6)], label=2, number=4), *mark([(5.5, 7)], number=9))
    prompts = prompts_in(marks, slice(2, 18), slice(1, 17), oldest=1, decay=0.5)
    assert prompts.position.tolist() == [[[0, 3, 4], [0, 4, 5], [0, 3.5, 6]]]
    assert prompts.label.tolist() == [[1, 2, 1]]
    assert prompts.weight.tolist() == [[1, 1, 1]]  # of the pixels in the tile together
    assert prompts.age.tolist() == [[1, 1, 0]]  # two rounds ago is as old as it gets
    assert prompts_in(marks, *WHOLE, oldest=9, decay=0.5).age.tolist() == [[2, 2, 1, 0]]
    assert prompts_in(marks, *WHOLE, oldest=9, decay=0.5).weight.tolist() == [[0.5, 0.5, 1, 1]]
    nothing = prompts_in(marks, slice(20, 28), slice(20, 28), oldest=1, decay=0.5)
    assert nothing.weight.sum() == 0
    assert touches(marks[0], slice(28, 32), slice(0, 16))
    assert not touches(marks[1], slice(28, 32), slice(0, 16))


@given(st.lists(st.integers(1, 2), max_size=30), st.floats(0, 1), st.floats(0.25, 1), st.integers(0, 3))
def test_the_newest_mark_is_the_strongest_however_many_older_ones_there_are(labels, decay, weight, oldest):
    older = [mark([(5 + 9 * n, 5)], label, n)[0] for n, label in enumerate(labels)]
    newest = mark([(3, 3)], 2, len(labels), weight=weight)
    told = prompts_in((*older, *newest), slice(0, 400), slice(0, 40), oldest + 1, decay)
    strength = told.weight * decay**told.age
    age = told.age
    for label in (1, 2):
        assert strength[(told.label == label) & (age > 0)].sum() <= 0.5 * weight + 1e-5
    assert strength[age == 0].tolist() == pytest.approx([weight])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_outlines_are_filled_in_their_plane(axis):
    outline = np.zeros((7, 9), bool)
    outline[1, 2:8] = outline[5, 2:8] = outline[1:6, 2] = outline[1:6, 7] = True
    full = np.zeros((7, 9), bool)
    full[1:6, 2:8] = True
    found = filled(np.argwhere(np.expand_dims(outline, axis)) + 3)
    np.testing.assert_array_equal(found, np.argwhere(np.expand_dims(full, axis)) + 3)
