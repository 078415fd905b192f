"""The pushing branch: semantic difference module (SDM) with the explicit-implicit differential (EID) kernel.

A skip connection carries detail but little meaning, the decoder below carries meaning but little detail. The module
takes local differences of both and lets a difference in the *decoder's* feature ``g`` decide where the difference in
the skip feature ``x`` counts::

    x̃ = W_x x,  g̃ = norm(W_g g)                   r channels each
    m = D_x(x̃) · c,  c = D_g(g̃)² / (1 + D_g(g̃)²)   D: depthwise convolution with the EID kernel
    y = x + s · nonlin(norm(conv(m)))              s: one factor per channel, 0 at the start

This is a step of anisotropic diffusion ``∂F/∂t = div(c(|∇G|) ∇F)`` whose conductivity *grows* with the guiding
gradient: boundaries that the decoder believes in are enhanced, others stay. ``conv`` is the learned divergence.

Deviations from the published code (:class:`nnunet_ext.pnpnet.published.PublishedDifference`), each with its reason:

* *It starts as the identity* (``s = 0``). Otherwise half of the skip of a fresh network is noise.
* *Bounded conductivity.* The code has ``c = D_g(g̃)²``, whose products are nearly zero everywhere and huge at a few
  voxels (kurtosis above 80), and overflow float16; the next norm then shrinks all others.
* *r < C channels* and a *1×1 guidance convolution*: cost. Our guidance is the transposed convolution's output, which
  has the skip's shape already.
* *Unit-norm, zero-sum kernels*. With the code's N(0, 1) kernels a constant region already "differs" by √19.
* *Replicate padding.* Zero padding makes a false edge along the whole border of the patch.

The published code intends to freeze the explicit part and does not (``.detach()`` on a discarded value). Here it is
trained, as the code in fact does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from nnunet_ext.pnpnet.blocks import ConvDialect, Scale

Initialisation = Literal["unit", "randn"]

GAIN = 20.0
"""Gain on the factors of the branch. Without it they stay near 0.02 and the trained branch does nothing."""


def explicit_stencil(kernel_size: Sequence[int]) -> Tensor:
    """The explicit part of the EID kernel: its corners; all other entries are 0.

    A corner's value is the product of the signs of its offsets over the axes that extend (size ≥ 3), so axes of size 1
    drop out: 8 times the stencil of ∂³/∂x∂y∂z for 3×3×3, 4 times that of ∂²/∂x∂y for 3×3 and 1×3×3. It is blind to
    boundaries that are parallel to an axis; those are left to the implicit, free part.

    Args:
        kernel_size: odd sizes per axis.

    Returns:
        float32 tensor of that shape.
    """
    if any(size % 2 == 0 for size in kernel_size):
        raise ValueError(f"A differential kernel needs odd sizes to have a centre, got {list(kernel_size)}.")
    stencil = torch.zeros(tuple(kernel_size))
    for corner in itertools.product(*[(0,) if size == 1 else (0, size - 1) for size in kernel_size]):
        signs = [1 if index else -1 for index, size in zip(corner, kernel_size, strict=True) if size > 1]
        stencil[corner] = math.prod(signs)
    return stencil


def replicate(x: Tensor, padding: Sequence[int]) -> Tensor:
    """``(B, C, *spatial)`` with its border voxels repeated ``padding`` times on both sides of every axis.

    ``torch.nn.functional.pad`` does this too, but its backward pass cannot be compiled by torch 2.15's inductor
    (``replication_pad2d_backward`` promises strides that it does not return), and nnU-Net compiles on CUDA by default.
    """
    for axis, width in enumerate(padding, start=2):
        if width:
            first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
            x = torch.cat([first] * width + [x] + [last] * width, axis)
    return x


class DifferentialConv(nn.Module):
    """Depthwise convolution with the EID kernel; ``(B, C, *spatial)`` → the same shape.

    Args:
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        channels: C.
        kernel_size: odd sizes per axis.
        init: implicit entries from N(0, 1) as they are (``"randn"``), or made zero-sum and the whole kernel unit-norm
            (``"unit"``), so that the response to a constant is 0 and the response to white noise has variance 1.
        padding_mode: ``"replicate"`` or ``"zeros"``.
    """

    def __init__(
        self,
        conv_op: type[nn.Module],
        channels: int,
        kernel_size: Sequence[int],
        *,
        init: Initialisation = "unit",
        padding_mode: Literal["replicate", "zeros"] = "replicate",
    ) -> None:
        super().__init__()
        stencil = explicit_stencil(kernel_size)
        implicit = stencil == 0
        if min(kernel_size) == max(kernel_size) == 1:  # nothing extends: an identity that may be scaled
            implicit = torch.ones_like(implicit)
        noise = torch.randn(channels, 1, *kernel_size) * implicit
        kernel = torch.where(implicit, noise, stencil)
        if init == "unit" and max(kernel_size) > 1:
            spatial = tuple(range(2, kernel.ndim))
            zero_sum = noise - noise.sum(spatial, keepdim=True) / implicit.sum() * implicit
            kernel = torch.where(implicit, zero_sum, stencil)
            kernel = kernel / kernel.square().sum(spatial, keepdim=True).sqrt()
        self.weight = nn.Parameter(kernel)
        self.padding_mode = padding_mode
        self.padding = [size // 2 for size in kernel_size]
        self.convolve = torch.nn.functional.conv3d if conv_op is nn.Conv3d else torch.nn.functional.conv2d

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.to(x.dtype)
        if self.padding_mode == "zeros":
            return self.convolve(x, kernel, padding=self.padding, groups=x.shape[1])
        return self.convolve(replicate(x, self.padding), kernel, groups=x.shape[1])


class SemanticDifferenceModule(nn.Module):
    """Refines a skip feature, guided by the decoder feature of the same shape; starts as the identity.

    Args:
        dialect: convolution, norm and nonlinearity.
        channels: C of skip and guidance.
        kernel_size: of the EID kernels and of the convolution that mixes the product.
        width: r, channels in which differences are taken, at most C.
    """

    def __init__(self, dialect: ConvDialect, channels: int, kernel_size: Sequence[int], *, width: int = 32) -> None:
        super().__init__()
        width = min(width, channels)
        self.dialect = dialect
        self.reduce = dialect.conv_op(channels, width, 1, bias=False)
        self.guide = dialect.conv(channels, width, nonlin=False)
        self.skip_difference = DifferentialConv(dialect.conv_op, width, kernel_size)
        self.guide_difference = DifferentialConv(dialect.conv_op, width, kernel_size)
        self.mix = dialect.conv(width, channels, kernel_size)
        self.scale = Scale(channels, GAIN)
        self.apply(InitWeights_He(1e-2))  # as nnU-Net initialises the planned part

    def forward(self, skip: Tensor, guide: Tensor) -> Tensor:
        """Refine a skip feature.

        Args:
            skip: ``(B, C, *spatial)``, feature of the encoder.
            guide: ``(B, C, *spatial)``, upsampled feature of the decoder.

        Returns:
            ``(B, C, *spatial)``.
        """
        difference = self.dialect.run(self._difference, self.reduce(skip), self.guide(guide))
        return skip + self.scale(self.mix(difference)).to(skip.dtype)

    def _difference(self, skip: Tensor, guide: Tensor) -> Tensor:
        with torch.autocast(skip.device.type, enabled=False):
            dtype = torch.promote_types(skip.dtype, torch.float32)
            squared = self.guide_difference(guide.to(dtype)).square()
            return (self.skip_difference(skip.to(dtype)) * squared / (1 + squared)).to(guide.dtype)
