"""Trainers of PnPNet: both branches, each alone, and the published code."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.labels import finest
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.plans import extension_settings
from nnunet_ext.nnunet.pretrained import unwrap_as
from nnunet_ext.nnunet.trainer import SEGMENTATION, Batch, CommonTrainer
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.pnpnet import published
from nnunet_ext.pnpnet.network import PnPNet
from nnunet_ext.pnpnet.options import PnPNetOptions

PULL, CENTERS = "pull", "centers"


class nnUNetTrainerPnPNet(CommonTrainer):
    """PnPNet with the options of the plans; by default its pulling branch alone, see
    :class:`~nnunet_ext.pnpnet.options.PnPNetOptions`."""

    methods: ClassVar[tuple[type[MethodOptions], ...]] = (PnPNetOptions,)

    @classmethod
    def attach(cls, network: nn.Module, settings: Mapping[str, Any], options: SimpleNamespace) -> nn.Module:
        exclusive = not extension_settings(settings, "labels").get("has_regions", False)
        planned = PlannedUNet(network)
        return PnPNet(planned, options.pnpnet, exclusive=exclusive, patch_size=settings["patch_size"])

    def initialize(self) -> None:
        super().initialize()
        batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.network.modules())
        if batch_norm and self.batch_size < 2 and not self.is_ddp:
            raise InputError(
                f"{type(self).__name__} has BatchNorm, but configuration {self.configuration_name} of plans "
                f"{self.plans_manager.plans_name} trains with batch size {self.batch_size}, where it cannot estimate "
                "statistics; write plans with a larger batch (nnunet-ext plans … --batch-size 2)."
            )

    def on_train_start(self) -> None:
        super().on_train_start()
        self.print_to_log_file(f"Branches: {unwrap_as(self.network, PnPNet).described}")

    def build_aux(self) -> Mapping[str, nn.Module]:
        """Add the centre loss of the published pulling branch."""
        network = unwrap_as(self.network, PnPNet)
        if not isinstance(network.pull, published.PublishedPullBranch):
            return super().build_aux()
        channels = network.planned.channels[network.pull.levels[0]]
        dialect = published.dialect(network.planned.conv_op)
        loss = published.PaperCenterLoss(dialect, channels, self.options.pnpnet.dim_at(channels))
        return {**super().build_aux(), CENTERS: loss}

    def option_weights(self) -> Mapping[str, float]:
        own = {PULL: self.options.pnpnet.pull_weight, CENTERS: published.CENTER_WEIGHT}
        return {**super().option_weights(), **own}

    def compute_terms(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        logits, pulled = output
        terms = {SEGMENTATION: self.loss(logits, batch["target"])}
        if pulled is not None:
            terms |= self.pulled_terms(pulled, finest(batch["target"]))
        return terms

    def pulled_terms(self, pulled: Any, target: Tensor) -> dict[str, Tensor]:
        """Return the segmentation loss on every pull map, with nnU-Net's weights of deep supervision.

        The published branch has its centre loss instead.

        Args:
            pulled: what the pulling branch returned.
            target: at full resolution.
        """
        if CENTERS in self.aux:
            return {CENTERS: self.aux[CENTERS](pulled.centers, pulled.feature, self.labels.one_hot(target))}
        loss = self.loss.loss if isinstance(self.loss, DeepSupervisionWrapper) else self.loss
        weights = [1 / 2**number for number in range(len(pulled.maps))]
        terms = [
            weight * loss(found, self.labels.resize(target, found.shape[2:]))
            for weight, found in zip(weights, pulled.maps, strict=True)
        ]
        return {PULL: torch.stack(terms).sum() / sum(weights)}


class nnUNetTrainerSDM(nnUNetTrainerPnPNet):
    """The pushing branch alone: semantic difference modules on the skip connections."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pnpnet": {"push": True, "pull": False}}


class nnUNetTrainerCCM(nnUNetTrainerPnPNet):
    """The pulling branch alone, whatever the plans say: class clustering beside the planned decoder."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pnpnet": {"push": False, "pull": True}}


class nnUNetTrainerPnPNetPaper(nnUNetTrainerPnPNet):
    """The published code: its neck, its centre supervision, its optimiser, no deep supervision.

    Three things stay nnU-Net's, because the comparison is about the method: the planned backbone, the unweighted
    Dice + CE (the code weights classes by hand for each data set), and sliding-window inference with one checkpoint
    (the code crops to the bounding box of the ground truth and averages three checkpoints).
    """

    published: ClassVar[bool] = True

    hyperparameters: ClassVar[Mapping[str, Any]] = {
        "enable_deep_supervision": False,
        "initial_lr": 5e-4,
        "weight_decay": 1e-5,
    }

    def build_optimizer(self, aux_parameters: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, Any]:
        """AdamW with cosine warm restarts as in the published code, every 25 epochs if that divides the training."""
        period = published.period(self.num_epochs)
        if period != published.PERIOD:
            self.print_to_log_file(
                f"The learning rate restarts every {float(period):.4g} epochs instead of the published "
                f"{published.PERIOD}, so that a training of {self.num_epochs} epochs ends at a low one."
            )
        parameters = [*self.network.parameters(), *aux_parameters]
        optimizer = torch.optim.AdamW(parameters, self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, published.schedule(optimizer, self.num_epochs)
