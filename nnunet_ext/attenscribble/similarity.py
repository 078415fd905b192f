"""Attentive similarity: how alike two voxels are to the attention, S_ij in (0, 1).

From queries and keys, with ``l_ij = q_i·k_j`` and the symmetrised attention ``Ã = softmax(l) + softmax(l)ᵀ``::

    published:  S_ij = σ(Σ_h w_h Ã_ij + b)                                    l not scaled
    stable:     S_ij = σ(Σ_h softplus(w_h) · log(N Ã_ij / 2) + b)             l / √d

Only neighbours in a window are ever asked for, but the softmax runs over all N tokens. So S is computed for the pairs
of the window alone, exactly::

    Ã_ij = exp(l_ij − z_i) + exp(l_ji − z_j),    z_i = log Σ_j exp l_ij

with z computed in blocks of rows that are recomputed in the backward pass. The dense N × N matrix (2.2 GB for 4096
tokens, in fp32, with its gradient) never exists; the tests compare with it.

Why there is a stable form. Entries of Ã are about 1/N, so ``w·Ã + b`` is about b: the published S hardly depends on the
image, its gradient to q and k is 10⁵ times smaller than that to b, and b → −∞ makes S and with it the published loss
vanish. In the stable form the logarithm is 0 for uniform attention and of order 1 otherwise, and w cannot change sign.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from nnunet_ext.attenscribble.crf_loss import Window, shifted
from nnunet_ext.attenscribble.spatial_attention import Projected

ROWS = 512
"""Of the attention at a time, when its normaliser is computed."""


class AffinityHead(nn.Module):
    """The learned part of the similarity: one weight per head and a bias.

    Args:
        heads: of the attention.
        published: which of the two forms.
    """

    def __init__(self, heads: int = 1, published: bool = False) -> None:
        super().__init__()
        self.published = published
        self.weight = nn.Parameter(torch.empty(heads))
        self.bias = nn.Parameter(torch.zeros(()))
        if published:  # a 1×1 convolution over the heads, by PyTorch's default
            bound = 1 / math.sqrt(heads)
            nn.init.uniform_(self.weight, -bound, bound)
            nn.init.uniform_(self.bias, -bound, bound)
        else:
            nn.init.constant_(self.weight, math.log(math.e - 1))  # softplus(w) = 1

    def forward(self, projected: Projected, window: Window) -> Tensor:
        """
        Args:
            projected: queries and keys ``(B, heads, d, *grid)``.
            window: half a window on the grid.

        Returns:
            Logits of S, ``(B, offsets, *grid)``, float32 or wider: entry ``[b, o, x]`` is the pair of x and its
            neighbour at the o-th offset; 0 where the neighbour lies outside (see :func:`inside`).
        """
        with torch.autocast(projected.queries.device.type, enabled=False):
            dtype = torch.promote_types(projected.queries.dtype, torch.float32)
            q, k = projected.queries.to(dtype), projected.keys.to(dtype)
            if not self.published:
                q = q / math.sqrt(q.shape[2])
            log_attention = symmetric_log_attention(q, k, window)  # (B, heads, offsets, *grid)
            heads = (1, -1, 1, *[1] * (q.ndim - 3))
            if self.published:
                logits = (self.weight.to(dtype).view(heads) * log_attention.exp()).sum(1) + self.bias
            else:
                relative = log_attention + math.log(math.prod(q.shape[3:]) / 2)
                logits = (softplus(self.weight.to(dtype)).view(heads) * relative).sum(1) + self.bias
            return logits * inside(window, tuple(q.shape[3:]), q.device)


def symmetric_log_attention(q: Tensor, k: Tensor, window: Window) -> Tensor:
    """``log Ã`` for the pairs of half a window.

    Args:
        q, k: ``(B, heads, d, *grid)``, scaled as they should be.
        window: half a window.

    Returns:
        ``(B, heads, offsets, *grid)``; 0 where the neighbour lies outside of the grid.
    """
    z = log_normaliser(q, k)
    rows = []
    for offset in window.offsets:
        row = torch.zeros_like(z)
        if all(abs(step) < size for step, size in zip(offset, z.shape[2:], strict=True)):
            a, b = shifted(offset)
            deep_a, deep_b = ((slice(None), *view) for view in (a, b))
            forth = (q[deep_a] * k[deep_b]).sum(2) - z[a]
            back = (q[deep_b] * k[deep_a]).sum(2) - z[b]
            padding = [p for step in reversed(offset) for p in (max(0, -step), max(0, step))]
            row = torch.nn.functional.pad(torch.logaddexp(forth, back), padding)
        rows.append(row)
    return torch.stack(rows, 2)


def log_normaliser(q: Tensor, k: Tensor) -> Tensor:
    """``z_i = log Σ_j exp(q_i·k_j)`` over all tokens, ``(B, heads, *grid)``; memory ``O(ROWS · N)``."""
    queries, keys = q.flatten(3).transpose(2, 3), k.flatten(3)  # (B, heads, N, d), (B, heads, d, N)
    blocks = [
        checkpoint(_row_normaliser, block, keys, use_reentrant=False, preserve_rng_state=False)
        for block in queries.split(ROWS, 2)
    ]
    return torch.cat(blocks, 2).unflatten(2, q.shape[3:])


def _row_normaliser(queries: Tensor, keys: Tensor) -> Tensor:
    return (queries @ keys).logsumexp(3)


def inside(window: Window, grid: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """``(offsets, *grid)`` bool: does x have a neighbour at this offset?"""
    mask = torch.zeros(len(window.offsets), *grid, dtype=torch.bool, device=device)
    for index, offset in enumerate(window.offsets):
        if all(abs(step) < size for step, size in zip(offset, grid, strict=True)):
            mask[index][shifted(offset)[0][2:]] = True
    return mask
