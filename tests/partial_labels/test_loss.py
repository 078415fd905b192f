"""nnU-Net's loss on what was annotated, against nnU-Net's own, brute force, and what must not change it."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn

from nnunet_ext.nnunet.labels import LabelView
from nnunet_ext.partial_labels.loss import PartialLabelsLoss, only_annotated_logits, only_annotated_target

SHAPES = [(5, 4), (3, 4, 2)]
KINDS = ["classes", "classes+ignore", "regions", "regions+ignore"]
K = 4


def view(kind):
    return LabelView(K, "regions" in kind, K if "ignore" in kind else None)


def sample(kind, shape, batch=3, seed=0, dtype=torch.float64):
    """Logits, target and partially annotated heads: all of the first sample, none of the last, some between."""
    generator = torch.Generator().manual_seed(seed)
    labels = view(kind)
    ignore = labels.ignore_label is not None
    logits = 2 * torch.randn(batch, K, *shape, generator=generator, dtype=dtype)
    annotated = torch.rand(batch, K, generator=generator) < 0.5
    annotated[0], annotated[-1] = True, False
    if labels.has_regions:
        target = torch.rand(batch, K + ignore, *shape, generator=generator) < 0.4
    else:
        annotated[:, 0] = True
        target = torch.randint(0, K + ignore, (batch, 1, *shape), generator=generator).short()
    return logits, target, annotated


def loss_of(kind, annotated, **settings):
    loss = PartialLabelsLoss(view(kind), **{"batch_dice": False, **settings})
    loss.annotated = annotated
    return loss


def stock(kind, batch_dice, do_bg=False):
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "ddp": False}
    if "regions" in kind:
        return DC_and_BCE_loss({}, {**dice, "do_bg": True}, 1, 1, "ignore" in kind, MemoryEfficientSoftDiceLoss)
    ignore = K if "ignore" in kind else None
    return DC_and_CE_loss({**dice, "do_bg": do_bg}, {}, 1, 1, ignore, MemoryEfficientSoftDiceLoss)


def brute_force(kind, logits, target, annotated, batch_dice, smooth=1e-5):
    """Voxel by voxel and head by head, in Python's floats."""
    regions, ignore = "regions" in kind, "ignore" in kind
    batch, space = len(logits), list(itertools.product(*(range(n) for n in logits.shape[2:])))
    q, y, entropies = {}, {}, []
    for b, v in itertools.product(range(batch), space):
        at = (slice(None), *v)
        z, t = logits[b][at].tolist(), target[b][at].tolist()
        known = annotated[b].tolist()
        if ignore and (t[-1] if regions else t[0] == K):
            continue
        if regions:
            probabilities = [1 / (1 + math.exp(-x)) for x in z]
            truth = [bool(x) for x in t[:K]]
            entropies += [
                -math.log(p if yes else 1 - p) for p, yes, k in zip(probabilities, truth, known, strict=True) if k
            ]
        else:
            exps = [math.exp(x) for x in z]
            parts = [x / sum(exps) for x in exps]
            probabilities = [p if k else 0.0 for p, k in zip(parts, known, strict=True)]
            probabilities[0] += sum(p for p, k in zip(parts, known, strict=True) if not k)
            label = t[0] if known[t[0]] else 0
            truth = [label == k for k in range(K)]
            entropies.append(-math.log(probabilities[label]))
        for k in range(K):
            q.setdefault((b, k), []).append(probabilities[k])
            y.setdefault((b, k), []).append(truth[k])
    pairs = [(b, k) for b in range(batch) for k in range(0 if regions else 1, K) if annotated[b, k]]
    groups = [[pair for pair in pairs if pair[1] == k] for k in range(K)] if batch_dice else [[pair] for pair in pairs]
    dices = []
    for group in filter(None, groups):
        both = sum(p * t for pair in group for p, t in zip(q.get(pair, []), y.get(pair, []), strict=True))
        total = sum(sum(q.get(pair, [])) + sum(y.get(pair, [])) for pair in group)
        dices.append((2 * both + smooth) / (total + smooth))
    scale = K if regions and ignore else 1
    entropy = scale * sum(entropies) / len(entropies) if entropies else 0.0
    return entropy - (sum(dices) / len(dices) if dices else 0.0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_with_everything_annotated_it_is_nnunets_own_loss(kind, batch_dice, shape):
    logits, target, _ = sample(kind, shape, dtype=torch.float32)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    everything = torch.ones(3, K, dtype=torch.bool)
    for annotated in (None, everything):
        ours.grad = theirs.grad = None
        loss = loss_of(kind, annotated, batch_dice=batch_dice)(ours, target)
        expected = stock(kind, batch_dice)(theirs, target)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)


