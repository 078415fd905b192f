"""Trainer of the published formulation of AttenScribble, see :mod:`nnunet_ext.attenscribble.published`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn

from nnunet_ext.attenscribble.trainer import nnUNetTrainerAttenScribble
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.partial_cross_entropy import PartialCrossEntropy


class nnUNetTrainerAttenScribblePaper(nnUNetTrainerAttenScribble):
    """The published formulation: cross entropy on annotated pixels, both terms at once, attention in the trunk.

    The planned backbone, the augmentation and the length of the training stay nnU-Net's.
    """

    published: ClassVar[bool] = True

    hyperparameters: ClassVar[Mapping[str, Any]] = {"enable_deep_supervision": False, "weight_decay": 1e-4}

    def build_optimizer(self, aux_parameters: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, Any]:
        """SGD with momentum 0.9 and the polynomial schedule, as in the published code."""
        parameters = [*self.network.parameters(), *aux_parameters]
        optimizer = torch.optim.SGD(parameters, self.initial_lr, momentum=0.9, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def _build_loss(self) -> nn.Module:
        if self.labels.has_regions:
            raise InputError(f"{type(self).__name__} is published for classes; use nnUNetTrainerAttenScribble.")
        assert self.labels.ignore_label is not None
        return PartialCrossEntropy(self.labels.ignore_label)
