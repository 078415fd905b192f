"""A prompt moves centres if it renames what is under it; if it is about a part, they stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.interactive import renaming
from nnunet_ext.interactive.renaming import renames
from tests.interactive.sessions import session, trained_session


def reference(before, tried, pixels, label):
    """Region by flooding, pixel by pixel."""
    todo = [tuple(pixel) for pixel in pixels.tolist() if before[tuple(pixel)] != label]
    region = set(todo)
    while todo:
        row, column = todo.pop()
        for r in range(row - 1, row + 2):
            for c in range(column - 1, column + 2):
                inside = 0 <= r < before.shape[0] and 0 <= c < before.shape[1]
                if inside and (r, c) not in region and before[r, c] == before[row, column]:
                    region.add((r, c))
                    todo.append((r, c))
    return bool(region) and 2 * sum(tried[pixel] == label for pixel in region) >= len(region)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_against_a_flood_that_goes_pixel_by_pixel(seed, number):
    rng = np.random.default_rng(seed)
    before, tried = rng.integers(0, 3, (2, 6, 7))
    pixels = np.stack([rng.integers(0, 6, number), rng.integers(0, 7, number)], 1)
    assert renames(before, tried, pixels, 1) == reference(before, tried, pixels, 1)


def test_half_of_the_region_is_enough_and_another_region_does_not_count():
    before = np.zeros((6, 9), int)
    before[1:3, 1:5], before[4, 1:8] = 2, 2
    tried = np.where(before == 2, 1, 0)
    tried[1] = before[1]  # half of the upper region
    assert renames(before, tried, np.array([[2, 1]]), 1)
    tried[2, 4] = 2
    assert not renames(before, tried, np.array([[2, 1]]), 1)
    assert renames(before, tried, np.array([[4, 4]]), 1)
    assert renames(before, tried, np.array([[2, 1], [4, 4]]), 1)  # 10 of 15


def test_a_prompt_that_agrees_renames_nothing():
    before = np.ones((4, 4), int)
    assert not renames(before, before, np.array([[1, 1]]), 1)


# --- in a session ---------------------------------------------------------------------------------------------------


def wrong_disc():
    """A trained session, a voxel of the disc that it found in a volume, and the label of the other class."""
    made, truth = trained_session()
    made.predict_automatic()
    index = len(truth) // 2
    pixels = np.argwhere(made.target_buffer[index] > 0)
    voxel = [index, *pixels[len(pixels) // 2].tolist()]
    return made, voxel, 3 - int(made.target_buffer[tuple(voxel)])


def test_one_click_renames_a_structure_in_the_volume_and_its_mark_stays():
    made, voxel, other = wrong_disc()
    before = made.target_buffer.copy()
    made.add_point_interaction(voxel, label=other)
    assert [mark.slice for mark in made._state.marks] == [voxel[0]]
    disc = before > 0
    assert (made.target_buffer[disc] == other).mean() > 0.85
    assert (before != made.target_buffer).any((1, 2)).sum() >= len(before) - 1


def test_a_click_on_a_part_moves_no_centres(monkeypatch):
    made, voxel, other = wrong_disc()
    monkeypatch.setattr(renaming, "RENAMED", 1.01)  # nothing renames
    before, tiles = made.target_buffer.copy(), made._state.tiles
    made.add_point_interaction(voxel, label=other)
    state = made._state
    assert made.target_buffer[tuple(voxel)] == other
    assert state.marks == state.seen == ()
    assert state.tiles == tiles
    (spreading,) = state.spreading
    near = made._image[0].engine.near([spreading])
    assert set(np.flatnonzero((before != made.target_buffer).any((1, 2))).tolist()) <= near


def test_a_box_moves_centres_however_much_of_it_changes(monkeypatch):
    monkeypatch.setattr(renaming, "RENAMED", 1.01)
    made = session((12, 16, 16))
    made.add_bbox_interaction([[5, 6], [4, 12], [4, 12]], label=2)
    assert [mark.slice for mark in made._state.marks] == [5]


@pytest.mark.parametrize("later", ["same round", "next round"])
def test_prompts_that_rename_and_prompts_that_do_not_are_told_apart_one_by_one(later):
    made, voxel, other = wrong_disc()
    far = [0, 0, 0]
    assert made.target_buffer[tuple(far)] == 0
    made.add_point_interaction(far, label=other, run_prediction=later == "next round")
    made.add_point_interaction(voxel, label=other)
    assert [mark.slice for mark in made._state.marks] == [voxel[0]]
    assert made.target_buffer[tuple(far)] == made.target_buffer[tuple(voxel)] == other
