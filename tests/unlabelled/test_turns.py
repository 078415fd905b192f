"""Quarter turns and flips: exact, of image and labels alike, and no others than allowed."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.unlabelled.turns import Turn, draw_turn, turned


def by_hand(patch, quarters, flipped):
    """Voxel by voxel: where each value of the result was."""
    sizes = patch.shape[1:]
    height, width = sizes[-2:]
    result = torch.empty_like(patch)
    for place in itertools.product(*map(range, sizes)):
        source = [
            size - 1 - i if axis in flipped else i for axis, (i, size) in enumerate(zip(place, sizes, strict=True))
        ]
        for _ in range(quarters):  # back by one quarter: row i of the turned patch is column n-1-i of the patch
            *others, i, j = source
            source = [*others, j, width - 1 - i]
        result[(slice(None), *place)] = patch[(slice(None), *source)]
    assert height == width or not quarters
    return result


@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 3, 4, 4), (1, 2, 3, 5)])
@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("flipped", [(), (0,), (1,), (0, 1)])
def test_values_go_where_they_should(shape, quarters, flipped):
    if shape[-1] != shape[-2]:
        quarters = 0
    patch = torch.arange(torch.Size(shape).numel()).reshape(shape)
    assert torch.equal(Turn(quarters, flipped)(patch), by_hand(patch, quarters, flipped))


def test_one_quarter_by_hand():
    patch = torch.tensor([[[1, 2], [3, 4]]])
    assert Turn(1, ())(patch).tolist() == [[[2, 4], [1, 3]]]
    assert Turn(0, (1,))(patch).tolist() == [[[2, 1], [4, 3]]]


@given(st.integers(0, 10_000), st.sampled_from([(4, 4), (3, 4, 4), (4, 4, 5)]))
def test_image_and_labels_turn_alike_and_nothing_is_lost(seed, size):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((2, 1, *size), generator=generator)
    labels = (image * 3).long()
    turns = [draw_turn(size, range(len(size)), generator) for _ in range(2)]
    moved = turned(image, turns)
    assert torch.equal((moved * 3).long(), turned(labels, turns))
    assert torch.equal(moved.flatten(1).sort(1).values, image.flatten(1).sort(1).values)
    assert moved.shape == image.shape


def test_only_square_planes_are_turned_and_only_mirror_axes_flipped():
    square = {draw_turn((3, 4, 4), (0, 2)) for _ in range(300)}
    assert {turn.quarters for turn in square} == {0, 1, 2, 3}
    assert {turn.flipped for turn in square} == {(), (0,), (2,), (0, 2)}
    assert {draw_turn((4, 5), ()) for _ in range(50)} == {Turn(0, ())}