def test_with_the_background_in_the_dice_too():
    logits, target, _ = sample("classes", (5, 4), dtype=torch.float32)
    expected = stock("classes", False, do_bg=True)(logits, target)
    torch.testing.assert_close(loss_of("classes", None, do_bg=True)(logits, target), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_against_brute_force(kind, batch_dice, shape):
    logits, target, annotated = sample(kind, shape)
    loss = loss_of(kind, annotated, batch_dice=batch_dice)(logits, target)
    assert loss.item() == pytest.approx(brute_force(kind, logits, target, annotated, batch_dice), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind, shape):
    logits, target, annotated = sample(kind, shape)
    loss = loss_of(kind, annotated, batch_dice=True)
    assert torch.autograd.gradcheck(lambda z: loss(z, target), logits.requires_grad_())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), ignore=st.booleans(), batch_dice=st.booleans())
def test_how_background_and_unannotated_organs_share_their_probability_does_not_matter(seed, ignore, batch_dice):
    kind = "classes+ignore" if ignore else "classes"
    logits, target, annotated = sample(kind, (3, 4), seed=seed)
    loss = loss_of(kind, annotated, batch_dice=batch_dice)
    merged = ~annotated
    merged[:, 0] = True
    merged = merged[..., None, None]
    p = logits.softmax(1)
    shares = torch.rand(p.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.01
    shares = shares * merged / (shares * merged).sum(1, keepdim=True)
    redistributed = torch.where(merged, shares * (p * merged).sum(1, keepdim=True), p)
    torch.testing.assert_close(loss(logits, target), loss(redistributed.log(), target))
    # and so every part receives a gradient in proportion to its share: none of them is preferred
    (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), target), logits)
    ratio = (gradient / p).masked_fill(~merged, 0)
    torch.testing.assert_close(ratio, torch.where(merged, ratio[:, :1], 0.0), rtol=1e-6, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    order=st.permutations(range(1, K)),
    kind=st.sampled_from(KINDS),
    batch_dice=st.booleans(),
)
def test_the_order_of_the_organs_does_not_matter(seed, order, kind, batch_dice):
    logits, target, annotated = sample(kind, (3, 4), seed=seed)
    new = torch.tensor([0, *order])
    if "regions" in kind:
        permuted = torch.cat([target[:, new], target[:, K:]], 1)
    else:
        places = torch.cat([new.argsort(), torch.tensor([K])])
        permuted = places[target.long()]
    there = loss_of(kind, annotated[:, new], batch_dice=batch_dice)(logits[:, new], permuted)
    torch.testing.assert_close(loss_of(kind, annotated, batch_dice=batch_dice)(logits, target), there)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_were_not_annotated_do_not_matter_if_a_label_map_has_some(kind):
    logits, target, annotated = sample(kind, (5, 4))
    loss = loss_of(kind, annotated)
    cleaned = only_annotated_target(target, annotated, view(kind))
    assert not torch.equal(cleaned, target)
    assert cleaned.dtype == target.dtype
    torch.testing.assert_close(loss(logits, cleaned), loss(logits, target), rtol=0, atol=0)
    valid = view(kind).annotated(target)
    assert torch.equal(view(kind).annotated(cleaned), valid)


