"""Convolution, normalisation and nonlinearity as the plans define them, shared by both branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class ConvDialect:
    """The ``conv_op``, ``norm_op`` and ``nonlin`` that all modules of one network share.

    Args:
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        norm_op: normalisation, or None.
        nonlin: nonlinearity of the blocks, or None.
        recompute: run the cheap parts of the branches again in the backward pass instead of keeping their results.
    """

    conv_op: type[nn.Module]
    norm_op: type[nn.Module] | None
    norm_op_kwargs: Mapping[str, Any] = field(default_factory=dict)
    nonlin: type[nn.Module] | None = nn.LeakyReLU
    nonlin_kwargs: Mapping[str, Any] = field(default_factory=dict)
    recompute: bool = False

    def run(self, function: Callable[..., Any], *inputs: Tensor) -> Any:
        """``function(*inputs)``, with its intermediate results kept or recomputed."""
        if not self.recompute:
            return function(*inputs)
        # nothing random happens in the branches that are recomputed, so no generator state needs to be kept
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)

    def conv(self, c_in: int, c_out: int, kernel_size: Sequence[int] | int = 1, nonlin: bool = True) -> nn.Module:
        """conv (no bias) → norm → nonlinearity, which may be left out."""
        return ConvDropoutNormReLU(
            self.conv_op,
            c_in,
            c_out,
            kernel_size,
            1,
            conv_bias=self.norm_op is None,
            norm_op=self.norm_op,
            norm_op_kwargs=dict(self.norm_op_kwargs),
            nonlin=self.nonlin if nonlin else None,
            nonlin_kwargs=dict(self.nonlin_kwargs),
        )


class Scale(nn.Module):
    """One learned factor per channel that starts at 0, so the scaled feature has no effect at the first step.

    It comes last, after the nonlinearity: a norm whose gain starts at 0 would leave the features at the kink of the
    nonlinearity, where their gradient is small. Input and output ``(B, C, *spatial)``.

    Args:
        channels: C.
        gain: multiplies the factors, which then grow ``gain²`` times as fast.
    """

    def __init__(self, channels: int, gain: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(channels))
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.gain * self.factor).view(-1, *[1] * (x.ndim - 2))


class ResidualBlock(nn.Module):
    """``nonlin([1×1 conv, norm, nonlin → k×k conv, norm, nonlin](x) + [1×1 conv, norm](x))``.

    Input ``(B, c_in, *spatial)``, output ``(B, c_out, *spatial)``.
    """

    def __init__(self, dialect: ConvDialect, c_in: int, c_out: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        self.main = nn.Sequential(dialect.conv(c_in, c_out), dialect.conv(c_out, c_out, kernel_size))
        self.shortcut = dialect.conv(c_in, c_out, nonlin=False)
        self.nonlin = dialect.nonlin(**dialect.nonlin_kwargs) if dialect.nonlin is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlin(self.main(x) + self.shortcut(x))


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """``(B, C, *spatial)`` at another resolution, linearly interpolated (``align_corners=False``)."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return interpolate(x, tuple(size), mode="trilinear" if x.ndim == 5 else "bilinear", align_corners=False)
