"""Landmarks by a rule: where they lie, that storage does not matter, and where nothing is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, label

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.rules import DIRECTIONS, Rule, array_axes, thick_axis
from nnunet_ext.landmarks.surface import OrganSurface

ALL = [name for axis in DIRECTIONS for name in axis]
IN_PLANE = ALL[:4]
TOWARDS = {
    name: (axis, side) for axis, names in enumerate(DIRECTIONS) for name, side in zip(names, (-1, 1), strict=True)
}


def geometry(spacing=(1.0, 1.0, 1.0)) -> Geometry:
    """Axes z, y, x of an array along z, y, x of the patient."""
    return Geometry(np.diag(spacing)[::-1], np.zeros(3))


def extreme(mask, spacing=(1.0, 1.0, 1.0), across=None, directions=ALL, labelled=None):
    found = Rule.of("extreme-points", ["o"], directions, across).points({"o": mask}, geometry(spacing), labelled)
    return {name.removeprefix("o_"): place for name, place in found.items()}


def interface(one, other, across=None, directions=ALL):
    found = Rule.of("interface", ["a", "b"], directions, across).points({"a": one, "b": other}, geometry())
    return {name.removeprefix("a-b_"): place for name, place in found.items()}


def ball(radius, shape=(21, 23, 25), centre=(10, 11, 12), spacing=(1.0, 1.0, 1.0)):
    offsets = (np.indices(shape).T - centre) * spacing
    return (np.linalg.norm(offsets, axis=-1) <= radius).T


# --- extreme points ---------------------------------------------------------------------------------------------------


def test_the_extreme_points_of_a_ball_are_on_its_outermost_faces():
    found = extreme(ball(6))
    expected = {
        "right": (10, 11, 5.5), "left": (10, 11, 18.5), "anterior": (10, 4.5, 12), "posterior": (10, 17.5, 12),
        "inferior": (3.5, 11, 12), "superior": (16.5, 11, 12),
    }  # fmt: skip
    assert {name: tuple(place) for name, place in found.items()} == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(1.0, 1.0, 1.0), (2.0, 1.0, 1.5), (0.5, 0.8, 0.8)]))
def test_an_extreme_point_is_on_the_surface_and_nothing_of_the_organ_is_farther_out(seed, spacing):
    mask = np.pad(gaussian_filter(np.random.default_rng(seed).normal(size=(10, 12, 14)), 1.5) > 0.05, 1)
    parts, number = label(mask)
    if not number:
        return
    largest = parts == 1 + np.argmax(np.bincount(parts.flat)[1:])
    surface = OrganSurface.find(largest, spacing)
    for name, place in extreme(mask, spacing).items():
        axis, side = TOWARDS[name]
        axis = 2 - axis  # of the array
        assert side * place[axis] == (side * np.argwhere(largest)[:, axis]).max() + 0.5
        assert surface.signed_distances_mm(place) == pytest.approx(0, abs=1e-9)


def test_the_middle_of_a_flat_end_is_between_voxels_and_that_of_two_tips_is_one_of_them():
    mask = np.zeros((5, 12, 12), bool)
    mask[2, 2:6, 2:6] = True
    assert tuple(extreme(mask)["left"]) == (2, 3.5, 5.5)
    mask[2, 3:5, 5] = False  # rows 2 and 5 reach farther than those between them
    assert tuple(extreme(mask)["left"]) == (2, 2, 5.5)


def test_only_the_largest_component_counts():
    mask = ball(4)
    alone = extreme(mask)
    mask[10, 11, 22] = True
    assert {n: tuple(p) for n, p in extreme(mask).items()} == {n: tuple(p) for n, p in alone.items()}


def test_in_thick_slices_a_point_is_in_one_slice_also_the_first_and_last():
    mask = np.zeros((6, 12, 12), bool)
    mask[1:5, 3:9, 3:9] = True
    mask[1, 3:9, 8] = False
    found = extreme(mask, (8.0, 1.0, 1.0), across=2)
    assert tuple(found["left"]) == (3, 5.5, 8.5)  # of slices 2, 3 and 4
    mask[2, 3:9, 8] = False
    assert tuple(extreme(mask, (8.0, 1.0, 1.0), across=2)["left"]) in {(3, 5.5, 8.5), (4, 5.5, 8.5)}
    assert tuple(found["inferior"]) == (1, 5.5, 5.0)
    assert tuple(found["superior"]) == (4, 5.5, 5.5)
    assert "superior" not in extreme(mask, (8.0, 1.0, 1.0), across=2, directions=IN_PLANE)


def test_an_organ_that_may_go_on_has_no_known_end_and_one_that_is_not_there_no_points():
    mask = ball(6, centre=(10, 11, 6))
    found = extreme(mask)  # x from 0 on
    assert np.isnan(found.pop("right")).all()
    assert all(np.isfinite(place).all() for place in found.values())
    labelled = np.ones(mask.shape, bool)
    labelled[17:] = False
    found = extreme(ball(6), labelled=labelled)
    assert np.isnan(found["superior"]).all()
    assert np.isfinite(found["inferior"]).all()
    assert set(extreme(np.zeros_like(mask)).values()) == {None}


# --- interfaces -------------------------------------------------------------------------------------------------------


def test_extreme_points_of_where_two_organs_touch():
    one, other = np.zeros((2, 12, 14, 16), bool)
    one[3:8, 4:10, 2:8] = True
    other[4:11, 6:13, 8:14] = True
    found = interface(one, other)  # faces at x = 7.5, z from 4 to 7, y from 6 to 9
    assert tuple(found["superior"]) == (7, 7.5, 7.5)
    assert tuple(found["inferior"]) == (4, 7.5, 7.5)
    assert tuple(found["anterior"]) == (5.5, 6, 7.5)
    assert tuple(found["posterior"]) == (5.5, 9, 7.5)
    assert tuple(found["left"]) == tuple(found["right"]) == (5.5, 7.5, 7.5)


def test_an_interface_of_thick_slices_is_within_slices():
    one, other = np.zeros((2, 6, 12, 12), bool)
    one[1:3, 2:6, 2:6] = True
    other[1:3, 2:6, 6:9] = True
    other[3, 2:6, 2:6] = True  # touches only across slices
    found = interface(one, other, across=2, directions=IN_PLANE)
    assert {place[0] for place in found.values()} == {1}
    assert tuple(found["left"]) == (1, 3.5, 5.5)


def test_organs_that_do_not_touch_have_no_interface():
    one, other = ball(3, centre=(10, 11, 5)), ball(3, centre=(10, 11, 15))
    assert set(interface(one, other).values()) == {None}


# --- storage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_axes_in_another_order_and_sense_are_the_same_landmarks(order, flips):
    mask = ball(5, spacing=(1.5, 1.0, 0.8))
    mask[10, 11, 18:22] = True
    plain = geometry((1.5, 1.0, 0.8))
    rule = Rule.of("extreme-points", ["o"], ALL, None)
    expected = {name: plain.to_mm(place) for name, place in rule.points({"o": mask}, plain).items()}
    matrix, origin = plain.matrix.copy(), plain.origin_mm.copy()
    for axis in flips:
        origin = origin + matrix[:, axis] * (mask.shape[axis] - 1)
        matrix[:, axis] *= -1
    stored = Geometry(matrix[:, list(order)], origin)
    turned = np.flip(mask, flips).transpose(order)
    for name, place in rule.points({"o": turned}, stored).items():
        assert stored.to_mm(place) == pytest.approx(expected[name])


def test_axes_of_a_tilted_image_are_called_after_the_nearest_direction():
    angle = np.deg2rad(35)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    assert array_axes(Geometry(turn @ np.diag([1, 1, 1])[:, ::-1], np.zeros(3))) == [(2, 1), (1, 1), (0, 1)]
    assert array_axes(Geometry(np.diag([-1.0, 1, 1])[:, ::-1], np.zeros(3))) == [(2, -1), (1, 1), (0, 1)]


@pytest.mark.parametrize(
    ("spacing", "flat", "expected"),
    [
        ((1, 1, 1), False, None),
        ((3, 1, 1), False, None),
        ((3.1, 1, 1), False, 2),
        ((1, 1, 4), False, 0),
        ((1, 1, 1), True, 2),
    ],
)
def test_the_axis_across_thick_slices(spacing, flat, expected):
    assert thick_axis(geometry(spacing), flat=flat) == expected


# --- what a rule declares ---------------------------------------------------------------------------------------------


def test_names_surfaces_and_spans():
    rule = Rule.of("extreme-points", ["RV", "LV"], ["right", "left"], 2)
    assert rule.surface_of == {"RV_right": ["RV"], "RV_left": ["RV"], "LV_right": ["LV"], "LV_left": ["LV"]}
    assert rule.spans == {"RV": [("RV_right", "RV_left")], "LV": [("LV_right", "LV_left")]}
    between = Rule.of("interface", ["a", "b", "c"], ["left"], None)
    assert between.surface_of == {"a-b_left": ["a", "b"], "a-c_left": ["a", "c"], "b-c_left": ["b", "c"]}
    assert between.spans == {}


def test_rules_that_make_no_sense():
    with pytest.raises(InputError, match="--rule is 'corner', but must be one of extreme-points, interface"):
        Rule.of("corner", ["a"], ALL, None)
    with pytest.raises(InputError, match="between two labels; name at least two"):
        Rule.of("interface", ["a"], ALL, None)
