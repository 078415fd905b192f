"""Additions of a prompt to the logits of pixels near it that look like it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn.functional import normalize

from nnunet_ext.interactive.correction import grown
from nnunet_ext.interactive.marks import Mark
from nnunet_ext.interactive.nearby import AMPLITUDE as AMPLITUDE_AT_MOST
from nnunet_ext.interactive.nearby import CLOSE, FARTHEST, LACKING, LACKING_CLOSE, OF_REGIONS, Neighbourhood, reach_at
from nnunet_ext.interactive.strokes import Stroke
from tests.interactive.sessions import session, trained_session

SIZE, AMPLITUDE = (14, 11), 12.0
AROUND = Neighbourhood((4.0, 6.0), gap=9.0, reach=11.0)
FAR = FARTHEST * AROUND.reach


def mark(pixels, index=3, label=1, amplitude=AMPLITUDE, reach=None) -> Mark:
    return Mark(index, label, np.array(pixels, float), amplitude, 0, reach=reach)


def keys_of(seed: int = 0, size=SIZE, slices: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(slices, 5, *size, generator=generator, dtype=torch.float64) + 0.5, dim=1)


def found(marks, index, keys, corner=(0, 0)) -> torch.Tensor | None:
    return AROUND.added(marks, index, lambda number: keys[number], corner, labels=3)


def reference(marks, index, keys, corner=(0, 0)) -> np.ndarray:
    """The docstring's formula, pixel by pixel."""
    result = np.zeros((3, *SIZE))
    k = keys.numpy()
    for one in marks:
        drawn = [(int(r) - corner[0], int(c) - corner[1]) for r, c in np.rint(one.pixels)]
        mean = np.mean([k[one.slice, :, r, c] for r, c in drawn], axis=0)
        mean /= np.linalg.norm(mean)
        across = (index - one.slice) * AROUND.gap
        reach = AROUND.reach if one.reach is None else min(AROUND.reach, one.reach)
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                within = min(
                    np.hypot((row - r) * AROUND.spacing[0], (column - c) * AROUND.spacing[1]) for r, c in drawn
                )
                distance = np.hypot(within, across)
                if distance <= FARTHEST * reach:
                    alike = max(0.0, k[index, :, row, column] @ mean)
                    weight = np.exp(-(distance**2) / (2 * reach**2)) * alike**2
                    for label in range(3):
                        value = result[label, row, column]
                        new = value + one.weight * weight if label == one.label else value * (1 - weight)
                        result[label, row, column] = new
    return result


@pytest.mark.parametrize("index", [3, 4, 5, 1])
@pytest.mark.parametrize("corner", [(0, 0), (2, 1)])
def test_against_a_reference_that_goes_pixel_by_pixel(index, corner):
    keys = keys_of()
    marks = (
        mark([(4, 5)]),
        mark([(9, 4), (9, 5), (10.4, 5)], label=2, amplitude=3.0, reach=50.0),
        mark([(5, 6)], index=4, reach=6.0),
    )
    torch.testing.assert_close(found(marks, index, keys, corner).numpy(), reference(marks, index, keys, corner))


def test_the_drawn_pixel_gets_the_whole_amplitude_and_no_pixel_more_by_one_prompt():
    added = found((mark([(4, 5)]),), 3, keys_of())
    assert added[1, 4, 5].item() == pytest.approx(AMPLITUDE)
    assert added.max() <= AMPLITUDE + 1e-9
    assert added[0].eq(0).all()
    assert added[2].eq(0).all()


def test_pixels_that_look_different_get_nothing():
    keys = torch.zeros(8, 5, *SIZE, dtype=torch.float64)
    keys[:, 0, :, :6], keys[:, 1, :, 6:] = 1, 1
    added = found((mark([(4, 5)]),), 3, keys)[1]
    assert added[:, 6:].eq(0).all()
    assert added[4, 4] == pytest.approx(AMPLITUDE * np.exp(-(6.0**2) / (2 * 11.0**2)))
    keys[:, 0, :, 6:] = -1  # nor what looks like the opposite
    assert found((mark([(4, 5)]),), 3, keys)[1, :, 6:].eq(0).all()


