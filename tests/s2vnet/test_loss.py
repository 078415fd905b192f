"""Weights and targets of what is supervised beside the final logits."""

import torch

from nnunet_ext.nnunet.labels import LabelView
from nnunet_ext.s2vnet.loss import auxiliary_loss, cluster_loss, stage_weight

SIZES = {0: (2, 8, 8), 1: (2, 4, 4), 2: (2, 2, 2)}


def squared(logits, target):
    return (logits[:, :1] - target).pow(2).mean()


def logits(stage, seed):
    return torch.randn(1, 3, *SIZES[stage], generator=torch.Generator().manual_seed(seed)).double().requires_grad_()


def test_no_weight_is_zero():
    assert [stage_weight(s) for s in range(7)] == [1, 0.5, 0.25, 0.125, 0.0625, 0.05, 0.05]


def test_layers_of_a_stage_are_averaged_and_stages_summed():
    target = torch.randint(3, (1, 1, 2, 8, 8))
    layers = [(2, logits(2, 0)), (2, logits(2, 1)), (1, logits(1, 2))]
    found = cluster_loss(layers, target, squared, LabelView(3, False).resize)
    # nearest-exact: from 8 to 4 pixels it takes 1, 3, 5, 7, from 8 to 2 it takes 2 and 6
    quarter, half = target[..., 2::4, 2::4], target[..., 1::2, 1::2]
    expected = 0.25 * (squared(layers[0][1].float(), quarter) + squared(layers[1][1].float(), quarter)) / 2
    expected = expected + 0.5 * squared(layers[2][1].float(), half)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(z.grad.abs().sum() > 0 for _, z in layers)


def test_planned_layers_count_from_full_resolution_on():
    target = torch.randint(3, (1, 1, 2, 8, 8))
    outputs = [logits(s, s) for s in range(3)]
    found = auxiliary_loss(outputs, target, squared, LabelView(3, False).resize)
    parts = [target, target[..., 1::2, 1::2], target[..., 2::4, 2::4]]
    expected = sum(0.5**s * squared(outputs[s].float(), parts[s]) for s in range(3))
    torch.testing.assert_close(found, expected)


def test_half_precision_logits_are_compared_in_full():
    seen = []

    def loss(x, target):
        seen.append(x.dtype)
        return x.sum()

    auxiliary_loss([logits(0, 0).half()], torch.zeros(1, 1, 2, 8, 8), loss, LabelView(3, False).resize)
    assert seen == [torch.float32]
