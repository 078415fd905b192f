"""Spatial self-attention (SSA): every voxel of a coarse stage looks at every other.

A pre-norm transformer block on the tokens of one encoder stage (stride 4 in 2D: 4096 tokens)::

    u = LN₁(x);  q, k, v = W_q u, W_k u, W_v u
    x = x + W_o softmax(q kᵀ / √d) v
    x = x + MLP(LN₂(x)),    MLP = linear → depth-wise 3×3 convolution → GELU → linear

There is no positional encoding; only the zero-padded depth-wise convolution knows where a token is. Queries and keys
are returned too: :mod:`.similarity` reads from them which voxels look alike to the network.

Deviations from the published code, each with its reason:

* *The block starts as the identity*: the last layers of both residual branches start at zero, and the third layer norm
  after the block is left out, so a network with SSA starts as the planned network, stock weights included.
  :class:`nnunet_ext.attenscribble.published.PublishedSelfAttention` has neither.
* *Queries and keys have 64 channels per head at every width*, which is what the code has at its 64 channels; nnU-Net's
  stages are wider.
* *2D and 3D*: the depth-wise kernel is the planned kernel of the stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Projected(NamedTuple):
    """Queries and keys of a stage."""

    queries: Tensor
    """``(B, heads, d, *grid)``."""
    keys: Tensor
    """``(B, heads, d, *grid)``."""


class QueriesAndKeys(nn.Module):
    """``W_q LN(x)`` and ``W_k LN(x)``: the part of an attention that a similarity needs.

    Args:
        channels: of the stage.
        heads: each with its own similarity.
        head_dim: channels of a query.
    """

    def __init__(self, channels: int, heads: int = 1, head_dim: int = 64) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.queries = nn.Linear(channels, heads * head_dim, bias=False)
        self.keys = nn.Linear(channels, heads * head_dim, bias=False)
        for layer in (self.queries, self.keys):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Projected:
        """``x``: ``(B, C, *grid)``."""
        return self.project(self.norm(_tokens(x)), x.shape[2:])

    def project(self, u: Tensor, grid: Sequence[int]) -> Projected:
        """``u``: normalised tokens ``(B, N, C)``."""
        split = [
            layer(u).transpose(1, 2).reshape(u.shape[0], self.heads, -1, *grid) for layer in (self.queries, self.keys)
        ]
        return Projected(*split)


class SpatialSelfAttention(nn.Module):
    """One SSA block.

    Args:
        channels: of the stage.
        kernel_size: of the depth-wise convolution, per axis; its length says 2D or 3D.
        heads: see :class:`QueriesAndKeys`; ``channels`` must be divisible by it.
        head_dim: see :class:`QueriesAndKeys`.
        mlp_ratio: width of the MLP relative to ``channels``.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Sequence[int],
        *,
        heads: int = 1,
        head_dim: int = 64,
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__()
        self.attention = QueriesAndKeys(channels, heads, head_dim)
        self.values = nn.Linear(channels, channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.norm_mlp = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, mlp_ratio * channels)
        width = mlp_ratio * channels
        conv: Any = nn.Conv3d if len(kernel_size) == 3 else nn.Conv2d
        padding = tuple(k // 2 for k in kernel_size)
        self.depthwise = conv(width, width, tuple(kernel_size), padding=padding, groups=width)
        self.gelu = nn.GELU()
        self.narrow = nn.Linear(width, channels)
        self.norm_out: nn.Module = nn.Identity()
        for layer in (self.values, self.out, self.widen, self.narrow):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        self.start()

    def start(self) -> None:
        """Make the block the identity."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Projected]:
        """Apply the block to a stage.

        Args:
            x: ``(B, C, *grid)``.

        Returns:
            The stage after the block, same shape, and its queries and keys.
        """
        grid = x.shape[2:]
        tokens = _tokens(x)
        u = self.attention.norm(tokens)
        projected = self.attention.project(u, grid)
        q, k = (each.flatten(3).transpose(2, 3) for each in projected)  # (B, heads, N, d)
        v = self.values(u).unflatten(2, (self.attention.heads, -1)).transpose(1, 2)
        attended = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(attended)
        tokens = tokens + self._mlp(self.norm_mlp(tokens), grid)
        return _grid(self.norm_out(tokens), grid), projected

    def _mlp(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        wide = self.depthwise(_grid(self.widen(tokens), grid))
        return self.narrow(self.gelu(_tokens(wide)))


def _tokens(x: Tensor) -> Tensor:
    """``(B, C, *grid)`` → ``(B, N, C)``."""
    return x.flatten(2).transpose(1, 2)


def _grid(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """``(B, N, C)`` → ``(B, C, *grid)``."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)
