"""Consistency: values by hand and by brute force, gradients, and what must not change them."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from nnunet_ext.medcontext.consistency import consistency, sure
from nnunet_ext.nnunet.pseudo_labels import pseudo_label_loss

KINDS = ["relative", "official", "kl", "mse"]
SHAPES = [(2, 3, 3, 4), (2, 3, 2, 3, 2), (1, 1, 4, 4)]


def logits(shape, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]


def by_hand(student, teacher, kind, exclusive, confidence=0.0, among=None):
    """The formulas of the docstring, number by number."""
    channels = student.shape[1]
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    if kind == "relative":
        return sum((s - t) ** 2 for s, t in pairs) / sum(t**2 for _, t in pairs)
    if kind == "official":
        return sum((s - t) ** 2 for s, t in pairs) / len(pairs) / math.sqrt(sum(t**2 for _, t in pairs))
    total, counted = 0.0, 0
    for b, *where in itertools.product(range(student.shape[0]), *map(range, student.shape[2:])):
        if among is not None and not among[(b, 0, *where)]:
            continue
        counted += 1
        s, t = (x[(b, slice(None), *where)].tolist() for x in (student, teacher))
        if exclusive:
            p, q = ([math.exp(v) / sum(map(math.exp, x)) for v in x] for x in (t, s))
            if max(p) > confidence:
                pairs = list(zip(p, q, strict=True))
                kl = sum(a * math.log(a / c) for a, c in pairs)
                total += kl if kind == "kl" else sum((a - c) ** 2 for a, c in pairs) / channels
        else:
            for k in range(channels):
                a, c = 1 / (1 + math.exp(-t[k])), 1 / (1 + math.exp(-s[k]))
                if max(a, 1 - a) > confidence:
                    kl = a * math.log(a / c) + (1 - a) * math.log((1 - a) / (1 - c))
                    total += kl if kind == "kl" else (a - c) ** 2 / channels
    return total / max(counted, 1)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_those_of_the_formulas_and_gradients_are_right(shape, kind, exclusive):
    student, teacher = logits(shape)
    got = consistency(student, teacher, kind, exclusive=exclusive)
    assert got.item() == pytest.approx(by_hand(student, teacher, kind, exclusive), rel=1e-10, abs=1e-14)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: consistency(s, teacher, kind, exclusive=exclusive), student)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", ["kl", "mse"])
@pytest.mark.parametrize("shape", SHAPES)
def test_where_the_teacher_is_unsure_and_where_nothing_is_hidden_the_student_is_free(shape, kind, exclusive):
    student, teacher = logits(shape)
    among = torch.rand((shape[0], 1, *shape[2:]), generator=torch.Generator().manual_seed(3)) < 0.5
    settings = {"exclusive": exclusive, "confidence": 0.8, "among": among}
    got = consistency(student, teacher, kind, **settings)
    assert got.item() == pytest.approx(by_hand(student, teacher, kind, exclusive, 0.8, among), rel=1e-10, abs=1e-14)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: consistency(s, teacher, kind, **settings), student)
    consistency(student, teacher, kind, **settings).backward()
    believed = sure(teacher, exclusive, 0.8) & among
    assert not student.grad[~believed.expand_as(student)].any()
    if shape[1] > 1 or not exclusive:  # a softmax over one class is 1 whatever it is given
        assert student.grad[believed.expand_as(student)].any()


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_labels_of_the_teacher_are_learned_where_it_is_sure(shape, exclusive):
    """The loss has its loop over voxels in tests/nnunet/test_pseudo_labels.py."""
    student, teacher = logits(shape)
    among = torch.rand((shape[0], 1, *shape[2:]), generator=torch.Generator().manual_seed(3)) < 0.7
    labels = one_hot(teacher.argmax(1), shape[1]).movedim(-1, 1) if exclusive else teacher > 0
    believed = (sure(teacher, exclusive, 0.6) & among).expand_as(student)
    settings = {"exclusive": exclusive, "confidence": 0.6, "among": among}
    expected = pseudo_label_loss(student, labels, believed, exclusive=exclusive)
    torch.testing.assert_close(consistency(student, teacher, "labels", **settings), expected)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: consistency(s, teacher, "labels", **settings), student)
    consistency(student, teacher, "labels", **settings).backward()
    assert torch.equal(student.grad != 0, believed)


def test_a_teacher_that_is_sure_of_nothing_teaches_nothing_and_one_that_is_sure_counts_in_full():
    student, teacher = logits((1, 3, 4, 4))
    assert consistency(student, teacher / 100, confidence=0.8) == 0
    nowhere = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert consistency(student, teacher, among=nowhere) == 0
    everywhere = consistency(student, 100 * teacher, confidence=0.8)
    torch.testing.assert_close(everywhere, consistency(student, 100 * teacher))
    assert sure(torch.tensor([[[[2.0]], [[0.0]]]]), True, 0.88).item()  # a probability of 0.8808
    assert not sure(torch.tensor([[[[2.0]], [[0.0]]]]), True, 0.89).item()
    assert sure(torch.tensor([[[[-2.0]]]]), False, 0.88).item()


def test_two_voxels_computed_by_hand():
    student = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    teacher = torch.tensor([[[[3.0, 0.0]], [[0.0, 4.0]]]])
    assert consistency(student, teacher, "relative").item() == pytest.approx((4 + 4) / 25)
    assert consistency(student, teacher, "official").item() == pytest.approx((8 / 4) / 5)
    p, q = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1))  # a softmax over two is a sigmoid of the difference
    first = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    p, q = 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(-2))
    second = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert consistency(student, teacher, "kl").item() == pytest.approx((first + second) / 2, rel=1e-5)
    assert consistency(student, teacher, "kl").item() == pytest.approx(0.1213141, rel=1e-5)
    assert consistency(student, teacher, "kl", confidence=0.97).item() == pytest.approx(second / 2, rel=1e-5)
    assert consistency(student, teacher, "mse").item() == pytest.approx(0.0296570, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_gets_no_gradient_and_agreement_costs_nothing(kind):
    student, teacher = (x.requires_grad_() for x in logits(SHAPES[0]))
    consistency(student, teacher, kind).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert consistency(teacher, teacher, kind).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["relative", "kl", "mse"])
def test_neither_patch_nor_batch_size_changes_it(kind):
    """Nor its gradient as a share of a mean over voxels, which the supervised loss is."""
    student, teacher = logits((1, 3, 4, 4))
    expected = consistency(student, teacher, kind)
    for repeats in ((1, 1, 3, 5), (4, 1, 1, 1)):
        torch.testing.assert_close(consistency(student.repeat(repeats), teacher.repeat(repeats), kind), expected)


def test_the_official_term_vanishes_with_the_number_of_voxels():
    student, teacher = logits((1, 3, 4, 4))
    small = consistency(student, teacher, "official")
    large = consistency(student.repeat(1, 1, 10, 10), teacher.repeat(1, 1, 10, 10), "official")
    torch.testing.assert_close(large, small / 10)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100), kind=st.sampled_from(KINDS), exclusive=st.booleans(), data=st.data())
def test_flips_and_orders_of_classes_and_samples_do_not_matter(seed, kind, exclusive, data):
    student, teacher = logits((2, 3, 2, 3, 4), seed)
    flipped = data.draw(st.lists(st.sampled_from([2, 3, 4]), unique=True))
    classes = data.draw(st.permutations(range(3)))
    samples = data.draw(st.permutations(range(2)))
    moved = [x[list(samples)][:, list(classes)].flip(flipped) for x in (student, teacher)]
    expected = consistency(student, teacher, kind, exclusive=exclusive)
    torch.testing.assert_close(consistency(*moved, kind, exclusive=exclusive), expected)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_compared_in_float32(kind, exclusive, dtype):
    student, teacher = (x.to(dtype) for x in logits((2, 3, 64, 64), scale=300.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = consistency(student, teacher, kind, exclusive=exclusive)
    assert got.dtype == torch.float32
    expected = consistency(student.double(), teacher.double(), kind, exclusive=exclusive)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_that_says_nothing_is_finite(kind):
    student = torch.zeros(1, 2, 4, 4, requires_grad=True)
    value = consistency(student, torch.zeros(1, 2, 4, 4), kind)
    value.backward()
    assert value == 0
    assert not student.grad.any()
