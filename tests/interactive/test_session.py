"""Sessions: what prompts change, that they can be undone and repeated, where voxels are, and what is refused."""

import gc
import json
import threading
import warnings
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.errors import InputError
from nnunet_ext.interactive import renaming
from nnunet_ext.interactive.propagation import Step
from nnunet_ext.interactive.provenance import Origin
from nnunet_ext.interactive.saved import checksum
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.nnunet import precision
from nnunet_ext.s2vnet.centroid_aggregation import Bank
from nnunet_ext.s2vnet.prompts import Prompts
from tests import tiny
from tests.interactive.sessions import SPACING, image, model, quietly, session, trained_session

LARGE = (12, 16, 16)


def changed_slices(before, after):
    return np.flatnonzero((before != after).any((1, 2))).tolist()


def box_of(before, after):
    where = np.argwhere(before != after)
    return None if not len(where) else [[int(a), int(b) + 1] for a, b in zip(where.min(0), where.max(0), strict=True)]


def scribble(shape, index, rows, columns):
    mask = np.zeros(shape, np.uint8)
    mask[index, rows, columns] = 1
    return mask


# --- the automatic result -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "regions"])
@pytest.mark.parametrize(
    ("shape", "transpose", "resampled", "border"),
    [
        ((6, 16, 16), (0, 1, 2), None, 0),
        ((7, 20, 30), (0, 1, 2), (1.5, 1.0), 2),
        ((22, 9, 25), (1, 2, 0), (1.1, 2.0), 1),
    ],
)
def test_the_automatic_result_is_that_of_the_predictor(kind, shape, transpose, resampled, border):
    """Bit for bit, through transpose, crop, resampling and several tiles."""
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as export,
    )

    options = {"kind": kind, "transpose": transpose}
    made = session(shape, border, **options, **({"resampled": resampled} if resampled else {}))
    made.predict_automatic()
    predictor, case = made.model, made.case
    data = case.image[(slice(None), slice(None), *case.inside)]
    logits = predictor.predict_logits_from_preprocessed_data(data)
    expected = export(
        logits,
        predictor.plans_manager,
        predictor.configuration_manager,
        predictor.label_manager,
        case.properties,
        num_threads_torch=1,
    )
    assert len(np.unique(expected)) > 1
    assert np.array_equal(made.target_buffer, expected)
    engine, tiles = made._image[0].engine, made._state.tiles
    for index in range(case.depth):
        with torch.inference_mode():
            found = case.tiling.blended(engine.logits(tile, state, index) for tile, state in enumerate(tiles))
        assert torch.equal(found, logits[:, index])


def test_the_network_knows_the_distance_of_slices_as_in_a_prediction():
    predictor = model.__wrapped__()
    with torch.no_grad():
        for memory in predictor.network.memory:
            memory.gap.fill_(2.0)
            memory.scale.fill_(5.0)
    predictor.list_of_parameters = [predictor.network.state_dict()]
    found = {}
    for gap in (3.0, 7.5):
        made = S2VSession("cpu")
        made.initialize_from_predictor(predictor)
        made.set_image(image(), {"spacing": [gap, *SPACING[1:]]})
        made.predict_automatic()
        assert made.case.gap == gap
        predictor.gap = gap
        logits = predictor.predict_logits_from_preprocessed_data(
            made.case.image[(slice(None), slice(None), *made.case.inside)]
        )
        engine, tiles = made._image[0].engine, made._state.tiles
        for index in range(made.case.depth):
            with torch.inference_mode():
                own = made.case.tiling.blended(engine.logits(tile, state, index) for tile, state in enumerate(tiles))
            assert torch.equal(own, logits[:, index])
        found[gap] = logits
    assert not torch.equal(found[3.0], found[7.5])


def test_a_point_on_the_outer_face_of_the_last_slice_is_in_it():
    one, other = session(), session()
    for made, z in ((one, 5.5), (other, 5)):
        made.predict_automatic()
        made.add_point_interaction([z, 8, 8], label=2, run_prediction=False)
        assert [mark.slice for mark in made._state.marks] == [5]
        made.predict()
    assert np.array_equal(one.target_buffer, other.target_buffer)


def test_a_session_computes_in_the_precision_of_the_plans(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: True)
    made = S2VSession("cpu")
    predictor = model.__wrapped__()
    predictor.configuration_manager.configuration["nnunet_ext"] = {"precision": {"cpu": "bfloat16"}}
    made.initialize_from_predictor(predictor)
    made.set_image(image(), {"spacing": SPACING})
    made.predict_automatic()
    kinds = {x.dtype for kept in made._image[0].engine.cache._kept.values() for x in kept}
    assert kinds == {torch.bfloat16}


