"""The confidence gate: regularisers wait, class by class, until the network has learned what is annotated.

A CRF loss and an attentive similarity are smallest where everything is one class. At the start of a training the
network predicts background everywhere, so both losses can hold it there, and the partial loss never makes a first
prediction (one training of the hippocampus ended this way, docs/results/history/attenscribble.md). A ramp over epochs
only moves the problem: when a network leaves this state depends on the data and the schedule.

Here the regularisers count as far as the network has learned. With a_c the running mean probability of class c at
voxels annotated as c, a class is open by ``g_c = min(1, a_c / wait)``, and whatever a regulariser moves from class k to
class l counts ``g_k g_l``. Its gradient for the logits z of a voxel is ``Σ_l p_k p_l (G_k − G_l)`` with ``G = ∂L/∂p``;
the logits receive::

    ∂z_k = Σ_l  g_k g_l  p_k p_l (G_k − G_l)

So nothing is taken from or given to a class that is not learned yet, and the others are regularised among themselves as
if it were not there: one hard class of thirteen does not hold up the rest. With the same g everywhere the gradient is
g² times what it was. Regions, which do not exclude each other, have ``g_k`` times their gradient. Values of losses are
not changed.

A class that was not seen yet has a_c = 0. A class that no training case annotates can never be learned, so it does not
wait. The published code has a constant weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import once_differentiable

INERTIA = 0.9
"""Inertia of the running mean, per batch in which the class is annotated."""


class ConfidenceGate(nn.Module):
    """How far each class is open; the running mean is part of the checkpoint.

    Args:
        classes: or regions, K.
        wait: mean probability at annotated voxels from which on a class is open; 0: all always are.
    """

    probability: Tensor
    """``(K,)``: a_c."""
    counted: Tensor
    """``(K,)`` bool: classes that wait."""

    def __init__(self, classes: int, wait: float) -> None:
        super().__init__()
        self.wait = wait
        self.register_buffer("probability", torch.zeros(classes))
        # no part of the checkpoint: the training split says it anew at every start
        self.register_buffer("counted", torch.ones(classes, dtype=torch.bool), persistent=False)

    def leave_out(self, classes: Sequence[int]) -> None:
        """Let these classes or regions wait no longer."""
        self.counted[list(classes)] = False

    @torch.no_grad()
    def forward(self, probabilities: Tensor, one_hot: Tensor) -> Tensor:
        """Take the batch of all processes into account; return :attr:`openness`.

        Args:
            probabilities: ``(B, K, *spatial)``.
            one_hot: same shape, 0 in all channels at voxels that are not annotated.
        """
        if self.wait <= 0:
            return self.openness
        axes = (0, *range(2, probabilities.ndim))
        sums = torch.stack([one_hot.sum(axes), (probabilities.float() * one_hot).sum(axes)])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        voxels, probability = sums
        mean = probability / voxels.clamp(min=1)
        self.probability.copy_(
            torch.where(voxels > 0, INERTIA * self.probability + (1 - INERTIA) * mean, self.probability)
        )
        return self.openness

    @property
    def openness(self) -> Tensor:
        """``(K,)``: g_c, from 0 to 1, without gradient."""
        if self.wait <= 0:
            return torch.ones_like(self.probability)
        return (self.probability / self.wait).clamp(max=1).where(self.counted, 1.0)

    def gated(self, logits: Tensor, *, exclusive: bool) -> Tensor:
        """The same logits ``(B, K, *spatial)``, whose gradient passes the gate, see the module.

        Args:
            logits: float32 or wider.
            exclusive: classes (softmax) or regions (sigmoid).
        """
        return logits if self.wait <= 0 else _Gated.apply(logits, self.openness, exclusive)

    def described(self, names: Sequence[str]) -> str:
        """One sentence for the log: for which classes the regularisers are on.

        Args:
            names: of the K classes or regions.
        """
        openness = self.openness.tolist()
        waiting = [
            f"{name} at {g:.0%} (mean probability {p:.2f} where it is annotated, {self.wait:g} opens it)"
            for name, g, p in zip(names, openness, self.probability.tolist(), strict=True)
            if g < 1
        ]
        on = [name for name, g in zip(names, openness, strict=True) if g == 1]
        parts = [f"on for {', '.join(on)}"] if on else []
        return f"Regularisers: {'; '.join(parts + waiting)}"


class _Gated(torch.autograd.Function):
    """The identity, with the gradient of the module's docstring."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, openness: Tensor, exclusive: bool) -> Tensor:
        ctx.save_for_backward(logits, openness)
        ctx.exclusive = exclusive
        return logits.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, openness = ctx.saved_tensors
        gate = openness.to(gradient.dtype).view(1, -1, *[1] * (logits.ndim - 2))
        if not ctx.exclusive:
            return gate * gradient, None, None
        # with the gradient d_k = p_k (G_k − Σ_l p_l G_l) of the softmax, Σ_l g_k g_l p_k p_l (G_k − G_l) is
        # g_k (d_k Σ_l g_l p_l − p_k Σ_l g_l d_l)
        probabilities = logits.softmax(1)
        learned = (gate * probabilities).sum(1, keepdim=True)
        moved = (gate * gradient).sum(1, keepdim=True)
        return gate * (learned * gradient - probabilities * moved), None, None
