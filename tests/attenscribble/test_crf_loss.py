"""The masked CRF loss against a sum over all pairs of voxels in float64, and its invariances."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss, Window, disagreement, scaled_intensities
from nnunet_ext.errors import InputError

CASES = [
    ((5, 6), (2, 2), None),
    ((3, 5, 4), (1, 2, 2), (3.0, 1.0, 1.0)),
    ((4, 4, 3), (2, 1, 2), None),
    ((4, 5), (3, 0), None),
]


def brute_force(p, image, unlabelled, radius, sigma, spacing, intensity_sigma, exclusive):
    """Every pair of voxels, as the docstring of the module says it."""
    shape = p.shape[2:]
    units = np.asarray(spacing or [1.0] * len(shape)) / min(spacing or [1.0])
    inside = lambda o: all(abs(s) <= r for s, r in zip(o, radius, strict=True)) and any(o)  # noqa: E731
    weight = lambda o: math.exp(-sum((s * u) ** 2 for s, u in zip(o, units, strict=True)) / (2 * sigma**2))  # noqa: E731
    mass = sum(weight(o) for o in itertools.product(*(range(-r, r + 1) for r in radius)) if any(o))
    total = 0.0
    for b in range(p.shape[0]):
        ranges = [np.percentile(channel, 99) - np.percentile(channel, 1) for channel in image[b]]
        for i in np.ndindex(shape):
            if not unlabelled[(b, 0, *i)]:
                continue
            for j in np.ndindex(shape):
                offset = tuple(x - y for x, y in zip(j, i, strict=True))
                if not inside(offset):
                    continue
                squares = [
                    (image[(b, c, *i)] - image[(b, c, *j)]) ** 2 / (2 * max(intensity_sigma * ranges[c], 1e-3) ** 2)
                    for c in range(image.shape[1])
                ]
                kernel = weight(offset) * math.exp(-np.mean(squares))
                pi, pj = p[(b, slice(None), *i)], p[(b, slice(None), *j)]
                different = 1 - pi @ pj if exclusive else np.mean(pi + pj - 2 * pi * pj)
                total += kernel * different
    return total / (mass * max(1, unlabelled.sum()))


def sample(shape, channels=1, heads=3, batch=2, seed=0, share=0.6):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)
    image = torch.randn(batch, channels, *shape, generator=generator, dtype=torch.float64)
    unlabelled = torch.rand(batch, 1, *shape, generator=generator) < share
    return logits, image, unlabelled


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("shape", "radius", "spacing"), CASES)
def test_equals_the_sum_over_all_pairs(shape, radius, spacing, channels, exclusive):
    logits, image, unlabelled = sample(shape, channels)
    loss = MaskedCRFLoss(Window.gaussian(radius, 2.0, spacing), exclusive=exclusive, intensity_sigma=0.2)
    probabilities = logits.softmax(1) if exclusive else logits.sigmoid()
    expected = brute_force(
        probabilities.numpy(), image.numpy(), unlabelled.numpy(), radius, 2.0, spacing, 0.2, exclusive
    )
    assert loss(logits, image, unlabelled).item() == pytest.approx(expected, rel=1e-12)


def test_units_of_an_image_do_not_matter_and_a_constant_one_has_no_edges():
    """Such as diffusion in mm²/s, without normalisation: values of about 0.001."""
    _, image, _ = sample((8, 9))
    expected = scaled_intensities(image, 0.2)
    torch.testing.assert_close(scaled_intensities(image * 1e-5, 0.2), expected)
    assert scaled_intensities(torch.full_like(image, 3), 0.2).isfinite().all()


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize(("shape", "radius", "spacing"), CASES)
def test_gradient(shape, radius, spacing, exclusive):
    logits, image, unlabelled = sample(shape, heads=2, batch=1)
    window = Window.gaussian(radius, 2.0, spacing)
    features = scaled_intensities(image, 0.2)
    probabilities = logits.softmax(1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: disagreement(p, features, unlabelled.double(), window, exclusive), (probabilities,)
    )


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize(("shape", "radius", "spacing"), CASES)
def test_with_a_force_against_shrinking_it_is_what_autograd_makes_of_its_definition(
    shape, radius, spacing, power, exclusive
):
    """Every pair of voxels, class by class, in float64."""
    logits, image, unlabelled = sample(shape)
    inside = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(1)) < 0.8
    window = Window.gaussian(radius, 2.0, spacing)
    features = scaled_intensities(image, 0.3)
    voxels = list(np.ndindex(shape))
    kernel = torch.zeros(2, len(voxels), len(voxels), dtype=torch.float64)
    for offset, weight in zip(window.offsets, window.weights, strict=True):
        for i, place in enumerate(voxels):
            other = tuple(x + o for x, o in zip(place, offset, strict=True))
            if other in voxels:
                squares = (features[(..., *place)] - features[(..., *other)]).square().sum(1)
                kernel[:, i, voxels.index(other)] = kernel[:, voxels.index(other), i] = weight * (-squares).exp()
    receives = (unlabelled & inside).double().flatten(2)[:, 0]

    def defined(logits):
        seen = logits.where(inside, 0.0)
        p = (seen.softmax(1) if exclusive else seen.sigmoid()).flatten(2)
        pairs = receives[:, :, None] * kernel
        cut = torch.einsum("bij,bki,bkj->bk", pairs, p, 1 - p)
        if not exclusive:
            cut = (cut + torch.einsum("bij,bki,bkj->bk", pairs, 1 - p, p)) / p.shape[1]
        else:  # of a pair that exclude each other both are cut: half from either side
            cut = (cut + torch.einsum("bij,bki,bkj->bk", pairs, 1 - p, p)) / 2
        size = (p * inside.double().flatten(2)).sum(2)
        return cut, size, p

    def with_force(logits):
        cut, size, p = defined(logits)
        found = (p == p.amax(1, keepdim=True)) if exclusive else p > 0.5
        seen = inside.flatten(2)
        found = torch.where(seen, found.double(), 1 / p.shape[1] if exclusive else 0.5)
        both = (receives[:, :, None] + receives[:, None, :]) * kernel  # either of the two receives energy
        cut_found = torch.einsum("bij,bki,bkj->bk", both, found * seen, 1 - found) / (2 if exclusive else p.shape[1])
        size_found = (found * seen).sum(2)
        force = torch.where(size_found > 0, 2 * power * cut_found / size_found, 0.0)
        return (cut - force * (size - size.detach())).sum() / (window.mass * receives.sum())

    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = MaskedCRFLoss(window, exclusive=exclusive, intensity_sigma=0.3, volume_power=power)
    value = loss(one, image, unlabelled & inside, inside)
    expected = with_force(other)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    value.backward()
    expected.backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)
    plain = logits.clone().requires_grad_()
    MaskedCRFLoss(window, exclusive=exclusive, intensity_sigma=0.3)(
        plain, image, unlabelled & inside, inside
    ).backward()
    assert not torch.allclose(plain.grad, other.grad)


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_class_that_is_predicted_nowhere_inside_has_no_force(exclusive):
    logits, image, unlabelled = sample((6, 7))
    logits[:, 1] = -50.0
    inside = torch.ones_like(unlabelled)
    inside[..., :2] = False
    with_force, without = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    window = Window.gaussian((1, 1), 1.0)
    for leaf, power in ((with_force, 0.5), (without, 0.0)):
        MaskedCRFLoss(window, exclusive=exclusive, volume_power=power)(
            leaf, image, unlabelled & inside, inside
        ).backward()
    assert with_force.grad.isfinite().all()
    assert with_force.grad[:, 1].abs().max() < 1e-9
    assert not torch.equal(with_force.grad, without.grad)


def test_the_published_sum_is_ours_times_the_mass_of_its_window():
    window = Window.gaussian((5, 5), 6.0)
    assert len(window.offsets) == 60
    assert window.mass == pytest.approx(92.0, abs=0.05)


@pytest.mark.parametrize(
    ("radius", "spacing", "mass"),
    [((3, 3), None, 42.9), ((1, 5, 5), None, 275.5), ((1, 5, 5), (5, 1, 1), 223.5), ((3, 3, 3), None, 290.3)],
)
def test_mass_of_other_windows(radius, spacing, mass):
    assert Window.gaussian(radius, 6.0, spacing).mass == pytest.approx(mass, abs=0.06)


@pytest.mark.parametrize(("radius", "sigma"), [((0, 0), 6.0), ((-1, 2), 6.0), ((2, 2), 0.0)])
def test_a_window_without_neighbours_is_refused(radius, sigma):
    with pytest.raises(InputError, match="no neighbours"):
        Window.gaussian(radius, sigma)


# --- invariances ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(6, 7), (4, 5, 3)]), st.booleans())
def test_flips_axes_and_the_order_of_classes_change_nothing(seed, shape, exclusive):
    logits, image, unlabelled = sample(shape, 2, seed=seed)
    loss = MaskedCRFLoss(Window.gaussian((2,) * len(shape), 2.0), exclusive=exclusive)
    expected = loss(logits, image, unlabelled).item()
    flipped = [x.flip(2).transpose(2, 3) for x in (logits, image, unlabelled)]
    assert loss(*flipped).item() == pytest.approx(expected)
    assert loss(logits[:, [2, 0, 1]], image, unlabelled).item() == pytest.approx(expected)
    assert loss(logits, 3 * image + 7, unlabelled).item() == pytest.approx(expected)  # contrast and brightness


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_where_two_labelled_voxels_meet_nothing_is_asked_of_them(seed):
    logits, image, unlabelled = sample((6, 7), seed=seed)
    unlabelled[:, :, :3] = False  # rows 0 and 1 are farther than one row from any unlabelled voxel
    logits.requires_grad_()
    MaskedCRFLoss(Window.gaussian((1, 1), 2.0))(logits, image, unlabelled).backward()
    assert not logits.grad[:, :, :2].any()
    assert logits.grad[:, :, 3:].any()


def test_a_constant_and_certain_prediction_costs_nothing():
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 1] = 100
    loss = MaskedCRFLoss(Window.gaussian((2, 2), 2.0))
    assert loss(logits, torch.randn(1, 1, 8, 8), torch.ones(1, 1, 8, 8, dtype=torch.bool)).item() < 1e-6


def test_it_moves_borders_to_the_edges_of_the_image():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1
    everywhere = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    loss = MaskedCRFLoss(Window.gaussian((2, 2), 6.0))

    def border_at(column: int) -> float:
        logits = torch.full((1, 2, 8, 8), 20.0)
        logits[:, 0, :, column:] = logits[:, 1, :, :column] = -20
        return loss(logits, image, everywhere).item()

    assert min(range(1, 8), key=border_at) == 4


# --- conditions of a training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 8), (5, 7, 6)])
def test_nothing_unlabelled_costs_nothing_and_stays_in_the_graph(shape):
    logits, image, unlabelled = sample(shape)
    logits.requires_grad_()
    value = MaskedCRFLoss(Window.gaussian((2,) * len(shape), 2.0))(logits, image, torch.zeros_like(unlabelled))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast_is_finite_and_computed_in_float32(dtype):
    logits, image, unlabelled = sample((24, 24))
    image[:] = 1000.0  # a constant image has no range
    loss = MaskedCRFLoss(Window.gaussian((5, 5), 6.0))
    half = (100 * logits).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(half, image.to(dtype), unlabelled)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert half.grad.isfinite().all()


def test_an_image_smaller_than_the_window():
    logits, image, unlabelled = sample((2, 3))
    loss = MaskedCRFLoss(Window.gaussian((5, 5), 6.0), intensity_sigma=0.3)
    expected = brute_force(logits.softmax(1).numpy(), image.numpy(), unlabelled.numpy(), (5, 5), 6.0, None, 0.3, True)
    assert loss(logits, image, unlabelled).item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(8, 8), (6, 8, 8), (5, 7, 9)])
def test_at_half_resolution_it_is_the_loss_of_the_pooled_volumes(shape):
    logits, image, unlabelled = sample(shape)
    window = Window.gaussian((1,) * len(shape), 3.0)
    half = MaskedCRFLoss(window, downsample=[2] * len(shape))
    pool = torch.nn.functional.avg_pool3d if len(shape) == 3 else torch.nn.functional.avg_pool2d
    small = lambda x: pool(x, 2, ceil_mode=True, count_include_pad=False)  # noqa: E731
    receives = (small(unlabelled.double()) > 1 - 1e-9).double()  # all of it
    expected = disagreement(small(logits.softmax(1)), scaled_intensities(small(image), 0.1), receives, window)
    assert half(logits, image, unlabelled).item() == pytest.approx(expected.item())


def test_drawn_offsets_are_unbiased():
    logits, image, unlabelled = sample((12, 12))
    window = Window.gaussian((3, 3), 2.0)
    exact = MaskedCRFLoss(window)(logits, image, unlabelled).item()
    torch.manual_seed(0)
    few = MaskedCRFLoss(window, offsets_per_step=4)
    drawn = np.array([few(logits, image, unlabelled).item() for _ in range(400)])
    assert abs(drawn.mean() - exact) < 4 * drawn.std() / math.sqrt(len(drawn))
    assert drawn.std() > 0
    assert MaskedCRFLoss(window, offsets_per_step=24)(logits, image, unlabelled).item() == exact
