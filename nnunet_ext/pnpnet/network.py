"""PnPNet: the planned U-Net with a pushing branch on its skip connections and a pulling branch beside its decoder.

::

    encoder ──F_l──┬──────────────► SDM_l(F_l, guide: decoder) ──► decoder ──► S   push logits (planned heads)
                   └─► CCM_l(F_l, centres) ──T_l──► fusion ──────────────────► T   pull logits
    logits = T · (1 + σ(S))

Both branches work on the same few levels ``l`` of the encoder, the CCMs from coarse to fine, each handing its centres
on. The decoder's logits S gate the pull logits T by a factor in (1, 2).

Deviations from the published code, each with its reason:

* The backbone is the network that nnU-Net planned, 2D or 3D, any kernel sizes and strides, instead of a fixed
  ResNetV2 whose patch had to be divisible by 16. Its parameters keep their names (``encoder.…``, ``decoder.…``).
* *Fusion at the finest clustered level*, then one upsampling. The code upsamples the K maps of all levels to full
  resolution first, which costs 3K full-resolution channels several times over. ``published`` restores it.
* All interpolation has ``align_corners=False``; the code mixes both, which shifts the branches against each other.
* *Deep supervision*: the planned heads of the coarser stages are supervised as in nnU-Net. They are the push branch's
  only direct supervision; the code has none.
* ``forward`` needs no labels; the code needs them even at test time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.pnpnet import published
from nnunet_ext.pnpnet.blocks import ConvDialect, ResidualBlock
from nnunet_ext.pnpnet.class_clustering import CenterAtlas, ClassClusteringModule
from nnunet_ext.pnpnet.options import LEVELS, PnPNetOptions
from nnunet_ext.pnpnet.semantic_difference import SemanticDifferenceModule


class Pulled(NamedTuple):
    """Result of the pulling branch; the last three serve the centre supervision, at the finest clustered level."""

    logits: Tensor
    """``(B, K, *spatial)``, pull logits T, or ``(B, K, *patch)`` if they are fused at full resolution."""
    centers: Tensor
    """``(B, K, dim)``, centres after the last update."""
    values: Tensor
    """``(B, dim, *spatial)``, what the centres are means of."""
    feature: Tensor
    """``(B, C, *spatial)``, raw skip feature."""


class PullBranch(nn.Module):
    """Centre atlas, class clustering at every level from coarse to fine, and cross-scale fusion.

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
        self.dialect = dialect
        self.levels = list(levels)
        self.full_resolution = options.published
        self.atlas = CenterAtlas(classes, options.dim, options.atlas_ratio * classes)
        self.clustering = nn.ModuleDict(
            {
                str(level): ClassClusteringModule(
                    dialect,
                    planned.channels[level],
                    classes,
                    planned.kernel_sizes[level],
                    dim=options.dim,
                    heads=options.heads,
                    mlp_dim=options.mlp_ratio * options.dim,
                    exclusive=exclusive,
                    **(published.clustering(classes) if options.published else {}),
                )
                for level in self.levels
            }
        )
        kernel_size = planned.kernel_sizes[0 if self.full_resolution else self.levels[0]]
        padding = [size // 2 for size in kernel_size]
        self.fuse = nn.Sequential(
            ResidualBlock(dialect, len(levels) * classes, len(levels) * classes, kernel_size),
            dialect.conv_op(len(levels) * classes, classes, kernel_size, padding=padding),
        )

    def forward(self, skips: Sequence[Tensor], patch: torch.Size) -> Pulled:
        centers = self.atlas()
        maps = []
        for level in reversed(self.levels):
            clustering = self.clustering[str(level)](skips[level], centers)
            centers = clustering.centers
            maps.append(clustering.pull)
        size = patch if self.full_resolution else skips[self.levels[0]].shape[2:]
        logits = self.dialect.run(self.fuse, torch.cat([_resize(pull, size) for pull in maps], 1))
        return Pulled(logits, centers, clustering.values, skips[self.levels[0]])


class PnPNet(nn.Module):
    """The planned network with one or both branches.

    In training mode ``forward`` returns ``(logits, pulled)``: the logits as nnU-Net's loss expects them, and what the
    centre supervision needs (None without pulling branch). In evaluation mode it returns the logits alone, a list with
    deep supervision and a tensor without, like nnU-Net's own networks.

    Args:
        planned: the network that nnU-Net planned.
        options: see :class:`PnPNetOptions`.
        exclusive: False if the heads are overlapping regions.
        patch_size: of the plans; levels whose feature map would be a single voxel are left out, because no norm can
            be computed there.

    Raises:
        InputError: one class only, or no level left.
    """

    def __init__(
        self,
        planned: PlannedUNet,
        options: PnPNetOptions | None = None,
        *,
        exclusive: bool = True,
        patch_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        options = options or PnPNetOptions()
        if exclusive and options.pull and planned.num_heads < 2:
            raise InputError(
                f"The data set has {planned.num_heads} class, so there is nothing to tell apart; "
                "dataset.json must list the background and at least one label."
            )
        self.encoder = planned.encoder
        self.decoder = planned.decoder
        self.planned = planned
        levels = attachable_levels(planned, options.levels or LEVELS, patch_size)
        dialect = _dialect(planned, options)
        self.push = nn.ModuleDict()
        if options.push:
            for level in levels:
                kernel_size = planned.kernel_sizes[level]
                differently = published.difference(kernel_size) if options.published else {}
                self.push[str(level)] = SemanticDifferenceModule(
                    dialect, planned.channels[level], kernel_size, **differently
                )
        self.pull = PullBranch(planned, levels, exclusive, options, dialect) if options.pull else None
        for branch in (self.push, self.pull):
            if branch is not None:
                branch.apply(InitWeights_He(1e-2))  # as nnU-Net initialises the planned part

    def _visit_skip(self, stage: int, skip: Tensor, upsampled: Tensor) -> Tensor:
        return self.push[str(stage)](skip, upsampled) if str(stage) in self.push else skip

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Pulled | None]:
        """Segment a patch.

        Args:
            x: ``(B, channels, *patch)``.
        """
        skips = self.planned.encode(x)
        features = self.planned.decode(skips, self._visit_skip)
        logits = self.planned.logits(features, self.decoder.deep_supervision)
        pulled = None
        if self.pull is not None:
            pulled = self.pull(skips, logits[0].shape[2:])
            logits[0] = self.pull.dialect.run(interact, pulled.logits, logits[0])
        output = logits if self.decoder.deep_supervision else logits[0]
        return (output, pulled) if self.training else output


def interact(pull: Tensor, push: Tensor) -> Tensor:
    """``T · (1 + σ(S))``, with T upsampled to S; ``(B, K, *spatial)``, ``(B, K, *patch)`` → ``(B, K, *patch)``."""
    return _resize(pull, push.shape[2:]) * (1 + push.sigmoid())


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    if x.shape[2:] == size:
        return x
    return interpolate(x, size, mode="trilinear" if x.ndim == 5 else "bilinear", align_corners=False)


def attachable_levels(
    planned: PlannedUNet, wanted: Sequence[int], patch_size: Sequence[int] | None = None
) -> list[int]:
    """Return the ``wanted`` stages that the network has, ascending; stage 0 if it has none of them.

    The bottleneck has no skip connection. Stage 0 is used only where there is nothing else (networks of two stages).
    """

    def is_one_voxel(stage: int) -> bool:
        return patch_size is not None and all(
            size <= down for size, down in zip(patch_size, planned.downsampling(stage), strict=True)
        )

    there = [stage for stage in sorted(set(wanted)) if 0 <= stage < planned.n_stages - 1 and not is_one_voxel(stage)]
    return there or [0]


def _dialect(planned: PlannedUNet, options: PnPNetOptions) -> ConvDialect:
    if options.published:
        return published.dialect(planned.conv_op)
    batch_norm = planned.norm_op is not None and issubclass(planned.norm_op, nn.modules.batchnorm._BatchNorm)
    return ConvDialect(
        planned.conv_op,
        planned.norm_op,
        planned.norm_op_kwargs,
        planned.nonlin,
        planned.nonlin_kwargs,
        recompute=options.recompute and not batch_norm,
    )