def test_far_marks_and_marks_of_another_tile_add_nothing():
    keys = keys_of(slices=20)
    far = int(FAR / AROUND.gap) + 1
    assert found((mark([(4, 5)], index=1),), 1 + far, keys) is None
    assert found((mark([(4, 5)], index=1),), far, keys) is not None
    assert found((mark([(40, 5)]),), 3, keys) is None
    assert found((), 3, keys) is None


@given(st.integers(0, 9), st.floats(0.5, 100), st.floats(0.5, 11))
def test_slices_near_a_mark_are_those_on_which_it_adds_something(index, gap, reach):
    around = Neighbourhood((1.0, 1.0), gap, reach=11.0)
    near = around.slices([mark([(0, 0)], index=index, reach=reach)], 10)
    assert near == {number for number in range(10) if abs(number - index) * gap <= FARTHEST * reach}


@given(st.integers(0, 1000))
def test_the_reach_of_a_mark_follows_its_distance_from_its_structure(seed):
    random = np.random.default_rng(seed)
    own = random.random((6, 7)) < 0.1
    pixels = np.argwhere(~own)[random.permutation((~own).sum())[:3]]
    distances = [[np.hypot(2.0 * (r - y), 3.0 * (c - x)) for y, x in np.argwhere(own)] for r, c in pixels]
    found = reach_at(pixels, own, (2.0, 3.0))
    if not own.any():
        assert found is None
    else:  # at least as far as a pixel is wide
        assert found == pytest.approx(CLOSE * max(3.0, *(min(one) for one in distances)))


def test_the_reach_follows_the_planned_patch_in_mm():
    assert Neighbourhood.of((4.0, 2.0), (80, 96), 9.0) == Neighbourhood((4.0, 2.0), 22.5, 20.0)


def test_the_multiple_of_what_is_lacking_rises_with_the_reach():
    found = [AROUND.lacking(mark([(0, 0)], reach=share * AROUND.reach)) for share in (0.2, 1, 7)]
    assert found == pytest.approx([LACKING_CLOSE + 0.2 * (LACKING - LACKING_CLOSE), LACKING, LACKING])
    assert AROUND.lacking(mark([(0, 0)])) == LACKING


def test_the_newest_prompt_wins_around_it_however_many_older_ones_there_are():
    keys = keys_of()
    older = tuple(mark([(4, 5)]) for _ in range(20))
    assert found(older, 3, keys)[1, 4, 5] > 19 * AMPLITUDE
    added = found((*older, mark([(4, 5)], label=2)), 3, keys)
    assert added[:, 4, 5].tolist() == pytest.approx([0, 0, AMPLITUDE])


@given(st.integers(0, 20))
def test_mirrored_slices_get_mirrored_additions(seed):
    keys, width = keys_of(seed), SIZE[1]
    plain = found((mark([(4, 5), (7, 2)]),), 4, keys)
    mirrored = found((mark([(4, width - 6), (7, width - 3)]),), 4, keys.flip(-1))
    torch.testing.assert_close(mirrored.flip(-1), plain)


# --- in a session ---------------------------------------------------------------------------------------------------


