"""The planned U-Net with a second decoder for landmarks.

Both decoders read the same encoder, each with skip connections from all its stages, as in the published figure. Nothing
connects them but the losses, so the segmentation is that of the planned network, parameter for parameter, and the
landmark decoder can be left out where nobody asks for landmarks.

Deviations from the published code, whose network file is missing: the planned stages, norms and nonlinearities instead
of a residual U-Net of its own, logits instead of outputs after a ReLU, and a landmark decoder that may end before full
resolution, which takes most of the time of a decoder and adds nothing to a heatmap that is many voxels wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnunet_ext.nnunet.unet import PlannedUNet


class LandmarkDecoder(nn.Module):
    """A decoder of the planned shape, with weights of its own and one logit per landmark at full resolution.

    Args:
        planned: the network that nnU-Net planned.
        num_landmarks: K.
        stage: stage at which it ends, 0 is full resolution; from there logits are interpolated. The coarsest is the one
            above the bottleneck, so a network of two stages is always decoded to full resolution.
    """

    def __init__(self, planned: PlannedUNet, num_landmarks: int, stage: int) -> None:
        super().__init__()
        self.stage = min(stage, planned.n_stages - 2)
        steps = planned.n_stages - 1 - self.stage
        self.transpconvs = deepcopy(planned.decoder.transpconvs[:steps])
        self.stages = deepcopy(planned.decoder.stages[:steps])
        self.head = planned.conv_op(planned.channels[self.stage], num_landmarks, 1)
        self.interpolation = "bilinear" if planned.dim == 2 else "trilinear"
        self.apply(InitWeights_He(1e-2))

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        """``skips``: of the encoder, finest first. Returns ``(B, K, *spatial)``."""
        x = skips[-1]
        for upsample, convs, skip in zip(self.transpconvs, self.stages, reversed(skips[self.stage : -1]), strict=True):
            x = convs(torch.cat((upsample(x), skip), 1))
        logits = self.head(x)
        return logits if self.stage == 0 else interpolate(logits, skips[0].shape[2:], mode=self.interpolation)


class LandmarkUNet(nn.Module):
    """The planned network, which also returns logits of landmarks: always in training, and on request in evaluation.

    Args:
        planned: the network that nnU-Net planned.
        num_landmarks: K.
        heatmap_stage: stage at which the landmark decoder ends, 0 is full resolution.
        encoder_gradient: share of the landmark decoder's gradient that reaches the encoder, 0 to 1.
    """

    def __init__(
        self, planned: PlannedUNet, num_landmarks: int, heatmap_stage: int, encoder_gradient: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder_gradient = encoder_gradient
        self.encoder = planned.encoder
        self.decoder = planned.decoder
        self.landmark_decoder = LandmarkDecoder(planned, num_landmarks, heatmap_stage)

    def forward(
        self, x: Tensor, landmarks: bool | None = None
    ) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Tensor]:
        """Segment a patch and, if asked, find its landmarks.

        Args:
            x: ``(B, channels, *patch)``.
            landmarks: whether to compute them; by default in training mode only.

        Returns:
            What the planned network returns; with landmarks a tuple of that and their logits ``(B, K, *patch)``.
        """
        skips = self.encoder(x)
        segmentation = self.decoder(skips)
        if not (self.training if landmarks is None else landmarks):
            return segmentation
        if self.encoder_gradient < 1:
            skips = [_ScaledGradient.apply(skip, self.encoder_gradient) for skip in skips]
        return segmentation, self.landmark_decoder(skips)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None
