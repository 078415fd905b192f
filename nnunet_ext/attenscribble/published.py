"""Differences of the published code of AttenScribble; only ``nnUNetTrainerAttenScribblePaper`` uses it.

The reasons for the defaults are in :mod:`.similarity`, :mod:`.attentive_similarity_loss` and :mod:`.spatial_attention`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnunet_ext.attenscribble.attentive_similarity_loss import agreement, mean_over_pairs
from nnunet_ext.attenscribble.crf_loss import Window
from nnunet_ext.attenscribble.similarity import AffinityHead, per_head, symmetric_log_attention
from nnunet_ext.attenscribble.spatial_attention import SpatialSelfAttention


class PublishedSelfAttention(SpatialSelfAttention):
    """The block with a third layer norm after it; it does not start as the identity."""

    def __init__(self, channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(channels, *args, **kwargs)
        self.norm_out = nn.LayerNorm(channels)

    def start(self) -> None:
        """Leave the weights as they are."""


class PublishedAffinity(AffinityHead):
    """``S_ij = σ(Σ_h w_h Ã_ij + b)`` of logits that are not scaled: a 1×1 convolution over the heads."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__(heads)
        bound = 1 / math.sqrt(heads)  # PyTorch's default for a convolution
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def logits(self, q: Tensor, k: Tensor, window: Window) -> Tensor:
        attention = symmetric_log_attention(q, k, window).exp()  # (B, heads, offsets, *grid)
        return (per_head(self.weight, attention) * attention).sum(1) + self.bias


def published_similarity_loss(
    similarity_logits: Tensor, probabilities: Tensor, window: Window, counts: Tensor, *, exclusive: bool = True
) -> Tensor:
    """``1/(Z N) Σ_i Σ_j M_ij S_ij (1 − p_i·p_j)``, in which S gets a gradient, too.

    Args:
        similarity_logits: as for
            :func:`~nnunet_ext.attenscribble.attentive_similarity_loss.attentive_similarity_loss`.
        probabilities: as there.
        window: as there.
        counts: as there.
        exclusive: as there.

    Returns:
        Scalar, float32 or wider.
    """
    with torch.autocast(similarity_logits.device.type, enabled=False):
        dtype = torch.promote_types(similarity_logits.dtype, torch.float32)
        logits, p = similarity_logits.to(dtype), probabilities.to(dtype)
        return mean_over_pairs(logits.sigmoid() * (1 - agreement(p, window, exclusive)), window, counts)


def interpolated(probabilities: Tensor, grid: Any) -> Tensor:
    """Probabilities on the token grid, interpolated linearly.

    Args:
        probabilities: ``(B, K, *patch)``.
        grid: shape of the token grid.
    """
    mode = "trilinear" if probabilities.ndim == 5 else "bilinear"
    return interpolate(probabilities, grid, mode=mode, align_corners=False)
