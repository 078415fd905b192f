"""Which flips are right for landmarks, from declarations and direction matrices."""

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.landmarks.dataset import Declaration
from nnunet_ext.landmarks.mirroring import Mirroring, allowed_mirror_axes, left_right_axis, unmirror

NAMES = ("left", "middle", "right")
PAIRED = Declaration(NAMES, mirror_pairs=(("left", "right"),))
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
    assert left_right_axis(AXIAL, (0, 1, 2)) == (2, 1)
    assert left_right_axis(matrix(np.diag([-1, -1, 1])), (0, 1, 2)) == (2, -1)
    assert left_right_axis(AXIAL, (2, 0, 1)) == (0, 1)
    assert left_right_axis(SAGITTAL, (0, 1, 2)) == (0, 1)
    assert left_right_axis(turned(44), (0, 1, 2)) == (2, 1)
    assert left_right_axis(turned(46), (0, 1, 2)) == (1, -1)
    assert left_right_axis(turned(45), (0, 1, 2)) is None


def test_without_pairs_nothing_is_flipped():
    found = allowed_mirror_axes(Declaration(NAMES), [AXIAL], (0, 1, 2), ALL)
    assert (found.axes, found.order, found.left_right) == ((), None, None)
    assert "mirror_pairs" in found.why_not


def test_with_pairs_all_axes_stay_and_the_pairs_change_places_on_one_of_them():
    found = allowed_mirror_axes(PAIRED, [AXIAL, turned(10)], (0, 1, 2), ALL)
    assert found == Mirroring(ALL, 2, (2, 1, 0))
    assert allowed_mirror_axes(PAIRED, [AXIAL], (2, 0, 1), ALL).left_right == 0
    assert [found.order_after(axes) for axes in [(), (0, 1), (2,), (0, 2)]] == [None, None, [2, 1, 0], [2, 1, 0]]


def test_in_2d_the_axes_are_those_of_a_slice():
    assert allowed_mirror_axes(PAIRED, [AXIAL], (0, 1, 2), (0, 1), dim=2) == Mirroring((0, 1), 1, (2, 1, 0))
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
    mirroring = Mirroring(tuple(range(dim)), dim - 1, (2, 1, 0))
    heatmaps = torch.randn(2, 3, *range(4, 4 + dim))
    for flipped in chain.from_iterable(combinations(range(dim), n) for n in range(dim + 1)):
        # a network that calls left what is on the left
        seen = heatmaps.flip([axis + 2 for axis in flipped])
        if dim - 1 in flipped:
            seen = seen[:, [2, 1, 0]]
        assert torch.equal(unmirror(seen, flipped, mirroring), heatmaps)
