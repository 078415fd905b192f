"""Which flips are right for landmarks, from declarations and direction matrices."""

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.landmarks.dataset import Declaration
from nnunet_ext.landmarks.mirroring import Mirroring, allowed_mirror_axes, nearest_axis, unmirror, without_unpaired

NAMES = ("left", "middle", "right")
RIGHT_LEFT, ANTERIOR_POSTERIOR = "right-left", "anterior-posterior"
PAIRED = Declaration(NAMES, mirror_pairs={RIGHT_LEFT: (("left", "right"),)})
ALL = (0, 1, 2)


def matrix(direction: np.ndarray, spacing_zyx: tuple[float, ...] = (3.0, 1.0, 2.0)) -> np.ndarray:
    """Matrix of an image whose header has this direction, as SimpleITK gives it."""
    properties = {
        "sitk_stuff": {"origin": (1.0, 2.0, 3.0), "direction": tuple(np.ravel(direction))},
        "spacing": list(spacing_zyx),
    }
    return Geometry.from_properties(properties).matrix


def turned(degrees: float) -> np.ndarray:
    return matrix(Rotation.from_euler("z", degrees, degrees=True).as_matrix())


AXIAL = matrix(np.eye(3))  # the array is (z, y, x), and x leads to the left
SAGITTAL = matrix([[0, 0, 1], [1, 0, 0], [0, 1, 0]])  # its slices go from right to left


def test_the_axis_and_its_side_come_from_the_header_and_the_plans():
    assert nearest_axis(AXIAL, (0, 1, 2), RIGHT_LEFT) == (2, 1)
    assert nearest_axis(matrix(np.diag([-1, -1, 1])), (0, 1, 2), RIGHT_LEFT) == (2, -1)
    assert nearest_axis(AXIAL, (2, 0, 1), RIGHT_LEFT) == (0, 1)
    assert nearest_axis(SAGITTAL, (0, 1, 2), RIGHT_LEFT) == (0, 1)
    assert nearest_axis(turned(44), (0, 1, 2), RIGHT_LEFT) == (2, 1)
    assert nearest_axis(turned(46), (0, 1, 2), RIGHT_LEFT) == (1, -1)
    assert nearest_axis(turned(45), (0, 1, 2), RIGHT_LEFT) is None
    assert nearest_axis(AXIAL, (0, 1, 2), ANTERIOR_POSTERIOR) == (1, 1)
    assert nearest_axis(matrix(np.diag([-1, -1, 1])), (0, 1, 2), ANTERIOR_POSTERIOR) == (1, -1)
    assert nearest_axis(SAGITTAL, (0, 1, 2), ANTERIOR_POSTERIOR) == (2, 1)
    assert nearest_axis(AXIAL, (0, 1, 2), "inferior-superior") == (0, 1)


def test_without_pairs_nothing_is_flipped():
    found = allowed_mirror_axes(Declaration(NAMES), [AXIAL], (0, 1, 2), ALL)
    assert (found.axes, found.orders) == ((), {})
    assert "mirror_pairs" in found.why_not


def test_with_pairs_all_axes_stay_and_the_pairs_change_places_on_one_of_them():
    found = allowed_mirror_axes(PAIRED, [AXIAL, turned(10)], (0, 1, 2), ALL)
    assert found == Mirroring(ALL, {2: (2, 1, 0)})
    assert list(allowed_mirror_axes(PAIRED, [AXIAL], (2, 0, 1), ALL).orders) == [0]
    assert [found.order_after(axes) for axes in [(), (0, 1), (2,), (0, 2)]] == [None, None, [2, 1, 0], [2, 1, 0]]


def test_in_2d_the_axes_are_those_of_a_slice():
    assert allowed_mirror_axes(PAIRED, [AXIAL], (0, 1, 2), (0, 1), dim=2) == Mirroring((0, 1), {1: (2, 1, 0)})
    # no flip of a sagittal slice changes sides
    found = allowed_mirror_axes(PAIRED, [SAGITTAL], (0, 1, 2), (0, 1), dim=2)
    assert found.axes == (0, 1)
    assert found.order_after((0, 1)) is None


@pytest.mark.parametrize(
    ("matrices", "state"),
    [
        ([AXIAL, SAGITTAL], "not the same"),
        ([AXIAL, matrix(np.diag([-1, 1, 1]))], "not the same"),
        ([AXIAL, turned(45)], "between two axes"),
    ],
)
def test_where_sides_are_ambiguous_nothing_is_flipped(matrices, state):
    found = allowed_mirror_axes(PAIRED, matrices, (0, 1, 2), ALL)
    assert found.axes == ()
    assert state in found.why_not


