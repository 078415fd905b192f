"""Attentive similarity: how similar two voxels look to the attention, S_ij in (0, 1).

From queries and keys, with ``l_ij = q_i·k_j`` and the symmetrised attention ``Ã = softmax(l) + softmax(l)ᵀ``::

    published:  S_ij = σ(Σ_h w_h Ã_ij + b)                                    l not scaled
    stable:     S_ij = σ(Σ_h softplus(w_h) · log(N Ã_ij / 2) + b)             l / √d

Only neighbours in a window are needed, but the softmax runs over all N tokens. So S is computed for the pairs of the
window alone, exactly::

    Ã_ij = exp(l_ij − z_i) + exp(l_ji − z_j),    z_i = log Σ_j exp l_ij

in blocks of rows that are computed again in the backward pass. The dense N × N matrix (2.2 GB for 4096 tokens, in fp32,
with its gradient) never exists; the tests compare with it.

Why there is also a stable form beside the published one (:mod:`.published`). Entries of Ã are about 1/N, so ``w·Ã + b``
is about b: the published S hardly depends on the image, its gradient to q and k is 10⁵ times smaller than that to b,
and b → −∞ makes S and with it the published loss vanish. In the stable form the logarithm is 0 for uniform attention
and of order 1 otherwise, and w cannot change sign.

Where a similarity could know more: AUC for "same true label" of pairs within two tokens, by the cosine of features of
stock nnU-Net trained with dense labels (ACDC, 3 mm, 47 validation slices, tokens of two voxels). The columns are all
pairs, and pairs to which the network gives the same foreground class, the only ones that a similarity can correct:

=======================================  =====  =====
p·p' of the predictions                  0.893  0.870
image, difference of intensities         0.716  0.616
encoder, stage 1 (where attention is)    0.742  0.640
encoder, stage 2                         0.671  0.525
decoder, stage 0 (before the logits)     0.866  0.818
decoder, stage 1                         0.932  0.881
=======================================  =====  =====

So the encoder is the wrong place. A similarity of decoder features was not built, because of a second test: neighbours
that vote by the cosine of such features correct fewer errors of a trained network than neighbours that vote by the
image, which is what the CRF loss does (CHAOS; docs/results/attenscribble.md). Decoder stage 1 knows a little more than
p·p' in the table; it was not trained. p·p' itself knows nothing new.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from nnunet_ext.attenscribble.crf_loss import Window, shifted
from nnunet_ext.attenscribble.spatial_attention import Projected

BLOCK = 2**23
"""Entries of the attention at a time: 32 MiB in float32."""


class AffinityHead(nn.Module):
    """The learned part of the similarity: one weight per head and a bias.

    Args:
        heads: of the attention.
    """

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads))
        self.bias = nn.Parameter(torch.zeros(()))
        nn.init.constant_(self.weight, math.log(math.e - 1))  # softplus(w) = 1

    def forward(self, projected: Projected, window: Window) -> Tensor:
        """Return the logits of the similarity for the pairs of half a window.

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
            logits = self.logits(q, k, window)
            return logits.where(inside(window, tuple(q.shape[3:]), q.device), 0)

    def logits(self, q: Tensor, k: Tensor, window: Window) -> Tensor:
        """Logits of S for all pairs of half a window; meaningless where the neighbour lies outside."""
        log_attention = symmetric_log_attention(q / math.sqrt(q.shape[2]), k, window)  # (B, heads, offsets, *grid)
        relative = log_attention + math.log(math.prod(q.shape[3:]) / 2)
        return (softplus(per_head(self.weight, relative)) * relative).sum(1) + self.bias


def per_head(weight: Tensor, attention: Tensor) -> Tensor:
    """``(heads,)`` in the shape and type of ``(B, heads, offsets, *grid)``, to be multiplied with it."""
    return weight.to(attention.dtype).view(1, -1, 1, *[1] * (attention.ndim - 3))