def test_a_first_prompt_starts_from_the_automatic_result():
    one, other = session(), session()
    one.predict_automatic()
    one.add_point_interaction([2, 8, 8], label=2)
    other.add_point_interaction([2, 8, 8], label=2)
    assert np.array_equal(one.target_buffer, other.target_buffer)


# --- what a prompt changes ----------------------------------------------------------------------------------------


@pytest.fixture
def every_prompt_renames(monkeypatch):
    """Random networks rarely rename what is under a prompt, so every prompt moves its centres."""
    monkeypatch.setattr(renaming, "RENAMED", 0.0)


def prompts(made):
    """One of each kind on slice 5."""
    shape = made.case.shape
    outline = np.zeros((8, 8), bool)
    outline[[0, -1], :] = outline[:, [0, -1]] = True
    return {
        "point": lambda: made.add_point_interaction([5, 8, 8], label=2),
        "background": lambda: made.add_point_interaction([5, 8, 8], False, label=2),
        "scribble": lambda: made.add_scribble_interaction(scribble(shape, 5, 8, slice(3, 12)), label="right"),
        "crop": lambda: made.add_scribble_interaction(
            np.ones((1, 1, 9)), interaction_bbox=[[5, 6], [8, 9], [3, 12]], label=2
        ),
        "lasso": lambda: made.add_lasso_interaction(
            outline[None], interaction_bbox=[[5, 6], [4, 12], [4, 12]], label=2
        ),
        "box": lambda: made.add_bbox_interaction([[5, 6], [4, 12], [4, 12]], label=2),
    }


@pytest.mark.parametrize("kind", prompts(session()))
@pytest.mark.usefixtures("every_prompt_renames")
def test_a_prompt_changes_its_slice_and_its_neighbours_and_says_where(kind):
    made = session(LARGE, seed=2)  # whose voxel has another label before
    made.predict_automatic()
    before = made.target_buffer.copy()
    box = prompts(made)[kind]()
    changed = changed_slices(before, made.target_buffer)
    assert {5, 6} <= set(changed)
    assert box == box_of(before, made.target_buffer)


def test_without_propagation_the_clicked_slice_alone_changes():
    for options in ({"propagation": False}, {"propagates": False}):
        made = session(LARGE, seed=2, **options)
        made.predict_automatic()
        before = made.target_buffer.copy()
        made.add_point_interaction([5, 8, 8], label=2)
        assert changed_slices(before, made.target_buffer) == [5]


def test_without_propagation_a_click_does_not_know_of_clicks_on_other_slices():
    both, one = session(LARGE, propagation=False), session(LARGE, propagation=False)
    both.add_point_interaction([4, 8, 8], label=2)
    for made in (both, one):
        made.add_point_interaction([5, 3, 3], label=1)
    assert np.array_equal(both.target_buffer[5], one.target_buffer[5])
    assert not np.array_equal(both.target_buffer[4], one.target_buffer[4])


def test_equal_prompts_of_all_forms_are_equal():
    found = {}
    for kind in ("scribble", "crop"):
        made = session(LARGE)
        prompts(made)[kind]()
        found[kind] = made.target_buffer
    assert np.array_equal(found["scribble"], found["crop"])
    outline, full = session(LARGE), session(LARGE)
    prompts(outline)["lasso"]()
    full.add_scribble_interaction(scribble(LARGE, 5, slice(4, 12), slice(4, 12)), label=2)
    assert np.array_equal(outline.target_buffer, full.target_buffer)


def test_prompts_that_wait_are_seen_together():
    together, apart = session(), session()
    points = [([2, 4, 4], 1), ([4, 11, 11], 2)]
    for point, label in points:
        assert together.add_point_interaction(point, run_prediction=False, label=label) is None
        apart.add_point_interaction(point, label=label)
    assert not together.target_buffer.any()
    assert together.predict() == box_of(np.zeros_like(together.target_buffer), together.target_buffer)
    assert together.predict() is None
    assert together.undo_steps == 3
    assert not np.array_equal(together.target_buffer, apart.target_buffer)


def test_the_active_label_is_that_of_prompts_without_one():
    made, named = session(), session()
    assert made.active_label == 1
    made.set_active_label("right")
    assert made.active_label == 2
    made.add_point_interaction([2, 8, 8])
    named.add_point_interaction([2, 8, 8], label=2)
    assert np.array_equal(made.target_buffer, named.target_buffer)
    assert made.labels == {"background": 0, "left": 1, "right": 2}


