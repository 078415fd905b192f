"""Attention, similarity and its loss: the window equals the dense matrices, in float64, values and gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.attenscribble import similarity
from nnunet_ext.attenscribble.attentive_similarity_loss import (
    agreement,
    attentive_similarity_loss,
    averaged,
    several_classes,
)
from nnunet_ext.attenscribble.crf_loss import Window
from nnunet_ext.attenscribble.published import (
    PublishedAffinity,
    PublishedSelfAttention,
    interpolated,
    published_similarity_loss,
)
from nnunet_ext.attenscribble.similarity import AffinityHead, inside
from nnunet_ext.attenscribble.spatial_attention import Projected, QueriesAndKeys, SpatialSelfAttention
from nnunet_ext.nnunet.labels import LabelView

GRIDS = [((5, 6), (2, 2)), ((3, 4, 5), (1, 2, 2)), ((2, 7), (3, 1))]


def loss_of(*given, published: bool = False, gamma: float = 1.0, exclusive: bool = True) -> torch.Tensor:
    """The loss of one of the two forms."""
    if published:
        return published_similarity_loss(*given, exclusive=exclusive)
    return attentive_similarity_loss(*given, exclusive=exclusive, gamma=gamma)


def projected(grid, heads=1, batch=2, d=4, seed=0, scale=1.5) -> Projected:
    generator = torch.Generator().manual_seed(seed)
    q, k = (scale * torch.randn(batch, heads, d, *grid, generator=generator, dtype=torch.float64) for _ in "qk")
    return Projected(q, k)


def probabilities(grid, heads=3, batch=2, seed=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, heads, *grid, generator=generator, dtype=torch.float64).softmax(1)


def head(published: bool, heads: int = 1) -> AffinityHead:
    torch.manual_seed(3)
    module = (PublishedAffinity if published else AffinityHead)(heads).double()
    torch.nn.init.normal_(module.weight)
    torch.nn.init.normal_(module.bias)
    return module


def dense_similarity(module: AffinityHead, p: Projected) -> torch.Tensor:
    """``(B, N, N)`` as the formulas say it."""
    q, k = (each.flatten(3).transpose(2, 3) for each in p)
    n = q.shape[2]
    if isinstance(module, PublishedAffinity):
        attention = (q @ k.transpose(2, 3)).softmax(3)
        symmetric = attention + attention.transpose(2, 3)
        return ((module.weight.view(1, -1, 1, 1) * symmetric).sum(1) + module.bias).sigmoid()
    attention = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3)
    symmetric = attention + attention.transpose(2, 3)
    weight = torch.nn.functional.softplus(module.weight).view(1, -1, 1, 1)
    return ((weight * (n * symmetric / 2).log()).sum(1) + module.bias).sigmoid()


def dense_loss(s, p, radius, sigma, counts, published, gamma, exclusive, tokens=None):
    """Over all pairs of tokens; ``tokens``: ``(B, N)``, those that take part."""
    grid = p.shape[2:]
    places = torch.tensor(list(np.ndindex(*grid)), dtype=torch.float64)
    apart = places[:, None] - places[None]
    near = (apart.abs() <= torch.tensor(radius)).all(2) & apart.any(2)
    m = torch.exp(-apart.square().sum(2) / (2 * sigma**2)) * near
    offsets = [o for o in itertools.product(*(range(-r, r + 1) for r in radius)) if any(o)]
    mass = sum(math.exp(-sum(x * x for x in o) / (2 * sigma**2)) for o in offsets)
    flat = p.flatten(2)
    if exclusive:
        agree = flat.transpose(1, 2) @ flat
    else:
        one, other = flat[..., :, None], flat[..., None, :]
        agree = 1 - (one + other - 2 * one * other).mean(1)
    if published:
        pairs = s * (1 - agree)
    else:
        frozen = agree.detach()
        pairs = s.detach() * (1 - agree) - gamma * (frozen * s.log() + (1 - frozen) * (1 - s).log())
    tokens = torch.ones_like(flat[:, 0]) if tokens is None else tokens.to(flat.dtype)
    pairs = pairs * tokens[:, :, None] * tokens[:, None]
    return ((m * pairs).sum((1, 2)) * counts).sum() / (mass * tokens.sum())


# --- windowed = dense -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(("grid", "radius"), GRIDS)
def test_the_window_of_the_similarity_equals_the_dense_matrix(grid, radius, heads, published, monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK", 200)  # several blocks
    window = Window.gaussian(radius, 2.0)
    module, p = head(published, heads), projected(grid, heads)
    ours = module(p, window).sigmoid()
    dense = dense_similarity(module, p)
    valid = inside(window, grid)
    compared = 0
    for index, offset in enumerate(window.offsets):
        for place in np.ndindex(*grid):
            neighbour = tuple(x + o for x, o in zip(place, offset, strict=True))
            there = all(0 <= x < n for x, n in zip(neighbour, grid, strict=True))
            assert valid[(index, *place)].item() == there
            if there:
                i, j = (np.ravel_multi_index(x, grid) for x in (place, neighbour))
                torch.testing.assert_close(ours[(slice(None), index, *place)], dense[:, i, j])
                compared += 1
    assert compared > 20


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize(("grid", "radius"), GRIDS)
def test_loss_and_gradients_equal_those_of_the_dense_matrices(grid, radius, published, exclusive):
    module, p = head(published), probabilities(grid).requires_grad_()
    qk = [each.requires_grad_() for each in projected(grid)]
    counts = torch.tensor([1.0, 0.5], dtype=torch.float64)
    window = Window.gaussian(radius, 2.0)
    inputs = [*qk, p, module.weight, module.bias]
    ours = loss_of(
        module(Projected(*qk), window), p, window, counts, exclusive=exclusive, published=published, gamma=0.7
    )
    dense = dense_loss(dense_similarity(module, Projected(*qk)), p, radius, 2.0, counts, published, 0.7, exclusive)
    torch.testing.assert_close(ours, dense)
    for mine, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(dense, inputs), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("published", [True, False])
def test_gradient(published):
    window, module = Window.gaussian((1, 1), 2.0), head(published)
    q, k = (each.requires_grad_() for each in projected((3, 3), batch=1, d=2))
    counts = torch.ones(1, dtype=torch.float64)
    p = probabilities((3, 3), batch=1)
    # in the stable form p is frozen in one term and S in the other, so each is checked alone
    with torch.no_grad():
        fixed = module(Projected(q, k), window)
    if published:
        assert torch.autograd.gradcheck(
            lambda q, k: loss_of(module(Projected(q, k), window), p, window, counts, published=True),
            (q, k),
        )
    assert torch.autograd.gradcheck(lambda q, k: module(Projected(q, k), window), (q, k))
    assert torch.autograd.gradcheck(
        lambda p: loss_of(fixed, p, window, counts, published=published, gamma=0.0),
        (p.clone().requires_grad_(),),
    )


# --- invariances and meaning ------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_flips_axes_and_the_order_of_classes_change_nothing(seed, published):
    window, module = Window.gaussian((2, 2), 2.0), head(published)
    p, counts = probabilities((5, 5), seed=seed), torch.ones(2)
    qk = projected((5, 5), seed=seed)
    loss = lambda qk, p: loss_of(module(qk, window), p, window, counts, published=published).item()  # noqa: E731
    expected = loss(qk, p)
    turned = lambda x: x.flip(-1).transpose(-1, -2)  # noqa: E731
    assert loss(Projected(*map(turned, qk)), turned(p)) == pytest.approx(expected)
    assert loss(qk, p[:, [1, 2, 0]]) == pytest.approx(expected)


def test_uniform_attention_has_similarity_one_half_in_the_stable_form():
    qk = projected((6, 6), scale=0.0)
    logits = AffinityHead()(qk, Window.gaussian((2, 2), 2.0))
    torch.testing.assert_close(logits, torch.zeros_like(logits))


def trained(published: bool, steps: int) -> tuple[float, float, float]:
    """Similarity trained alone on fixed, informative predictions: its mean, and that within and between classes."""
    grid, window = (12, 12), Window.gaussian((3, 3), 6.0)
    generator = torch.Generator().manual_seed(0)
    right = (torch.arange(12) >= 6).expand(12, 12)
    features = torch.randn(1, 16, *grid, generator=generator)
    features[:, 0] += 2.0 * (2 * right.float() - 1)
    p = torch.stack([0.05 + 0.9 * ~right, 0.05 + 0.9 * right])[None]
    torch.manual_seed(0)
    projection, module = QueriesAndKeys(16, head_dim=16), (PublishedAffinity if published else AffinityHead)()
    optimizer = torch.optim.SGD([*projection.parameters(), *module.parameters()], 0.01, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(module(projection(features), window), p, window, torch.ones(1), published=published)
        (9.2 * loss).backward()
        optimizer.step()
    with torch.no_grad():
        s = module(projection(features), window).sigmoid()
    same = agreement(p, window) > 0.5
    valid = inside(window, grid)[None]
    return s[valid].mean().item(), s[valid & same].mean().item(), s[valid & ~same].mean().item()


def test_the_published_similarity_collapses_and_the_stable_one_learns_the_classes():
    before, after = trained(True, 0)[0], trained(True, 300)
    assert before > 0.2
    assert after[0] < 0.1 * before  # its loss is smallest where it is 0 everywhere
    assert after[1] < 2 * after[2]  # and it does not know the classes
    _, within, between = trained(False, 300)
    assert within > 0.6
    assert between < 0.3


def test_the_loss_pulls_predictions_together_where_voxels_look_alike():
    window = Window.gaussian((1, 1), 2.0)
    alike = torch.full((1, len(window.offsets), 4, 4), 5.0)
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses = []
    for _ in range(100):
        loss = loss_of(alike, logits.softmax(1), window, torch.ones(1), gamma=0.0)
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - 20 * gradient).detach().requires_grad_()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize(("grid", "radius"), GRIDS)
def test_tokens_outside_of_the_image_take_no_part(grid, radius, exclusive):
    module, p, qk = head(False), probabilities(grid).requires_grad_(), projected(grid)
    tokens = torch.rand(2, 1, *grid, generator=torch.Generator().manual_seed(5)) < 0.6
    counts, window = torch.tensor([1.0, 0.5], dtype=torch.float64), Window.gaussian(radius, 2.0)
    similarity, given = module(qk, window), {"exclusive": exclusive, "gamma": 0.7}
    ours = attentive_similarity_loss(similarity, p, window, counts, **given, tokens=tokens)
    dense = dense_similarity(module, qk)
    expected = dense_loss(dense, p, radius, 2.0, counts, False, 0.7, exclusive, tokens.flatten(1))
    torch.testing.assert_close(ours, expected)
    (gradient,) = torch.autograd.grad(ours, p)
    assert not gradient[(~tokens).expand_as(gradient)].any()
    nowhere = attentive_similarity_loss(similarity, p, window, counts, **given, tokens=torch.zeros_like(tokens))
    assert nowhere == 0


CLASSES, REGIONS = LabelView(3, False, 3), LabelView(2, True, 3)


def of_regions(labels: torch.Tensor) -> torch.Tensor:
    """Target with the regions whole = {1, 2} and core = {2}."""
    return torch.cat([(labels == 1) | (labels == 2), labels == 2, labels == 3], 1)


@pytest.mark.parametrize(
    ("drawn", "count"),
    [([0], 0), ([1], 0), ([2], 0), ([], 0), ([0, 1], 1), ([0, 2], 1), ([1, 2], 1), ([0, 1, 2], 1)],
)
@pytest.mark.parametrize("unlabelled", [True, False])
@pytest.mark.parametrize("view", [CLASSES, REGIONS], ids=["classes", "regions"])
def test_a_sample_counts_if_two_of_its_labels_are_drawn(view, unlabelled, drawn, count):
    """The background is no region, and label 2 alone lies in two of them."""
    values = [*drawn, 3] if unlabelled or not drawn else drawn
    labels = torch.tensor(values).repeat(12)[:12].view(1, 1, 3, 4)
    target = of_regions(labels) if view.has_regions else labels
    both = torch.cat([target, torch.full_like(target, 1 if view.has_regions else 3)])  # beside one without labels
    assert several_classes(view.one_hot(both), view.annotated(both)).tolist() == [count, 0]


def test_samples_that_do_not_count_have_no_loss_and_no_gradient():
    window, module, p = Window.gaussian((1, 1), 2.0), head(False), probabilities((4, 4)).requires_grad_()
    loss = loss_of(module(projected((4, 4)), window), p, window, torch.zeros(2))
    loss.backward()
    assert loss.item() == 0
    assert not p.grad.any()


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("grid", [(4, 4), (2, 3, 4)])
def test_probabilities_on_the_token_grid_stay_probabilities(grid, published):
    p = probabilities(tuple(4 * n for n in grid))
    small = (interpolated if published else averaged)(p, grid)
    assert small.shape[2:] == grid
    torch.testing.assert_close(small.sum(1), torch.ones_like(small[:, 0]))
    if not published:
        torch.testing.assert_close(small.mean(), p.mean())


@pytest.mark.parametrize("published", [True, False])
def test_half_precision_is_finite(published):
    p = Projected(*(100 * each.half() for each in projected((8, 8))))
    window, module = Window.gaussian((2, 2), 2.0), (PublishedAffinity if published else AffinityHead)()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = module(p, window)
        loss = loss_of(logits, probabilities((8, 8)).half(), window, torch.ones(2), published=published)
    assert logits.dtype == loss.dtype == torch.float32
    assert logits.isfinite().all()
    loss.backward()
    assert module.bias.grad.isfinite()


# --- the block --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "kernel"), [((5, 6), (3, 3)), ((3, 4, 5), (1, 3, 3))])
@pytest.mark.parametrize("heads", [1, 2])
def test_the_block_is_the_formula(grid, kernel, heads):
    torch.manual_seed(0)
    block = PublishedSelfAttention(8, kernel, heads=heads, head_dim=4).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 8, *grid, dtype=torch.float64)
    out, qk = block(x)

    tokens = x.flatten(2).transpose(1, 2)
    u = block.attention.norm(tokens)
    attended = []
    for h in range(heads):
        rows = slice(4 * h, 4 * h + 4)
        q, k = u @ block.attention.queries.weight[rows].T, u @ block.attention.keys.weight[rows].T
        v = (u @ block.values.weight.T)[..., 8 // heads * h : 8 // heads * (h + 1)]
        attended.append((q @ k.transpose(1, 2) / 2).softmax(2) @ v)
        torch.testing.assert_close(qk.queries[:, h].flatten(2).transpose(1, 2), q)
        torch.testing.assert_close(qk.keys[:, h].flatten(2).transpose(1, 2), k)
    y = tokens + block.out(torch.cat(attended, 2))
    wide = block.widen(block.norm_mlp(y)).transpose(1, 2).unflatten(2, grid)
    y = y + block.narrow(torch.nn.functional.gelu(block.depthwise(wide)).flatten(2).transpose(1, 2))
    expected = block.norm_out(y).transpose(1, 2).unflatten(2, grid)
    torch.testing.assert_close(out, expected)


def test_the_block_starts_as_the_identity_and_the_published_one_does_not():
    x = torch.randn(1, 8, 6, 6)
    assert torch.equal(SpatialSelfAttention(8, (3, 3))(x)[0], x)
    assert not torch.allclose(PublishedSelfAttention(8, (3, 3))(x)[0], x, atol=0.1)


def test_the_projections_alone_are_those_of_the_block():
    torch.manual_seed(0)
    block = SpatialSelfAttention(8, (3, 3), heads=2, head_dim=4)
    x = torch.randn(2, 8, 5, 6)
    for mine, other in zip(block.attention(x), block(x)[1], strict=True):
        torch.testing.assert_close(mine, other)


def test_the_block_compiles_in_one_graph():
    block = SpatialSelfAttention(8, (3, 3))
    x = torch.randn(1, 8, 6, 6)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], block(x)[0])
