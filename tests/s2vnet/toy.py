"""Volumes of one disc of class 1 or 2. Where it is anybody can see; its class only a cue tells, or a click."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.mechanisms.propagation import batch_of
from nnunet_ext.nnunet.labels import LabelView
from nnunet_ext.s2vnet.click_simulation import ClickRules, SimulatedUser
from nnunet_ext.s2vnet.loss import auxiliary_loss, cluster_loss
from nnunet_ext.s2vnet.network import S2VNet
from nnunet_ext.s2vnet.prompts import Prompts
from tests.s2vnet.test_network import s2vnet

SIZE = 16
CENTRES_ALONE = {"width": 16, "layers": 1, "position": False, "mask_memory": False}
"""Options: what the paper propagates, without what is added; that has a toy of its own,
``benchmarks/mechanisms/propagation.py``."""

Batch = tuple[Tensor, Tensor, SimulatedUser | None]
"""Images ``(B, C, T, H, W)``, labels ``(B, T, H, W)``, and who clicks in them."""


def discs(number: int, slices: int, cue: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Images ``(B, 1, T, H, W)`` and labels ``(B, T, H, W)``.

    Args:
        cue: the disc is bright (class 1) or dark (class 2) in slice 0, as it is nowhere else.
    """
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(number) % 2 + 1
    centre = 5 + 6 * torch.rand(number, 2, 1, 1, 1, generator=generator)
    drift = torch.linspace(-1, 1, slices).view(1, slices, 1, 1)
    axis = torch.arange(SIZE).float()
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = (y - centre[:, 0] - drift) ** 2 + (x - centre[:, 1] + drift) ** 2 < 12
    labels = inside * kind.view(-1, 1, 1, 1)
    images = 0.2 * torch.randn(number, 1, slices, SIZE, SIZE, generator=generator) + inside[:, None].float()
    if cue:
        images[:, :, 0] += torch.where(kind == 1, 2.0, -2.0).view(-1, 1, 1, 1) * inside[:, None, 0]
    return images, labels


def trained(
    steps: int, cue: Callable[[int], bool], interactive: float = 0.0, propagates: bool = True, **options: object
) -> S2VNet:
    """A network after so many steps on clips of 4 slices; ``cue``: in which steps class cues are visible."""
    network = s2vnet(propagates=propagates, features=(8, 12, 16), options={**CENTRES_ALONE, **options})

    def batch(step: int) -> Batch:
        visible = cue(step)
        images, labels = discs(8, 4, visible, 1000 + step)
        return images, labels, None if visible else SimulatedUser(labels, 3, interactive, 2, ClickRules(1.0, 0.0, 1))

    return fit(network, steps, batch, [0.2, 1.0, 1.0])


def fit(network: S2VNet, steps: int, batch: Callable[[int], Batch], class_weights: Sequence[float]) -> S2VNet:
    """The network after so many steps with cross entropy, for inference; ``batch``: of every step."""
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    resize, weight = LabelView(len(class_weights), False).resize, torch.tensor(class_weights)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits, target[:, 0].long(), weight=weight)

    network.train()
    for step in range(steps):
        images, labels, user = batch(step)
        output, supervision = network(images, user)
        target = labels[:, None].short()
        total = loss(output[0], target) + cluster_loss(supervision.clusters, target, loss, resize)
        total = total + 0.5 * auxiliary_loss(supervision.auxiliary, target, loss, resize)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        schedule.step()
    network.decoder.deep_supervision = False
    return network.eval()


def dice(predicted: Tensor, labels: Tensor) -> list[float]:
    """Dice of class 1 and of class 2."""
    scores = []
    for kind in (1, 2):
        a, b = predicted == kind, labels == kind
        scores.append(2 * float((a & b).sum()) / max(1, float(a.sum() + b.sum())))
    return scores


def clicks(labels: Tensor, wrong: bool = False) -> Prompts:
    """One in the middle of each disc, in slice 0, of its class or of the other one."""
    one_each = []
    for volume in labels:
        kind = int(volume.max())
        middle = (volume[0] > 0).nonzero().float().mean(0).round().tolist()
        one_each.append(Prompts.click([0, *middle], 3 - kind if wrong else kind))
    return batch_of(one_each)
