"""k-means cross attention: one step of k-means between the pixels of a slice and its centres.

Every pixel goes to the nearest centre, by the cosine between learned projections of both; every centre moves towards
the mean of the pixels that it got; then the centres look at each other::

    z_np = τ · cos(W_q LN(C_n), W_k f(p))             similarities, which are also logits of a segmentation
    a_np = 1 if n = argmax_m z_mp else 0              carries no gradient
    u_n  = Σ_p a_np W_v f(p) / Σ_p a_np
    C_n  ← C_n + W_u LN(u_n)                          a centre without pixels stays
    C    ← C + SelfAttention(LN C);  C ← C + FFN(LN C)

No gradient reaches ``W_q``, ``W_k`` and ``τ`` through the argmax: they learn only from a loss on ``z``, so every layer
needs one (:mod:`nnunet_ext.s2vnet.loss`).

Source: the assignment by argmax is described for S2VNet, its form for kMaX-DeepLab (Yu et al., ECCV 2022). *Inferred*,
and different from kMaX: cosines with a bounded learned scale instead of a batch norm on logits, which is unstable for
one to four clips and would have to be synchronised between GPUs; the mean of the pixels instead of their sum, so that
the size of the patch does not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from nnunet_ext.s2vnet.attention import Attention, at_least_float32, full_precision

INITIAL_SCALE, MAX_SCALE = 10.0, 50.0
"""Scale τ of the cosines: its start, and a bound that half precision in nnU-Net's inference can add up."""

SHORTEST = 1e-12
"""Smallest length by which a key is divided."""


class CosineLogits(nn.Module):
    """``τ · cos(W_q LN(C_n), W_k f(p)) [+ b(C_n)]``.

    Args:
        channels: of the feature.
        width: D, of the centres.
        keys: channels of both projections.
        biased: add a bias that each centre predicts for itself.
    """

    def __init__(self, channels: int, width: int, keys: int, biased: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, keys)
        self.key = nn.Conv2d(channels, keys, 1)
        self.scale = nn.Parameter(torch.tensor(INITIAL_SCALE))
        self.bias = nn.Linear(width, 1) if biased else None

    def forward(self, centres: Tensor, feature: Tensor) -> Tensor:
        """``(B, N, D)`` and ``(B, C, h, w)`` → ``(B, N, h, w)``, float32."""
        key = self.key(feature)
        with full_precision(feature):
            key = at_least_float32(key)
            query = self.scale.clamp(max=MAX_SCALE) * normalize(self.query(self.norm(centres)), dim=-1)
            # normalised after the product: there are fewer centres than channels of keys
            length = (key * key).sum(1, keepdim=True).clamp(min=SHORTEST**2).sqrt()
            logits = torch.einsum("bnk,bkhw->bnhw", query, key) / length
            return logits if self.bias is None else logits + self.bias(centres)[..., None]

    def keys(self, feature: Tensor) -> Tensor:
        """``W_k f(p)`` of length 1, ``(B, keys, h, w)``, float32."""
        key = self.key(feature)
        with full_precision(feature):
            return normalize(at_least_float32(key), dim=1, eps=SHORTEST)


def means_of_clusters(logits: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
    """Mean feature of the pixels that each centre wins.

    Args:
        logits: ``(B, N, h, w)``; ties go to the first centre. No gradient flows into it.
        feature: ``(B, C, h, w)``.

    Returns:
        ``(B, N, C)``, 0 for a centre that wins nothing, and ``(B, N)`` bool: does it win anything?
    """
    with full_precision(feature):
        feature = at_least_float32(feature).flatten(2)
        # max: argmax takes eight times as long across channels on a CPU
        winners = one_hot(logits.max(1).indices.flatten(1), logits.shape[1]).to(feature.dtype)
        pixels = winners.sum(1)
        means = torch.einsum("bpn,bcp->bnc", winners, feature) / pixels.clamp(min=1)[..., None]
        return means, pixels > 0


class KMeansLayer(nn.Module):
    """One step of k-means on one feature; see the module's docstring.

    ``W_v`` is applied to the means instead of to every pixel, which is the same because it is linear.

    Args:
        channels: of the feature.
        width: D, of the centres.
        heads: of the attention between centres.
        hidden: width of the feed-forward network, in multiples of D.
    """

    def __init__(self, channels: int, width: int, heads: int, hidden: int = 4) -> None:
        super().__init__()
        self.assignment = CosineLogits(channels, width, width)
        self.value = nn.Linear(channels, width)
        self.update_norm = nn.LayerNorm(width)
        self.update = nn.Linear(width, width)
        nn.init.zeros_(self.update.weight)
        nn.init.zeros_(self.update.bias)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.ffn = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden * width), nn.GELU(), nn.Linear(hidden * width, width)
        )

    def forward(self, centres: Tensor, feature: Tensor, evidence: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Move the centres once by k-means.

        Args:
            centres: ``(B, N, D)``, float32.
            feature: ``(B, C, h, w)``.
            evidence: ``(B, N, h, w)``, added to the logits.

        Returns:
            The moved centres ``(B, N, D)``, and the logits ``(B, N, h, w)`` by which pixels were assigned.
        """
        logits = self.assignment(centres, feature)
        if evidence is not None:
            logits = logits + evidence
        means, won = means_of_clusters(logits, feature)
        with full_precision(feature):
            moved = self.update(self.update_norm(self.value(means)))
            centres = centres + won[..., None] * moved
            normed = self.attention_norm(centres)
            centres = centres + self.attention(normed, normed)
            return centres + self.ffn(centres), logits
