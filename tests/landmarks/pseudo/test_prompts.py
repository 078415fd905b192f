"""Prompts between and beyond pairs of landmarks; each filter refuses the mask that it is there for, and no other."""

import numpy as np
import pytest

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.landmarks.points import ABSENT, present
from nnunet_ext.landmarks.pseudo.prompts import Limits, Prompts, judge, prompts_of

GEOMETRY = Geometry(np.diag([1.0, 1.0, 2.0])[:, ::-1], np.array([10.0, 20.0, 30.0]))
SHAPE = (30, 40, 50)


def test_foreground_lies_between_two_landmarks_and_background_beyond():
    prompts = Prompts.between([[(0, 0, 0), (30, 0, 0)], [(0, 10, 0), (0, 20, 0)]])
    assert prompts.foreground_mm == pytest.approx(np.array([(10, 0, 0), (20, 0, 0), (0, 40 / 3, 0), (0, 50 / 3, 0)]))
    x, y = [-9, -4.5, 34.5, 39], [7, 8.5, 21.5, 23]
    assert prompts.background_mm == pytest.approx(np.array([(v, 0, 0) for v in x] + [(0, v, 0) for v in y]))


def test_only_pairs_of_present_landmarks_and_points_in_the_image_count():
    at = {name: present(GEOMETRY.to_mm(index)) for name, index in {"a": (2, 20, 20), "b": (20, 20, 20)}.items()}
    landmarks = {**at, "c": ABSENT}
    prompts = prompts_of(landmarks, [("a", "b"), ("a", "c"), ("b", "unknown")], GEOMETRY, SHAPE)
    assert GEOMETRY.to_index(prompts.foreground_mm) == pytest.approx(np.array([(8, 20, 20), (14, 20, 20)]))
    # at t = -0.3 the point is at z = -3.4, at -0.15 at z = -0.7: both outside
    assert GEOMETRY.to_index(prompts.background_mm) == pytest.approx(np.array([(22.7, 20, 20), (25.4, 20, 20)]))
    assert prompts_of(landmarks, [("a", "c")], GEOMETRY, SHAPE) is None
    assert prompts_of({}, [("a", "b")], GEOMETRY, SHAPE) is None


def test_moved_prompts_are_that_far_away_and_seeded():
    prompts = Prompts.between([[(0, 0, 0), (30, 0, 0)]])
    first, again = (prompts.moved(2.0, np.random.default_rng(3), GEOMETRY, SHAPE) for _ in range(2))
    for name in ("foreground_mm", "background_mm"):
        moved = getattr(first, name)
        assert np.linalg.norm(moved - getattr(prompts, name), axis=1) == pytest.approx(2.0)
        assert np.array_equal(moved, getattr(again, name))
    other = prompts.moved(2.0, np.random.default_rng(4), GEOMETRY, SHAPE)
    assert not np.allclose(first.foreground_mm, other.foreground_mm)


def test_prompts_in_a_2d_image_are_moved_within_it():
    prompts = Prompts.between([[(8, 20, 0), (20, 20, 0)]])
    flat = Geometry(np.fliplr(np.diag([0.5, 0.8, 1.0])), np.zeros(3))
    moved = prompts.moved(2.0, np.random.default_rng(0), flat, (1, 64, 64))
    for name in ("foreground_mm", "background_mm"):
        assert np.linalg.norm(getattr(moved, name) - getattr(prompts, name), axis=1) == pytest.approx(2.0)
        assert flat.to_index(getattr(moved, name))[:, 0] == pytest.approx(0)
        assert len(getattr(moved.in_image(flat, (1, 64, 64)), name)) == len(getattr(prompts, name))


def test_beside_landmarks_on_a_surface_lie_points_inside_and_outside():
    """Six extreme points of a ball of radius 10 mm, and a single landmark, which does not say where inside is."""
    centre, steps = np.array([30.0, 40.0, 60.0]), np.concatenate([np.eye(3), -np.eye(3)])
    prompts = Prompts.beside(centre + 10 * steps, GEOMETRY)
    assert prompts.foreground_mm == pytest.approx(centre + 8.5 * steps)
    assert prompts.background_mm == pytest.approx(centre + 13 * steps)
    half = Prompts.beside(centre + 10 * steps, GEOMETRY, slice(1, None, 2))
    assert half.foreground_mm == pytest.approx(prompts.foreground_mm[1::2])
    assert half.background_mm == pytest.approx(prompts.background_mm[1::2])
    assert len(Prompts.beside(centre[None], GEOMETRY).foreground_mm) == 0
    assert len(Prompts.beside([centre + 10 * steps[0], centre - 10 * steps[0], centre], GEOMETRY).foreground_mm) == 2


