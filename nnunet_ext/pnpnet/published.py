"""The published code of PnPNet; only ``nnUNetTrainerPnPNetPaper`` uses it.

::

    encoder ──F_l──┬──────────────► SDM_l(F_l, guide: decoder) ──► decoder ──► S   push logits (planned heads)
                   └─► CCM_l(F_l, centres) ──T_l──► fusion ──────────────────► T   pull logits
    logits = T · (1 + σ(S))

The reasons for the defaults are in :mod:`nnunet_ext.pnpnet.class_clustering`,
:mod:`nnunet_ext.pnpnet.semantic_difference` and :mod:`nnunet_ext.pnpnet.network`.

Deviations from the code: the backbone is the network that nnU-Net planned; all interpolation has
``align_corners=False`` (the code mixes both, which shifts the branches against each other); the pushing branch computes
in float32, because its product of differences overflows half precision; ``forward`` needs no labels; regions are
assigned by a sigmoid each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.pnpnet.blocks import ConvDialect, ResidualBlock, resized
from nnunet_ext.pnpnet.class_clustering import CenterAtlas, CenterTransformer, assigned, evidence, moved
from nnunet_ext.pnpnet.options import PnPNetOptions
from nnunet_ext.pnpnet.semantic_difference import DifferentialConv

CENTER_WEIGHT = 0.2
"""Weight of the centre supervision. The code: 0.1 beside 0.5·CE + 0.5·Dice; nnU-Net's loss is 1·CE + 1·Dice."""

PERIOD = 25
"""Epochs between two restarts of the code's cosine schedule."""

LOWEST_RATE = 5e-6
"""Learning rate at the end of a period of the code's schedule."""


def dialect(conv_op: type[nn.Module]) -> ConvDialect:
    """Return the convolutions of the published branches: BatchNorm and ReLU, whatever the plans have."""
    norm = nn.BatchNorm3d if conv_op is nn.Conv3d else nn.BatchNorm2d
    return ConvDialect(conv_op, norm, nonlin=nn.ReLU)


def period(epochs: int) -> Fraction:
    """Return after how many epochs the cosine schedule restarts, so that every training ends at the end of a period.

    The training is divided into equal periods, as many as :data:`PERIOD` epochs fit into it, rounded. So a period is
    :data:`PERIOD` epochs where that divides the training. Elsewhere it may be a fraction, such as 631 / 25 epochs; the
    restart then comes with the first epoch of the new period.
    """
    return Fraction(epochs, max(1, round(epochs / PERIOD)))


def schedule(optimizer: torch.optim.Optimizer, epochs: int) -> CosineAnnealingWarmRestarts:
    """Return the code's cosine schedule with warm restarts every :func:`period` epochs.

    The last epoch of a training has at most 2.5 % of the initial rate of the published optimiser from 13 epochs on.
    Fewer epochs are one short period, whose last step is higher: 3 % with 12 epochs, 10 % with 5, 51 % with 2.
    """
    found = CosineAnnealingWarmRestarts(optimizer, T_0=PERIOD, eta_min=LOWEST_RATE)
    # torch's constructor takes whole numbers only; its arithmetic is exact with fractions, so no restart comes late
    found.T_0 = found.T_i = period(epochs)  # type: ignore[assignment]
    return found


