"""Same-class neighbour penalisation against loops over voxels and their neighbours."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.nnunet.labels import LabelView
from nnunet_ext.scnp.loss import SameClassNeighbours, worst_neighbours

PATCH = {2: (4, 5), 3: (3, 4, 5)}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(dim, classes=3, seed=0, share=1.0):
    """Random one-hot reference without the ignored voxels, and which voxels are annotated."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (2, 1, *PATCH[dim]), generator=generator)
    annotated = torch.rand(target.shape, generator=generator) < share
    return LabelView(classes, False).one_hot(target).double() * annotated, annotated


def by_loops(logits, one_hot, annotated):
    result = logits.copy()
    batch, classes, *size = logits.shape
    for b, k, place in itertools.product(range(batch), range(classes), np.ndindex(*size)):
        if not annotated[(b, 0, *place)]:
            continue
        own = one_hot[(b, k, *place)]
        found = []
        for offset in itertools.product((-1, 0, 1), repeat=len(size)):
            near = tuple(p + o for p, o in zip(place, offset, strict=True))
            inside = all(0 <= p < n for p, n in zip(near, size, strict=True))
            if inside and annotated[(b, 0, *near)] and one_hot[(b, k, *near)] == own:
                found.append(logits[(b, k, *near)])
        result[(b, k, *place)] = min(found) if own else max(found)
    return result


@pytest.mark.parametrize("share", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_penalised_logits_equal_loops(dim, share):
    one_hot, annotated = masks(dim, share=share)
    logits = random(2, 3, *PATCH[dim])
    expected = by_loops(logits.numpy(), one_hot.numpy(), annotated.numpy())
    np.testing.assert_array_equal(worst_neighbours(logits, one_hot, annotated).numpy(), expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_regions_that_overlap_equal_loops(dim):
    one_hot = (random(2, 3, *PATCH[dim], seed=1) > 0).double()
    annotated = random(2, 1, *PATCH[dim], seed=2) > -0.5
    logits = random(2, 3, *PATCH[dim])
    expected = by_loops(logits.numpy(), (one_hot * annotated).numpy(), annotated.numpy())
    np.testing.assert_array_equal(worst_neighbours(logits, one_hot, annotated).numpy(), expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_gradcheck(dim):
    one_hot, annotated = masks(dim, share=0.8)
    logits = random(2, 3, *PATCH[dim]).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: worst_neighbours(z, one_hot, annotated), [logits])


@given(st.integers(0, 1000), st.sampled_from([2, 3]))
@settings(max_examples=20, deadline=None)
def test_no_logit_gets_better_and_a_second_penalty_only_makes_it_worse(seed, dim):
    one_hot, annotated = masks(dim, seed=seed)
    logits = random(2, 3, *PATCH[dim], seed=seed)
    once = worst_neighbours(logits, one_hot, annotated)
    twice = worst_neighbours(once, one_hot, annotated)
    sign = 1 - 2 * one_hot
    assert (sign * (once - logits) >= 0).all()
    assert (sign * (twice - once) >= 0).all()


@given(st.integers(0, 1000), st.sampled_from([(2,), (3,), (2, 3)]))
@settings(max_examples=20, deadline=None)
def test_flipping_space_flips_the_result(seed, axes):
    one_hot, annotated = masks(2, seed=seed, share=0.7)
    logits = random(2, 3, *PATCH[2], seed=seed)
    flipped = worst_neighbours(logits.flip(axes), one_hot.flip(axes), annotated.flip(axes))
    torch.testing.assert_close(flipped, worst_neighbours(logits, one_hot, annotated).flip(axes))


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_logits_of_ignored_voxels_change_nothing_elsewhere_and_stay(seed):
    one_hot, annotated = masks(2, seed=seed, share=0.5)
    logits = random(2, 3, *PATCH[2], seed=seed)
    changed = torch.where(annotated, logits, 100.0)
    expected = torch.where(annotated, worst_neighbours(logits, one_hot, annotated), 100.0)
    assert torch.equal(worst_neighbours(changed, one_hot, annotated), expected)


def test_where_the_class_is_one_constant_nothing_changes():
    one_hot, annotated = masks(2)
    logits = 3 * one_hot - 1
    assert torch.equal(worst_neighbours(logits, one_hot, annotated), logits)


def test_one_wrong_voxel_costs_its_whole_neighbourhood():
    one_hot = torch.zeros(1, 2, 5, 5)
    one_hot[:, 1] = 1
    logits = 5.0 * (2 * one_hot - 1)
    logits[:, :, 2, 2] *= -1
    penalised = worst_neighbours(logits, one_hot, torch.ones(1, 1, 5, 5, dtype=torch.bool))
    assert (penalised[:, 1] < 0).sum() == 9


def test_half_precision_logits_are_penalised_in_float32():
    view, seen = LabelView(3, False), []

    class Records(torch.nn.Module):
        def forward(self, logits, target):
            seen.append(logits.dtype)
            return logits.sum()

    SameClassNeighbours(Records(), view.one_hot, view.annotated)(
        torch.randn(1, 3, 4, 4, dtype=torch.float16), torch.zeros(1, 1, 4, 4, dtype=torch.int16)
    )
    assert seen == [torch.float32]
