"""Hidden parts of slices: where they may be, and that labels, single slices and validation stay whole."""

import pytest
import torch

from nnunet_ext.s2vnet.hidden_parts import SIDES, with_hidden_parts
from nnunet_ext.s2vnet.network import slices_with_image


def clips(batch=4, length=6, channels=2, size=(20, 30)):
    return 1 + torch.rand(batch, channels, length, *size)


def changed(before, after):
    """Which slices changed, ``(B, T)``."""
    return (before != after).any(dim=1).flatten(2).any(2)


def test_no_first_slice_and_no_two_in_a_row():
    torch.manual_seed(0)
    image = clips(batch=200)
    where = changed(image, with_hidden_parts(image, 0.5))
    assert not where[:, 0].any()
    assert not (where[:, 1:] & where[:, :-1]).any()
    assert 0.4 < where[:, 1].float().mean() < 0.6


@pytest.mark.parametrize(("share", "expected"), [(0.0, [False] * 6), (1.0, [False, True] * 3)])
def test_never_and_as_often_as_possible(share, expected):
    image = clips()
    assert changed(image, with_hidden_parts(image, share)).tolist() == [expected] * 4


def test_the_first_slice_after_padding_stays_whole_and_padding_too():
    image = clips(batch=2)
    image[0, :, :2] = image[1, :, 3:] = 0
    found = with_hidden_parts(image, 1.0)
    assert changed(image, found).tolist() == [[False] * 3 + [True, False, True], [False, True] + [False] * 4]
    assert torch.equal(slices_with_image(found), slices_with_image(image))


def test_a_slice_of_which_the_box_covers_all_is_no_padding():
    torch.manual_seed(0)
    image = torch.zeros(200, 1, 2, 20, 30)
    image[:, :, 0] = 1
    image[:, :, 1, 9:11, 14:16] = 1
    assert slices_with_image(with_hidden_parts(image, 1.0)).all()


def test_a_part_is_one_box_in_all_channels_with_the_mean():
    torch.manual_seed(0)
    image = clips(batch=100, length=2)
    kept = image.clone()
    found = with_hidden_parts(image, 1.0)
    assert torch.equal(image, kept)
    for before, after in zip(image[:, :, 1], found[:, :, 1], strict=True):
        hidden = (after != before).all(0)
        assert torch.allclose(after[:, hidden], before.mean((1, 2))[:, None])
        assert torch.equal(before[:, ~hidden], after[:, ~hidden])
        for axis, length in enumerate(hidden.shape):
            places = hidden.any(1 - axis).nonzero()[:, 0]
            assert places[-1] - places[0] + 1 == len(places)
            assert SIDES[0] * length - 1 <= len(places) <= SIDES[1] * length + 1
        assert hidden.sum() == hidden.any(0).sum() * hidden.any(1).sum()


def test_slices_that_do_not_know_each_other_stay_whole():
    image = clips(batch=3)
    single = torch.tensor([True, False, True])
    assert changed(image, with_hidden_parts(image, 1.0, single)).any(1).tolist() == [False, True, False]
