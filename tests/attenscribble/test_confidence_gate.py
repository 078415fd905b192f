"""The gate: shut while a class is not predicted where it is annotated, open when all are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.attenscribble.confidence_gate import INERTIA, ConfidenceGate


def batch(dim=3, classes=3, annotated=(0, 1, 2)):
    shape = (2, classes, *[4] * dim)
    one_hot = torch.zeros(shape, dtype=torch.float64)
    for c in annotated:
        one_hot.view(2, classes, -1)[:, c, c] = 1
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), one_hot


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
        assert torch.allclose(opened, (expected.min() / 0.5).clamp(max=1))


def test_it_opens_when_the_worst_class_is_learned_and_stays_shut_for_one_that_never_occurs():
    probabilities, one_hot = batch()
    gate = ConfidenceGate(3, 0.5)
    for _ in range(40):
        opened = gate(one_hot.float(), one_hot.float())
    assert opened == 1
    probabilities = one_hot.clone()
    probabilities[:, 2] = 0  # never predicted
    for _ in range(40):
        opened = gate(probabilities, one_hot)
    assert opened < 0.05
    unseen = ConfidenceGate(3, 0.5)
    for _ in range(40):
        opened = unseen(*batch(annotated=(0, 1)))
    assert opened == 0


def test_batches_without_annotation_change_nothing():
    gate = ConfidenceGate(3, 0.5)
    gate(*batch())
    before = gate.probability.clone()
    assert torch.isfinite(gate(batch()[0], torch.zeros(2, 3, 4, 4, 4)))
    assert torch.equal(gate.probability, before)


def test_without_waiting_it_is_open():
    assert ConfidenceGate(3, 0.0)(*batch()) == 1


@given(st.permutations(range(3)))
def test_the_order_of_classes_does_not_matter(order):
    probabilities, one_hot = batch()
    same, other = ConfidenceGate(3, 0.5), ConfidenceGate(3, 0.5)
    assert torch.allclose(same(probabilities, one_hot), other(probabilities[:, order], one_hot[:, order]))
    assert torch.allclose(same.probability[list(order)], other.probability)


def test_it_does_not_wait_for_a_class_that_is_never_annotated():
    gate = ConfidenceGate(3, 0.5)
    gate.leave_out([2])
    _, one_hot = batch(annotated=(0, 1))
    for _ in range(40):
        opened = gate(one_hot.float(), one_hot.float())
    assert opened == 1
    restored = ConfidenceGate(3, 0.5)
    restored.load_state_dict(gate.state_dict())
    assert restored.openness == 0  # other folds may annotate it; the training says at its start which do not
    restored.leave_out([2])
    assert restored.openness == 1
