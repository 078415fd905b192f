"""Landmarks as images: targets, losses, and positions between voxels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.heatmaps import (
    HeatmapLoss,
    PaperHeatmapLoss,
    PlaceLoss,
    _smoothed,
    balls,
    decode,
    heatmaps,
)
from nnunet_ext.landmarks.points import State

CASES = [((9, 8), (2.0, 1.5)), ((5, 9, 7), (0.8, 2.0, 2.0))]
NAN = math.nan


def gaussian(point, shape, sigma):
    """Voxel by voxel."""
    result = np.zeros(shape)
    for v in np.ndindex(tuple(shape)):
        result[v] = math.exp(-sum(((i - x) / s) ** 2 for i, x, s in zip(v, point, sigma, strict=True)) / 2)
    return result


def ball(point, shape, radius):
    """Voxel by voxel."""
    result = np.zeros(shape)
    for v in np.ndindex(tuple(shape)):
        far = math.sqrt(sum(((i - x) / r) ** 2 for i, x, r in zip(v, point, radius, strict=True)))
        result[v] = max(0.0, 1.0 - far)
    return result


def three_states(shape):
    """One landmark present, one absent, one unknown, the last two with nan; in two samples."""
    inside = [[n / 2 - 0.3 for n in shape], [n / 3 for n in shape]]
    points = torch.tensor([[point, [NAN] * len(shape), [NAN] * len(shape)] for point in inside], dtype=torch.float64)
    states = torch.tensor([[State.PRESENT, State.ABSENT, State.UNKNOWN]] * 2, dtype=torch.int8)
    return points, states


@pytest.mark.parametrize(("shape", "sigma"), CASES)
def test_a_target_is_a_gaussian_around_what_is_present_and_zero_elsewhere(shape, sigma):
    points, states = three_states(shape)
    found = heatmaps(points, states, shape, sigma)
    assert found.shape == (2, 3, *shape)
    for b in range(2):
        np.testing.assert_allclose(found[b, 0], gaussian(points[b, 0].tolist(), shape, sigma), rtol=1e-12)
    assert not found[:, 1:].any()


@pytest.mark.parametrize(("shape", "radius"), [((13, 12), (5.0, 4.0)), ((5, 9, 7), (1.2, 4.0, 4.0))])
def test_a_ball_falls_linearly_around_what_is_present_and_is_zero_elsewhere(shape, radius):
    points, states = three_states(shape)
    found = balls(points, states, shape, radius)
    assert found.shape == (2, 3, *shape)
    for b in range(2):
        np.testing.assert_allclose(found[b, 0], ball(points[b, 0].tolist(), shape, radius), rtol=1e-12, atol=1e-15)
    assert not found[:, 1:].any()


@pytest.mark.parametrize("dim", [2, 3])
def test_a_ball_is_nearly_the_distance_transform_of_a_ball(dim):
    # nnLandmark's target: the transform of a ball of 15 voxels, divided by its largest value
    inside = ball([20.0] * dim, [41] * dim, [15.0 + 1e-9] * dim) > 0
    transform = ndimage.distance_transform_edt(inside)
    points, states = torch.full((1, 1, dim), 20.0, dtype=torch.float64), torch.ones(1, 1)
    found = balls(points, states, [41] * dim, [15.0] * dim)[0, 0].numpy()
    # the first voxel outside is at 0 there, so its radius is a voxel larger: at most 1/16
    assert np.abs(found - transform / transform.max()).max() < 1 / 16 + 0.01


@pytest.mark.parametrize("render", [heatmaps, balls])
def test_a_slice_has_the_target_that_the_volume_has_in_it(render):
    shape, width = (7, 12, 11), (1.6, 4.0, 3.0)  # slices are 2.5 times as far apart as rows
    point = torch.tensor([[[2.0, 5.3, 4.8]]], dtype=torch.float64)
    volume = render(point, torch.ones(1, 1), shape, width)[0, 0]
    for z in range(shape[0]):
        across = torch.tensor([[abs(z - 2.0) / width[0]]], dtype=torch.float64)
        state = torch.tensor([[State.PRESENT if z == 2 else State.ABSENT]])
        found = render(point[..., 1:], state, shape[1:], width[1:], across)[0, 0]
        np.testing.assert_allclose(found, volume[z], rtol=1e-12, atol=1e-15)
        # the losses are of this target
        logits = torch.randn(1, 1, *shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(z))
        kind = "ball" if render is balls else "gaussian"
        everything = HeatmapLoss(width[1:], hardest=1e3, target=kind)
        expected = binary_cross_entropy_with_logits(logits[0, 0], volume[z], reduction="sum") / everything.count
        assert everything(logits, point[..., 1:], state, across).item() == pytest.approx(expected.item(), rel=1e-12)
        if kind == "gaussian":
            expected = mse_loss(logits[0, 0], 255 * volume[z])
            assert PaperHeatmapLoss(width[1:])(logits, point[..., 1:], state, across).item() == pytest.approx(
                expected.item(), rel=1e-12
            )


def test_only_an_absent_landmark_may_be_in_another_slice():
    points, across = torch.full((1, 3, 2), 4.0), torch.full((1, 3), 0.5)
    states = torch.tensor([[State.PRESENT, State.ABSENT, State.UNKNOWN]], dtype=torch.int8)
    found = heatmaps(points, states, (8, 8), (2.0, 2.0), across)
    assert found.flatten(2).any(2).tolist() == [[True, True, False]]
    # where the place is not in the patch, as points of the loader say, nothing is there
    assert not heatmaps(torch.full((1, 3, 2), NAN), states, (8, 8), (2.0, 2.0), across).any()


def test_outside_of_the_patch_a_landmark_is_not_seen():
    points = torch.tensor([[[-0.4, 3.0], [-0.6, 3.0], [3.0, 7.4], [3.0, 7.6]]])
    found = heatmaps(points, torch.ones(1, 4, dtype=torch.int8), (8, 8), (2.0, 2.0))
    assert found.flatten(2).any(2).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_targets_are_at_least_float32(dtype):
    found = heatmaps(torch.ones(1, 1, 2, dtype=dtype), torch.ones(1, 1).long(), (4, 4), (1.0, 1.0))
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert found.argmax() == 5


@pytest.mark.parametrize(("axes", "sigma"), [(3, (1.0, 1.0)), (2, (1.0,)), (2, (1.0, 0.0))])
def test_axes_that_do_not_match_are_refused(axes, sigma):
    with pytest.raises(InputError, match="2 coordinates"):
        heatmaps(torch.zeros(1, 1, axes), torch.ones(1, 1), (4, 4), sigma)


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hardest", [18.0, 8.0])
@pytest.mark.parametrize(("shape", "sigma"), [((9, 8), (0.8, 0.7)), ((5, 9, 7), (0.5, 0.8, 0.8)), CASES[0]])
def test_the_loss_is_that_of_the_voxels_near_the_landmark_and_of_the_hardest(shape, sigma, hardest):
    points, states = three_states(shape)
    logits = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    count = math.ceil(hardest * math.prod(math.sqrt(2 * math.pi) * s for s in sigma))
    expected = []
    for b in range(2):
        for k, target in [(0, gaussian(points[b, 0].tolist(), shape, sigma)), (1, np.zeros(shape))]:
            p = 1 / (1 + np.exp(-logits[b, k].numpy()))
            each = -(target * np.log(p) + (1 - target) * np.log(1 - p))
            near = target > math.exp(-4.5)
            others = np.sort(each[~near])[::-1]
            expected.append((each[near].sum() + others[: count - near.sum()].sum()) / count)
    found = HeatmapLoss(sigma, hardest)(logits, points, states)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize(("shape", "radius"), [((13, 12), (3.0, 2.0)), ((7, 9, 8), (1.2, 2.5, 2.5))])
def test_with_a_ball_the_loss_is_that_of_its_voxels_and_of_the_hardest(shape, radius):
    points, states = three_states(shape)
    logits = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    volume = (math.pi if len(shape) == 2 else 4 / 3 * math.pi) * math.prod(radius)
    count = math.ceil(18 * volume / (len(shape) + 1))  # a cone
    expected = []
    for b in range(2):
        for k, target in [(0, ball(points[b, 0].tolist(), shape, radius)), (1, np.zeros(shape))]:
            p = 1 / (1 + np.exp(-logits[b, k].numpy()))
            each = -(target * np.log(p) + (1 - target) * np.log(1 - p))
            others = np.sort(each[target == 0])[::-1]
            expected.append((each[target > 0].sum() + others[: count - (target > 0).sum()].sum()) / count)
    found = HeatmapLoss(radius, target="ball")(logits, points, states)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize("shape", [(9, 10), (5, 6, 7)])
def test_the_gradient_of_the_loss_with_a_ball_is_that_of_differences(shape):
    points, states = three_states(shape)
    logits = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = HeatmapLoss((2.0,) * len(shape), target="ball")
    assert torch.autograd.gradcheck(lambda x: loss(x, points, states), (logits,), fast_mode=True)


def test_of_balls_decoding_is_within_a_tenth_of_a_voxel():
    points = 20 + torch.rand(20, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = [decode(balls(point[None], torch.ones(1, 1), (41,) * 3, (15.0,) * 3)[0])[0][0] for point in points]
    assert np.linalg.norm(np.array(found) - points[:, 0].numpy(), axis=1).max() < 0.1


def test_targets_that_a_loss_does_not_have_are_refused():
    with pytest.raises(InputError, match="'cone', but it must be one of"):
        HeatmapLoss((2.0, 2.0), target="cone")
    with pytest.raises(InputError, match="'ball', but has a Gaussian; use HeatmapLoss"):
        PaperHeatmapLoss((2.0, 2.0), target="ball")
    with pytest.raises(InputError, match="2 positive radii"):
        balls(torch.zeros(1, 1, 2), torch.ones(1, 1), (4, 4), (1.0, 0.0))


@pytest.mark.parametrize(("small", "large"), [((60, 64), (256, 224)), ((40, 56, 40), (128, 128, 128))])
@pytest.mark.parametrize("target", ["gaussian", "ball"])
def test_a_landmark_pulls_as_much_in_a_large_patch_as_in_a_small_one(small, large, target):
    pulls, width = [], 4.0 if target == "gaussian" else 8.0
    for shape in (small, large):
        logits = torch.full((1, 1, *shape), -2.0, requires_grad=True)
        points = torch.tensor([[[float(n // 2) for n in shape]]])
        HeatmapLoss((width,) * len(shape), target=target)(logits, points, torch.ones(1, 1)).backward()
        pulls.append(-logits.grad.clamp(max=0).sum().item())
    assert pulls[1] == pytest.approx(pulls[0], rel=1e-4)
    if len(small) == 3 and target == "gaussian":
        assert 10 * pulls[0] == pytest.approx(0.27, abs=0.01)  # the weight of the trainer


def test_the_published_loss_is_the_squared_error_to_a_gaussian_of_255():
    (shape, sigma) = CASES[0]
    points, states = three_states(shape)
    outputs = 100 * torch.rand(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = 255 * heatmaps(points, states, shape, sigma)
    expected = (outputs - targets)[:, :2].square().mean()
    assert PaperHeatmapLoss(sigma)(outputs, points, states).item() == pytest.approx(expected.item())


def test_a_prediction_of_zero_costs_what_the_specification_of_the_published_loss_says():
    # sigma 5 in a volume of 128³: 255² · (√π · 5)³ / 128³
    points = torch.full((1, 1, 3), 63.5)
    zero = torch.zeros(1, 1, 128, 128, 128)
    assert PaperHeatmapLoss((5.0, 5.0, 5.0))(zero, points, torch.ones(1, 1)).item() == pytest.approx(21.6, abs=0.05)


@pytest.mark.parametrize("loss", [HeatmapLoss, PaperHeatmapLoss])
def test_gradient_reaches_known_channels_only(loss):
    shape, sigma = CASES[1]
    points, states = three_states(shape)
    logits = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    loss(sigma)(logits, points, states).backward()
    assert logits.grad.flatten(2).any(2).tolist() == [[True, True, False]] * 2
    small = torch.randn(1, 3, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    points, states = three_states((3, 4))
    assert torch.autograd.gradcheck(lambda x: loss((1.0, 1.0))(x, points[:1], states[:1]), (small,))


@pytest.mark.parametrize("loss", [HeatmapLoss, PaperHeatmapLoss])
@pytest.mark.parametrize("state", [State.UNKNOWN, State.ABSENT])
def test_without_a_position_it_is_finite_in_half_precision_and_connected(loss, state):
    logits = torch.full((1, 2, 8, 8), 6e4, dtype=torch.float16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss((2.0, 2.0))(logits, torch.full((1, 2, 2), NAN), torch.full((1, 2), state))
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    assert bool(value == 0) is (state is State.UNKNOWN)
    assert bool(logits.grad.any()) is (state is State.ABSENT)


# --- the place in the patch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "ball"])
@pytest.mark.parametrize(("shape", "width"), [((13, 12), (3.0, 2.0)), ((7, 9, 8), (1.2, 2.5, 2.5))])
def test_the_loss_of_the_place_is_the_divergence_of_a_softmax_from_the_target(kind, shape, width):
    points, states = three_states(shape)
    # the second sample's first landmark is in another slice, three quarters of a width away
    states[1, 0] = State.ABSENT
    across = torch.tensor([[0.0, 0.0, 0.0], [0.75, 0.0, 0.0]], dtype=torch.float64)
    logits = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = heights = 0.0
    for b, far in ((0, 0.0), (1, 0.75)):
        squares = sum(((np.indices(shape)[axis] - points[b, 0, axis].item()) / w) ** 2 for axis, w in enumerate(width))
        if kind == "gaussian":
            target, height = np.exp(-(squares + far**2) / 2), math.exp(-(far**2) / 2)
        else:
            target, height = np.maximum(0, 1 - np.sqrt(squares + far**2)), 1 - far
        target[target <= (math.exp(-4.5) if kind == "gaussian" else 0)] = 0  # a Gaussian ends at three sigmas
        wanted, found = target / target.sum(), np.exp(logits[b, 0].numpy())
        found = found / found.sum()
        divergence = sum(
            p * math.log(p / q) for p, q in zip(wanted.flatten().tolist(), found.flatten().tolist(), strict=True) if p
        )
        total, heights = total + height * divergence, heights + height
    loss = PlaceLoss(width, kind)
    assert loss(logits, points, states, across).item() == pytest.approx(total / heights, rel=1e-10)
    # only places are compared: whether the landmark is there at all is said by the other loss
    assert loss(logits + 5, points, states, across).item() == pytest.approx(total / heights, rel=1e-10)


@pytest.mark.parametrize("shape", [(9, 10), (5, 6, 7)])
@pytest.mark.parametrize("kind", ["gaussian", "ball"])
def test_the_gradient_of_the_loss_of_the_place_is_that_of_differences_and_in_present_channels_only(shape, kind):
    points, states = three_states(shape)
    logits = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = PlaceLoss((2.0,) * len(shape), kind)
    assert torch.autograd.gradcheck(lambda x: loss(x, points, states), (logits,), fast_mode=True)
    loss(logits, points, states).backward()
    assert logits.grad.flatten(2).any(2).tolist() == [[True, False, False]] * 2


def test_golden_values_of_the_loss_of_the_place():
    # of a flat heatmap: log of the number of voxels, less the entropy of the target, log(2 pi e sigma^2) in 2D but for
    # what a Gaussian loses by ending at three sigmas
    flat, point, there = torch.zeros(1, 1, 64, 64), torch.full((1, 1, 2), 31.5), torch.ones(1, 1)
    assert PlaceLoss((4.0, 4.0))(flat, point, there).item() == pytest.approx(2.7712, abs=1e-4)
    assert math.log(64**2) - math.log(2 * math.pi * math.e * 16) == pytest.approx(2.7073, abs=1e-4)
    # of the target itself: nothing
    target = heatmaps(point, there, (64, 64), (4.0, 4.0))
    target[target <= math.exp(-4.5)] = 0
    assert PlaceLoss((4.0, 4.0))((target + 1e-30).log(), point, there).item() == pytest.approx(0, abs=1e-6)
    ball = balls(point, there, (64, 64), (9.0, 9.0))
    assert PlaceLoss((9.0, 9.0), "ball")((ball + 1e-30).log(), point, there).item() == pytest.approx(0, abs=1e-6)


def test_a_target_between_voxels_that_reaches_none_costs_nothing():
    logits = torch.zeros(1, 2, 8, 8, requires_grad=True)
    points = torch.tensor([[[3.5, 3.5], [3.0, 3.0]]])
    both = PlaceLoss((0.1, 0.1))(logits, points, torch.ones(1, 2))
    assert both.item() == pytest.approx(math.log(64))  # of the second: its target is one voxel
    both.backward()
    assert logits.grad.flatten(2).any(2).tolist() == [[False, True]]


@pytest.mark.parametrize(("small", "large"), [((60, 64), (256, 224)), ((24, 28, 20), (64, 64, 64))])
def test_before_anything_is_learned_the_place_pulls_as_much_in_any_patch(small, large):
    pulls = []
    for shape in (small, large):
        logits = torch.zeros(1, 1, *shape, requires_grad=True)
        PlaceLoss((2.0,) * len(shape))(logits, torch.tensor([[[n / 2 for n in shape]]]), torch.ones(1, 1)).backward()
        pulls.append(-logits.grad.clamp(max=0).sum().item())
    # the part of the target above the flat softmax: nearly all of its sum, 1
    assert 0.9 < pulls[0] <= pulls[1] <= 1


@pytest.mark.parametrize("state", [State.UNKNOWN, State.ABSENT])
def test_without_a_landmark_its_place_costs_nothing(state):
    logits = torch.full((1, 2, 8, 8), 6e4, dtype=torch.float16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = PlaceLoss((2.0, 2.0))(logits, torch.full((1, 2, 2), NAN), torch.full((1, 2), state))
    value.backward()
    assert value.dtype == torch.float32
    assert value == 0
    assert not logits.grad.any()


def test_descent_on_both_losses_ends_at_a_high_peak_at_the_landmark():
    points, states = torch.tensor([[[4.3, 5.8]]]), torch.ones(1, 1)
    logits = torch.full((1, 1, 11, 12), -4.0, requires_grad=True)
    optimizer, losses = torch.optim.Adam([logits], lr=0.2), (HeatmapLoss((2.0, 2.0)), PlaceLoss((2.0, 2.0)))
    for _ in range(200):
        optimizer.zero_grad()
        (10 * losses[0](logits, points, states) + losses[1](logits, points, states)).backward()
        optimizer.step()
    found, heights = decode(logits.detach()[0].sigmoid())
    assert np.linalg.norm(found[0] - [4.3, 5.8]) < 0.05
    # a softmax cannot ask for a probability of 1: at these weights both meet at two thirds
    assert heights[0] == pytest.approx(0.68, abs=0.02)


@pytest.mark.parametrize("hardest", [0, 7.9, -1])
def test_fewer_voxels_than_a_landmark_has_are_refused(hardest):
    with pytest.raises(InputError, match="at least 8"):
        HeatmapLoss((1.0, 1.0), hardest)


def test_descent_on_the_loss_ends_at_the_landmark():
    points, states = torch.tensor([[[4.3, 5.8]]]), torch.ones(1, 1)
    logits = torch.zeros(1, 1, 11, 12, requires_grad=True)
    optimizer, loss = torch.optim.Adam([logits], lr=0.2), HeatmapLoss((2.0, 2.0))
    for _ in range(80):
        optimizer.zero_grad()
        loss(logits, points, states).backward()
        optimizer.step()
    found, _ = decode(logits.detach()[0].sigmoid())
    assert np.linalg.norm(found[0] - [4.3, 5.8]) < 0.25


# --- positions --------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.sampled_from([(13, 14), (5, 13, 14)]))
def test_of_a_gaussian_decoding_is_the_inverse_up_to_the_edge_of_the_patch(where, shape):
    point = [u * (n - 1) for u, n in zip(where, shape, strict=False)]
    sigma = (1.1, 2.0, 3.0)[: len(shape)]
    volume = gaussian(point, shape, sigma)
    found, confidence = decode(volume[None])
    np.testing.assert_allclose(found, [point], atol=1e-4)
    assert confidence == volume.max()


@pytest.mark.parametrize("kind", [np.asarray, lambda x: torch.as_tensor(x, dtype=torch.float32)])
@pytest.mark.parametrize("size", [(40, 40), (24, 24, 24)])
def test_of_noisy_gaussians_it_is_within_a_twentieth_of_a_voxel_on_average(size, kind):
    rng = np.random.default_rng(0)
    points = rng.uniform(8, min(size) - 9, (25, len(size)))
    volumes = np.stack([gaussian(p, size, (4.0,) * len(size)) for p in points])
    noisy = np.clip(volumes + rng.normal(0, 0.01, volumes.shape), 0, 1)
    found, _ = decode(kind(noisy))
    errors = np.linalg.norm(found - points, axis=1)
    voxels = np.stack([np.unravel_index(v.argmax(), size) for v in noisy])
    assert errors.mean() <= 0.05
    assert errors.max() <= 0.15
    assert np.linalg.norm(voxels - points, axis=1).mean() > 0.35  # what the fit is for


@pytest.mark.parametrize("size", [(20, 20), (12, 12, 12)])
def test_at_a_corner_noise_costs_little(size):
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1.5, (20, len(size)))
    volumes = np.stack([gaussian(p, size, (3.0,) * len(size)) for p in points])
    found, _ = decode(np.clip(volumes + rng.normal(0, 0.01, volumes.shape), 0, 1))
    assert np.linalg.norm(found - points, axis=1).mean() <= 0.15


def test_a_landmark_beyond_the_patch_stays_at_its_edge():
    found, _ = decode(gaussian((-2.5, 6.0), (12, 12), (2.0, 2.0))[None])
    np.testing.assert_allclose(found, [[-0.5, 6.0]], atol=1e-6)


def test_heatmaps_without_a_parabola():
    flat, empty, single, saddle = np.full((9, 9), 0.4), np.zeros((9, 9)), np.zeros((9, 9)), np.zeros((9, 9))
    single[3, 6] = 0.7
    saddle[4, :] = np.abs(np.arange(9) - 4) + 1.0
    found, confidence = decode(np.stack([flat, empty, single, saddle]))
    assert np.isfinite(found).all()
    assert (found >= -0.5).all()
    assert (found <= 8.5).all()
    np.testing.assert_allclose(found[2], [3, 6], atol=0.3)
    np.testing.assert_allclose(confidence, [0.4, 0, 0.7, 5])


@pytest.mark.parametrize("shape", [(1, 9), (2, 9), (1, 1), (1, 2, 9)])
def test_axes_too_short_for_a_parabola(shape):
    point = [0.0] * (len(shape) - 1) + [0.0 if shape[-1] == 1 else 5.3]
    found, _ = decode(gaussian(point, shape, (2.0,) * len(shape))[None])
    np.testing.assert_allclose(found, [point], atol=1e-6)


def test_a_peak_is_sought_where_the_landmark_must_lie_but_its_confidence_is_that_of_the_heatmap():
    heat = gaussian((4.0, 15.0), (12, 20), (2.0, 2.0)) + 0.5 * gaussian((8.0, 4.0), (12, 20), (2.0, 2.0))
    near = gaussian((8.0, 3.0), (12, 20), (2.0, 2.0))
    found, confidence = decode(heat[None], [near])
    np.testing.assert_allclose(found, [[8.0, 3.5]], atol=1e-2)  # of equally wide Gaussians the middle
    np.testing.assert_allclose(confidence, [heat.max()])
    anywhere = decode(heat[None])[0]
    for says_nothing in (None, np.ones_like(heat), np.zeros_like(heat)):
        np.testing.assert_array_equal(decode(heat[None], [says_nothing])[0], anywhere)
    both, _ = decode(np.stack([heat, heat]), iter([None, near]))
    np.testing.assert_array_equal(both, np.concatenate([anywhere, found]))


@pytest.mark.parametrize("shape", [(44, 44), (32, 32, 32)])
def test_smoothing_finds_a_peak_in_noise(shape):
    rng = np.random.default_rng(0)
    points = rng.uniform(12, min(shape) - 13, (20, len(shape)))
    heat = np.stack([0.2 * gaussian(p, shape, (4.0,) * len(shape)) for p in points])
    noisy = np.clip(heat + rng.normal(0, 0.05, heat.shape), 0, 1).astype(np.float32)
    anywhere = [np.ones(shape, np.float32)] * len(points)
    error = {s: np.linalg.norm(decode(noisy, anywhere, s)[0] - points, axis=1).mean() for s in (0.0, 3.0)}
    assert error[3.0] < 0.5 * error[0.0]
    np.testing.assert_array_equal(decode(noisy, None, 3.0)[0], decode(noisy)[0])  # only where a surface is known


def test_only_a_box_is_smoothed_and_the_peak_is_that_of_the_whole():
    rng = np.random.default_rng(0)
    heat = rng.random((3, 20, 24, 18)).astype(np.float32)
    near = np.zeros(heat.shape, np.float32)
    near[0, 4:9, 10:20, 7:9], near[1, :3, :5, -4:] = rng.random((5, 10, 2)), 1  # the second at a corner
    near[2, 10, 10, 10] = 0.5
    sigma = (1.0, 3.0, 2.0)
    whole = np.stack([ndimage.gaussian_filter(channel, sigma, mode="reflect", truncate=3.0) for channel in heat])
    expected = [np.unravel_index((w * n).argmax(), w.shape) for w, n in zip(whole, near, strict=True)]
    found, _ = decode(heat, near, sigma)
    assert (np.abs(found - expected) <= 3.5).all()  # as far as a parabola may move it
    np.testing.assert_allclose(found[2], [10, 10, 10], atol=1e-6)
    for channel, box in ((0, np.s_[4:9, 10:20, 7:9]), (1, np.s_[0:3, 0:5, 14:18])):
        part = _smoothed(torch.as_tensor(heat[channel]), box, sigma)
        np.testing.assert_allclose(part, whole[channel][box], rtol=1e-5)


@pytest.mark.parametrize("edge", [0.0, 19.0])
def test_a_smoothed_peak_at_an_edge_stays_there(edge):
    heat = gaussian((edge, 9.0), (20, 20), (4.0, 4.0))
    found, _ = decode(heat[None], [np.ones_like(heat)], 3.0)
    np.testing.assert_allclose(found, [[edge, 9.0]], atol=0.5)


def test_heatmaps_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        decode(np.array([[[0.0, NAN], [0.0, 1.0]]]))


def test_no_landmarks_at_all():
    found, confidence = decode(np.zeros((0, 5, 6)))
    assert found.shape == (0, 2)
    assert confidence.shape == (0,)
