"""The planned U-Net with a second decoder for landmarks.

Both decoders read the same encoder, each with skip connections from all its stages, as in the published figure. Nothing
connects them but the losses, so the segmentation is that of the planned network, parameter for parameter, and the
landmark decoder can be left out where nobody asks for landmarks.

Deviations from the published code, whose network file is missing: the planned stages, norms and nonlinearities instead
of a residual U-Net of its own, and logits instead of outputs after a ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from nnunet_ext.nnunet.unet import PlannedUNet


class LandmarkDecoder(nn.Module):
    """A decoder of the planned shape, with weights of its own and one logit per landmark at full resolution.

    Args:
        planned: the network that nnU-Net planned.
        num_landmarks: K.
    """

    def __init__(self, planned: PlannedUNet, num_landmarks: int) -> None:
        super().__init__()
        self.transpconvs = deepcopy(planned.decoder.transpconvs)
        self.stages = deepcopy(planned.decoder.stages)
        self.head = planned.conv_op(planned.channels[0], num_landmarks, 1)
        self.apply(InitWeights_He(1e-2))

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        """``skips``: of the encoder, finest first. Returns ``(B, K, *spatial)``."""
        x = skips[-1]
        for upsample, convs, skip in zip(self.transpconvs, self.stages, reversed(skips[:-1]), strict=True):
            x = convs(torch.cat((upsample(x), skip), 1))
        return self.head(x)


class LandmarkUNet(nn.Module):
    """The planned network, which also returns logits of landmarks: always in training, and on request in evaluation.

    Args:
        planned: the network that nnU-Net planned.
        num_landmarks: K.
    """

    def __init__(self, planned: PlannedUNet, num_landmarks: int) -> None:
        super().__init__()
        self.encoder = planned.encoder
        self.decoder = planned.decoder
        self.landmark_decoder = LandmarkDecoder(planned, num_landmarks)

    def forward(
        self, x: Tensor, landmarks: bool | None = None
    ) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Tensor]:
        """Args:
        x: ``(B, channels, *patch)``.
        landmarks: whether to compute them; by default in training mode only.

        Returns:
            What the planned network returns; with landmarks a tuple of that and their logits ``(B, K, *patch)``.
        """
        skips = self.encoder(x)
        segmentation = self.decoder(skips)
        if not (self.training if landmarks is None else landmarks):
            return segmentation
        return segmentation, self.landmark_decoder(skips)