def test_labels_of_regions_have_prompts():
    made = session(LARGE, kind="regions")
    assert made.labels == {"background": 0, "label 1": 1, "right": 2}
    made.predict_automatic()
    before = made.target_buffer.copy()
    made.add_point_interaction([5, 8, 8], label="label 1")
    assert changed_slices(before, made.target_buffer)


def test_where_the_image_was_cropped_away_only_what_is_drawn_changes():
    made = session((8, 20, 20), border=2, click_radius=0)
    made.predict_automatic()
    before = made.target_buffer.copy()
    with pytest.warns(UserWarning, match="crops away"):
        assert made.add_point_interaction([0, 8, 8]) == [[0, 1], [8, 9], [8, 9]]
    with pytest.warns(UserWarning, match="crops away"):
        assert made.add_point_interaction([4, 1, 1], label=2) == [[4, 5], [1, 2], [1, 2]]
    assert (made.target_buffer[0, 8, 8], made.target_buffer[4, 1, 1]) == (1, 2)
    assert np.count_nonzero(before != made.target_buffer) == 2
    made.undo(), made.undo()
    assert np.array_equal(before, made.target_buffer)


def test_an_initial_segmentation_is_kept_but_for_what_is_corrected():
    start = np.zeros(LARGE, np.uint8)
    start[2:9, 3:9, 3:12] = 1
    start[4:7, 9:14, 3:12] = 2
    made = session(LARGE)
    made.add_point_interaction([1, 1, 1], label=2)
    box = made.add_initial_seg_interaction(start)
    assert np.array_equal(made.target_buffer, start)
    assert box is not None
    made.add_point_interaction([5, 4, 4], False)
    assert changed_slices(start, made.target_buffer)
    made.undo()
    assert np.array_equal(made.target_buffer, start)
    seen = session(LARGE)
    seen.add_initial_seg_interaction(torch.from_numpy(start), run_prediction=True)
    automatic = session(LARGE)
    automatic.predict_automatic()
    assert not np.array_equal(seen.target_buffer, automatic.target_buffer)


