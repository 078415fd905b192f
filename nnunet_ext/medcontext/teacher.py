"""The teacher: a moving average of the network (exponential, EMA), which sees the patch as a whole.

After each step of the optimizer ``teacher ← m · teacher + (1 − m) · student``. m rises from 0 to a base at once, and
stays there: the teacher is the student at first, and then a mean over about ``1 / (1 − m)`` steps, which is the same
share of the training throughout (``ema_memory`` in the options).

Deviations from the published code, each with its reason:

* *m follows the steps of the whole training.* The code computes that schedule, too, but looks it up by the number of
  the batch within its epoch: m starts at 0 again in every epoch and never exceeds 0.05, so the code's teacher is the
  student of the step before. ``ema_restarts`` in the options restores it.
* *The base follows the length of the training.* 0.996 is a mean over 250 steps, a thousandth of nnU-Net's 250,000. In a
  training of 1000 steps it would be a network from before half of it, which the student is asked to resemble.
* *m does not go on to 1.* The code means it to, by a half cosine; then the teacher of the end is a network of 10 to
  20 % of the training ago, while the learning rate falls and the student is at its best. Where the teacher is the
  product that is good, here it is a target. ``ema_final`` in the options restores it.
* *The teacher is in evaluation mode and without gradient.* In part of the code it is trained on, and dropped from.
* *Statistics of norms are averaged, too*, or a teacher with BatchNorm would normalise by those of another network.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


def ema_momentum(step: int, total_steps: int, base: float, final: float, warmup_steps: int) -> float:
    """The momentum m after ``step``: linear from 0 to ``base``, then a half cosine to ``final``.

    Args:
        step: from 0.
        total_steps: of the schedule; beyond it m stays at ``final``.
        base: m at the end of the warm-up.
        final: m at the end of the training.
        warmup_steps: those of the linear part, which begins with 0 and ends with ``base``.
    """
    if step < warmup_steps:
        return base * step / max(1, warmup_steps - 1)
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final + (base - final) * (1 + math.cos(math.pi * done)) / 2


class Teacher(nn.Module):
    """A frozen copy of a network, always in evaluation mode and without deep supervision.

    Args:
        student: the network to follow, which nnU-Net must be able to train: its ``decoder`` has ``deep_supervision``.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(student).requires_grad_(False)
        decoder: Any = self.network.decoder
        decoder.deep_supervision = False
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, data: Tensor) -> Any:
        """Return what the network returns in evaluation mode for ``(B, C, *spatial)``."""
        return self.network(data)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """``teacher ← momentum · teacher + (1 − momentum) · student``; integer buffers are copied."""
        own = [*self.network.parameters(), *self.network.buffers()]
        others = [*student.parameters(), *student.buffers()]
        pairs = list(zip(own, others, strict=True))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        mine, theirs = [a for a, _ in averaged], [b for _, b in averaged]
        torch._foreach_lerp_(mine, theirs, 1 - momentum)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)
