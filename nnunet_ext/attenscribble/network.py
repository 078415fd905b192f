"""The planned U-Net with spatial self-attention on one of its stages, in its trunk or beside it.

* ``"trunk"``: the stage is replaced by the output of the attention, on the skip connection and for the next stage, as
  published. Attention is part of inference.
* ``"side"``: the network stays what nnU-Net planned, parameter for parameter; in training it also returns the feature
  of the stage, from which queries and keys are projected outside of it. Attention only serves the loss.

Deviation from the published code: the stage is not fixed. It is the shallowest one with at most 5000 tokens (stride 4
for the code's 256² slices, 64 × 64 tokens), and several may be named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from nnunet_ext.attenscribble.crf_loss import Window
from nnunet_ext.attenscribble.crf_window import SIGMA_OF_RADIUS
from nnunet_ext.attenscribble.options import AttenScribbleOptions
from nnunet_ext.attenscribble.published import PublishedSelfAttention
from nnunet_ext.attenscribble.spatial_attention import Projected, SpatialSelfAttention
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.unet import PlannedUNet

REACH, SIGMA = 20, 24
"""Radius and σ of the similarity's window in the published code, in input pixels: 5 and 6 tokens of 4 pixels."""


Attended = dict[str, tuple[Tensor, ...]]
"""Queries and keys (trunk), or the feature alone (side), by stage."""


class AttendedUNet(nn.Module):
    """The planned network that also returns what the attentive similarity needs, in training.

    ``forward`` returns ``(logits, attended)`` in training mode and the logits alone in evaluation mode, a list with
    deep supervision and a tensor without, like nnU-Net's own networks.

    Args:
        planned: the network that nnU-Net planned.
        options: see :class:`AttenScribbleOptions`.
        patch_size: of the plans.

    Raises:
        InputError: attention in the trunk with heads that do not divide the channels of a stage.
    """

    def __init__(self, planned: PlannedUNet, options: AttenScribbleOptions, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.encoder = planned.encoder
        self.decoder = planned.decoder
        self.planned = planned
        self.stages = chosen_stages(planned, options, patch_size)
        if options.attention == "trunk":
            for stage in self.stages:
                if planned.channels[stage] % options.heads:
                    raise InputError(
                        f"The plans have attenscribble.heads = {options.heads}, but stage {stage} of their network has "
                        f"{planned.channels[stage]} channels; attention in the trunk needs a divisor of these."
                    )
            block = PublishedSelfAttention if options.published else SpatialSelfAttention
            self.attention = nn.ModuleDict(
                {
                    str(stage): block(
                        planned.channels[stage],
                        planned.kernel_sizes[stage],
                        heads=options.heads,
                        head_dim=options.head_dim,
                        mlp_ratio=options.mlp_ratio,
                    )
                    for stage in self.stages
                }
            )

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Attended]:
        """``x``: ``(B, channels, *patch)``."""
        attended: Attended = {}

        def visit(stage: int, feature: Tensor) -> Tensor:
            if stage in self.stages:
                if hasattr(self, "attention"):
                    feature, projected = self.attention[str(stage)](feature)
                    attended[str(stage)] = (projected.queries, projected.keys)
                else:
                    attended[str(stage)] = (feature,)
            return feature

        features = self.planned.decode(self.planned.encode(x, visit))
        logits = self.planned.logits(features, self.decoder.deep_supervision)
        output = logits if self.decoder.deep_supervision else logits[0]
        return (output, attended) if self.training else output


def chosen_stages(planned: PlannedUNet, options: AttenScribbleOptions, patch_size: Sequence[int]) -> tuple[int, ...]:
    """Return the stages that are attended to; none without attention."""
    if not options.attends:
        return ()
    if options.stages is None:
        return (default_stage(planned, patch_size, options.max_tokens),)
    return tuple(sorted(set(options.stages)))


def default_stage(planned: PlannedUNet, patch_size: Sequence[int], max_tokens: int) -> int:
    """The shallowest stage with at most ``max_tokens`` tokens; the deepest if none has so few."""
    for stage in range(planned.n_stages):
        if math.prod(token_grid(planned, stage, patch_size)) <= max_tokens:
            return stage
    return planned.n_stages - 1


def token_grid(planned: PlannedUNet, stage: int, patch_size: Sequence[int]) -> list[int]:
    """Shape of a stage's feature map."""
    return [-(-size // down) for size, down in zip(patch_size, planned.downsampling(stage), strict=True)]


def similarity_window(
    planned: PlannedUNet, stage: int, spacing: Sequence[float], tokens_far: int | None = None
) -> Window:
    """Window of the similarity on the grid of a stage.

    Args:
        spacing: of the input, in mm.
        tokens_far: radius in tokens of the finest spacing; fewer along coarser axes. None: as far as the published one
            in pixels, but at least two tokens along the finest axis (the published 20 pixels would be one token of
            stride 16), and at most five.
    """
    tokens = [down * mm / min(spacing) for down, mm in zip(planned.downsampling(stage), spacing, strict=True)]
    if tokens_far is not None:
        radius = [round(tokens_far * min(tokens) / token) for token in tokens]
        return Window.gaussian(radius, SIGMA_OF_RADIUS * tokens_far, tokens)
    least = [2 if token == min(tokens) else 0 for token in tokens]
    radius = [max(low, min(5, round(REACH / token))) for low, token in zip(least, tokens, strict=True)]
    return Window.gaussian(radius, SIGMA / min(tokens), tokens)


def as_projected(attended: tuple[Tensor, ...]) -> Projected:
    """Queries and keys of a stage in the trunk."""
    return Projected(*attended)
