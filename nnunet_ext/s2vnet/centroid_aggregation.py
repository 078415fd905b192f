"""Recurrent centroid aggregation: the initial centres of a slice, from the centres of the slices before it.

::

    tokens_n = LN(C_{t-m,n}), …, LN(C_{t-1,n}), LN(C_learned,n) + e
    C0_n     = LN(C_learned,n + C_{t-1,n} + Attention(query = LN(C_{t-1,n}); tokens_n))

Each centre attends to its own past only, so a slice that went wrong can be outvoted by those before it. The learned
centres are part of every slice, and the result is normalised: nothing grows along a volume, however long.

Source: "self-attention over historic centroids, fused into a single vector" is all that was available. *Inferred*: the
formula, the length of the memory, and that older slices count less by a learned slope per head. A learned vector for
each age would be the obvious alternative, but clips in training are shorter than the memory in inference, so most of
these vectors would never be trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nnunet_ext.s2vnet.attention import Attention

Aggregation = Literal["attention", "mean", "last"]


@dataclass(frozen=True)
class Bank:
    """The centres of the slices before this one, newest last. It is never changed: :meth:`remember` returns a new one.

    Attributes:
        centres: each ``(B, N, D)``.
        filled: each ``(B,)`` bool; False where a sample had no slice, such as in padding.
        mask: of the last slice, ``(B, L, h, w)`` uint8, see :mod:`nnunet_ext.s2vnet.mask_memory`; None: not known.
        masked: ``(B,)`` bool; False where a sample has no mask.
        gap: ``(B,)``, mm between two slices; None: as planned.
    """

    centres: tuple[Tensor, ...] = ()
    filled: tuple[Tensor, ...] = ()
    mask: Tensor | None = None
    masked: Tensor | None = None
    gap: Tensor | None = None

    def remember(self, centres: Tensor, filled: Tensor, size: int, mask: Tensor | None = None) -> Bank:
        """Return the bank with one slice more, cut to the last ``size`` slices, and only the last mask."""
        return Bank((*self.centres, centres)[-size:], (*self.filled, filled)[-size:], mask, filled, self.gap)

    def without(self, samples: Tensor) -> Bank:
        """Return the bank, empty for these samples, ``(B,)`` bool."""
        emptied = replace(self, filled=tuple(filled & ~samples for filled in self.filled))
        return emptied.without_mask(samples)

    def without_mask(self, samples: Tensor) -> Bank:
        """Return the bank without the masks of these samples, ``(B,)`` bool; their centres stay."""
        return self if self.masked is None else replace(self, masked=self.masked & ~samples)


class CentroidAggregation(nn.Module):
    """Learned centres and a bank → the initial centres of a slice.

    Args:
        width: D.
        heads: of the attention.
        kind: ``"attention"`` as above; for comparison ``"mean"`` of the bank, or ``"last"``, which sees only
            ``C_{t-1}``.
    """

    def __init__(self, width: int, heads: int, kind: Aggregation = "attention") -> None:
        super().__init__()
        self.kind = kind
        self.out_norm = nn.LayerNorm(width)
        if kind == "attention":
            self.token_norm = nn.LayerNorm(width)
            self.attention = Attention(width, heads)
            self.anchor = nn.Parameter(torch.zeros(width))
            self.slope = nn.Parameter(torch.linspace(-3.0, 0.0, heads))

    def forward(self, learned: Tensor, bank: Bank) -> Tensor:
        """Return the initial centres of the next slice.

        Args:
            learned: ``(N, D)``.
            bank: of at least one slice.

        Returns:
            ``(B, N, D)``; the learned centres for samples whose bank is empty.
        """
        last = bank.centres[-1]
        filled = torch.stack(bank.filled, 1)
        start = learned.expand_as(last)
        mixed = self.out_norm(start + last + self._of_the_past(start, bank, filled))
        return torch.where(filled.any(1)[:, None, None], mixed, start)

    def _of_the_past(self, learned: Tensor, bank: Bank, filled: Tensor) -> Tensor | float:
        if self.kind == "last":
            return 0.0
        past = torch.stack(bank.centres, 2)  # (B, N, m, D)
        if self.kind == "mean":
            weight = filled.to(past.dtype)[:, None, :, None]
            return (weight * past).sum(2) / weight.sum(2).clamp(min=1)
        batch, number, length, _ = past.shape
        anchor = self.token_norm(learned) + self.anchor
        tokens = torch.cat((self.token_norm(past), anchor[:, :, None]), 2).flatten(0, 1)
        age = torch.arange(length, 0, -1, device=past.device)
        penalty = -softplus(self.slope)[:, None] * age  # (heads, m)
        penalty = torch.where(filled[:, None], penalty, -torch.inf)
        bias = torch.cat((penalty, penalty.new_zeros(*penalty.shape[:2], 1)), -1)
        bias = bias[:, None].expand(-1, number, -1, -1).flatten(0, 1)[:, :, None]
        queries = tokens[:, length - 1 : length]
        return self.attention(queries, tokens, bias).unflatten(0, (batch, number))[:, :, 0]
