"""The published code against NumPy: its modules, its centre supervision, and where its schedule ends."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from nnunet_ext.nnunet.labels import LabelView
from nnunet_ext.pnpnet.published import (
    PaperCenterLoss,
    PublishedClustering,
    PublishedDifference,
    interact,
    period,
    schedule,
)
from tests.pnpnet import helpers
from tests.pnpnet import numpy_reference as reference


def one_hot(size):
    target = torch.randint(0, 3, (2, 1, *size), generator=torch.Generator().manual_seed(0))
    return LabelView(3, False).one_hot(target).double()


@pytest.mark.parametrize("kernel_size", [[3, 3], [3, 3, 3], [1, 3, 3]])
def test_the_pushing_branch_equals_numpy(kernel_size):
    dim = len(kernel_size)
    module = helpers.randomise(PublishedDifference(helpers.dialect(dim, batch_norm=True), 3, kernel_size))
    skip, guide = helpers.random(2, 3, *[4] * dim, seed=1), helpers.random(2, 3, *[4] * dim, seed=2)
    expected = reference.semantic_difference(
        skip.numpy(),
        guide.numpy(),
        **helpers.conv_norm(module.guide, "guide"),
        **helpers.conv_norm(module.mix, "mix"),
        skip_kernel=helpers.array(module.skip_difference.weight),
        guide_kernel=helpers.array(module.guide_difference.weight),
        norm=reference.batch_norm,
    )
    np.testing.assert_allclose(helpers.array(module(skip, guide)), expected, atol=1e-9)


@pytest.fixture
def trained_in_half_precision():
    """A pushing branch after steps whose products of differences exceed float16's 65504."""
    torch.manual_seed(0)
    module = PublishedDifference(helpers.dialect(3, batch_norm=True), 4, [3, 3, 3])
    torch.nn.init.constant_(module.guide.norm.weight, 100.0)
    with torch.autocast("cpu", dtype=torch.float16):
        for _ in range(20):
            assert module(100 * torch.randn(2, 4, 6, 6, 6), torch.randn(2, 4, 6, 6, 6)).isfinite().all()
    return module.eval()


def test_a_branch_trained_in_half_precision_predicts_the_same_in_single_precision(trained_in_half_precision):
    skip, guide = torch.randn(2, 4, 6, 6, 6), torch.randn(2, 4, 6, 6, 6)
    with torch.autocast("cpu", dtype=torch.float16):
        half = trained_in_half_precision(skip.half(), guide.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), trained_in_half_precision(skip, guide), rtol=0.01, atol=0.01)


