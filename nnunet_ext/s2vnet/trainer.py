"""Trainers of S2VNet, and the ablation that shows what propagation does. Both train configuration ``2d``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_ext.nnunet.outputs import finest
from nnunet_ext.nnunet.plans import extension_settings, remember, with_overrides
from nnunet_ext.nnunet.slice_clips import SliceClips
from nnunet_ext.nnunet.trainer import SEGMENTATION, CommonTrainer
from nnunet_ext.s2vnet.click_simulation import ClickRules, SimulatedUser
from nnunet_ext.s2vnet.labels import LabelHeads
from nnunet_ext.s2vnet.loss import auxiliary_loss, cluster_loss
from nnunet_ext.s2vnet.network import S2VNet
from nnunet_ext.s2vnet.options import S2VNetOptions

CLUSTERS, AUXILIARY = "clusters", "auxiliary"
SECTION = "regions"
"""Of our settings in the plans: which labels make a region. The network needs them, and gets no dataset.json."""


class nnUNetTrainerS2VNet(SliceClips, CommonTrainer):
    """Both modes in one training: half of the clips are automatic, in the others a simulated user clicks."""

    options: ClassVar[S2VNetOptions] = S2VNetOptions()

    # nnU-Net reads the parameter names of __init__ and restores the trainer from them: exactly these five
    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's signature)
    ) -> None:
        manager = PlansManager(plans).get_label_manager(dataset_json)
        if manager.has_regions:
            regions = [region if isinstance(region, tuple) else (region,) for region in manager.foreground_regions]
            content = {"labels": [int(label) for label in manager.all_labels], "regions": [list(r) for r in regions]}
            remember(plans, configuration, SECTION, content)
        super().__init__(plans, configuration, fold, dataset_json, device)

    @classmethod
    def options_from(cls, configuration: Mapping[str, Any]) -> S2VNetOptions:
        """The options of this class with those of a plans file on top."""
        return with_overrides(cls.options, extension_settings(configuration, "s2vnet"), "s2vnet")

    def clip_lengths(self) -> tuple[int, int]:
        options = self.options_from(self.configuration_manager.configuration)
        return options.clip, options.inference_clip

    @staticmethod
    def label_heads(configuration: Mapping[str, Any], num_heads: int) -> LabelHeads:
        """Labels and regions of a configuration."""
        known = extension_settings(configuration, SECTION)
        if not known:
            return LabelHeads(num_heads)
        labels = known["labels"]
        regions = tuple(tuple(labels.index(label) for label in region) for region in known["regions"])
        return LabelHeads(len(labels), regions)

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The planned 2D network and the clustering; nnU-Net calls this for training and inference."""
        settings = configuration_manager.configuration
        planned = cls.planned_unet(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        options = cls.options_from(settings)
        # of single slices there is no next one, and distributed training allows no parameters that are not used
        propagates = options.clip > 1 and settings["patch_size"][0] > 1
        return S2VNet(planned, cls.label_heads(settings, num_output_channels), options, propagates)

    def initialize(self) -> None:
        self.method = self.options_from(self.configuration_manager.configuration)
        self.heads = self.label_heads(self.configuration_manager.configuration, self.labels.num_heads)
        super().initialize()
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.network.modules()):
            self.print_to_log_file(
                "The plans have batch norm, which mixes the slices of a clip in training; plans with instance norm, "
                "nnU-Net's default, do not."
            )

    def current_term_weights(self) -> Mapping[str, float]:
        return {CLUSTERS: self.method.cluster_weight, AUXILIARY: self.method.auxiliary_weight}

    def loss_passes(self, data: Tensor, target: Tensor | list[Tensor]) -> Iterator[dict[str, Tensor]]:
        """One pass; the rounds of clicks before it are inside of the network's call, on features it has already."""
        output = self.network(self.network_input(data), self.user_of(finest(target)))
        yield self.compute_terms(output, data, target)

    def user_of(self, target: Tensor) -> SimulatedUser | None:
        """Who clicks in these clips; nobody if the training is automatic."""
        if not self.method.interactive:
            return None
        labels = self.heads.label_map(target, self.labels.annotated(target))
        rules = ClickRules(self.method.first_click, self.method.border_click, self.method.jitter)
        return SimulatedUser(labels, self.heads.num_labels, self.method.interactive, self.method.rounds, rules)

    def compute_terms(self, output: Any, data: Tensor, target: Tensor | list[Tensor]) -> dict[str, Tensor]:
        logits, supervision = output
        # nnU-Net's loss for one resolution is inside of the one for several
        loss = self.loss.loss if self.enable_deep_supervision else self.loss
        whole, resize = finest(target), self.labels.resize
        return {
            SEGMENTATION: loss(finest(logits), whole),
            CLUSTERS: cluster_loss(supervision.clusters, whole, loss, resize),
            AUXILIARY: auxiliary_loss(supervision.auxiliary, whole, loss, resize),
        }


class nnUNetTrainerS2VNetNoPropagation(nnUNetTrainerS2VNet):
    """Every slice stands alone: what propagation is worth. The number of slices per step is the same."""

    options: ClassVar[S2VNetOptions] = S2VNetOptions(clip=1)

    @classmethod
    def options_from(cls, configuration: Mapping[str, Any]) -> S2VNetOptions:
        return replace(super().options_from(configuration), clip=1)
