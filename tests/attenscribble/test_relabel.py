"""The relabel test against a loop over all voxels, and the default windows on structures of known shape."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.attenscribble import relabel
from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss, Window, disagreement, scaled_intensities
from nnunet_ext.attenscribble.crf_window import crf_loss
from nnunet_ext.attenscribble.options import AttenScribbleOptions
from nnunet_ext.attenscribble.relabel import preferred, relabelled
from tests.attenscribble.thin import structures

LIMIT = 0.1


def sample(shape, heads=3, batch=2, seed=0, exclusive=True):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, 2, *shape, generator=generator)
    if not exclusive:
        return torch.rand(batch, heads, *shape, generator=generator) < 0.4, image
    labels = torch.randint(0, heads + 1, (batch, 1, *shape), generator=generator)  # the last: no class at all
    return labels == torch.arange(heads).view(1, -1, *[1] * len(shape)), image


def brute_force(truth, image, radius, sigma, intensity_sigma, exclusive):
    """Every voxel asks every other one, as the docstring of the module says it."""
    shape, features = truth.shape[2:], scaled_intensities(image, intensity_sigma).double().numpy()
    truth = truth.numpy()
    wanted = truth.copy()
    for b in range(len(truth)):
        for i in np.ndindex(shape):
            votes, total = np.zeros(truth.shape[1]), 0.0
            for o in itertools.product(*(range(-r, r + 1) for r in radius)):
                j = tuple(x + y for x, y in zip(i, o, strict=True))
                if not any(o) or not all(0 <= x < n for x, n in zip(j, shape, strict=True)):
                    continue
                squares = ((features[(b, slice(None), *i)] - features[(b, slice(None), *j)]) ** 2).sum()
                kernel = math.exp(-sum(x**2 for x in o) / (2 * sigma**2) - squares)
                votes += kernel * truth[(b, slice(None), *j)]
                total += kernel
            own = truth[(b, slice(None), *i)]
            if not exclusive:
                wanted[(b, slice(None), *i)] = votes > total / 2
            elif not own.any() or votes[own][0] < votes.max():
                wanted[(b, slice(None), *i)] = np.arange(len(votes)) == votes.argmax()
    return wanted


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize(("shape", "radius"), [((6, 7), (2, 2)), ((4, 5, 4), (1, 2, 1)), ((3, 6, 5), (0, 2, 2))])
def test_equals_a_loop_over_all_voxels(shape, radius, exclusive):
    truth, image = sample(shape, exclusive=exclusive)
    loss = MaskedCRFLoss(Window.gaussian(radius, 1.5), exclusive=exclusive, intensity_sigma=0.3)
    expected = brute_force(truth, image, radius, 1.5, 0.3, exclusive)
    assert expected.tolist() != truth.numpy().tolist()
    assert preferred(loss, truth, image).numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("downsample", [1, 2])
@pytest.mark.parametrize("shape", [(9, 10), (11, 6, 7)])
def test_in_slabs_it_is_the_same(shape, downsample, monkeypatch):
    truth, image = sample(shape)
    loss = MaskedCRFLoss(Window.gaussian((2,) * len(shape), 2.0), downsample=[downsample] * len(shape))
    whole = preferred(loss, truth, image)
    monkeypatch.setattr(relabel, "VALUES", 1)
    assert torch.equal(preferred(loss, truth, image), whole)


@pytest.mark.parametrize("exclusive", [True, False])
def test_it_is_the_direction_in_which_the_loss_pulls(exclusive):
    """The preferred label has the smallest loss of all that a voxel can get."""
    truth, image = sample((5, 6), batch=1, exclusive=exclusive)
    window = Window.gaussian((2, 2), 1.5)
    features, everywhere = scaled_intensities(image, 0.3), torch.ones_like(image[:, :1])
    wanted = preferred(MaskedCRFLoss(window, exclusive=exclusive, intensity_sigma=0.3), truth, image)
    for y, x in itertools.product(range(5), range(6)):
        values = {}
        for chosen in itertools.product([0.0, 1.0], repeat=3):
            if not exclusive or sum(chosen) == 1:
                p = truth.float()
                p[0, :, y, x] = torch.tensor(chosen)
                values[chosen] = disagreement(p, features, everywhere, window, exclusive).item()
        assert values[tuple(wanted[0, :, y, x].float().tolist())] == pytest.approx(min(values.values()), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(6, 7), (4, 5, 3)]))
def test_flips_and_the_order_of_classes_change_nothing(seed, shape):
    truth, image = sample(shape, seed=seed)
    loss = MaskedCRFLoss(Window.gaussian((1,) * len(shape), 2.0))
    expected = relabelled(loss, truth, image)
    assert torch.equal(relabelled(loss, truth.flip(2), image.flip(2)), expected)
    assert torch.equal(relabelled(loss, truth[:, [2, 0, 1]], image), expected[[2, 0, 1]])


def test_a_half_of_the_image_keeps_its_label_and_a_single_voxel_that_looks_like_the_rest_does_not():
    labels = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    labels[:, 1, :, 4:] = True
    labels[:, 1, 4, 1] = True
    labels[:, 0] = ~labels[:, 1]
    loss = MaskedCRFLoss(Window.gaussian((1, 1), 1.0), intensity_sigma=0.05)
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1
    assert relabelled(loss, labels, image).tolist() == [0, pytest.approx(1 / 33)]
    image[..., 4, 1] = 1
    assert relabelled(loss, labels, image).tolist() == [0, 0]  # nothing near looks like it: a tie


def test_a_class_without_voxels_has_no_share():
    truth, image = sample((6, 6))
    truth[:, 1] = False
    assert relabelled(MaskedCRFLoss(Window.gaussian((1, 1), 1.0)), truth, image).isnan().tolist() == [
        False,
        True,
        False,
    ]


# --- the defaults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
def test_the_default_windows_keep_thin_structures(dim):
    for name, truth, image in structures(dim):
        shares = relabelled(crf_loss([1.0] * dim, AttenScribbleOptions()), truth, image)
        assert shares.max() < LIMIT, (name, shares)


def test_the_published_window_takes_thin_structures_in_volumes_apart():
    shares = {
        name: relabelled(crf_loss([1.0] * 3, AttenScribbleOptions.as_published()), truth, image)[1].item()
        for name, truth, image in structures(3)
    }
    assert min(shares.values()) > LIMIT, shares
