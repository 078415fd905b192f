"""PnPNet: the planned U-Net with a pulling branch beside its decoder and, as an option, a pushing one on its skips.

::

    encoder ──F_l──► + s · SDM_l(F_l, guide: decoder) ──► decoder ──D_l──┬────────────► S   planned logits
                                                                         └─► CCM_l ──► T   pull logits
    logits = S + γ · T

Both branches work on the same few levels ``l``. The SDMs refine the skip features before the decoder reads them. The
CCMs cluster the decoder's features from coarse to fine, and each passes its centres on. ``s`` (one factor per channel)
and ``γ`` (one per class) start at 0, so a fresh network *is* the planned network, bit for bit, and a branch grows as
far as it helps the training. The pull maps have their own loss, at their own resolution.

Deviations from the published code (:mod:`nnunet_ext.pnpnet.published`), each with its reason:

* *A sum instead of the gate* ``T · (1 + σ(S))``. A factor between 1 and 2 cannot change the order of T, so the gated
  network was the pulling branch alone: on 16 volumes of a small experiment its Dice was 0.691, with a constant gate
  0.685, and with S as logits 0.06.
* The backbone is the network that nnU-Net planned, 2D or 3D, any kernel sizes and strides, instead of a fixed
  ResNetV2 whose patch had to be divisible by 16. Its parameters keep their names (``encoder.…``, ``decoder.…``).
* *Fusion at the finest clustered level*, then one upsampling. The code upsamples the K maps of all levels to full
  resolution first, which costs 3K full-resolution channels several times over.
* *One convolution fuses* the levels and starts as their mean; the code's block has a norm per class.
* *The segmentation loss on the pull maps* instead of the code's centre loss, whose gradient was 1 % of the whole.
* ``forward`` needs no labels; the code needs them even at test time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.pnpnet import published
from nnunet_ext.pnpnet.blocks import ConvDialect, Scale, resized
from nnunet_ext.pnpnet.class_clustering import CenterAtlas, ClassClusteringModule, centred
from nnunet_ext.pnpnet.options import LEVELS, PnPNetOptions
from nnunet_ext.pnpnet.semantic_difference import SemanticDifferenceModule


class Pulled(NamedTuple):
    """Result of the pulling branch."""

    maps: list[Tensor]
    """``(B, K, *spatial)`` each, finest first, logits: T, then the evidence of the coarser levels."""


class PullBranch(nn.Module):
    """Centre atlas, class clustering at every level from coarse to fine, and cross-scale fusion.

    Args:
        planned: the network it stands beside.
        levels: stages of the decoder, ascending.
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
        self.exclusive = exclusive
        self.levels = list(levels)
        dim = options.dim_at(planned.channels[self.levels[0]])
        self.atlas = CenterAtlas(classes, dim, options.atlas_ratio * classes)
        self.clustering = nn.ModuleDict(
            {
                str(level): ClassClusteringModule(
                    dialect,
                    planned.channels[level],
                    classes,
                    dim=dim,
                    heads=options.heads,
                    mlp_dim=options.mlp_ratio * dim,
                    exclusive=exclusive,
                    last=level == self.levels[0],
                )
                for level in self.levels
            }
        )
        self.apply(InitWeights_He(1e-2))  # as nnU-Net initialises the planned part
        kernel_size = planned.kernel_sizes[self.levels[0]]
        padding = [size // 2 for size in kernel_size]
        self.fuse = dialect.conv_op(len(levels) * classes, classes, kernel_size, padding=padding)
        start_as_mean(self.fuse, classes)
        self.scale = Scale(classes)

    def forward(self, skips: Sequence[Tensor], features: Sequence[Tensor], push: Tensor) -> tuple[Tensor, Pulled]:
        """Add the pull logits to the planned ones.

        Args:
            skips: of the encoder, finest first; not used.
            features: of the decoder, finest first.
            push: ``(B, K, *patch)``, planned logits S.

        Returns:
            Logits ``(B, K, *patch)``, and what is supervised in training.
        """
        centers, found = self.atlas(), []
        for level in reversed(self.levels):
            evidence, centers = self.clustering[str(level)](features[level], centers)
            found.append(evidence)
        pull = self.dialect.run(self._fuse, *found)
        # not recomputed: the partitioner of torch.compile fails on an output that is
        logits = push + self.scale(resized(pull, push.shape[2:])).to(push.dtype)
        return logits, Pulled([pull, *found[-2::-1]])

    def _fuse(self, *found: Tensor) -> Tensor:
        size = found[-1].shape[2:]
        return centred(self.fuse(torch.cat([resized(evidence, size) for evidence in found], 1)), self.exclusive)


def start_as_mean(fuse: nn.Module, classes: int) -> None:
    """Let a convolution from ``L·K`` to ``K`` channels average the L maps of each class, voxel by voxel."""
    weight, bias = fuse.weight, fuse.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    levels = weight.shape[1] // classes
    with torch.no_grad():
        weight.zero_()
        bias.zero_()
        taps = weight.flatten(2)  # of an odd kernel: the centre is in the middle
        taps[:, :, taps.shape[2] // 2] = torch.eye(classes).repeat(1, levels) / levels


class PnPNet(nn.Module):
    """The planned network with one or both branches.

    In training mode ``forward`` returns ``(logits, pulled)``: the logits as nnU-Net's loss expects them, and what is
    supervised beside them (None without pulling branch). In evaluation mode it returns the logits alone, a list with
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
        self.levels = attachable_levels(planned, options.levels or LEVELS, patch_size)
        dialect = _dialect(planned, options)
        self.push = nn.ModuleDict()
        if options.push:
            for level in self.levels:
                channels, kernel_size = planned.channels[level], planned.kernel_sizes[level]
                self.push[str(level)] = (
                    published.PublishedDifference(dialect, channels, kernel_size)
                    if options.published
                    else SemanticDifferenceModule(dialect, channels, kernel_size, width=options.width_at(channels))
                )
        self.pull: nn.Module | None = None
        if options.pull:
            branch = published.PublishedPullBranch if options.published else PullBranch
            self.pull = branch(planned, self.levels, exclusive, options, dialect)

    @property
    def described(self) -> str:
        """Stages and sizes of the branches in words."""
        if not self.push and self.pull is None:
            return "none"
        parts = [f"on encoder stages {', '.join(map(str, self.levels))}"]
        sizes = _sizes(self.state_dict())
        if "width" in sizes:
            parts.append(f"pushing branch with differences of {', '.join(map(str, sizes['width']))} channels")
        if "dim" in sizes:
            parts.append(f"pulling branch with centres of length {sizes['dim'][0]}")
        return "; ".join(parts)

    def _visit_skip(self, stage: int, skip: Tensor, upsampled: Tensor) -> Tensor:
        return self.push[str(stage)](skip, upsampled) if str(stage) in self.push else skip

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Any]:
        """Segment a patch.

        Args:
            x: ``(B, channels, *patch)``.
        """
        skips = self.planned.encode(x)
        features = self.planned.decode(skips, self._visit_skip)
        logits = self.planned.logits(features, self.decoder.deep_supervision)
        pulled = None
        if self.pull is not None:
            logits[0], pulled = self.pull(skips, features, logits[0])
        output = logits if self.decoder.deep_supervision else logits[0]
        return (output, pulled) if self.training else output

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights.

        Raises:
            InputError: they are from a version of this network whose branches did not start at 0, or have other
                branches or branches of another size.
        """
        if strict and _starts_at_zero(self.state_dict()) and not _starts_at_zero(state_dict):
            raise InputError(
                "These weights are of an earlier PnPNet, in which the pulling branch gated by the planned logits was "
                "the network; here its branches are added to the planned network. Predict with a version of "
                "nnunet-ext of before that change (see CHANGELOG.md), or train again."
            )
        own = self.state_dict()
        if strict and (there := _branches(state_dict)) != _branches(own):
            words = f"{_in_words(there)}, and the network of the plans has {_in_words(_branches(own))}"
            raise InputError(f"These weights have {words}. {_advice(there)}")
        if strict and (sizes := _sizes(state_dict)) != _sizes(own) and sizes.keys() == _sizes(own).keys():
            needed = {name: max(found) for name, found in sizes.items()}
            words = "branches of another size than the network of the plans"
            raise InputError(f"These weights have {words}. {_advice(needed)}")
        return super().load_state_dict(state_dict, strict, assign)


def _starts_at_zero(weights: Mapping[str, Any]) -> bool:
    """Whether the branches in these weights, if any, have the factors that start at 0."""
    branches = [key for key in weights if key.startswith(("push.", "pull."))]
    return not branches or any(key.endswith("scale.factor") for key in branches)


def _branches(weights: Mapping[str, Any]) -> dict[str, bool]:
    """Which branches are in these weights, by the option that switches them on."""
    return {branch: any(key.startswith(f"{branch}.") for key in weights) for branch in ("push", "pull")}


def _in_words(branches: Mapping[str, bool]) -> str:
    return " and ".join(f"the {name}ing branch" for name, there in branches.items() if there) or "no branch"


def _advice(needed: Mapping[str, Any]) -> str:
    """Say how to get the network that weights with these options need."""
    return (
        f'Add "pnpnet": {json.dumps(needed)} to "nnunet_ext" of this configuration of plans.json in the folder of the '
        "model, or, to continue its training, of its plans in nnUNet_preprocessed."
    )


def _sizes(weights: Mapping[str, Any]) -> dict[str, list[int]]:
    """Sizes of the branches in these weights, of every level, by the option that sets them."""
    found = {
        "width": [tensor.shape[0] for name, tensor in weights.items() if name.endswith(".reduce.weight")],
        "dim": [tensor.shape[1] for name, tensor in weights.items() if name == "pull.atlas.queries"],
    }
    return {option: sizes for option, sizes in found.items() if sizes}


def attachable_levels(
    planned: PlannedUNet, wanted: Sequence[int], patch_size: Sequence[int] | None = None
) -> list[int]:
    """Return the ``wanted`` stages that the network has, ascending; stage 0 if it has none of them.

    The bottleneck has no skip connection. Stage 0 is used only in networks of two stages, which have no other.
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
