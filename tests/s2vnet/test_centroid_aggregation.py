"""The centres a slice starts from, against loops in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import softplus

from nnunet_ext.s2vnet.centroid_aggregation import Bank, CentroidAggregation
from tests.s2vnet.test_clustering import layer_norm, randomised


def filled_bank(seed, slices=3, batch=2, number=2, width=4, size=8):
    generator = torch.Generator().manual_seed(seed)
    bank = Bank()
    for _ in range(slices):
        centres = torch.randn(batch, number, width, generator=generator).double()
        bank = bank.remember(centres, torch.ones(batch, dtype=torch.bool), size)
    return bank, torch.randn(number, width, generator=generator).double()


def reference(module, learned, past):
    """``past``: of one centre, ``(m, D)``, oldest first."""
    last = past[-1]
    if module.kind == "last":
        mixed = torch.zeros_like(last)
    elif module.kind == "mean":
        mixed = past.mean(0)
    else:
        tokens = [layer_norm(c, module.token_norm) for c in past]
        anchored = [*tokens, layer_norm(learned, module.token_norm) + module.anchor]
        ages = [*range(len(past), 0, -1), 0]
        attention = module.attention
        size = len(last) // attention.heads
        parts = []
        for head in range(attention.heads):
            part = slice(head * size, (head + 1) * size)
            query = (attention.query.weight @ tokens[-1] + attention.query.bias)[part]
            slope = float(softplus(module.slope[head]))
            keys = [(attention.key.weight @ x + attention.key.bias)[part] for x in anchored]
            scores = [
                math.exp(float(query @ key) / math.sqrt(size) - slope * age)
                for key, age in zip(keys, ages, strict=True)
            ]
            values = [(attention.value.weight @ x + attention.value.bias)[part] for x in anchored]
            parts.append(sum(s * v for s, v in zip(scores, values, strict=True)) / sum(scores))
        mixed = attention.out.weight @ torch.cat(parts) + attention.out.bias
    return layer_norm(learned + last + mixed, module.out_norm)


@pytest.mark.parametrize("kind", ["attention", "mean", "last"])
@pytest.mark.parametrize("slices", [1, 3])
def test_aggregation_is_that_of_a_loop(kind, slices):
    module = randomised(CentroidAggregation(4, 2, kind))
    bank, learned = filled_bank(0, slices)
    with torch.no_grad():
        found = module(learned, bank)
        for b in range(2):
            for n in range(2):
                past = torch.stack([centres[b, n] for centres in bank.centres])
                torch.testing.assert_close(found[b, n], reference(module, learned[n], past))


@pytest.mark.parametrize("kind", ["attention", "mean", "last"])
def test_a_sample_without_a_past_starts_from_the_learned_centres(kind):
    module = randomised(CentroidAggregation(4, 2, kind))
    bank, learned = filled_bank(1)
    with torch.no_grad():
        found = module(learned, bank.without(torch.tensor([True, False])))
        torch.testing.assert_close(found[0], learned)
        torch.testing.assert_close(found[1], module(learned, bank)[1])


@pytest.mark.parametrize("kind", ["attention", "mean"])
def test_slices_that_are_not_there_do_not_count(kind):
    module = randomised(CentroidAggregation(4, 2, kind))
    bank, learned = filled_bank(2)
    there = torch.ones(2, dtype=torch.bool)
    with torch.no_grad():
        padded = Bank((torch.full_like(bank.centres[0], 1e3), *bank.centres), (~there, *bank.filled))
        torch.testing.assert_close(module(learned, padded), module(learned, bank))


def test_a_bank_remembers_the_last_slices_and_never_changes():
    bank, _ = filled_bank(3, slices=5, size=3)
    whole, _ = filled_bank(3, slices=5, size=9)
    assert len(bank.centres) == len(bank.filled) == 3
    assert all(torch.equal(a, b) for a, b in zip(bank.centres, whole.centres[2:], strict=True))
    bank.remember(bank.centres[0], bank.filled[0], 3)
    bank.without(torch.tensor([True, True]))
    assert len(bank.centres) == 3
    assert all(filled.all() for filled in bank.filled)


def test_gradients():
    module = randomised(CentroidAggregation(4, 2))
    bank, learned = filled_bank(4, slices=2, batch=1, number=1)

    def aggregate(learned, *centres):
        return module(learned, Bank(centres, bank.filled))

    inputs = [learned.requires_grad_(), *(c.requires_grad_() for c in bank.centres)]
    assert torch.autograd.gradcheck(aggregate, inputs)
    module(learned, bank).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 100), slices=st.integers(1, 6))
def test_the_result_is_normalised_whatever_the_past(seed, scale, slices):
    module = CentroidAggregation(4, 2).double()
    bank, learned = filled_bank(seed, slices)
    grown = Bank(tuple(scale * c for c in bank.centres), bank.filled)
    with torch.no_grad():
        found = module(learned, grown)
    assert found.norm(dim=-1).max() <= 2.0 + 1e-6  # √D


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_centres_do_not_mix_here(seed):
    module = randomised(CentroidAggregation(4, 2), seed % 5)
    bank, learned = filled_bank(seed)
    order = torch.tensor([1, 0])
    with torch.no_grad():
        swapped = Bank(tuple(c[:, order] for c in bank.centres), bank.filled)
        torch.testing.assert_close(module(learned[order], swapped), module(learned, bank)[:, order])
