"""Trainers of S2VNet, and the control that shows what propagation does. All of them train configuration ``2d``."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_ext.data.label_definitions import numbers_of
from nnunet_ext.nnunet.labels import finest
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.plans import extension_settings
from nnunet_ext.nnunet.slice_clips import SliceClips
from nnunet_ext.nnunet.trainer import SEGMENTATION, Batch
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.s2vnet.click_simulation import ClickRules, SimulatedUser
from nnunet_ext.s2vnet.labels import LabelHeads
from nnunet_ext.s2vnet.loss import auxiliary_loss, cluster_loss
from nnunet_ext.s2vnet.network import S2VNet
from nnunet_ext.s2vnet.options import S2VNetOptions

CLUSTERS, AUXILIARY = "clusters", "auxiliary"
SECTION = "regions"
"""Section of our settings in the plans: which labels make a region. The network needs them, and gets no
dataset.json."""


class nnUNetTrainerS2VNet(SliceClips):
    """Both modes in one training: half of the clips are automatic, in the others a simulated user clicks."""

    methods: ClassVar[tuple[type[MethodOptions], ...]] = (S2VNetOptions,)

    def to_remember(
        self, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
    ) -> dict[str, Mapping[str, Any]]:
        known = super().to_remember(plans, configuration, dataset_json)
        manager = PlansManager(plans).get_label_manager(dataset_json)
        if manager.has_regions:
            regions = [numbers_of(region) for region in manager.foreground_regions]
            known[SECTION] = {"labels": [int(label) for label in manager.all_labels], "regions": regions}
        return known

    def clip_lengths(self) -> tuple[int, int]:
        return self.options.s2vnet.clip, self.options.s2vnet.inference_clip

    @staticmethod
    def label_heads(configuration: Mapping[str, Any], num_heads: int) -> LabelHeads:
        """Return labels and regions of a configuration."""
        known = extension_settings(configuration, SECTION)
        if not known:
            return LabelHeads(num_heads)
        labels = known["labels"]
        regions = tuple(tuple(labels.index(label) for label in region) for region in known["regions"])
        return LabelHeads(len(labels), regions)

    @classmethod
    def attach(cls, network: nn.Module, settings: Mapping[str, Any], options: SimpleNamespace) -> nn.Module:
        """Put the clustering on top of the planned 2D network."""
        planned = PlannedUNet(network)
        # of single slices there is no next one, and distributed training allows no parameters that are not used
        propagates = options.s2vnet.clip > 1 and settings["patch_size"][0] > 1
        return S2VNet(planned, cls.label_heads(settings, planned.num_heads), options.s2vnet, propagates)

    def initialize(self) -> None:
        self.heads = self.label_heads(self.configuration_manager.configuration, self.labels.num_heads)
        super().initialize()
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.network.modules()):
            self.print_to_log_file(
                "The plans have batch norm, which mixes the slices of a clip in training; plans with instance norm, "
                "nnU-Net's default, do not."
            )

    def option_weights(self) -> Mapping[str, float]:
        options = self.options.s2vnet
        return {**super().option_weights(), CLUSTERS: options.cluster_weight, AUXILIARY: options.auxiliary_weight}

    def run_network(self, image: Tensor, batch: Batch) -> Any:
        """Run the network; the rounds of clicks before it are inside of its call, on features it has already."""
        return self.network(image, self.user_of(finest(batch["target"])))

    def user_of(self, target: Tensor) -> SimulatedUser | None:
        """Return who clicks in these clips; nobody if the training is automatic."""
        options = self.options.s2vnet
        if not options.interactive:
            return None
        labels = self.heads.label_map(target, self.labels.annotated(target))
        rules = ClickRules(options.first_click, options.border_click, options.jitter)
        return SimulatedUser(labels, self.heads.num_labels, options.interactive, options.rounds, rules)

    def compute_terms(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        logits, supervision = output
        # nnU-Net's loss for one resolution is inside of the one for several
        loss = self.loss.loss if self.enable_deep_supervision else self.loss
        whole, resize = finest(batch["target"]), self.labels.resize
        return {
            SEGMENTATION: loss(finest(logits), whole),
            CLUSTERS: cluster_loss(supervision.clusters, whole, loss, resize),
            AUXILIARY: auxiliary_loss(supervision.auxiliary, whole, loss, resize),
        }


class nnUNetTrainerS2VNetNoPropagation(nnUNetTrainerS2VNet):
    """Every slice stands alone: what propagation is worth. The number of slices per step is the same."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"s2vnet": {"clip": 1}}