def test_pairs_on_organs_that_have_sides_are_not_flipped():
    sided = Declaration(NAMES, {"left": ("left kidney",), "right": ("right kidney",)}, PAIRED.mirror_pairs)
    same = Declaration(NAMES, {"left": ("liver", "skin"), "right": ("skin", "liver")}, PAIRED.mirror_pairs)
    found = allowed_mirror_axes(sided, [AXIAL], (0, 1, 2), ALL)
    assert found.axes == ()
    assert "left and right change places" in found.why_not
    assert allowed_mirror_axes(same, [AXIAL], (0, 1, 2), ALL).axes == ALL


@pytest.mark.parametrize("dim", [2, 3])
def test_unmirrored_heatmaps_of_a_flipped_image_are_those_of_the_image(dim):
    mirroring = Mirroring(tuple(range(dim)), {dim - 1: (2, 1, 0)})
    heatmaps = torch.randn(2, 3, *range(4, 4 + dim))
    for flipped in chain.from_iterable(combinations(range(dim), n) for n in range(dim + 1)):
        # a network that calls left what is on the left
        seen = heatmaps.flip([axis + 2 for axis in flipped])
        if dim - 1 in flipped:
            seen = seen[:, [2, 1, 0]]
        assert torch.equal(unmirror(seen, flipped, mirroring), heatmaps)


def test_extreme_points_change_places_along_their_own_axis():
    names = ("right", "left", "anterior", "posterior", "top")
    pairs = {RIGHT_LEFT: (("right", "left"),), ANTERIOR_POSTERIOR: (("anterior", "posterior"),)}
    found = allowed_mirror_axes(Declaration(names, mirror_pairs=pairs), [AXIAL], (0, 1, 2), (0, 1), dim=2)
    assert found == Mirroring((0, 1), {1: (1, 0, 2, 3, 4), 0: (0, 1, 3, 2, 4)})
    assert found.order_after((0, 1)) == [1, 0, 3, 2, 4]
    both = {RIGHT_LEFT: (("right", "left"),), "inferior-superior": (("anterior", "top"),)}
    assert 0 not in allowed_mirror_axes(Declaration(names, mirror_pairs=both), [AXIAL], (0, 1, 2), (0, 1), 2).orders


def test_a_corner_has_a_partner_along_each_axis():
    corners = Mirroring((0, 1), {0: (2, 3, 0, 1), 1: (1, 0, 3, 2)})  # of a square, row by row
    assert corners.order_after((0, 1)) == [3, 2, 1, 0]
    heatmaps = torch.randn(1, 4, 5, 6)
    assert torch.equal(unmirror(heatmaps.flip([2, 3])[:, [3, 2, 1, 0]], (0, 1), corners), heatmaps)


def test_one_direction_that_differs_turns_all_flips_off():
    pairs = {RIGHT_LEFT: (("left", "right"),), ANTERIOR_POSTERIOR: (("middle", "left"),)}
    found = allowed_mirror_axes(Declaration(NAMES, mirror_pairs=pairs), [AXIAL, matrix(np.diag([1, -1, 1]))], ALL, ALL)
    assert found.axes == ()
    assert "anterior-posterior is not the same" in found.why_not


def test_ends_of_an_organ_without_a_pair_are_not_exchanged_by_a_flip():
    names = ("right", "left", "top", "bottom")
    spans = {"heart": (("right", "left"), ("top", "bottom"))}
    declared = Declaration(names, mirror_pairs={RIGHT_LEFT: (("right", "left"),)}, spans=spans)
    allowed = allowed_mirror_axes(declared, [AXIAL], (0, 1, 2), ALL)
    assert allowed.axes == ALL
    points = np.array([[5, 5, 0], [5, 6, 9], [9, 5, 5], [1, 6, 5]], float)
    unseen = np.where(np.arange(4)[:, None] == 2, np.nan, points[:, ::-1])  # no top: the pair says nothing here
    found = without_unpaired(allowed, declared, [points, points, unseen])
    assert found.axes == (1, 2)
    assert found.orders == allowed.orders
    assert "top and bottom" in found.why_not
    # of one slice the first axis is not flipped anyway
    flat = allowed_mirror_axes(declared, [AXIAL], (0, 1, 2), (0, 1), dim=2)
    assert without_unpaired(flat, declared, [points], dim=2) == flat
    pairs = {**declared.mirror_pairs, "inferior-superior": (("top", "bottom"),)}
    both = Declaration(names, mirror_pairs=pairs, spans=spans)
    allowed = allowed_mirror_axes(both, [AXIAL], (0, 1, 2), ALL)
    assert without_unpaired(allowed, both, [points]) == allowed
    assert without_unpaired(allowed, declared, []) == allowed
