"""A simulated user who clicks during training: it sees the labels and corrects the network.

In the first round some of the labels of a clip get a click each; in later rounds each label gets one where it is missed
most. Rounds before the last run without gradients, on features that are computed once, because clicks only move
centres.

Source: that one training serves both modes is published. *Inferred*: everything here. A click is in the interior of its
object, where people click: the mask is eroded until nothing is left, and one of the last pixels is drawn. So in a mask
of several parts the thickest one is clicked, as a stand-in for the largest: a search for components would leave the
GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_ext.s2vnet.prompts import Prompts

Segment = Callable[[Prompts], Tensor]
"""Prompts → the labels that the network predicts with them, ``(B, T, H, W)``."""

EROSIONS = 20


def eroded(masks: Tensor) -> Tensor:
    """``(Q, H, W)`` bool, without the pixels that miss one of their eight neighbours.

    Pixels outside of the image count as inside of the mask.
    """
    for axis in (1, 2):
        inner, last = masks.clone(), masks.shape[axis] - 1
        inner.narrow(axis, 1, last).logical_and_(masks.narrow(axis, 0, last))
        inner.narrow(axis, 0, last).logical_and_(masks.narrow(axis, 1, last))
        masks = inner
    return masks


def uniform_pixel(masks: Tensor) -> Tensor:
    """``(Q, H, W)`` bool → ``(Q, 2)``, row and column of a random pixel of each; any pixel if a mask is empty."""
    chosen = (torch.rand(masks.shape, device=masks.device) * masks + masks).flatten(1).argmax(1)
    return torch.stack((chosen // masks.shape[2], chosen % masks.shape[2]), 1)


def interior_pixels(masks: Tensor, border: float = 0.0, jitter: int = 0) -> Tensor:
    """A pixel of each mask where a user would click.

    Args:
        masks: ``(Q, H, W)`` bool.
        border: share of the masks in which it is a pixel of the border instead.
        jitter: the click moves by up to so many pixels along both axes, unless that leaves the mask.

    Returns:
        ``(Q, 2)`` int64, row and column; meaningless for an empty mask.
    """
    number, height, width = masks.shape
    at_border = torch.rand(number, 1, 1, device=masks.device) < border
    interior, smaller = masks, eroded(masks)
    candidates = torch.where(at_border, masks & ~smaller, False)
    for _ in range(EROSIONS):
        interior = torch.where(smaller.flatten(1).any(1)[:, None, None], smaller, interior)
        smaller = eroded(interior)
    found = uniform_pixel(torch.where(candidates.flatten(1).any(1)[:, None, None], candidates, interior))
    limit = torch.tensor([height - 1, width - 1], device=masks.device)
    step = torch.randint(-jitter, jitter + 1, found.shape, device=masks.device)
    moved = torch.minimum((found + step).clamp(min=0), limit)
    inside = masks[torch.arange(number, device=masks.device), moved[:, 0], moved[:, 1]]
    return torch.where(inside[:, None], moved, found)


@dataclass(frozen=True)
class ClickRules:
    """Rules by which a simulated user clicks.

    Args:
        first: probability that a label gets a click in the first round.
        border: share of clicks at the border of an object.
        jitter: pixels.
    """

    first: float = 0.7
    border: float = 0.05
    jitter: int = 2


def _clicks(wanted: Tensor, slices: Tensor, rules: ClickRules) -> Prompts:
    """One click per sample and label.

    Args:
        wanted: ``(B, L, T, H, W)`` bool, pixels that may be clicked.
        slices: ``(B, L)``, which slice is clicked.
        rules: see there.
    """
    batch, labels, _, height, width = wanted.shape
    index = slices[..., None, None, None].expand(-1, -1, 1, height, width)
    masks = wanted.gather(2, index)[:, :, 0].flatten(0, 1)
    pixels = interior_pixels(masks, rules.border, rules.jitter).unflatten(0, (batch, labels))
    position = torch.cat((slices[..., None], pixels), -1).float()
    there = masks.flatten(1).any(1).view(batch, labels).float()
    label = torch.arange(labels, device=wanted.device).expand(batch, -1)
    return Prompts(position, label, there, torch.zeros_like(there))


def one_hot_labels(labels: Tensor, num_labels: int) -> Tensor:
    """``(B, T, H, W)`` → ``(B, L, T, H, W)`` bool; negative labels are nowhere."""
    return labels[:, None] == torch.arange(num_labels, device=labels.device).view(1, -1, 1, 1, 1)


def first_clicks(labels: Tensor, num_labels: int, rules: ClickRules) -> Prompts:
    """Clicks on some of the labels that occur, each in a random slice in which it occurs. None on the background.

    Args:
        labels: ``(B, T, H, W)`` int64, negative where nothing is annotated.
        num_labels: L.
        rules: see there.
    """
    masks = one_hot_labels(labels, num_labels)
    occurs = masks.flatten(3).any(3)
    slices = (torch.rand(occurs.shape, device=labels.device) * occurs + occurs).argmax(2)
    chosen = torch.rand(occurs.shape[:2], device=labels.device) < rules.first
    chosen[:, 0] = False
    return _clicks(masks, slices, rules).where(chosen)


def correcting_clicks(labels: Tensor, predicted: Tensor, num_labels: int, rules: ClickRules) -> Prompts:
    """One click per label where it is missed, in the slice where most of it is missed; on the background too.

    Args:
        labels: ``(B, T, H, W)`` int64, negative where nothing is annotated.
        predicted: ``(B, T, H, W)`` int64.
        num_labels: L.
        rules: see there.
    """
    missed = one_hot_labels(labels, num_labels) & (predicted != labels)[:, None]
    return _clicks(missed, missed.flatten(3).sum(3).argmax(2), rules)


@dataclass(frozen=True)
class SimulatedUser:
    """Interacts with some of the clips of a batch; the others stay automatic.

    Args:
        labels: ``(B, T, H, W)`` int64, negative where nothing is annotated.
        num_labels: L.
        share: probability that a clip is interactive.
        rounds: of clicks at most; their number is drawn from 1 to this.
        rules: see there.
    """

    labels: Tensor
    num_labels: int
    share: float
    rounds: int
    rules: ClickRules = ClickRules()

    def __call__(self, segment: Segment) -> Prompts:
        """Prompts of the last round, whose segmentation is not computed here."""
        device = self.labels.device
        interactive = torch.rand(len(self.labels), 1, device=device) < self.share
        prompts = first_clicks(self.labels, self.num_labels, self.rules).where(interactive)
        if interactive.any():
            for _ in range(int(torch.randint(self.rounds, ()))):
                clicks = correcting_clicks(self.labels, segment(prompts), self.num_labels, self.rules)
                prompts = prompts.joined(clicks.where(interactive))
        return prompts
