"""A teacher: the moving average of a network (exponential, EMA).

After each step of the optimizer ``teacher ← m · teacher + (1 − m) · student``; it is a mean over about ``1 / (1 − m)``
steps. It is in evaluation mode and without gradient. Statistics of norms are averaged too; otherwise a teacher with
BatchNorm would use those of another network.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """A frozen copy of a network, always in evaluation mode and without deep supervision.

    Args:
        student: the network to follow; deep supervision is switched off in its ``decoder``, if it has one.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(student).requires_grad_(False)
        if hasattr(self.network, "decoder"):
            decoder: Any = self.network.decoder
            decoder.deep_supervision = False
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode, whatever the argument."""
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