def test_a_click_that_agrees_with_a_perfect_segmentation_keeps_it():
    scores = []
    for seed in range(4):
        made, truth = trained_session(seed=seed)
        made.predict_automatic()
        alone = (made.target_buffer == truth).mean()
        made.add_initial_seg_interaction(truth)
        z, y, x = np.argwhere(truth > 0)[np.count_nonzero(truth) // 2]
        made.add_point_interaction([z, y, x], label=int(truth[z, y, x]))
        kept = (made.target_buffer == truth).mean()
        scores.append((alone, kept))
        assert kept > 0.98
        assert made.target_buffer[z, y, x] == truth[z, y, x]
    assert all(kept > alone for alone, kept in scores)


def test_the_network_changes_a_given_map_only_where_its_answer_changes():
    made, truth = trained_session()
    made.add_initial_seg_interaction(truth)
    assert (made.provenance == Origin.GIVEN).all()
    before = answers(made)
    assert not np.array_equal(before, truth)  # or nothing is shown here
    made.add_scribble_interaction(scribble(truth.shape, 4, 2, slice(2, 12)), label=2)
    drawn = scribble(truth.shape, 4, 2, slice(2, 12)) > 0
    changed, origin = made.target_buffer != truth, made.provenance
    assert np.array_equal(origin == Origin.DRAWN, drawn)
    assert np.array_equal(origin == Origin.PROPAGATED, (before != answers(made)) & ~drawn)
    assert not (changed & ~drawn & (before == answers(made))).any()
    assert (made.target_buffer[drawn] == 2).all()


def answers(made):
    return np.stack([sheet.answer.unpacked() for sheet in made._state.sheets])


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_drawn_voxels_are_exact_through_transpose_crop_and_resampling(transpose):
    made = session((9, 16, 20), 1, transpose=transpose, resampled=(1.7, 1.3), spacing=[1.0, 1.4, 0.9])
    rng = np.random.default_rng(0)
    drawn = np.full((9, 16, 20), -1)
    for number in range(6):
        label, mask = number % 3, rng.random(drawn.shape) < 0.02
        drawn[mask] = label
        quietly(made.add_scribble_interaction, mask, label=label)
        assert np.array_equal(made.target_buffer[drawn >= 0], drawn[drawn >= 0])
        assert np.array_equal(made.provenance == Origin.DRAWN, drawn >= 0)


@pytest.mark.parametrize(("spacing", "radius", "voxels"), [([3, 1, 1], 1, 5), ([3, 1, 1], 0, 1), ([3, 2, 1], 2, 7)])
def test_the_disc_of_a_click_is_round_in_mm(spacing, radius, voxels):
    made = session(spacing=spacing, click_radius=radius)
    made.add_point_interaction([2.2, 8.1, 8], label=2)
    drawn = np.argwhere(made.provenance == Origin.DRAWN)
    assert len(drawn) == voxels
    assert (np.hypot(*((drawn - [2, 8, 8]) * spacing)[:, 1:].T) <= radius * min(spacing[1:])).all()


def test_a_box_says_where_a_structure_ends_and_of_the_background_it_erases():
    made = session(click_radius=0)
    made.add_lasso_interaction(np.ones((1, 12, 12)), interaction_bbox=[[3, 4], [2, 14], [2, 14]], label=1)
    made.add_bbox_interaction([[3, 4], [5, 10], [5, 10]], label=1)
    ring = np.zeros((16, 16), bool)
    ring[4:11, 4:11] = True
    ring[5:10, 5:10] = False
    assert not made.target_buffer[3][ring].any()
    assert (made.target_buffer[3, 2:14, 2:14][~ring[2:14, 2:14]] == 1).all()
    for column in (3, 11):  # what propagates later does not cross it, and what is drawn later does
        made.add_point_interaction([2, 4, column], label=1)
        assert not (made.target_buffer[3][ring] == 1).any()
    made.add_point_interaction([3, 4, 4], label=1)
    assert made.target_buffer[3, 4, 4] == 1
    made.add_bbox_interaction([[3, 4], [2, 14], [2, 14]], False)
    assert not made.target_buffer[3, 2:14, 2:14].any()


def test_a_box_in_three_dimensions_says_where_a_structure_ends_on_all_sides():
    made = session(LARGE)
    made.add_scribble_interaction(np.ones(LARGE), label=2)
    ranges = [[3, 6], [4, 9], [5, 10]]
    made.add_bbox_interaction(ranges, label=2)
    place = np.indices(LARGE)
    inside = np.all([(axis >= low) & (axis < high) for axis, (low, high) in zip(place, ranges, strict=True)], 0)
    wider = np.all([(axis >= low - 1) & (axis <= high) for axis, (low, high) in zip(place, ranges, strict=True)], 0)
    assert (made.target_buffer[wider & ~inside] != 2).all()
    assert (made.target_buffer[~wider] == 2).all()
    made.add_bbox_interaction(ranges, False)
    assert not made.target_buffer[inside].any()
    assert (made.provenance[inside] == Origin.DRAWN).all()


def test_what_is_locked_or_accepted_stays_through_prompts_and_new_beginnings():
    made = session(LARGE)
    made.predict_automatic()
    made.add_scribble_interaction(scribble(LARGE, 4, 3, slice(3, 12)), label=2)
    made.add_scribble_interaction(scribble(LARGE, 8, 3, slice(3, 12)), False)
    made.lock_structure("right")
    made.accept_slice(6)
    kept, shown = made.target_buffer == 2, made.target_buffer.copy()
    for call in (
        lambda: made.add_scribble_interaction((shown == 0) & (np.arange(LARGE[0]) == 8)[:, None, None], label=1),
        lambda: made.add_initial_seg_interaction(np.ones(LARGE, np.uint8)),
        made.predict_automatic,
    ):
        assert call() is not None
        assert np.array_equal(made.target_buffer == 2, kept)
        assert np.array_equal(made.target_buffer[6], shown[6])
    made.add_initial_seg_interaction(np.ones(LARGE, np.uint8))
    others = (shown != 2) & (np.arange(LARGE[0]) != 6)[:, None, None]
    assert (made.target_buffer[others] == 1).all()
    made.reset_interactions()
    assert (made.locked_structures, made.accepted_slices) == ([], [])


# --- saved ------------------------------------------------------------------------------------------------------------


def test_a_saved_session_goes_on_as_if_nothing_had_happened(tmp_path):
    made, other = session(LARGE), session(LARGE)
    calls = list(prompts(made))
    for kind in calls[:3]:
        prompts(made)[kind]()
    made.lock_structure(1)
    made.set_active_label(2)
    made.add_point_interaction([8, 3, 3], label=0, run_prediction=False)
    made.save(tmp_path / "a.session")
    box = other.restore(tmp_path / "a.session")
    assert box == box_of(np.zeros(LARGE), other.target_buffer)
    assert (other.active_label, other.locked_structures, other.undo_steps) == (2, [1], 0)
    kept, found = (
        [
            (step.labels, step.mask, step.before)
            for tile in one._state.tiles
            for chain in (tile.up, tile.down)
            for _, step in sorted(chain.items())
        ]
        for one in (made, other)
    )
    assert kept == found
    assert any(mask is not None for _, mask, _ in kept)
    for one in (made, other):
        one.lock_structure(1, False)
        for kind in calls[3:]:
            prompts(one)[kind]()
        one.save(tmp_path / "b.session")
    assert np.array_equal(made.target_buffer, other.target_buffer)
    assert np.array_equal(made.provenance, other.provenance)
    empty = session(LARGE)
    empty.save(tmp_path / "empty.session")
    other.restore(tmp_path / "empty.session")
    assert not other.target_buffer.any()


def test_a_session_of_something_else_is_refused_in_one_sentence(tmp_path):
    made, file = session(), tmp_path / "a.session"
    made.add_point_interaction([2, 8, 8])
    made.save(file)
    before = made.target_buffer.copy()
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    content = json.loads(parts["session.json"])

    def written(**changes):
        changed = tmp_path / "_".join(changes)
        with zipfile.ZipFile(changed, "w") as archive:
            for name, part in {**parts, "session.json": json.dumps({**content, **changes})}.items():
                archive.writestr(name, part)
        return changed

    text = tmp_path / "text"
    text.write_text('{"axes": "zyx", "prompts": []}')
    trained, _ = trained_session(6)
    for one, saved, why in (
        (session(seed=5), file, "with another image; open the image"),
        (trained, written(image=checksum(trained.case.image, trained.model.network)["image"]), "with another network"),
        (made, text, "is no saved session"),
        (made, tmp_path / "nowhere", "There is no file"),
        (made, written(format=9), "of format 9, but this version reads 2"),
        (made, written(sheets=content["sheets"][1:]), "another shape"),
        (made, written(seen=[9]), "is no saved session, or a broken one"),
    ):
        with pytest.raises(InputError, match=why) as found:
            one.restore(saved)
        assert "\n" not in str(found.value)
    assert np.array_equal(made.target_buffer, before)
    assert made.undo_steps == 1
    with pytest.raises(InputError, match="does not exist"):
        made.save(tmp_path / "no" / "file")


# --- undo, repeat, and what makes no difference -------------------------------------------------------------------


def test_undo_restores_every_bit_and_reset_forgets():
    made = session(LARGE)
    assert made.undo() is None
    states = [made.target_buffer.copy()]
    calls = list(prompts(made).values())
    for call in calls:
        call()
        states.append(made.target_buffer.copy())
    for state in states[-2::-1]:
        box = made.undo()
        assert np.array_equal(made.target_buffer, state)
        assert box is None or len(box) == 3
    calls[0]()
    assert np.array_equal(made.target_buffer, states[1])
    made.reset_interactions()
    assert not made.target_buffer.any()
    assert made.undo_steps == 0
    calls[0]()
    assert np.array_equal(made.target_buffer, states[1])


def test_only_so_many_calls_can_be_undone():
    made = session(undo_limit=2)
    for column in (2, 5, 8):
        made.add_point_interaction([2, 8, column])
    assert made.undo_steps == 2
    made.undo(), made.undo()
    after = made.target_buffer.copy()
    assert made.undo() is None
    assert np.array_equal(made.target_buffer, after)


def test_of_what_cannot_be_undone_any_more_nothing_is_kept():
    def slices_in_memory():
        gc.collect()
        return sum(type(found) is Step for found in gc.get_objects())

    made = session(undo_limit=1)
    counts = []
    for number in range(12):
        made.add_point_interaction([number % 6, 3 + number % 4, 8], label=number % 3)
        counts.append(slices_in_memory())
    # both chains of the automatic state, of the present one and of the one before
    assert max(counts) - counts[0] <= 2 * 2 * made.case.depth


def test_repeated_in_another_session_and_thread_everything_is_equal():
    made, other = session(LARGE), session(LARGE)
    for call in prompts(made).values():
        call()

    def work():
        for call in prompts(other).values():
            call()

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert np.array_equal(made.target_buffer, other.target_buffer)


@pytest.mark.parametrize("space", [0, 30_000])
def test_space_for_features_changes_no_result(space):
    """Space for none, and for some of the slices."""
    made, other = session((9, 16, 20)), session((9, 16, 20), cache_bytes=space)
    for one in (made, other):
        for kind in ("point", "scribble", "box"):
            prompts(one)[kind]()
    assert np.array_equal(made.target_buffer, other.target_buffer)
    cache = other._image[0].engine.cache
    assert cache.size <= space
    assert bool(cache._kept) == bool(space)


@pytest.mark.usefixtures("every_prompt_renames")
def test_an_early_stop_changes_nothing_where_nothing_would_change():
    """A network that does not propagate, so that a click changes its slice only."""
    made, full = (session(LARGE, propagates=False, early_stop=stop) for stop in (True, False))
    steps = []
    for one in (made, full):
        one.predict_automatic()
        one.progress = lambda done, at_most: steps.append((done, at_most))
        one.add_point_interaction([5, 8, 8], label=2)
        steps.append(None)
    assert np.array_equal(made.target_buffer, full.target_buffer)
    early, late = "".join("x" if step else " " for step in steps).split()
    assert (len(early), len(late)) == (8, 13)  # it is tried, and the clicked slice and three to each side


@pytest.mark.parametrize("clicked", [3, 8])
@pytest.mark.usefixtures("every_prompt_renames")
def test_full_propagation_is_that_of_the_network_with_prompts(clicked):
    """The clicked slice continues the chain that has seen more, and both chains go on from it."""
    made = session(LARGE, early_stop=False)
    made.add_point_interaction([clicked, 8, 8], label=2)
    network, x, depth = made.model.network, made.case.image[None], LARGE[0]
    known, logits = torch.tensor([True]), {}

    def follow(order, bank, prompted=()):
        for index in order:
            prompts = Prompts.click([0, 8, 8], 2) if index in prompted else Prompts.none(1)
            one = network.cluster(network.features(x[:, :, index]), bank, prompts)
            bank = bank.remember(one.centres, known, network.options.bank)
            logits[index] = one.logits[0]
        return bank

    with torch.no_grad():
        below, above = follow(range(clicked), Bank()), follow(range(depth - 1, clicked, -1), Bank())
        start = follow([clicked], below if clicked == 8 else above, [clicked])
        for bank, order in ((below, range(clicked + 1, depth)), (above, range(clicked - 1, -1, -1))):
            follow(order, bank.remember(start.centres[-1], known, network.options.bank))
    expected = np.stack([logits[index].argmax(0).numpy() for index in range(depth)])
    engine, (tile,) = made._image[0].engine, made._state.tiles
    with torch.no_grad():
        found = np.stack([sum(engine.logits(0, tile, index)).argmax(0).numpy() for index in range(depth)])
    assert (found == expected).mean() > 0.999


# --- images and buffers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.array, torch.tensor], ids=["array", "tensor"])
def test_results_are_written_into_the_buffer(make):
    made, reference = session(), session()
    reference.predict_automatic()
    buffer = make(np.full((6, 16, 16), 7, np.int16))
    made.set_target_buffer(buffer)
    assert not np.asarray(buffer).any()
    made.predict_automatic()
    assert np.array_equal(np.asarray(buffer), reference.target_buffer)
    other = np.zeros((6, 16, 16), np.uint16)
    made.set_target_buffer(other)
    assert np.array_equal(other, reference.target_buffer)
    made.undo()
    assert not other.any()
    assert np.asarray(buffer).any()


def test_another_image_forgets_everything():
    made, fresh = session(), session(seed=5)
    made.add_point_interaction([2, 8, 8])
    made.set_image(image(seed=5), {"spacing": [3.0, 1.2, 0.9]})
    assert made.undo_steps == 0
    assert not made.target_buffer.any()
    for one in (made, fresh):
        one.add_point_interaction([3, 4, 5])
    assert np.array_equal(made.target_buffer, fresh.target_buffer)


def test_a_2d_image_is_one_slice():
    made = session((1, 16, 16))
    made.add_point_interaction([0, 8, 8], label=2)
    assert made.target_buffer.shape == (1, 16, 16)
    made.undo()
    assert not made.target_buffer.any()


@settings(max_examples=25, deadline=None)
@given(
    st.permutations(range(3)),
    st.tuples(*[st.integers(5, 12)] * 3),
    st.tuples(*[st.floats(0.6, 2.0)] * 2),
    st.integers(0, 1),
    st.tuples(*[st.floats(0, 1)] * 3),
)
def test_voxels_go_to_the_network_and_back(transpose, shape, resampled, border, place):
    made = session(shape, border, transpose=tuple(transpose), resampled=tuple(round(mm, 1) for mm in resampled))
    case = made.case
    low, high = border - 0.5, np.asarray(shape) - border - 0.5
    voxel = low + np.asarray(place) * (high - low)
    pixel = case.to_pixels(voxel[None])
    np.testing.assert_allclose(case.to_voxels(pixel), voxel[None], atol=1e-9)
    assert case.in_crop(voxel[None]).all()
    bounds = [(0, case.depth), *((s.start, s.stop) for s in case.inside)]
    for value, (start, stop) in zip(pixel[0], bounds, strict=True):
        assert start - 0.5 - 1e-9 <= value <= stop - 0.5 + 1e-9
    # slices are not resampled
    assert pixel[0, 0] == pytest.approx(voxel[case.slice_axis] - border)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_a_bright_voxel_is_where_its_index_says(transpose):
    """The network sees a voxel at its pixel, to half a voxel, whatever preprocessing does."""
    array = np.full((1, 14, 15, 16), 0.01, np.float32)
    array[:, :2] = array[:, :, :1] = array[..., -3:] = 0
    voxel = np.array([9, 6, 7])
    array[0, 8:11, 5:8, 6:9] += 1
    array[(0, *voxel)] += 2
    made = S2VSession("cpu")
    made.initialize_from_predictor(model(transpose=transpose, spacing=(0.7, 1.3)))
    made.set_image(array, {"spacing": [1.0, 1.5, 0.8]})
    case = made.case
    bright = case.image[0].numpy()
    weight = np.clip(bright - np.median(bright), 0, None) * (bright > bright.mean() + bright.std())
    centre = (np.indices(bright.shape).reshape(3, -1) * weight.ravel()).sum(1) / weight.sum()
    assert np.abs(case.to_voxels(centre[None])[0] - voxel).max() < 0.5
    labels = case.cropped_view(np.arange(array[0].size).reshape(array[0].shape))
    inside = np.argwhere(labels == np.ravel_multi_index(voxel, array[0].shape))
    assert np.array_equal(case.uncropped(inside)[0], voxel)


# --- what is refused ----------------------------------------------------------------------------------------------

BAD = {
    "outside": (lambda s: s.add_point_interaction([6, 0, 0]), "outside of the image"),
    "two numbers": (lambda s: s.add_point_interaction([1, 2]), "three numbers"),
    "nan": (lambda s: s.add_point_interaction([1, 2, float("nan")]), "outside of the image"),
    "text": (lambda s: s.add_point_interaction(["a", "b", "c"]), "three numbers"),
    "unknown label": (lambda s: s.add_point_interaction([1, 2, 3], label=3), r"no label 3; the model knows 0 \(backgr"),
    "unknown name": (lambda s: s.add_point_interaction([1, 2, 3], label="liver"), "no label 'liver'"),
    "bool label": (lambda s: s.set_active_label(True), "no label True"),
    "shape of a scribble": (lambda s: s.add_scribble_interaction(np.ones((2, 2, 2))), r"shape \(2, 2, 2\), but the im"),
    "empty scribble": (lambda s: s.add_scribble_interaction(np.zeros((6, 16, 16))), "scribble is empty"),
    "shape of a crop": (
        lambda s: s.add_scribble_interaction(np.ones((1, 2, 2)), interaction_bbox=[[0, 1], [0, 1], [0, 1]]),
        "interaction_bbox",
    ),
    "crop outside": (
        lambda s: s.add_lasso_interaction(np.ones((1, 1, 1)), interaction_bbox=[[6, 7], [0, 1], [0, 1]]),
        "not inside",
    ),
    "thick lasso": (lambda s: s.add_lasso_interaction(np.ones((6, 16, 16))), "lasso is thick"),
    "zoom": (lambda s: S2VSession("cpu", do_autozoom=True), "do_autozoom is True, but a session segments whole"),
    "compiled": (lambda s: S2VSession("cpu", use_torch_compile=True), "use_torch_compile is True, but"),
    "empty box": (lambda s: s.add_bbox_interaction([[0, 1], [2, 2], [0, 2]]), "empty or not inside"),
    "box of floats": (lambda s: s.add_bbox_interaction([[0, 1], [2, 2.5], [0, 2]]), "whole numbers"),
    "no box": (lambda s: s.add_bbox_interaction([1, 2]), "whole numbers"),
    "locked background": (lambda s: s.lock_structure(0), "background cannot be locked"),
    "locked unknown": (lambda s: s.lock_structure("liver"), "no label 'liver'"),
    "slice outside": (lambda s: s.accept_slice(6), "no slice 6; the image has slices 0 to 5"),
    "slice of text": (lambda s: s.accept_slice("1"), "no slice '1'"),
    "saved": (lambda s: s.restore("nowhere"), "no file nowhere"),
    "shape of a segmentation": (lambda s: s.add_initial_seg_interaction(np.zeros((6, 16, 15))), "resample it"),
    "labels of a segmentation": (lambda s: s.add_initial_seg_interaction(np.full((6, 16, 16), 9)), r"holds \[9\]"),
    "shape of a buffer": (lambda s: s.set_target_buffer(np.zeros((6, 16, 15), np.uint8)), "target buffer has shape"),
    "type of a buffer": (lambda s: s.set_target_buffer(np.zeros((6, 16, 16))), "float64"),
    "buffer elsewhere": (
        lambda s: s.set_target_buffer(torch.zeros((6, 16, 16), dtype=torch.uint8, device="meta")),
        "is on meta",
    ),
    "read-only buffer": (lambda s: s.set_target_buffer(read_only()), "read-only"),
    "channels": (lambda s: s.set_image(np.ones((2, 6, 16, 16)), {"spacing": [1, 1, 1]}), "with 1 channels"),
    "axes": (lambda s: s.set_image(np.ones((6, 16, 16)), {"spacing": [1, 1, 1]}), "one slice"),
    "no spacing": (lambda s: s.set_image(image()), "spacing of the image is None"),
    "wrong spacing": (lambda s: s.set_image(image(), {"spacing": [1, 0, 1]}), "spacing of the image"),
    "no numbers": (lambda s: s.set_image(image() * np.nan, {"spacing": [1, 1, 1]}), "no finite numbers"),
    "zeros": (lambda s: s.set_image(image() * 0, {"spacing": [1, 1, 1]}), "nothing but zeros"),
    "no file": (lambda s: s.set_image_from_files(["none.nii.gz"]), "no image file"),
    "no geometry": (lambda s: s.write("out.nii.gz"), "given as an array"),
    "no such writer": (lambda s: s.write("out.docx"), "choose one of the endings"),
    "another trainer": (lambda s: s.initialize_from_predictor(stock()), "needs an S2VNet"),
    "no model": (lambda s: s.initialize_from_trained_model_folder("nowhere"), r"no plans\.json"),
}


def read_only():
    made = np.zeros((6, 16, 16), np.uint8)
    made.flags.writeable = False
    return made


def stock():
    return SimpleNamespace(network=tiny.network(2))


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gets_one_sentence_and_changes_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = BAD[kind]
    made, reference = session(), session()
    for one in (made, reference):
        one.add_point_interaction([2, 8, 8])
        one.add_point_interaction([3, 4, 4], label=2, run_prediction=False)
    with pytest.raises(InputError, match=message) as found:
        call(made)
    assert "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())
    assert made.undo_steps == 2
    for one in (made, reference):
        one.add_point_interaction([4, 8, 2])
    assert np.array_equal(made.target_buffer, reference.target_buffer)
    made.undo(), reference.undo()
    assert np.array_equal(made.target_buffer, reference.target_buffer)


def test_without_a_model_or_an_image_every_call_says_so():
    made = S2VSession("cpu")
    with pytest.raises(InputError, match="No model is loaded"):
        made.set_image(image(), {"spacing": [1, 1, 1]})
    for call in (made.predict_automatic, made.undo, lambda: made.set_active_label(1)):
        with pytest.raises(InputError, match="No model is loaded"):
            call()
    made.initialize_from_predictor(model())
    calls = [made.predict_automatic, made.predict, made.undo, made.reset_interactions, lambda: made.target_buffer]
    for call in (*calls, lambda: made.add_point_interaction([0, 0, 0])):
        with pytest.raises(InputError, match="No image is set"):
            call()
    made.set_image(image(), {"spacing": [1, 1, 1]})
    for call in (lambda: made.lock_structure(1), lambda: made.accept_slice(1), lambda: made.write("case.nii.gz")):
        with pytest.raises(InputError, match="no label map yet; get the automatic result first"):
            call()


@pytest.mark.usefixtures("every_prompt_renames")
def test_a_prediction_that_is_broken_off_leaves_no_trace():
    made, reference = session(), session()
    for one in (made, reference):
        one.add_point_interaction([2, 8, 8])
    before = made.target_buffer.copy()

    def stop(done, at_most):
        assert 0 < done <= at_most
        if done == 2:
            raise KeyboardInterrupt

    made.progress = stop
    with pytest.raises(KeyboardInterrupt):
        made.add_point_interaction([3, 4, 4], label=2)
    assert np.array_equal(made.target_buffer, before)
    made.progress = None
    for one in (made, reference):
        quietly(one.add_point_interaction, [3, 4, 4], label=2)
    assert np.array_equal(made.target_buffer, reference.target_buffer)


def test_a_model_that_never_saw_a_click_says_so(monkeypatch):
    made = model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        S2VSession("cpu").initialize_from_predictor(made)
    monkeypatch.setattr(made.network, "options", replace(made.network.options, interactive=0.0))
    with pytest.warns(UserWarning, match="trained without clicks .* only the automatic result and the brush do"):
        S2VSession("cpu").initialize_from_predictor(made)
