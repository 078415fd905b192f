"""The schedule of a training: how long, and with which learning rate.

The section ``schedule`` of the plans overrides nnU-Net's 1000 epochs of 250 iterations with SGD, momentum 0.99 and an
initial learning rate of 0.01. Everything else stays nnU-Net's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from nnunet_ext.nnunet.options import STRICT, THE_PLANS, MethodOptions, with_overrides


@dataclass(frozen=True, config=STRICT)
class Schedule(MethodOptions):
    """Schedule in the plans; None: nnU-Net's own."""

    SECTION: ClassVar[str] = "schedule"

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Number of epochs. nnU-Net: 1000."""
    iterations: Annotated[int, Field(ge=1)] | None = None
    """Training iterations per epoch. nnU-Net: 250."""
    validation_iterations: Annotated[int, Field(ge=1)] | None = None
    """Validation iterations per epoch. nnU-Net: 50."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Initial learning rate of the polynomial schedule. nnU-Net: 0.01."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Nesterov momentum of SGD. nnU-Net: 0.99."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate grows from 0, linearly. nnU-Net: 0."""

    @classmethod
    def from_plans(cls, section: Mapping[str, Any], where: str = THE_PLANS) -> Schedule:
        """Read the section ``schedule`` of the plans.

        Raises:
            InputError: an unknown option, or a value of another type or out of range.
        """
        return with_overrides(cls(), section, where)

    def without_optimizer(self) -> Schedule:
        """Return the length of the training without the settings of its optimiser."""
        return replace(self, learning_rate=None, momentum=None, warmup_steps=0)

    def apply(self, trainer: Any) -> None:
        """Set the attributes of an ``nnUNetTrainer`` that is being made."""
        attributes = {
            "num_epochs": self.epochs,
            "num_iterations_per_epoch": self.iterations,
            "num_val_iterations_per_epoch": self.validation_iterations,
            "initial_lr": self.learning_rate,
        }
        for name, value in attributes.items():
            if value is not None:
                setattr(trainer, name, value)

    def set_momentum(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the momentum of nnU-Net's SGD."""
        if self.momentum is not None:
            for group in optimizer.param_groups:
                group["momentum"] = self.momentum
                group["nesterov"] = self.momentum > 0  # PyTorch knows no Nesterov step without momentum

    def warmth(self, step: int) -> float:
        """Return the factor on the learning rate in ``step``, counted from 0."""
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


@contextmanager
def warmed_up(optimizer: torch.optim.Optimizer, step: int, schedule: Schedule) -> Iterator[None]:
    """Context in which the learning rate is that of the warm-up; nnU-Net's scheduler sets it once per epoch."""
    factor = schedule.warmth(step)
    if factor == 1:
        yield
        return
    before = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= factor
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = rate
