"""k-means cross attention against loops in float64, and what it does not depend on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.errors import InputError
from nnunet_ext.s2vnet.attention import Attention
from nnunet_ext.s2vnet.clustering import MAX_SCALE, CosineLogits, KMeansLayer, means_of_clusters


def randomised(module, seed=0):
    """In float64, without the zeros and ones that would hide mistakes."""
    torch.manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def layer_norm(x, norm):
    return (x - x.mean()) / (x.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias


def reference_logits(module, centres, feature):
    batch, number, _ = centres.shape
    _, _, height, width = feature.shape
    logits = torch.zeros(batch, number, height, width, dtype=torch.float64)
    for b in range(batch):
        for n in range(number):
            query = module.query.weight @ layer_norm(centres[b, n], module.norm) + module.query.bias
            for y in range(height):
                for x in range(width):
                    key = module.key.weight[:, :, 0, 0] @ feature[b, :, y, x] + module.key.bias
                    cosine = query @ key / (query.norm() * key.norm())
                    logits[b, n, y, x] = min(float(module.scale), MAX_SCALE) * cosine
            if module.bias is not None:
                logits[b, n] += (module.bias.weight @ centres[b, n] + module.bias.bias).squeeze()
    return logits


def reference_attention(module, x):
    size = x.shape[-1] // module.heads
    out = torch.zeros_like(x)
    for head in range(module.heads):
        part = slice(head * size, (head + 1) * size)
        q, k, v = ((x @ m.weight.T + m.bias)[:, part] for m in (module.query, module.key, module.value))
        for i in range(len(x)):
            weights = [math.exp(float(q[i] @ k[j]) / math.sqrt(size)) for j in range(len(x))]
            out[i, part] = sum(w * v[j] for j, w in enumerate(weights)) / sum(weights)
    return out @ module.out.weight.T + module.out.bias


@pytest.mark.parametrize("biased", [False, True])
def test_logits_are_scaled_cosines(biased):
    module = randomised(CosineLogits(3, 4, 5, biased))
    centres, feature = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 3, 4).double()
    with torch.no_grad():
        module.scale.fill_(12.0)
        torch.testing.assert_close(module(centres, feature), reference_logits(module, centres, feature))
        module.scale.fill_(99.0)
        torch.testing.assert_close(module(centres, feature), reference_logits(module, centres, feature))


def test_a_pixel_without_a_key_has_no_direction_and_finite_gradients():
    module = CosineLogits(3, 8, 4).double()
    torch.nn.init.zeros_(module.key.bias)
    centres = torch.randn(1, 2, 8, dtype=torch.float64)
    feature = torch.zeros(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    logits = module(centres, feature)
    logits.sum().backward()
    assert not logits.any()
    assert feature.grad.isfinite().all()


def test_means_of_clusters_are_those_of_a_loop():
    torch.manual_seed(1)
    logits, feature = torch.randn(2, 4, 3, 5).double(), torch.randn(2, 3, 3, 5).double()
    logits[:, 2] = -9.0  # wins nothing
    means, won = means_of_clusters(logits, feature)
    for b in range(2):
        for n in range(4):
            mine = logits[b].argmax(0) == n
            assert bool(won[b, n]) == bool(mine.any())
            expected = feature[b][:, mine].mean(1) if mine.any() else torch.zeros(3).double()
            torch.testing.assert_close(means[b, n], expected)


def test_a_layer_moves_centres_as_the_formulas_say():
    layer = randomised(KMeansLayer(3, 4, heads=2, hidden=2))
    centres, feature = torch.randn(1, 3, 4).double(), torch.randn(1, 3, 2, 3).double()
    with torch.no_grad():
        moved, logits = layer(centres, feature)
        torch.testing.assert_close(logits, reference_logits(layer.assignment, centres, feature))
        expected = centres[0].clone()
        for n in range(3):
            mine = logits[0].argmax(0) == n
            if mine.any():
                values = torch.stack([layer.value.weight @ f + layer.value.bias for f in feature[0][:, mine].T])
                expected[n] += layer.update.weight @ layer_norm(values.mean(0), layer.update_norm) + layer.update.bias
        normed = torch.stack([layer_norm(c, layer.attention_norm) for c in expected])
        expected += reference_attention(layer.attention, normed)
        expected += layer.ffn(expected)
    torch.testing.assert_close(moved[0], expected)


def test_a_new_layer_does_not_move_centres_by_pixels():
    torch.manual_seed(0)
    layer = KMeansLayer(3, 4, heads=2)
    centres = torch.randn(1, 3, 4)
    torch.testing.assert_close(layer(centres, torch.randn(1, 3, 4, 4))[0], layer(centres, torch.randn(1, 3, 4, 4))[0])


def test_gradients():
    layer = randomised(KMeansLayer(2, 4, heads=2, hidden=1))
    centres = torch.randn(1, 2, 4).double().requires_grad_()
    feature = torch.randn(1, 2, 2, 2).double().requires_grad_()
    with torch.no_grad():
        layer.assignment.scale.fill_(7.0)  # inside of its bounds
    assert torch.autograd.gradcheck(layer, (centres, feature))


def test_assignment_learns_from_its_own_logits_alone():
    layer = randomised(KMeansLayer(2, 4, heads=2))
    moved, _ = layer(torch.randn(1, 3, 4).double(), torch.randn(1, 2, 3, 3).double())
    moved.sum().backward()
    assert all(p.grad is None for p in layer.assignment.parameters())
    assert layer.value.weight.grad.abs().sum() > 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), tiles=st.sampled_from([(1, 2), (2, 1), (3, 2)]))
def test_centres_do_not_depend_on_the_size_or_the_order_of_the_patch(seed, tiles):
    """A mean: the same pixels several times, in another order, move centres just as far."""
    layer = randomised(KMeansLayer(3, 4, heads=1), seed % 7)
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(1, 3, 4, generator=generator).double()
    feature = torch.randn(1, 3, 3, 4, generator=generator).double()
    repeated = feature.repeat(1, 1, *tiles).flip(2)
    with torch.no_grad():
        torch.testing.assert_close(layer(centres, feature)[0], layer(centres, repeated)[0])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 50))
def test_logits_are_bounded_whatever_the_feature(seed, factor):
    module = CosineLogits(3, 4, 5)
    torch.manual_seed(seed)
    logits = module(factor * torch.randn(1, 3, 4), factor * torch.randn(1, 3, 3, 3))
    assert logits.abs().max() <= 10.0 * (1 + 1e-5)


def test_half_precision_features_give_full_precision_centres():
    torch.manual_seed(0)
    layer = KMeansLayer(3, 4, heads=1)
    centres, feature = torch.randn(2, 3, 4), torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moved, logits = layer(centres, feature.bfloat16())
    assert moved.dtype == logits.dtype == torch.float32
    assert moved.isfinite().all()
    exact, _ = layer(centres, feature)
    torch.testing.assert_close(moved, exact, atol=0.05, rtol=0.05)


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="width = 6 and heads = 4"):
        Attention(6, 4)