def wrong_click():
    """A trained session with its automatic result, and a voxel of the disc that it found."""
    made, _ = trained_session()
    made.predict_automatic()
    found = np.argwhere(made.target_buffer > 0)
    return made, found[len(found) // 2]


def test_a_prompt_that_changes_its_pixels_spreads_and_one_that_agrees_does_not():
    made, voxel = wrong_click()
    before = made.target_buffer.copy()
    made.add_point_interaction(voxel, label=before[tuple(voxel)])
    assert made._state.spreading == ()
    np.testing.assert_array_equal(made.target_buffer, before)
    made.add_point_interaction(voxel, label=0)
    (spreading,) = made._state.spreading
    assert spreading.label == 0
    assert 0 < spreading.weight <= AMPLITUDE_AT_MOST


def test_a_click_beside_its_structure_reaches_less_far_than_one_on_a_slice_without_it():
    made, voxel = wrong_click()
    labels = made.target_buffer
    value = labels[tuple(voxel)]
    beside = np.argwhere((labels == 0) & ndimage.binary_dilation(labels == value, np.ones((1, 3, 1))))[0]
    made.add_point_interaction(beside, label=value)
    engine, (near,) = made._image[0].engine, made._state.spreading
    spacing = made.case.properties["spacing"]
    assert near.reach == pytest.approx(CLOSE * max(spacing[1:]))
    made.undo()
    missing = [
        (z, value) for value in made.labels.values() for z in range(len(labels)) if not (labels[z] == value).any()
    ]
    made.add_point_interaction((missing[0][0], *voxel[1:]), label=missing[0][1])
    (far,) = made._state.spreading
    assert far.reach is None
    assert engine.around.reach_of(far) == engine.around.reach


def test_what_changes_is_connected_to_what_was_drawn_and_has_its_label():
    made, voxel = wrong_click()
    before = made.target_buffer.copy()
    made.add_point_interaction(voxel, label=0)
    changed = before != made.target_buffer
    assert changed[tuple(voxel)]
    assert set(made.target_buffer[changed].tolist()) == {0}
    assert ndimage.label(changed, np.ones((3, 3, 3)))[1] == 1


def test_changes_that_are_not_connected_are_taken_back():
    before = {4: np.zeros((6, 6), np.uint8), 5: np.zeros((6, 6), np.uint8)}
    after = {index: labels.copy() for index, labels in before.items()}
    after[4][1, 1] = after[5][2, 2] = after[5][2, 3] = 1  # from slice to slice by a corner
    after[5][5, 5] = after[4][4, 1] = 1
    after[4][0, 5] = 2
    stroke = Stroke(1, np.array([[4, 1, 0]]))
    found = grown(after, before, [stroke])
    assert np.argwhere(found[4]).tolist() == [[1, 1]]
    assert np.argwhere(found[5]).tolist() == [[2, 2], [2, 3]]
    assert grown({}, {}, [stroke]) == {}


def test_a_saved_session_keeps_what_spreads(tmp_path):
    made, voxel = wrong_click()
    made.add_point_interaction(voxel, label=0)
    made.save(tmp_path / "saved")
    other, _ = trained_session()
    other.restore(tmp_path / "saved")
    kept = [[(mark.weight, mark.reach) for mark in one._state.spreading] for one in (made, other)]
    assert kept[0] == kept[1]
    assert kept[0][0][1] is not None
    for one in (made, other):
        one.add_point_interaction(voxel + np.array([0, 1, 0]), label=0)
    np.testing.assert_array_equal(made.target_buffer, other.target_buffer)


def test_a_prompt_pushes_a_multiple_of_what_its_pixels_lack():
    made, voxel = wrong_click()
    made.add_point_interaction(voxel, label=0)
    engine, state = made._image[0].engine, made._state
    (mark,) = state.spreading
    row, column = np.rint(mark.pixels[0]).astype(int)
    with torch.inference_mode():
        (logits,) = [sum(engine.logits(0, state.tiles[0], mark.slice))[:, row, column]]
    lacking = max(0.0, float(logits[1:].max() - logits[0]))
    assert mark.weight == pytest.approx(min(AMPLITUDE_AT_MOST, engine.around.lacking(mark) * lacking), rel=1e-4)


def test_regions_are_pushed_by_a_fixed_amount():
    made = session(kind="regions")
    made.predict_automatic()
    voxel = (3, 8, 8)
    label = next(value for value in made.labels.values() if value != made.target_buffer[voxel])
    made.add_point_interaction(voxel, label=label)
    assert [mark.weight for mark in made._state.spreading] == [OF_REGIONS]
    assert made.target_buffer[voxel] == label
