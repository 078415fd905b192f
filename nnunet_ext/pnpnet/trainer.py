"""Trainers of PnPNet: both branches, each alone, and the published code."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.labels import finest
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.plans import extension_settings
from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.nnunet.trainer import SEGMENTATION, Batch, CommonTrainer
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.pnpnet.losses import center_loss
from nnunet_ext.pnpnet.network import PnPNet, Pulled
from nnunet_ext.pnpnet.options import PnPNetOptions
from nnunet_ext.pnpnet.published import PaperCenterLoss

CENTERS = "centers"


class nnUNetTrainerPnPNet(CommonTrainer):
    """Pushing and pulling branch with the sound defaults of :class:`~nnunet_ext.pnpnet.options.PnPNetOptions`."""

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

    def option_weights(self) -> Mapping[str, float]:
        return {**super().option_weights(), CENTERS: self.options.pnpnet.center_weight}

    def compute_terms(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        logits, pulled = output
        terms = {SEGMENTATION: self.loss(logits, batch["target"])}
        if pulled is not None:
            terms[CENTERS] = self.center_term(pulled, finest(batch["target"]))
        return terms

    def center_term(self, pulled: Pulled, target: Tensor) -> Tensor:
        """Return the centre supervision; ``target`` at full resolution."""
        target = self.labels.resize(target, pulled.values.shape[2:])
        return center_loss(pulled.centers, pulled.values, self.labels.one_hot(target))


class nnUNetTrainerSDM(nnUNetTrainerPnPNet):
    """The pushing branch alone: semantic difference modules on the skip connections."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pnpnet": {"pull": False}}


class nnUNetTrainerCCM(nnUNetTrainerPnPNet):
    """The pulling branch alone: class clustering, gated by the planned decoder."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pnpnet": {"push": False}}


class nnUNetTrainerPnPNetPaper(nnUNetTrainerPnPNet):
    """The published code: its neck, its centre supervision, its optimizer, no deep supervision.

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
        """AdamW with cosine warm restarts every 25 epochs, as in the published code."""
        parameters = [*self.network.parameters(), *aux_parameters]
        optimizer = torch.optim.AdamW(parameters, self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=25, eta_min=5e-6)

    def build_aux(self) -> Mapping[str, nn.Module]:
        network = unwrap(self.network)
        assert isinstance(network, PnPNet)
        assert network.pull is not None
        channels = network.planned.channels[network.pull.levels[0]]
        return {CENTERS: PaperCenterLoss(network.pull.dialect, channels, self.options.pnpnet.dim)}

    def center_term(self, pulled: Pulled, target: Tensor) -> Tensor:
        return self.aux[CENTERS](pulled.centers, pulled.feature, self.labels.one_hot(target))
