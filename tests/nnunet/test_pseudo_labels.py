"""Pseudo-labels: which count, and the loss on them against a loop over voxels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.nnunet.pseudo_labels import SMOOTH, pseudo_label_loss, pseudo_labels


def example(dim, exclusive, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, *[4] * dim)
    logits, teacher = (2 * torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    unlabelled = torch.rand(2, 1, *shape[2:], generator=generator) < 0.7
    probabilities = teacher.softmax(1) if exclusive else teacher.sigmoid()
    return logits, *pseudo_labels(probabilities, unlabelled, 0.6, exclusive=exclusive), probabilities, unlabelled


@pytest.mark.parametrize("dim", [2, 3])
def test_classes_count_where_their_probability_reaches_the_threshold_and_nobody_has_drawn(dim):
    _, labels, use, probabilities, unlabelled = example(dim, True)
    for b, *place in torch.cartesian_prod(torch.arange(2), *[torch.arange(4)] * dim).tolist():
        p, here = probabilities[(b, slice(None), *place)], (b, slice(None), *place)
        assert labels[here].argmax() == p.argmax()
        assert labels[here].sum() == 1
        assert (use[here] == bool(p.max() >= 0.6 and unlabelled[(b, 0, *place)])).all()
    assert 0 < use.float().mean() < 1


@pytest.mark.parametrize("dim", [2, 3])
def test_every_region_counts_by_itself_inside_or_outside(dim):
    _, labels, use, probabilities, unlabelled = example(dim, False)
    assert torch.equal(labels > 0, probabilities > 0.5)
    assert torch.equal(use, ((probabilities >= 0.6) | (probabilities <= 0.4)) & unlabelled)
    assert use.any(1).logical_xor(use.all(1)).any()


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_loss_is_that_of_a_loop_over_voxels(dim, exclusive):
    logits, labels, use, *_ = example(dim, exclusive)
    p = logits.softmax(1) if exclusive else logits.sigmoid()
    entropies, sums = [], {k: [0.0, 0.0, 0.0] for k in range(int(exclusive), 3)}
    for b, *place in torch.cartesian_prod(torch.arange(2), *[torch.arange(4)] * dim).tolist():
        for k in range(3):
            here = (b, k, *place)
            if not use[here]:
                continue
            if exclusive and labels[here]:
                entropies.append(-p[here].log())
            if not exclusive:
                entropies.append(-(p[here] if labels[here] else 1 - p[here]).log())
            if k in sums:
                for n, value in enumerate((p[here] * labels[here], p[here], labels[here])):
                    sums[k][n] += value
    dices = [(2 * both + SMOOTH) / (said + true + SMOOTH) for both, said, true in sums.values() if true > 0]
    expected = torch.stack(entropies).mean() + 1 - torch.stack(dices).mean()
    torch.testing.assert_close(pseudo_label_loss(logits, labels, use, exclusive=exclusive), expected)


@pytest.mark.parametrize("exclusive", [True, False])
def test_gradients_are_those_of_finite_differences(exclusive):
    logits, labels, use, *_ = example(2, exclusive)

    def loss(x):
        return pseudo_label_loss(x, labels, use, exclusive=exclusive)

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


@pytest.mark.parametrize("exclusive", [True, False])
def test_without_any_label_the_loss_and_its_gradient_are_0(exclusive):
    logits, labels, use, *_ = example(2, exclusive)
    logits.requires_grad_()
    loss = pseudo_label_loss(logits, labels, torch.zeros_like(use), exclusive=exclusive)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("exclusive", [True, False])
def test_what_does_not_count_changes_nothing_and_one_who_agrees_has_no_loss(exclusive):
    logits, labels, use, *_ = example(3, exclusive)
    changed = logits.where(use, torch.randn_like(logits))
    if exclusive:  # all classes of a voxel count or none
        assert torch.equal(use.all(1), use.any(1))
    same = [pseudo_label_loss(x, labels, use, exclusive=exclusive) for x in (logits, changed)]
    torch.testing.assert_close(*same)
    sure = 60 * (2 * labels - 1)
    assert pseudo_label_loss(sure, labels, use, exclusive=exclusive).item() == pytest.approx(0, abs=1e-6)


@given(st.integers(0, 5), st.booleans(), st.floats(0.1, 0.9))
def test_in_half_precision_it_is_computed_in_single(seed, exclusive, scale):
    logits, labels, use, *_ = example(2, exclusive, seed)
    half = (scale * logits).half()
    loss = pseudo_label_loss(half, labels.half(), use, exclusive=exclusive)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, pseudo_label_loss(half.float(), labels.float(), use, exclusive=exclusive))
