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
  resolution first, which costs 3K full-resolution channels several times over. ``full_resolution_fusion`` restores it.
* All interpolation has ``align_corners=False``; the code mixes both, which shifts the branches against each other.
* *Deep supervision*: the planned heads of the coarser stages are supervised as in nnU-Net. They are the push branch's
  only direct supervision; the code has none.
* ``forward`` needs no labels; the code needs them even at test time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.pnpnet.blocks import ConvDialect, ResidualBlock
from nnunet_ext.pnpnet.class_clustering import CenterAtlas, ClassClusteringModule, Update
from nnunet_ext.pnpnet.semantic_difference import Initialisation, SemanticDifferenceModule


@dataclass(frozen=True)
class PnPNetOptions:
    """Everything about the two branches that can be chosen; the values are the sound defaults.

    A plans file may override any of them (``"nnunet_ext": {"pnpnet": {"levels": [2, 3]}}``).
    """

    push: bool = True
    """Semantic difference modules on the skip connections."""
    pull: bool = True
    """Class clustering modules, and the pull logits."""
    levels: Sequence[int] = (1, 2, 3)
    """Encoder stages to attach to (relative stride 2, 4, 8, as in the code); those a network does not have are left
    out. The bottleneck is never one of them."""
    dim: int = 64
    """Length of a centre. The code: 192."""
    heads: int = 4
    """Heads of the centre transformer. The code: 6."""
    mlp_ratio: int = 4
    """Width of its MLP relative to ``dim``; 4 in the code too."""
    dropout: float = 0.0
    """In that MLP. The code: 0.1."""
    atlas_ratio: int = 2
    """Vectors in the centre atlas per class; 0: none, the centres themselves are learned (the code)."""
    update: Update = "mean"
    """Of the centres. The code: ``"sum"``."""
    sqrt_classes_temperature: bool = False
    """Divide similarities by √K (the code) instead of √dim."""
    shared_trunk: bool = True
    """One trunk for key and value. The code: False, two residual blocks that end in a ReLU."""
    full_resolution_fusion: bool = False
    """Fuse the pull maps at full resolution. The code: True."""
    guide_1x1: bool = True
    """1×1 instead of full-kernel convolution on the guidance. The code: False."""
    kernel_init: Initialisation = "unit"
    """Of the differential kernels. The code: ``"randn"``."""
    freeze_explicit: bool = False
    """Keep the corners of the differential kernels fixed. The code means to and does not."""
    zero_padding: bool = False
    """Zero instead of replicate padding of the differential kernels. The code: True."""
    batch_norm: bool = False
    """BatchNorm and ReLU in the branches (the code) instead of the planned norm and nonlinearity."""

    recompute: bool = True
    """Recompute the cheap parts of the branches in the backward pass; same gradients, less memory. Off with BatchNorm,
    whose running statistics would be updated twice."""

    @classmethod
    def paper(cls) -> PnPNetOptions:
        """The published code to the letter."""
        return cls(
            dim=192,
            heads=6,
            dropout=0.1,
            atlas_ratio=0,
            update="sum",
            sqrt_classes_temperature=True,
            shared_trunk=False,
            full_resolution_fusion=True,
            guide_1x1=False,
            kernel_init="randn",
            zero_padding=True,
            batch_norm=True,
            recompute=False,
        )


class Pulled(NamedTuple):
    """What the pulling branch returns; the last three serve the centre supervision, at the finest clustered level."""

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
        self.full_resolution = options.full_resolution_fusion
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
                    dropout=options.dropout,
                    temperature=math.sqrt(classes) if options.sqrt_classes_temperature else None,
                    update=options.update,
                    exclusive=exclusive,
                    shared_trunk=options.shared_trunk,
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
        levels = attachable_levels(planned, options.levels, patch_size)
        dialect = _dialect(planned, options)
        self.push = nn.ModuleDict()
        if options.push:
            for level in levels:
                self.push[str(level)] = SemanticDifferenceModule(
                    dialect,
                    planned.channels[level],
                    planned.kernel_sizes[level],
                    guide_kernel_size=None if options.guide_1x1 else planned.kernel_sizes[level],
                    init=options.kernel_init,
                    freeze_explicit=options.freeze_explicit,
                    padding_mode="zeros" if options.zero_padding else "replicate",
                )
        self.pull = PullBranch(planned, levels, exclusive, options, dialect) if options.pull else None
        for branch in (self.push, self.pull):
            if branch is not None:
                branch.apply(InitWeights_He(1e-2))  # as nnU-Net initialises the planned part

    def _visit_skip(self, stage: int, skip: Tensor, upsampled: Tensor) -> Tensor:
        return self.push[str(stage)](skip, upsampled) if str(stage) in self.push else skip

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Pulled | None]:
        """
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
    """Those of the ``wanted`` stages that the network has, ascending; stage 0 if it has none of them.

    The bottleneck has no skip connection. Stage 0 is used only where there is nothing else (networks of two stages).
    """

    def is_one_voxel(stage: int) -> bool:
        return patch_size is not None and all(
            size <= down for size, down in zip(patch_size, planned.downsampling(stage), strict=True)
        )

    there = [stage for stage in sorted(set(wanted)) if 0 <= stage < planned.n_stages - 1 and not is_one_voxel(stage)]
    return there or [0]


def _dialect(planned: PlannedUNet, options: PnPNetOptions) -> ConvDialect:
    if options.batch_norm:
        norm = nn.BatchNorm3d if planned.dim == 3 else nn.BatchNorm2d
        return ConvDialect(planned.conv_op, norm, nonlin=nn.ReLU)
    batch_norm = planned.norm_op is not None and issubclass(planned.norm_op, nn.modules.batchnorm._BatchNorm)
    return ConvDialect(
        planned.conv_op,
        planned.norm_op,
        planned.norm_op_kwargs,
        planned.nonlin,
        planned.nonlin_kwargs,
        recompute=options.recompute and not batch_norm,
    )