@pytest.mark.parametrize("kind", ["classes", "classes+ignore"])
def test_what_lies_outside_of_the_image_stays_outside(kind):
    _, target, annotated = sample(kind, (5, 4))
    expected = only_annotated_target(target, annotated, view(kind))
    target[..., 0] = expected[..., 0] = -1
    assert torch.equal(only_annotated_target(target, annotated, view(kind)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_logits_are_probabilities_of_what_was_annotated(kind):
    logits, _, annotated = sample(kind, (5, 4))
    merged = only_annotated_logits(logits, annotated, view(kind))
    p, q = [z.sigmoid() if "regions" in kind else z.softmax(1) for z in (logits, merged)]
    hidden = ~annotated[..., None, None].expand_as(p)
    assert (q[hidden] == 0).all()
    expected = p.masked_fill(hidden, 0)
    if "classes" in kind:
        expected[:, 0] += (p * hidden).sum(1)
    torch.testing.assert_close(q, expected)
    torch.testing.assert_close(only_annotated_logits(merged, annotated, view(kind)), merged)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_dice", [False, True])
def test_where_nothing_was_annotated_the_loss_is_0_and_connected(kind, batch_dice):
    logits, target, annotated = sample(kind, (5, 4), dtype=torch.float32)
    nothing = torch.zeros_like(annotated)
    if "classes" in kind:
        nothing[:, 0] = True
    logits.requires_grad_()
    loss = loss_of(kind, nothing, batch_dice=batch_dice)(logits, target)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["classes+ignore", "regions+ignore"])
def test_where_every_voxel_is_ignored_there_is_no_gradient(kind):
    logits, target, annotated = sample(kind, (5, 4), dtype=torch.float32)
    if "regions" in kind:
        target[:, -1] = True
    else:
        target[:] = K
    logits.requires_grad_()
    loss = loss_of(kind, annotated)(logits, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_are_finite(kind):
    logits, target, annotated = sample(kind, (5, 4), dtype=torch.float16)
    logits = (1_000 * logits).requires_grad_()
    loss = loss_of(kind, annotated)(logits, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert loss.dtype == torch.float32


def test_under_nnunets_deep_supervision():
    logits, target, annotated = sample("classes", (8, 4))
    coarse = (logits[..., ::2, ::2], target[..., ::2, ::2])
    loss = loss_of("classes", annotated)
    wrapped = DeepSupervisionWrapper(loss, [0.75, 0.25])([logits, coarse[0]], [target, coarse[1]])
    torch.testing.assert_close(wrapped, 0.75 * loss(logits, target) + 0.25 * loss(*coarse))


def test_over_two_processes_the_batch_dice_is_that_of_both_batches():
    logits, target, annotated = sample("classes", (5, 4), batch=4)
    together = loss_of("classes", annotated, batch_dice=True)
    together._cross_entropy = lambda *_: 0.0
    halves = [slice(0, 2), slice(2, 4)]
    sums = []
    for half in halves:  # what each process has, then what it gets
        gather = loss_of("classes", annotated[half], batch_dice=True, over_processes=lambda s: sums.append(s) or s)
        gather(logits[half], target[half])
    last = loss_of("classes", annotated[halves[1]], batch_dice=True, over_processes=lambda s: sums[0] + s)
    last._cross_entropy = lambda *_: 0.0
    torch.testing.assert_close(last(logits[2:], target[2:]), together(logits, target))


def test_annotated_of_another_batch_is_refused():
    logits, target, annotated = sample("classes", (5, 4))
    with pytest.raises(ValueError, match=r"annotated is \(2, 4\), but the logits are \(3, 4, 5, 4\)"):
        loss_of("classes", annotated[:2])(logits, target)


def test_it_learns_an_organ_from_the_cases_that_have_it_and_does_not_unlearn_it_in_the_others():
    """Three grey values. In three of four samples organ 2 is part of the background, and nnU-Net's loss learns that."""
    grey = torch.randint(0, 3, (4, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    target = torch.where((grey == 2) & (torch.arange(4) > 0).view(4, 1, 1, 1), 0, grey)
    annotated = torch.ones(4, 3, dtype=torch.bool)
    annotated[1:, 2] = False
    found = {}
    for name in ("stock", "partial"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))
        loss = PartialLabelsLoss(LabelView(3, False), batch_dice=False)
        loss.annotated = annotated if name == "partial" else None
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        for _ in range(80):
            optimizer.zero_grad()
            loss(model(grey.float() - 1), target).backward()
            optimizer.step()
        predicted = model(grey.float() - 1).argmax(1, keepdim=True)
        found[name] = (predicted[grey == 2] == 2).float().mean().item()
        assert (predicted[grey == 1] == 1).all()
    assert found == {"stock": 0.0, "partial": 1.0}
