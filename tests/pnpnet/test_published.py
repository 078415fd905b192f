"""The published code against NumPy: its modules, its centre supervision, and where its schedule ends."""

import math

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


def test_products_of_large_half_precision_features_stay_finite():
    """A product of three features of size 100 exceeds float16's 65504."""
    torch.manual_seed(0)
    module = PublishedDifference(helpers.dialect(3, batch_norm=True), 4, [3, 3, 3])
    torch.nn.init.constant_(module.guide.norm.weight, 100.0)
    skip, guide = 100 * torch.randn(1, 4, 6, 6, 6), torch.randn(1, 4, 6, 6, 6)
    full = module(skip, guide)
    with torch.autocast("cpu", dtype=torch.float16):
        half = module(skip, guide)
    assert half.isfinite().all()
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.5)


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
    [(1000, 25), (50, 25), (25, 25), (80, 20), (30, 30), (20, 20), (12, 12), (97, 97), (1, 1), (62, 31)],
)
def test_the_period_of_the_schedule_divides_the_training(epochs, expected):
    assert period(epochs) == expected
