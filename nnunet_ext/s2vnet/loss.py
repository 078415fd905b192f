"""Loss of the outputs before the final logits: every k-means layer, and every planned segmentation layer.

::

    L = (L_nn(final) + Σ_s w_s · mean_l L_nn(z_{s,l}) + ½ Σ_s w_s · L_nn(planned head_s)) / W,   w_s = max(1/2^s, 0.05)

with nnU-Net's own loss ``L_nn``, and ``W`` the sum of all weights: as in nnU-Net's deep supervision they sum to 1, so
its learning rate and its bound on gradients mean the same. Slices that are padding are left out
(:func:`present_slices`). No weight is 0, unlike that of the coarsest output in nnU-Net's deep supervision: keys,
queries and scale of a k-means layer learn only from the loss of its own assignment.

*Inferred*: the published losses are unknown. kMaX-DeepLab adds a class loss and a matching of centres, which are not
needed here because centres belong to labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""Logits and a target of their size → a scalar."""

Resize = Callable[[Tensor, Sequence[int]], Tensor]
"""A target and the size it is wanted at."""

MIN_WEIGHT = 0.05


def stage_weight(stage: int) -> float:
    """w_s of a stage, 0 for full resolution."""
    return max(0.5**stage, MIN_WEIGHT)


def weight_of(stages: Iterable[int]) -> float:
    """Σ w_s over these stages, each counted once."""
    return sum(stage_weight(stage) for stage in set(stages))


def present_slices(x: Tensor, there: Tensor, joined: bool) -> Tensor:
    """Leave padding out of logits or a target.

    Args:
        x: ``(B, C, T, h, w)``.
        there: ``(B, T)`` bool, S of them True; if none is, all count.
        joined: as one sample, ``(1, C, S, h, w)``, for a Dice over the batch, so that all processes of a distributed
            training have as many samples; otherwise as samples ``(S, C, 1, h, w)``.
    """
    slices = x.transpose(1, 2)[there if there.any() else torch.ones_like(there)]
    return slices.transpose(0, 1)[None] if joined else slices[:, :, None]


def cluster_loss(layers: Sequence[tuple[int, Tensor]], target: Tensor, loss: LossFunction, resize: Resize) -> Tensor:
    """Σ_s w_s · mean over the layers of stage s.

    Args:
        layers: stage and logits ``(B, heads, T, h, w)`` of each.
        target: ``(B, ·, T, H, W)``.
        loss: nnU-Net's.
        resize: of targets.
    """
    stages = [stage for stage, _ in layers]
    return _weighted([(stage_weight(s) / stages.count(s), logits) for s, logits in layers], target, loss, resize)


def auxiliary_loss(logits: Sequence[Tensor], target: Tensor, loss: LossFunction, resize: Resize) -> Tensor:
    """Σ_s w_s · loss of the planned segmentation layers, ``(B, heads, T, h, w)`` each, finest first."""
    return _weighted([(stage_weight(s), x) for s, x in enumerate(logits)], target, loss, resize)


def _weighted(parts: Sequence[tuple[float, Tensor]], target: Tensor, loss: LossFunction, resize: Resize) -> Tensor:
    terms = [weight * loss(x.float(), resize(target, x.shape[2:])) for weight, x in parts]
    return torch.stack(terms).sum()
