"""A walk over the network that nnU-Net planned.

Every method of this package adds modules *beside* the planned encoder and decoder. :class:`PlannedUNet` gives them what
they need to attach: channels, strides and kernel sizes per stage, and one pass through the decoder with a visitor at
every skip connection. It holds the planned modules themselves, so their parameter names and values stay what nnU-Net
made them.

Stages are counted as in nnU-Net's plans: stage 0 is full resolution, stage ``n_stages - 1`` the bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_conv_op_to_dim,
    maybe_convert_scalar_to_list,
)
from torch import Tensor, nn

from nnunet_ext.errors import InputError

SkipVisitor = Callable[[int, Tensor, Tensor], Tensor]
"""``(stage, skip, upsampled) -> skip``: the feature that the decoder concatenates instead of the raw skip.

``upsampled`` is the output of the transposed convolution from the stage below; it has the shape of ``skip``.
"""

StageVisitor = Callable[[int, Tensor], Tensor]
"""``(stage, feature) -> feature``: the feature that replaces the output of an encoder stage."""


class PlannedUNet:
    """The encoder and decoder of a planned ``PlainConvUNet`` or ``ResidualEncoderUNet``, 2D or 3D.

    It is not a module: the owner registers :attr:`encoder` and :attr:`decoder` under these two names, so that
    state-dict keys equal the planned network's.

    Args:
        network: what ``nnunetv2.utilities.get_network_from_plans`` returned.

    Raises:
        InputError: the network is no U-Net that can be walked (Primus, say), or has fewer than two stages.
    """

    def __init__(self, network: nn.Module) -> None:
        encoder: Any = getattr(network, "encoder", None)
        decoder: Any = getattr(network, "decoder", None)
        if not (
            all(hasattr(encoder, name) for name in ("output_channels", "strides", "kernel_sizes", "conv_op"))
            and all(hasattr(decoder, name) for name in ("stages", "transpconvs", "seg_layers", "deep_supervision"))
        ):
            raise InputError(
                f"The plans ask for the network {type(network).__name__}, to which the modules of this trainer cannot "
                "be attached: it needs a U-Net with skip connections (PlainConvUNet or ResidualEncoderUNet); "
                "use nnUNetPlans or nnUNetResEncUNet(M/L/XL)Plans."
            )
        self.encoder = encoder
        self.decoder = decoder
        self.n_stages = len(encoder.output_channels)
        if self.n_stages < 2:
            raise InputError(
                f"The plans describe a network with {self.n_stages} stage, which has no skip connection to work on; "
                "this trainer needs at least 2 stages: plan with a larger patch size."
            )
        self.conv_op: type[nn.Module] = encoder.conv_op
        self.dim = convert_conv_op_to_dim(encoder.conv_op)
        self.channels: list[int] = list(encoder.output_channels)
        self.strides: list[list[int]] = [self._per_axis(stride) for stride in encoder.strides]
        self.kernel_sizes: list[list[int]] = [self._per_axis(size) for size in encoder.kernel_sizes]
        self.norm_op: type[nn.Module] | None = encoder.norm_op
        self.norm_op_kwargs: dict[str, Any] = encoder.norm_op_kwargs or {}
        self.nonlin: type[nn.Module] | None = encoder.nonlin
        self.nonlin_kwargs: dict[str, Any] = encoder.nonlin_kwargs or {}
        self.num_heads: int = decoder.num_classes
        if not decoder.deep_supervision:
            # the coarser ones are computed for nobody, and distributed training allows no parameters without gradient
            decoder.seg_layers[:-1].requires_grad_(False)

    def _per_axis(self, value: int | Sequence[int]) -> list[int]:
        return list(maybe_convert_scalar_to_list(self.conv_op, value))

    def downsampling(self, stage: int) -> list[int]:
        """Return how many input voxels one voxel of ``stage`` spans, per axis."""
        total = [1] * self.dim
        for stride in self.strides[: stage + 1]:
            total = [a * b for a, b in zip(total, stride, strict=True)]
        return total

    def encode(self, x: Tensor, visit_stage: StageVisitor | None = None) -> list[Tensor]:
        """Features of every stage, finest first; the last one is the bottleneck.

        The result of ``visit_stage`` replaces the feature, on the skip connection and for the next stage.
        """
        if visit_stage is None:
            return self.encoder(x)
        if getattr(self.encoder, "stem", None) is not None:  # of a residual encoder
            x = self.encoder.stem(x)
        features: list[Tensor] = []
        for stage, layers in enumerate(self.encoder.stages):
            x = visit_stage(stage, layers(x))
            features.append(x)
        return features

    def decode(self, skips: Sequence[Tensor], visit_skip: SkipVisitor | None = None) -> list[Tensor]:
        """Run the decoder; returns its features of stages ``0 … n_stages - 2``, finest first.

        With no visitor this is ``UNetDecoder.forward`` up to the segmentation layers.
        """
        features: list[Tensor] = []
        below = skips[-1]
        for step, (upsample, convs) in enumerate(zip(self.decoder.transpconvs, self.decoder.stages, strict=True)):
            stage = self.n_stages - 2 - step
            upsampled = upsample(below)
            skip = skips[stage] if visit_skip is None else visit_skip(stage, skips[stage], upsampled)
            below = convs(torch.cat((upsampled, skip), 1))
            features.append(below)
        return features[::-1]

    def logits(self, features: Sequence[Tensor], deep_supervision: bool) -> list[Tensor]:
        """Logits of the planned segmentation layers, finest first; only the finest without deep supervision."""
        layers = list(self.decoder.seg_layers)[::-1]
        stages = range(len(features)) if deep_supervision else range(1)
        return [layers[stage](features[stage]) for stage in stages]
