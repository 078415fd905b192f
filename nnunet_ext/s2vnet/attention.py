"""Multi-head attention between a few vectors, in full precision.

The clustering works on a few dozen vectors per slice. Half precision would save nothing there, and its errors would
travel from slice to slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nnunet_ext.errors import InputError


@contextmanager
def full_precision(like: Tensor) -> Iterator[None]:
    """Context without autocast on the device of this tensor."""
    with torch.autocast(like.device.type, enabled=False):
        yield


def at_least_float32(x: Tensor) -> Tensor:
    """``float32`` for half precision; other tensors as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Attention(nn.Module):
    """Scaled dot products, softmax, weighted sum, one output projection.

    Args:
        width: D, of all vectors.
        heads: divides ``width``.

    Raises:
        InputError: it does not.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise InputError(
                f"s2vnet options width = {width} and heads = {heads} do not fit: choose heads that divide the width."
            )
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend to tokens.

        Args:
            queries: ``(B, Q, D)``.
            tokens: ``(B, K, D)``.
            bias: broadcasts to ``(B, heads, Q, K)``; added before the softmax.

        Returns:
            ``(B, Q, D)``.
        """
        q, k, v = self._split(self.query(queries)), self._split(self.key(tokens)), self._split(self.value(tokens))
        attended = scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """``(B, K, D)`` → ``(B, heads, K, D / heads)``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
