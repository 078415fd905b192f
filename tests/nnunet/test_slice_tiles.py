"""Tiles of a slice: they cover it, and add up to it."""

import pytest
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

from nnunet_ext.nnunet.slice_tiles import SliceTiles


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (10, 40), (33, 7)])
def test_tiles_add_up_to_the_weighted_mean_of_what_is_known_of_each_pixel(size, gaussian):
    tiles = SliceTiles.of(size, (16, 16), 0.5, gaussian)
    generator = torch.Generator().manual_seed(0)
    parts = [[torch.randn(3, 16, 16, generator=generator) for _ in range(2)] for _ in tiles.places]
    weight = compute_gaussian((16, 16), 1.0 / 8, 10, torch.float32, torch.device("cpu")).double()
    total, weights = torch.zeros(3, *tiles.size, dtype=torch.float64), torch.zeros(*tiles.size, dtype=torch.float64)
    for (rows, columns), (one, other) in zip(tiles.places, parts, strict=True):
        for y, row in enumerate(range(rows.start, rows.stop)):
            for x, column in enumerate(range(columns.start, columns.stop)):
                w = weight[y, x] if gaussian else 1.0
                total[:, row, column] += w * (one[:, y, x].double() + other[:, y, x])
                weights[row, column] += w
    expected = (total / weights)[(slice(None), *tiles.inside)]
    found = tiles.blended(iter(part) for part in parts)
    assert found.shape == (3, *size)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_padding_is_zero_around_the_slice_and_nothing_is_copied_without():
    x = torch.rand(2, 5, 10, 40) + 1
    tiles = SliceTiles.of((10, 40), (16, 16), 0.5)
    padded = tiles.padded(x)
    assert padded.shape == (2, 5, 16, 40)
    assert torch.equal(padded[(..., *tiles.inside)], x)
    assert padded.count_nonzero() == x.numel()
    whole = torch.rand(1, 16, 16)
    assert SliceTiles.of((16, 16), (16, 16), 0.5).padded(whole) is whole
