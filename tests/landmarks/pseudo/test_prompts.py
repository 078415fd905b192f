"""Prompts between and beyond pairs of landmarks."""

import numpy as np
import pytest

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.landmarks.points import ABSENT, present
from nnunet_ext.landmarks.pseudo.prompts import Prompts, prompts_of

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
    first, again = (prompts.moved(2.0, np.random.default_rng(3)) for _ in range(2))
    for name in ("foreground_mm", "background_mm"):
        moved = getattr(first, name)
        assert np.linalg.norm(moved - getattr(prompts, name), axis=1) == pytest.approx(2.0)
        assert np.array_equal(moved, getattr(again, name))
    other = prompts.moved(2.0, np.random.default_rng(4))
    assert not np.allclose(first.foreground_mm, other.foreground_mm)
