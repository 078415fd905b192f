"""The confidence gate: regularisers wait until the network has learned what is annotated.

A CRF loss and an attentive similarity are smallest where everything is one class. At the start of a training, when the
background is predicted everywhere, that is where the network already is; they can hold it there, so that the partial
loss never makes a first prediction (one training of the hippocampus ended so, docs/results/attenscribble.md). A ramp
over epochs only moves the problem: when a network takes off depends on the data and the schedule.

Here the regularisers count by what is learned. With a_c the running mean probability of class c at voxels annotated as
c::

    gate = min(1, min_c a_c / wait)

A class that was not seen yet has a_c = 0. One that no training case annotates can never be learned, so it does not
count: it would keep the gate shut for ever. The published code has a constant weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

INERTIA = 0.9
"""Inertia of the running mean, per batch in which the class is annotated."""


class ConfidenceGate(nn.Module):
    """The gate; its running mean is part of the checkpoint.

    Args:
        classes: or regions, K.
        wait: mean probability at annotated voxels, of the class that is worst, from which on the gate is open; 0: it
            always is.
    """

    probability: Tensor
    """``(K,)``: a_c."""
    counted: Tensor
    """``(K,)`` bool: classes that the gate waits for."""

    def __init__(self, classes: int, wait: float) -> None:
        super().__init__()
        self.wait = wait
        self.register_buffer("probability", torch.zeros(classes))
        # no part of the checkpoint: the training split says it anew at every start
        self.register_buffer("counted", torch.ones(classes, dtype=torch.bool), persistent=False)

    def leave_out(self, classes: Sequence[int]) -> None:
        """Wait no longer for these classes or regions."""
        self.counted[list(classes)] = False

    @torch.no_grad()
    def forward(self, probabilities: Tensor, one_hot: Tensor) -> Tensor:
        """Take a batch into account, then say how far the gate is open, a scalar from 0 to 1 without gradient.

        Args:
            probabilities: ``(B, K, *spatial)``.
            one_hot: same shape, 0 in all channels at voxels that are not annotated.
        """
        if self.wait <= 0:
            return self.openness
        axes = (0, *range(2, probabilities.ndim))
        voxels = one_hot.sum(axes)
        mean = (probabilities.float() * one_hot).sum(axes) / voxels.clamp(min=1)
        self.probability.copy_(
            torch.where(voxels > 0, INERTIA * self.probability + (1 - INERTIA) * mean, self.probability)
        )
        return self.openness

    @property
    def openness(self) -> Tensor:
        """Openness of the gate, a scalar from 0 to 1."""
        if self.wait <= 0:
            return torch.ones_like(self.probability[0])
        # the minimum without indexing, whose size a device would have to report
        return (self.probability.where(self.counted, 1.0).min() / self.wait).clamp(max=1)
