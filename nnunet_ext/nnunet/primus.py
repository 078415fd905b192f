"""nnU-Net's Primus trainers under a trainer of this package.

Primus (Wald et al., 2025, arXiv 2503.01835) cuts a patch into tokens of 8×8×8 voxels; a transformer follows, and a
decoder that sees its tokens alone. :class:`AroundPrimus` goes in front of one of nnU-Net's trainers, whose network,
optimiser, warm-up and gradient clipping stay as they are::

    class nnUNetTrainerMine(AroundPrimus, nnUNet_Primus_M_Trainer): ...

One thing is adapted: nnU-Net warms up for 50 of its 1000 epochs, and a shorter training for the same share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import AbstractPrimus
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.options import THE_PLANS
from nnunet_ext.nnunet.schedule import Schedule
from nnunet_ext.nnunet.trainer import CommonTrainer

TOKEN = 8
"""Side of a token in voxels, along every axis."""

WARM_UP = 50 / 1000
"""Share of the epochs over which nnUNetTrainer_warmup raises the learning rate."""


class ContinuedPrimus(AbstractPrimus):
    """Base of nnU-Net's Primus trainers whose checkpoints can be loaded; behind :class:`CommonTrainer`."""

    def load_checkpoint(self, checkpoint_file: str, /) -> None:
        # nnUNetTrainer_warmup.load_checkpoint lets torch.load refuse what is no tensor, such as the best pseudo Dice
        nnUNetTrainer.load_checkpoint(self, checkpoint_file)
        if self.current_epoch >= self.warmup_duration_whole_net:
            self.optimizer, self.lr_scheduler = self.configure_optimizers("train")


class AroundPrimus(CommonTrainer, ContinuedPrimus):
    """Base of trainers of this package around one of nnU-Net's Primus trainers, which is the next base."""

    gradient_clip: ClassVar[float] = 1.0  # AbstractPrimus.train_step

    @classmethod
    def check_plans(cls, plans: Mapping[str, Any], configuration: str) -> None:
        super().check_plans(plans, configuration)
        patch = PlansManager(dict(plans)).get_configuration(configuration).patch_size
        where, shape = f"Plans {plans['plans_name']}, configuration {configuration},", "×".join(map(str, patch))
        if len(patch) != 3:
            raise InputError(
                f"{where} have patches of {shape} pixels, but Primus has tokens of {TOKEN}×{TOKEN}×{TOKEN} voxels; "
                "train a 3D configuration."
            )
        if any(size % TOKEN for size in patch):
            nearest = " ".join(str(max(1, round(size / TOKEN)) * TOKEN) for size in patch)
            raise InputError(
                f"{where} have patches of {shape} voxels, but Primus cuts them into tokens of {TOKEN}×{TOKEN}×{TOKEN}; "
                f"change patch_size in a copy of the plans, for example to {nearest}."
            )

    @classmethod
    def resolve_schedule(cls, settings: Mapping[str, Any], where: str = THE_PLANS) -> Schedule:
        """Return the length of the training; learning rate and momentum of the plans are those of SGD."""
        return super().resolve_schedule(settings, where).without_optimizer()

    def adapt_configuration(self) -> None:
        super().adapt_configuration()
        self.warmup_duration_whole_net = max(1, round(WARM_UP * self.num_epochs))

    def configure_optimizers(self, stage: str | None = None) -> tuple[torch.optim.Optimizer, Any]:
        """Build the optimiser, or, with a stage of the training, return its optimiser and schedule."""
        if stage is None:
            return super().configure_optimizers()
        return AbstractPrimus.configure_optimizers(self, stage)
