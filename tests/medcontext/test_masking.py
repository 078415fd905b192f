"""Tube masks: how many columns, which voxels, what becomes of them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.errors import InputError
from nnunet_ext.medcontext.masking import Tubes, apply_mask, default_block

PATCHES = [(8, 16, 16), (16, 16), (3, 10, 13), (9, 21)]


def columns_by_hand(mask, block):
    """The hidden columns of one sample, found voxel by voxel; asserts that each is hidden as a whole."""
    flat = mask if mask.ndim == 2 else mask[0]
    if mask.ndim == 3:
        for plane in mask:
            assert torch.equal(plane, flat)
    states = {}
    for y, x in itertools.product(*map(range, flat.shape)):
        assert states.setdefault((y // block, x // block), bool(flat[y, x])) == flat[y, x]
    return {column for column, hidden in states.items() if hidden}, len(states)


@settings(max_examples=60, deadline=None)
@given(
    patch=st.lists(st.integers(1, 14), min_size=2, max_size=3),
    block=st.integers(1, 6),
    ratio=st.floats(0, 0.99),
    batch=st.integers(1, 3),
    seed=st.integers(0, 10),
)
def test_exactly_the_asked_number_of_columns_is_hidden_in_every_slice(patch, block, ratio, batch, seed):
    count = -(-patch[-1] // block) * -(-patch[-2] // block)
    asked = int(ratio * count + 1e-9)
    if ratio > 0 and asked == 0:
        with pytest.raises(InputError, match="hide more, or smaller blocks"):
            Tubes(patch, ratio, block)
        return
    tubes = Tubes(patch, ratio, block)
    masks = tubes.draw(batch, generator=torch.Generator().manual_seed(seed))
    assert masks.shape == (batch, 1, *patch)
    assert masks.dtype == torch.bool
    for mask in masks[:, 0]:
        hidden, there = columns_by_hand(mask, block)
        assert there == tubes.columns == count
        assert len(hidden) == tubes.hidden == asked


def test_rounding_of_the_ratio_hides_no_column_less():
    assert [Tubes((10, 10), ratio, 1).hidden for ratio in (0.29, 0.57, 0.4)] == [29, 57, 40]


@pytest.mark.parametrize("patch", PATCHES)
def test_samples_have_masks_of_their_own_unless_one_is_asked_for(patch):
    tubes = Tubes(patch, 0.5, 3)
    own = tubes.draw(2, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(own[0], own[1])
    one = tubes.draw(2, generator=torch.Generator().manual_seed(0), per_sample=False)
    assert torch.equal(one[0], one[1])


def test_a_generator_determines_the_masks():
    tubes = Tubes((8, 16, 16), 0.4)
    first, again, other = (tubes.draw(2, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_column_is_hidden_equally_often():
    tubes = Tubes((12, 16), 0.4, 4)
    often = tubes.draw(6000, generator=torch.Generator().manual_seed(0)).float().mean(0)[0, ::4, ::4]
    torch.testing.assert_close(often, torch.full((3, 4), 4 / 12), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("in_plane", "block"),
    [((128, 128), 16), ((56, 64), 8), ((256, 256), 32), ((512, 512), 32), ((96, 160), 16), ((80, 80), 8), ((8, 8), 4)],
)
def test_a_block_is_about_an_eighth_of_the_shorter_side(in_plane, block):
    assert default_block(in_plane) == Tubes((20, *in_plane), 0.5).block == block


def test_the_published_numbers_of_columns():
    assert (Tubes((64, 128, 128), 0.4, 4).hidden, Tubes((64, 128, 128), 0.4, 4).columns) == (409, 1024)
    assert (Tubes((96, 96, 96), 0.6, 16).hidden, Tubes((96, 96, 96), 0.6, 16).columns) == (21, 36)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2.0])
def test_a_share_out_of_range_gets_one_sentence(ratio):
    with pytest.raises(InputError, match="share of the columns of a patch from 0 to below 1, but got"):
        Tubes((16, 16), ratio)


def test_the_log_says_what_is_hidden():
    assert str(Tubes((20, 128, 96), 0.4)) == "19 of 48 columns of 16×16 voxels are hidden in a patch of 20×128×96"


@pytest.mark.parametrize("fill", ["zero", "noise", "mean"])
@pytest.mark.parametrize("patch", PATCHES)
def test_hidden_voxels_are_filled_in_all_channels_and_the_others_stay(patch, fill):
    torch.manual_seed(0)
    data = 2 + 3 * torch.randn(2, 2, *patch)
    before, hidden = data.clone(), Tubes(patch, 0.5, 3).draw(2)
    masked = apply_mask(data, hidden, fill)
    assert torch.equal(data, before)
    for sample, channel in itertools.product(range(2), range(2)):
        inside = hidden[sample, 0]
        got, image = masked[sample, channel], data[sample, channel]
        assert torch.equal(got[~inside], image[~inside])
        if fill == "zero":
            assert not got[inside].any()
        elif fill == "mean":
            torch.testing.assert_close(got[inside], image.mean().expand_as(got[inside]))
        else:
            assert got[inside].unique().numel() == inside.sum()
            torch.testing.assert_close(got[inside].mean(), image.mean(), atol=1.5, rtol=0)
            torch.testing.assert_close(got[inside].std(), image.std(), atol=1.2, rtol=0)


@pytest.mark.parametrize("fill", ["zero", "noise", "mean"])
def test_the_previous_stage_of_a_cascade_is_hidden_too(fill):
    data = torch.ones(2, 3, 4, 8, 8)
    hidden = Tubes((4, 8, 8), 0.5, 4).draw(2)
    masked = apply_mask(data, hidden, fill, image_channels=1)
    assert torch.equal(masked[:, 1:], (~hidden).float().expand(2, 2, 4, 8, 8))
    torch.testing.assert_close(masked[:, :1], apply_mask(data[:, :1], hidden, "zero" if fill == "zero" else "mean"))


def test_a_mask_that_hides_nothing_changes_nothing():
    data = torch.randn(2, 1, 4, 8, 8)
    for fill in ("zero", "noise", "mean"):
        assert torch.equal(apply_mask(data, Tubes((4, 8, 8), 0.0).draw(2), fill), data)