def test_a_bright_sample_does_not_change_the_others_of_its_batch(trained_in_half_precision):
    skip, guide = 100 * torch.randn(2, 4, 6, 6, 6), torch.randn(2, 4, 6, 6, 6)
    bright = torch.cat([100 * skip[:1], skip[1:]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        alone, beside = (trained_in_half_precision(x, guide)[1] for x in (skip, bright))
    assert torch.equal(alone, beside)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_level_of_the_pulling_branch_equals_numpy(dim):
    """Two residual blocks with BatchNorm and ReLU, √K temperature, sum update."""
    module = helpers.randomise(
        PublishedClustering(
            helpers.dialect(dim, batch_norm=True), 2, 3, [3] * dim, dim=4, heads=2, mlp_dim=8, dropout=0.0
        )
    )
    feature, centers = helpers.random(2, 2, *[4] * dim, seed=1), helpers.random(1, 3, 4, seed=2)

    def block(x, residual):
        return reference.res_block(x, **helpers.residual_weights(residual), norm=reference.batch_norm)

    refined = np.repeat(helpers.array(module.transformer(centers)), 2, axis=0)
    assignment, expected_centers = reference.cluster(
        refined,
        block(feature.numpy(), module.key),
        block(feature.numpy(), module.value),
        temperature=math.sqrt(3),
        update="sum",
        assignment="softmax",
    )
    expected_pull = assignment + block(block(assignment, module.refine[0]), module.refine[1])
    pull, moved = module(feature, centers)
    np.testing.assert_allclose(helpers.array(pull), expected_pull, atol=1e-8)
    np.testing.assert_allclose(helpers.array(moved), expected_centers, atol=1e-8)


def test_the_push_logits_gate_the_pull_logits_by_a_factor_between_one_and_two():
    pull, push = helpers.random(2, 3, 4, 4), 5 * helpers.random(2, 3, 4, 4, seed=1)
    logits = interact(pull, push)
    np.testing.assert_allclose(logits.numpy(), reference.gate(pull.numpy(), push.numpy()), atol=1e-12)
    assert ((logits / pull >= 1) & (logits / pull <= 2)).all()


@pytest.mark.parametrize("dim", [2, 3])
def test_the_centre_supervision_equals_numpy(dim):
    module = helpers.randomise(PaperCenterLoss(helpers.dialect(dim, batch_norm=True), 2, 4))
    centers, feature = helpers.random(2, 3, 4, seed=1), helpers.random(2, 2, *[3] * dim, seed=2)
    target = one_hot([6] * dim)
    expected = reference.center_loss_paper(
        centers.numpy(),
        feature.numpy(),
        target.numpy(),
        **helpers.conv_norm(module.project, "project"),
        target_gamma=helpers.array(module.norm_target.weight),
        target_beta=helpers.array(module.norm_target.bias),
        center_gamma=helpers.array(module.norm_center.weight),
        center_beta=helpers.array(module.norm_center.bias),
        norm=reference.batch_norm,
    )
    assert module(centers, feature, target).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dim", [2, 3])
def test_gradcheck(dim):
    target = one_hot([3] * dim)
    module = helpers.randomise(PaperCenterLoss(helpers.dialect(dim), 4, 4))
    inputs = [
        helpers.random(2, 3, 4, seed=1).requires_grad_(),
        helpers.random(2, 4, *[3] * dim).requires_grad_(),
    ]
    assert torch.autograd.gradcheck(lambda c, f: module(c, f, target), inputs)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1000, 25), (50, 25), (25, 25), (30, 30), (20, 20), (12, 12), (1, 1), (62, 31), (80, Fraction(80, 3))],
)
def test_the_period_is_the_published_one_where_it_divides_the_training(epochs, expected):
    assert period(epochs) == expected


def rates(epochs, asked):
    """Share of the initial learning rate in every epoch that is asked for."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], 5e-4)
    scheduler = schedule(optimizer, epochs)
    found = []
    for epoch in asked:
        scheduler.step(epoch)  # as nnU-Net does
        found.append(optimizer.param_groups[0]["lr"] / 5e-4)
    return found


def test_every_training_of_1_to_1500_epochs_ends_at_a_low_learning_rate():
    """631 is a prime, 626 and 634 twice a prime: no divisor of them is near 25."""
    last = {epochs: rates(epochs, [epochs - 1])[0] for epochs in range(1, 1501)}
    assert max(rate for epochs, rate in last.items() if epochs >= 13) < 0.025
    assert max(rate for epochs, rate in last.items() if epochs >= 38) < 0.017
    # a training of a few epochs is one period with as few steps, so its last one is higher
    assert [round(last[epochs], 2) for epochs in (1, 2, 3, 4, 5, 8, 12)] == [1, 0.51, 0.26, 0.15, 0.1, 0.05, 0.03]


@pytest.mark.parametrize("epochs", [40, 77, 154, 626, 631, 1000])
def test_every_period_falls_from_the_initial_rate_and_then_restarts(epochs):
    found = rates(epochs, range(epochs))
    restarts = [epoch for epoch in range(epochs) if epoch == 0 or found[epoch] > found[epoch - 1]]
    assert len(restarts) == round(epochs / 25)
    assert restarts == [math.ceil(number * epochs / len(restarts)) for number in range(len(restarts))]
    assert all(found[epoch] > 0.99 for epoch in restarts)


def test_the_schedule_is_torchs_where_the_published_period_divides_the_training():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], 5e-4)
    expected = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=25, eta_min=5e-6)
    for epoch, rate in enumerate(rates(75, range(75))):
        expected.step(epoch)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"] / 5e-4)
