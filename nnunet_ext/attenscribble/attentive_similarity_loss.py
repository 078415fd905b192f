"""Attentive similarity loss (ASL): voxels that look alike to the network should get the same label.

On the token grid, with S from :mod:`.similarity`, p the probabilities pooled to the grid, and the spatial weight
``M_ij = exp(−|x_i − x_j|²/2σ²)`` in a window, 0 outside of it::

    published:  L = 1/(Z N) Σ_i Σ_j M_ij S_ij (1 − p_i·p_j)
    stable:     L = 1/(Z N) Σ_i Σ_j M_ij [ sg(S_ij) (1 − p_i·p_j) + γ · BCE(S_ij, sg(p_i·p_j)) ]

sg: no gradient. In the published form (:mod:`.published`) S gets a gradient too, and the loss is smallest where S is 0
everywhere: the similarity can only shrink. Trained on fixed predictions its mean falls from 0.45 to 0.002 in 1000
steps, whatever the predictions. In the stable form predictions follow a fixed similarity, and the similarity learns
from fixed predictions, so neither has a trivial solution.

Deviations from the published code, beside the stable form:

* *Divided by the spatial mass Z of the window*, as in :mod:`.crf_loss`; ``0.1`` in the code is ``0.1 · 92.0`` here.
* *Probabilities are averaged over the voxels of a token*; bilinear interpolation of every fourth voxel aliases.
* *Samples with one class are found from the scribbles.* The code looks at the dense labels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d, binary_cross_entropy_with_logits

from nnunet_ext.attenscribble.crf_loss import Window, shifted
from nnunet_ext.attenscribble.similarity import inside


def attentive_similarity_loss(
    similarity_logits: Tensor,
    probabilities: Tensor,
    window: Window,
    counts: Tensor,
    *,
    exclusive: bool = True,
    gamma: float = 1.0,
    tokens: Tensor | None = None,
) -> Tensor:
    """The loss of one stage.

    Args:
        similarity_logits: ``(B, offsets, *grid)``, see :class:`~.similarity.AffinityHead`.
        probabilities: ``(B, K, *grid)``, see :func:`averaged`.
        window: the half window of the logits.
        counts: ``(B,)``, 1 for samples that count and 0 for those that do not (only one class annotated).
        exclusive: classes or regions.
        gamma: weight of the similarity's own term.
        tokens: ``(B, 1, *grid)`` bool, those that take part; all by default.

    Returns:
        Scalar, float32 or wider.
    """
    with torch.autocast(similarity_logits.device.type, enabled=False):
        dtype = torch.promote_types(similarity_logits.dtype, torch.float32)
        logits, p = similarity_logits.to(dtype), probabilities.to(dtype)
        agree = agreement(p, window, exclusive)
        learned = binary_cross_entropy_with_logits(logits, agree.detach().clamp(0, 1), reduction="none")
        pairs = logits.sigmoid().detach() * (1 - agree) + gamma * learned
        return mean_over_pairs(pairs, window, counts, tokens)


def mean_over_pairs(pairs: Tensor, window: Window, counts: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Mean cost of pairs, weighted by the window, over the tokens that take part, of the samples that count.

    Args:
        pairs: ``(B, offsets, *grid)``, of half a window.
        window: half a window.
        counts: ``(B,)``, see :func:`attentive_similarity_loss`.
        tokens: ``(B, 1, *grid)`` bool, see there.
    """
    grid = tuple(pairs.shape[2:])
    weights = torch.tensor(window.weights, dtype=pairs.dtype, device=pairs.device).view(-1, *[1] * len(grid))
    weights = weights * inside(window, grid, pairs.device)
    voxels: float | Tensor = pairs[:, 0].numel()
    if tokens is not None:
        # a pair takes part if both of its tokens do
        weights = weights * agreement(tokens.to(pairs.dtype), window)
        voxels = tokens.sum().clamp(min=1)
    per_sample = 2 * (weights * pairs).flatten(1).sum(1)  # both halves of the window
    return (counts.to(pairs.dtype) * per_sample).sum() / (window.mass * voxels)


def agreement(probabilities: Tensor, window: Window, exclusive: bool = True) -> Tensor:
    """``p_i·p_j`` (for regions ``1 − mean(p + p' − 2pp')``) for the pairs of half a window.

    Args:
        probabilities: ``(B, K, *grid)``.

    Returns:
        ``(B, offsets, *grid)``; 0 where the neighbour lies outside.
    """
    rows = []
    for offset in window.offsets:
        row = torch.zeros_like(probabilities[:, 0])
        if all(abs(step) < size for step, size in zip(offset, row.shape[1:], strict=True)):
            a, b = shifted(offset)
            one, other = probabilities[a], probabilities[b]
            same = (one * other).sum(1) if exclusive else 1 - (one + other - 2 * one * other).mean(1)
            padding = [p for step in reversed(offset) for p in (max(0, -step), max(0, step))]
            row = torch.nn.functional.pad(same, padding)
        rows.append(row)
    return torch.stack(rows, 1)


def averaged(probabilities: Tensor, grid: Any) -> Tensor:
    """Probabilities on the token grid, averaged over the voxels of a token.

    Args:
        probabilities: ``(B, K, *patch)``.
        grid: shape of the token grid.
    """
    return adaptive_avg_pool3d(probabilities, grid) if len(grid) == 3 else adaptive_avg_pool2d(probabilities, grid)


def several_classes(one_hot: Tensor, annotated: Tensor) -> Tensor:
    """``(B,)`` float: 1 for samples in which annotated voxels differ, by class or by any of their regions.

    Args:
        one_hot: ``(B, K, *spatial)``, classes or regions.
        annotated: ``(B, 1, *spatial)`` bool.
    """
    within, outside = (annotated & (one_hot == value) for value in (1, 0))
    return (within.flatten(2).any(2) & outside.flatten(2).any(2)).any(1).float()