def test_in_thick_slices_points_stay_in_the_slice_of_their_landmark():
    thick = Geometry(np.diag([1.0, 1.0, 8.0])[:, ::-1], np.array([10.0, 20.0, 30.0]))
    at = thick.to_mm(np.array([(2.0, 10, 20), (5, 10, 40), (6, 25, 30)]))
    prompts = Prompts.beside(at, thick)
    for points in (prompts.foreground_mm, prompts.background_mm):
        assert thick.to_index(points)[:, 0] == pytest.approx(np.array([2, 5, 6]))
    assert np.linalg.norm(prompts.foreground_mm - at, axis=1) == pytest.approx(1.5)
    assert np.linalg.norm(prompts.background_mm - at, axis=1) == pytest.approx(3.0)


# --- filters ----------------------------------------------------------------------------------------------------------


SPACING = np.array([2.0, 1.0, 1.0])
SPACED = Geometry(np.diag(SPACING[::-1])[:, ::-1], np.array([5.0, -3.0, 8.0]))


def box(z=(5, 15), y=(10, 30), x=(10, 30)):
    mask = np.zeros((20, 40, 40), bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def points(*index):
    return SPACED.to_mm(np.array(index, float).reshape(-1, 3))


PROMPTS = Prompts(points((8, 20, 20), (12, 20, 20)), points((1, 20, 20), (18, 20, 20)))
SURFACE = {"low": points((4.5, 20, 20))[0], "high": points((14.5, 20, 20))[0]}
GOOD = box()


def verdict(mask, other=None, prompts=PROMPTS, surface=SURFACE, labelled=(8000.0, 8000.0), limits=Limits()):  # noqa: B008
    tests = [(mask, np.reshape(list(surface.values()), (-1, 3)))]
    return judge(mask, [GOOD if other is None else other], prompts, SPACED, tests, labelled, limits)


def test_a_good_mask_passes_with_its_measurements():
    found = verdict(GOOD)
    assert found.accepted
    expected = {
        "foreground_inside": 1,
        "background_outside": 1,
        "landmark_mm": 0,
        "largest_component": 1,
        "volume_mm3": 8000,
        "agreement": 1,
    }
    assert found.values == pytest.approx(expected)


def speckled():
    mask = box()
    mask[:, 36:38, 36:38] = True  # 80 of 4080 voxels are not more than 5 %
    mask[:, 0:4, 36:40] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "other", "reason"),
    [
        (np.zeros_like(GOOD), GOOD, "empty"),
        (GOOD ^ box((7, 10), (18, 23), (18, 23)), GOOD, "foreground prompts"),
        (box((1, 15)), box((1, 15)), "background prompts"),
        (box((7, 15)), box((7, 15)), "landmarks"),
        (speckled(), GOOD, "components"),
        (box(y=(17, 24)), box(y=(17, 24)), "volume"),
        (GOOD, box(y=(10, 22)), "agreement"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_filter_refuses(mask, other, reason):
    assert reason in verdict(mask, other).reasons
    assert not verdict(mask, other).accepted


@pytest.mark.parametrize("mm", [1.9, 2.1])
def test_landmarks_are_measured_in_mm(mm):
    """One slice too few on one side: the landmark there is 2 mm from the surface."""
    assert verdict(box((6, 15)), box((6, 15)), limits=Limits(landmark_mm=mm)).accepted == (mm > 2)


@pytest.mark.parametrize(
    ("labelled", "accepted"),
    [
        ((15_900.0, 20_000.0), True),
        ((16_100.0, 20_000.0), False),
        ((1000.0, 4100.0), True),
        ((1000.0, 3900.0), False),
        (None, True),
    ],
)
def test_a_volume_may_be_half_of_the_smallest_or_twice_the_largest(labelled, accepted):
    """The mask has 8000 mm³."""
    assert ("volume" not in verdict(GOOD, labelled=labelled).reasons) == accepted


def test_what_cannot_be_compared_is_no_reason():
    found = verdict(GOOD, prompts=Prompts(PROMPTS.foreground_mm, points()), surface={}, labelled=None)
    assert found.accepted
    assert found.values["landmark_mm"] is None


def test_a_mask_of_the_whole_image_has_no_surface():
    found = verdict(np.ones_like(GOOD))
    assert {"background prompts", "landmarks", "volume", "agreement"} == set(found.reasons)