def symmetric_log_attention(q: Tensor, k: Tensor, window: Window) -> Tensor:
    """``log Ã`` for the pairs of half a window.

    Args:
        q: ``(B, heads, d, *grid)``, scaled as it should be.
        k: ``(B, heads, d, *grid)``, scaled as it should be.
        window: half a window.

    Returns:
        ``(B, heads, offsets, *grid)``; meaningless where the neighbour lies outside of the grid.
    """
    grid = tuple(q.shape[3:])
    there, back = neighbours(window, grid, q.device)
    queries, keys = (each.flatten(3).transpose(2, 3) for each in (q, k))
    z, logits = _WindowedAttention.apply(queries, keys, torch.cat([there, back], 1))
    log_forth, log_back = (logits - z[..., None]).split(
        len(window.offsets), 3
    )  # l_ij − z_i for j = i + o and j = i − o
    # the pair's other direction, from i + o to i, is kept at the neighbour
    log_back = log_back.gather(2, there.expand_as(log_back))
    return torch.logaddexp(log_forth, log_back).transpose(2, 3).unflatten(3, grid)


class _WindowedAttention(torch.autograd.Function):
    """``z_i = log Σ_j exp(q_i·k_j)`` and ``q_i·k_j`` for a few j of each i, in blocks of rows that are never kept.

    The memory is O(BLOCK), as with autograd's own checkpointing, which computes each block more often.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
        """``queries``, ``keys``: ``(B, heads, N, d)``; ``window``: ``(N, n)``, the tokens j of token i."""
        normaliser = queries.new_empty(queries.shape[:3])
        logits = queries.new_empty(*queries.shape[:3], window.shape[1])
        for rows in _blocks(queries):
            block = queries[:, :, rows] @ keys.transpose(2, 3)
            logits[:, :, rows] = block.gather(3, window[rows].expand(*block.shape[:3], -1))
            largest = block.amax(3, keepdim=True)
            sums = block.sub_(largest).exp_().sum(3, keepdim=True)  # in place, unlike logsumexp
            normaliser[:, :, rows] = sums.log_().add_(largest)[..., 0]
        ctx.save_for_backward(queries, keys, window, normaliser)
        return normaliser, logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_normaliser: Tensor, grad_logits: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, keys, window, normaliser = ctx.saved_tensors
        grad_queries, grad_keys = torch.empty_like(queries), torch.zeros_like(keys)
        for rows in _blocks(queries):
            block = queries[:, :, rows] @ keys.transpose(2, 3)
            block.sub_(normaliser[:, :, rows, None]).exp_().mul_(grad_normaliser[:, :, rows, None])
            block.scatter_add_(3, window[rows].expand(*block.shape[:3], -1), grad_logits[:, :, rows])
            grad_queries[:, :, rows] = block @ keys
            grad_keys += block.transpose(2, 3) @ queries[:, :, rows]
        return grad_queries, grad_keys, None


def _blocks(queries: Tensor) -> Iterator[slice]:
    batch, heads, tokens, _ = queries.shape
    rows = max(1, BLOCK // (batch * heads * tokens))
    return (slice(start, start + rows) for start in range(0, tokens, rows))


def neighbours(window: Window, grid: tuple[int, ...], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Numbers of the tokens ``i + o`` and ``i − o`` of every token i; the token itself where there is none.

    Returns:
        Twice ``(N, offsets)`` int64.
    """
    places = torch.stack(torch.meshgrid(*(torch.arange(n, device=device) for n in grid), indexing="ij"), -1)
    places = places.flatten(0, -2)[:, None]  # (N, 1, axes)
    steps = torch.tensor(window.offsets, device=device)
    sizes = torch.tensor(grid, device=device)
    strides = torch.tensor([math.prod(grid[axis + 1 :]) for axis in range(len(grid))], device=device)
    found = []
    for other in (places + steps, places - steps):
        exists = ((other >= 0) & (other < sizes)).all(2, keepdim=True)
        found.append((torch.where(exists, other, places) * strides).sum(2))
    return found[0], found[1]


def inside(window: Window, grid: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """``(offsets, *grid)`` bool: does x have a neighbour at this offset?"""
    mask = torch.zeros(len(window.offsets), *grid, dtype=torch.bool, device=device)
    for index, offset in enumerate(window.offsets):
        if all(abs(step) < size for step, size in zip(offset, grid, strict=True)):
            mask[index][shifted(offset)[0][2:]] = True
    return mask
