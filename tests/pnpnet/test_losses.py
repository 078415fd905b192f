"""Centre supervision against NumPy; absent classes and ignored voxels carry no weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.nnunet.labels import LabelView
from nnunet_ext.pnpnet.losses import center_loss
from nnunet_ext.pnpnet.published import PaperCenterLoss
from tests.pnpnet import helpers
from tests.pnpnet import numpy_reference as reference


def one_hot(batch, classes, size, seed=0, missing=()):
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.tensor([k for k in range(classes) if k not in missing])
    target = allowed[torch.randint(0, len(allowed), (batch, 1, *size), generator=generator)]
    return LabelView(classes, False).one_hot(target).double()


@pytest.mark.parametrize("missing", [(), (1,)])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_loss_equals_numpy(dim, missing):
    size = [4] * dim
    centers, values = helpers.random(2, 3, 5, seed=1), helpers.random(2, 5, *size, seed=2)
    target = one_hot(2, 3, size, missing=missing)
    expected = reference.center_loss(centers.numpy(), values.numpy(), target.numpy())
    assert center_loss(centers, values, target).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_loss_of_the_published_code_equals_numpy(dim):
    module = helpers.randomise(PaperCenterLoss(helpers.dialect(dim, batch_norm=True), 2, 4))
    centers, feature = helpers.random(2, 3, 4, seed=1), helpers.random(2, 2, *[3] * dim, seed=2)
    target = one_hot(2, 3, [6] * dim)
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
    target = one_hot(2, 3, [3] * dim)
    values = helpers.random(2, 4, *[3] * dim)
    centers = helpers.random(2, 3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: center_loss(c, values, target), [centers])
    module = helpers.randomise(PaperCenterLoss(helpers.dialect(dim), 4, 4))
    inputs = [centers, values.requires_grad_()]
    assert torch.autograd.gradcheck(lambda c, f: module(c, f, target), inputs)


def test_the_class_mean_is_a_fixed_target():
    values = helpers.random(1, 4, 3, 3).requires_grad_()
    centers = helpers.random(1, 3, 4).requires_grad_()
    center_loss(centers, values, one_hot(1, 3, [3, 3])).backward()
    assert values.grad is None
    assert centers.grad.abs().sum() > 0


def test_an_absent_class_neither_counts_nor_pulls():
    centers, values = helpers.random(1, 3, 4).requires_grad_(), helpers.random(1, 4, 5, 5)
    target = one_hot(1, 3, [5, 5], missing=(2,))
    loss = center_loss(centers, values, target)
    loss.backward()
    assert centers.grad[:, 2].abs().max() == 0
    torch.testing.assert_close(loss, center_loss(centers[:, :2], values, target[:, :2]))


@pytest.mark.parametrize("shape", [(5, 5), (1, 5, 5)], ids=["2D", "one slice"])
def test_without_any_annotated_voxel_the_loss_is_zero_and_still_has_a_gradient(shape):
    centers = helpers.random(2, 3, 4).requires_grad_()
    loss = center_loss(centers, helpers.random(2, 4, *shape), torch.zeros(2, 3, *shape))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(centers.grad, torch.zeros_like(centers))


@given(st.integers(0, 1000), st.sampled_from([LabelView(3, False, 3), LabelView(3, True, 3)]))
@settings(max_examples=25, deadline=None)
def test_ignored_voxels_do_not_matter(seed, view):
    generator = torch.Generator().manual_seed(seed)
    ignored = torch.rand(1, 1, 4, 4, generator=generator) < 0.5
    if view.has_regions:
        target = torch.cat([torch.rand(1, 3, 4, 4, generator=generator) < 0.5, ignored], 1)
    else:
        target = torch.where(ignored, 3, torch.randint(0, 3, (1, 1, 4, 4), generator=generator))
    centers, values = helpers.random(1, 3, 5, seed=seed), helpers.random(1, 5, 4, 4, seed=seed + 1)
    changed = torch.where(ignored, 100.0, values)
    torch.testing.assert_close(
        center_loss(centers, values, view.one_hot(target)), center_loss(centers, changed, view.one_hot(target))
    )


@given(st.permutations(range(3)), st.sampled_from([(2,), (3,), (2, 3)]))
@settings(max_examples=20, deadline=None)
def test_permuting_classes_or_flipping_space_changes_nothing(order, axes):
    centers, values, target = helpers.random(2, 3, 5), helpers.random(2, 5, 4, 4, seed=1), one_hot(2, 3, [4, 4])
    expected = center_loss(centers, values, target)
    torch.testing.assert_close(center_loss(centers[:, order], values, target[:, order]), expected)
    torch.testing.assert_close(center_loss(centers, values.flip(axes), target.flip(axes)), expected)


def test_the_published_loss_stalls_where_the_sound_one_does_not():
    """The reason for the deviation: a clamped square has no gradient where the difference is large."""
    paper = PaperCenterLoss(helpers.dialect(2), 4, 4).double()
    feature, target = helpers.random(1, 4, 6, 6), one_hot(1, 2, [6, 6])
    far = torch.tensor([[[3.0, -3, 0, 0], [-3.0, 3, 0, 0]]], dtype=torch.float64)
    difference = (
        paper.norm_target(target.flatten(2) @ paper.project(feature).flatten(2).transpose(1, 2))
        - paper.norm_center(far)
    ).abs()
    assert (difference > 1).any()
    values = helpers.random(1, 4, 6, 6)
    centers = far.clone().requires_grad_()
    optimizer = torch.optim.Adam([centers], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = center_loss(centers, values, target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3