class PublishedDifference(nn.Module):
    """The semantic difference module of the code: ``y = x + ReLU(norm(conv(D(x) · D(g̃) · D(g̃))))``.

    Args:
        dialect: convolution, norm and nonlinearity.
        channels: C of skip and guidance.
        kernel_size: of all its convolutions.
    """

    def __init__(self, dialect: ConvDialect, channels: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        self.guide = dialect.conv(channels, channels, kernel_size, nonlin=False)

        def difference() -> DifferentialConv:
            return DifferentialConv(dialect.conv_op, channels, kernel_size, init="randn", padding_mode="zeros")

        self.skip_difference = difference()
        self.guide_difference = difference()
        self.mix = dialect.conv(channels, channels, kernel_size)
        self.apply(InitWeights_He(1e-2))

    def forward(self, skip: Tensor, guide: Tensor) -> Tensor:
        """Refine a skip feature.

        Args:
            skip: ``(B, C, *spatial)``, feature of the encoder.
            guide: ``(B, C, *spatial)``, upsampled feature of the decoder.

        Returns:
            ``(B, C, *spatial)``.
        """
        with torch.autocast(skip.device.type, enabled=False):
            dtype = torch.promote_types(skip.dtype, torch.float32)
            squared = self.guide_difference(self.guide(guide.to(dtype))).square()
            update = self.mix(self.skip_difference(skip.to(dtype)) * squared)
        return skip + update.to(skip.dtype)


class PublishedClustering(nn.Module):
    """One level of class clustering as the code does it.

    Keys and values from two residual blocks, temperature √K, un-normalised sum as update, assignments refined by two
    residual blocks.

    Args:
        dialect: convolution, norm and nonlinearity.
        channels: C of the encoder feature.
        num_classes: K, classes or regions.
        kernel_size: of the convolutions at this level.
        dim: of the centres.
        heads: of their transformer.
        mlp_dim: of their transformer.
        dropout: of their transformer.
        exclusive: classes exclude each other (softmax) or are regions (sigmoid).
    """

    def __init__(
        self,
        dialect: ConvDialect,
        channels: int,
        num_classes: int,
        kernel_size: Sequence[int],
        *,
        dim: int,
        heads: int,
        mlp_dim: int,
        dropout: float = 0.1,
        exclusive: bool = True,
    ) -> None:
        super().__init__()
        self.transformer = CenterTransformer(num_classes, dim, heads, mlp_dim, dropout)
        self.key = ResidualBlock(dialect, channels, dim, kernel_size)
        self.value = ResidualBlock(dialect, channels, dim, kernel_size)
        self.refine = nn.Sequential(
            ResidualBlock(dialect, num_classes, num_classes, kernel_size),
            ResidualBlock(dialect, num_classes, num_classes, kernel_size),
        )
        self.temperature = math.sqrt(num_classes)
        self.exclusive = exclusive

    def forward(self, feature: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        """Assign the voxels of a feature, and move the centres.

        Args:
            feature: ``(B, C, *spatial)``, raw skip feature.
            centers: ``(B or 1, K, dim)``.

        Returns:
            Refined assignment ``(B, K, *spatial)`` and updated centres ``(B, K, dim)``.
        """
        centers = self.transformer(centers).expand(feature.shape[0], -1, -1)
        value = self.value(feature)
        assignment = assigned(evidence(centers, self.key(feature), self.temperature), self.exclusive)
        centers = moved(centers, assignment, value, "sum")
        assignment = assignment.to(value.dtype)
        return assignment + self.refine(assignment), centers


class PublishedPulled(NamedTuple):
    """Result of the published pulling branch."""

    logits: Tensor
    """``(B, K, *patch)``, pull logits T."""
    centers: Tensor
    """``(B, K, dim)``, centres after the last update."""
    feature: Tensor
    """``(B, C, *spatial)``, raw skip feature of the finest clustered level."""


class PublishedPullBranch(nn.Module):
    """Class clustering at every level of the encoder from coarse to fine, and fusion at full resolution.

    Args:
        planned: the network it stands beside.
        levels: encoder stages, ascending.
        exclusive: classes exclude each other (softmax) or are regions (sigmoid).
        options: see :class:`PnPNetOptions`.
        dialect: convolution, norm and nonlinearity.
    """

    def __init__(
        self,
        planned: PlannedUNet,
        levels: Sequence[int],
        exclusive: bool,
        options: PnPNetOptions,
        dialect: ConvDialect,
    ) -> None:
        super().__init__()
        classes = planned.num_heads
        self.levels = list(levels)
        dim = options.dim_at(planned.channels[self.levels[0]])
        self.atlas = CenterAtlas(classes, dim, 0)
        self.clustering = nn.ModuleDict(
            {
                str(level): PublishedClustering(
                    dialect,
                    planned.channels[level],
                    classes,
                    planned.kernel_sizes[level],
                    dim=dim,
                    heads=options.heads,
                    mlp_dim=options.mlp_ratio * dim,
                    exclusive=exclusive,
                )
                for level in self.levels
            }
        )
        kernel_size = planned.kernel_sizes[0]
        padding = [size // 2 for size in kernel_size]
        self.fuse = nn.Sequential(
            ResidualBlock(dialect, len(levels) * classes, len(levels) * classes, kernel_size),
            dialect.conv_op(len(levels) * classes, classes, kernel_size, padding=padding),
        )
        self.apply(InitWeights_He(1e-2))

    def forward(
        self, skips: Sequence[Tensor], features: Sequence[Tensor], push: Tensor
    ) -> tuple[Tensor, PublishedPulled]:
        """Pull the voxels, and let the planned logits gate the result.

        Args:
            skips: of the encoder, finest first.
            features: of the decoder, finest first; not used.
            push: ``(B, K, *patch)``, planned logits S.
        """
        centers, maps = self.atlas(), []
        for level in reversed(self.levels):
            pull, centers = self.clustering[str(level)](skips[level], centers)
            maps.append(pull)
        pull = self.fuse(torch.cat([resized(pull, push.shape[2:]) for pull in maps], 1))
        return interact(pull, push), PublishedPulled(pull, centers, skips[self.levels[0]])


def interact(pull: Tensor, push: Tensor) -> Tensor:
    """``T · (1 + σ(S))``, both ``(B, K, *patch)``."""
    return pull * (1 + push.sigmoid())


class PaperCenterLoss(nn.Module):
    """The centre supervision of the published code, for comparison: ``mean(clamp(LN(Y·φ(F)ᵀ) − LN(c), −1, 1)²)``.

    φ is a learned 1×1 convolution with norm and ReLU; Y is the one-hot target at full resolution, resized linearly.

    Args:
        dialect: convolution, norm and nonlinearity of φ.
        channels: of the feature F.
        dim: length of a centre.
    """

    def __init__(self, dialect: ConvDialect, channels: int, dim: int) -> None:
        super().__init__()
        self.project = dialect.conv(channels, dim)
        self.norm_target = nn.LayerNorm(dim, eps=1e-6)
        self.norm_center = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, centers: Tensor, feature: Tensor, one_hot: Tensor) -> Tensor:
        """Return the distance of the centres from the projected class sums.

        Args:
            centers: ``(B, K, dim)``.
            feature: ``(B, C, *spatial)``, raw skip feature of the finest clustered level.
            one_hot: ``(B, K, *patch)``, full resolution.
        """
        with torch.autocast(centers.device.type, enabled=False):
            dtype = torch.promote_types(centers.dtype, torch.float32)
            weights = resized(one_hot.to(dtype), feature.shape[2:])
            projected = self.project(feature.to(dtype)).flatten(2)
            target = self.norm_target(weights.flatten(2) @ projected.transpose(1, 2))
            return (target - self.norm_center(centers.to(dtype))).clamp(-1, 1).square().mean()
