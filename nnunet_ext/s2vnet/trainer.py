"""Trainers of S2VNet, and the control without propagation. All of them train configuration ``2d``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_ext.data.label_definitions import numbers_of
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.checkpoints import read_checkpoint
from nnunet_ext.nnunet.labels import finest
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.plans import extension_settings
from nnunet_ext.nnunet.pretrained import unwrap_as
from nnunet_ext.nnunet.slice_clips import GAP, SINGLE, SliceClips
from nnunet_ext.nnunet.trainer import SEGMENTATION, Batch
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.s2vnet.click_simulation import ClickRules, SimulatedUser
from nnunet_ext.s2vnet.labels import LabelHeads
from nnunet_ext.s2vnet.loss import auxiliary_loss, cluster_loss, present_slices, weight_of
from nnunet_ext.s2vnet.network import S2VNet, Scale, is_older, slices_with_image
from nnunet_ext.s2vnet.options import S2VNetOptions

CLUSTERS, AUXILIARY = "clusters", "auxiliary"
SLICES = "slices"
"""Section of our settings in the plans: ``gap``, median distance of slices in mm."""
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
        known[SLICES] = {"gap": float(plans["original_median_spacing_after_transp"][0])}
        manager = PlansManager(plans).get_label_manager(dataset_json)
        if manager.has_regions:
            regions = [numbers_of(region) for region in manager.foreground_regions]
            known[SECTION] = {"labels": [int(label) for label in manager.all_labels], "regions": regions}
        return known

    def clip_lengths(self) -> tuple[int, int]:
        return self.options.s2vnet.clip, self.options.s2vnet.inference_clip

    def single_slices(self) -> float:
        return float(self.options.s2vnet.single_slices)

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
        propagates = options.s2vnet.propagates and settings["patch_size"][0] > 1
        # models from before positions and masks do not know their gap, and need none
        gap = extension_settings(settings, SLICES).get("gap", 1.0)
        scale = Scale.of(settings["spacing"][-2:], settings["patch_size"][-2:], gap)
        return S2VNet(planned, cls.label_heads(settings, planned.num_heads), options.s2vnet, propagates, scale)

    def initialize(self) -> None:
        self.heads = self.label_heads(self.configuration_manager.configuration, self.labels.num_heads)
        super().initialize()
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.network.modules()):
            self.print_to_log_file(
                "The plans have batch norm, which mixes the slices of a clip in training; plans with instance norm, "
                "nnU-Net's default, do not."
            )

    def option_weights(self) -> Mapping[str, float]:
        options, network = self.options.s2vnet, self.plain_network
        clusters = options.cluster_weight * weight_of(network.stages)
        auxiliary = options.auxiliary_weight * weight_of(range(network.planned.n_stages - 1))
        shares = {SEGMENTATION: 1.0, CLUSTERS: options.cluster_weight, AUXILIARY: options.auxiliary_weight}
        total = 1 + clusters + auxiliary
        return {**super().option_weights(), **{name: share / total for name, share in shares.items()}}

    @property
    def plain_network(self) -> S2VNet:
        """The network without the wrappers that compile or distribute it."""
        return unwrap_as(self.network, S2VNet)

    def run_network(self, image: Tensor, batch: Batch) -> Any:
        """Run the network; earlier rounds of clicks happen inside of its call, on the same features."""
        return self.network(image, self.user_of(finest(batch["target"])), batch.get(GAP), batch.get(SINGLE))

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
        there, joined = slices_with_image(batch["data"]), self.configuration_manager.batch_dice

        def present(x: Tensor) -> Tensor:
            return present_slices(x, there, joined)

        whole, resize = present(finest(batch["target"])), self.labels.resize
        clusters = [(stage, present(layer)) for stage, layer in supervision.clusters]
        return {
            SEGMENTATION: loss(present(finest(logits)), whole),
            CLUSTERS: cluster_loss(clusters, whole, loss, resize),
            AUXILIARY: auxiliary_loss([present(x) for x in supervision.auxiliary], whole, loss, resize),
        }

    # by position only: nnU-Net's master has renamed the parameter
    def load_checkpoint(self, checkpoint_file: str, /) -> None:
        """Continue a training.

        Raises:
            InputError: it is older than positions and masks: its weights fit, its optimizer does not.
        """
        if not self.was_initialized:
            self.initialize()
        path, checkpoint = read_checkpoint(Path(checkpoint_file), self.device)
        if is_older(checkpoint["network_weights"], self.plain_network):
            raise InputError(
                f"{path} was trained before S2VNet knew positions and the mask of the slice before: it predicts as it "
                "did, but its training goes on only with s2vnet.position = false and s2vnet.mask_memory = false in the "
                "plans; set both, or train anew."
            )
        super().load_checkpoint(checkpoint_file)


class nnUNetTrainerS2VNetNoPropagation(nnUNetTrainerS2VNet):
    """Every slice stands alone: the control for propagation. Clips, clicks and mirroring are those of S2VNet."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"s2vnet": {"inference_clip": 1}}
