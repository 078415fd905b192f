"""The gate: shut for a class that is not predicted where it is annotated, and what a shut class does to gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.attenscribble.confidence_gate import INERTIA, ConfidenceGate
from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss, Window


def batch(dim=3, classes=3, annotated=(0, 1, 2)):
    shape = (2, classes, *[4] * dim)
    one_hot = torch.zeros(shape, dtype=torch.float64)
    for c in annotated:
        one_hot.view(2, classes, -1)[:, c, c] = 1
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), one_hot


def opened_by(probability, wait=0.5):
    """A gate that has seen these mean probabilities."""
    gate = ConfidenceGate(len(probability), wait).double()
    gate.probability.copy_(torch.tensor(probability, dtype=torch.float64))
    return gate


@pytest.mark.parametrize("dim", [2, 3])
def test_the_running_mean_is_that_of_the_annotated_voxels(dim):
    probabilities, one_hot = batch(dim)
    gate = ConfidenceGate(3, 0.5).double()
    expected = torch.zeros(3, dtype=torch.float64)
    for _ in range(3):
        opened = gate(probabilities, one_hot)
        mean = torch.stack([probabilities[:, c][one_hot[:, c] > 0].mean() for c in range(3)])
        expected = INERTIA * expected + (1 - INERTIA) * mean
        assert torch.allclose(gate.probability, expected)
        assert torch.allclose(opened, (expected / 0.5).clamp(max=1))


def test_a_class_opens_when_it_is_learned_and_one_that_never_occurs_stays_shut_alone():
    _, one_hot = batch(annotated=(0, 1))
    gate = ConfidenceGate(3, 0.5)
    for _ in range(40):
        opened = gate(one_hot.float(), one_hot.float())
    assert opened.tolist() == [1, 1, 0]


def test_one_hard_class_of_thirteen_holds_up_nobody_else():
    gate = ConfidenceGate(13, 0.5)
    one_hot = torch.eye(13).view(1, 13, 13, 1)
    probabilities = one_hot * 0.98
    probabilities[:, 7] = 0.03
    for _ in range(100):
        opened = gate(probabilities, one_hot)
    assert opened[7] == pytest.approx(0.06, abs=1e-3)
    assert (opened[torch.arange(13) != 7] == 1).all()


def test_a_class_that_no_training_case_annotates_does_not_wait():
    gate = ConfidenceGate(3, 0.5)
    gate.leave_out([2])
    _, one_hot = batch(annotated=(0, 1))
    for _ in range(40):
        opened = gate(one_hot.float(), one_hot.float())
    assert (opened == 1).all()
    restored = ConfidenceGate(3, 0.5)
    restored.load_state_dict(gate.state_dict())
    assert restored.openness[2] == 0  # other folds may annotate it; the training says at its start which do not
    restored.leave_out([2])
    assert restored.openness[2] == 1


def test_batches_without_annotation_change_nothing():
    gate = ConfidenceGate(3, 0.5)
    gate(*batch())
    before = gate.probability.clone()
    assert torch.isfinite(gate(batch()[0], torch.zeros(2, 3, 4, 4, 4))).all()
    assert torch.equal(gate.probability, before)


def test_without_waiting_it_is_open_and_changes_no_gradient():
    gate = ConfidenceGate(3, 0.0)
    assert (gate(*batch()) == 1).all()
    logits = torch.randn(2, 3, 4)
    assert gate.gated(logits, exclusive=True) is logits


@given(st.permutations(range(3)))
def test_the_order_of_classes_does_not_matter(order):
    probabilities, one_hot = batch()
    same, other = ConfidenceGate(3, 0.5), ConfidenceGate(3, 0.5)
    assert torch.allclose(same(probabilities, one_hot)[order], other(probabilities[:, order], one_hot[:, order]))


# --- gradients --------------------------------------------------------------------------------------------------------


def gradient(gate, logits, loss_of_probabilities, exclusive):
    leaf = logits.clone().requires_grad_()
    gated = gate.gated(leaf, exclusive=exclusive)
    assert torch.equal(gated, leaf)
    loss_of_probabilities(gated.softmax(1) if exclusive else gated.sigmoid()).backward()
    return leaf.grad


@pytest.mark.parametrize("dim", [2, 3])
def test_what_moves_between_two_classes_counts_by_both(dim):
    torch.manual_seed(0)
    gate, logits = opened_by([0.5, 0.4, 0.1, 0.0]), torch.randn(2, 4, *[3] * dim, dtype=torch.float64)
    pull = torch.randn_like(logits)
    p, g = logits.softmax(1), gate.openness
    expected = torch.zeros_like(logits)
    for k in range(4):
        for other in range(4):
            expected[:, k] += g[k] * g[other] * p[:, k] * p[:, other] * (pull[:, k] - pull[:, other])
    found = gradient(gate, logits, lambda probabilities: (probabilities * pull).sum(), True)
    torch.testing.assert_close(found, expected)
    assert (found[:, 3] == 0).all()


@pytest.mark.parametrize("dim", [2, 3])
def test_regions_have_their_own_gradient_times_their_gate(dim):
    logits = torch.randn(2, 3, *[3] * dim, dtype=torch.float64)
    pull = torch.randn_like(logits)
    found = gradient(opened_by([1.0, 0.2, 0.0]), logits, lambda p: (p * pull).sum(), False)
    p = logits.sigmoid()
    gate = torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64).view(1, 3, *[1] * dim)
    torch.testing.assert_close(found, gate * pull * p * (1 - p))


@given(st.floats(0.01, 1))
def test_with_all_classes_equally_open_the_gradient_is_the_square_times_the_plain_one(openness):
    logits = torch.linspace(-2, 2, 24, dtype=torch.float64).view(2, 3, 4)
    pull = torch.linspace(1, -3, 24, dtype=torch.float64).view(2, 3, 4).sin()
    plain = gradient(ConfidenceGate(3, 0.0), logits, lambda p: (p * pull).sum(), True)
    found = gradient(opened_by([openness * 0.5] * 3), logits, lambda p: (p * pull).sum(), True)
    torch.testing.assert_close(found, openness**2 * plain)


def test_the_others_are_regularised_as_if_a_shut_class_was_not_there():
    """Its logits stay, and their flow among the others is that of their own softmax, times the share they have."""
    torch.manual_seed(1)
    logits, pull = torch.randn(1, 3, 5, dtype=torch.float64), torch.randn(1, 3, 5, dtype=torch.float64)
    found = gradient(opened_by([0.5, 0.5, 0.0]), logits, lambda p: (p * pull).sum(), True)
    without = gradient(ConfidenceGate(2, 0.0), logits[:, :2], lambda p: (p * pull[:, :2]).sum(), True)
    share = logits.softmax(1)[:, :2].sum(1, keepdim=True)
    torch.testing.assert_close(found[:, :2], share**2 * without)


@pytest.mark.parametrize("learned", [False, True])
def test_the_crf_loss_takes_a_class_away_only_once_it_is_learned(learned):
    """An organ that is predicted weakly, in a background that is learned: what held trainings on a plateau."""
    logits = torch.zeros(1, 2, 9, 9)
    logits[:, 1] = -2.0
    logits[:, 1, 3:6, 3:6] = -1.0
    logits.requires_grad_()
    gate = ConfidenceGate(2, 0.5)
    gate.probability.copy_(torch.tensor([0.99, 0.5 if learned else 0.0]))
    crf = MaskedCRFLoss(Window.gaussian((2, 2), 2.0))
    loss = crf(gate.gated(logits, exclusive=True), torch.zeros(1, 1, 9, 9), torch.ones(1, 1, 9, 9, dtype=torch.bool))
    loss.backward()
    assert loss > 0.1
    assert (logits.grad[:, 1].max() > 1e-4) == learned
    assert (logits.grad == 0).all() != learned


def test_the_log_says_for_which_classes_the_regularisers_are_on():
    gate = opened_by([0.99, 0.06, 0.7])
    sentence = gate.described(["background", "tumour", "liver"])
    assert sentence == (
        "Regularisers: on for background, liver; tumour at 12% (mean probability 0.06 where it is annotated, 0.5 "
        "opens it)"
    )
    assert opened_by([0.0]).described(["left"]).startswith("Regularisers: left at 0% (")
    assert opened_by([0.0], wait=0.0).described(["left"]) == "Regularisers: on for left"
