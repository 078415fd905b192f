"""Precision of a training step: nnU-Net's, or bfloat16 on a CPU that has units for it.

nnU-Net trains with autocast to float16 on a GPU and in float32 on a CPU. CPUs with AMX or AVX512-BF16 multiply bfloat16
matrices much faster; ``nnunet-ext plans DATASET --option precision.cpu=bfloat16`` writes plans that use them. Weights,
their gradients, the optimizer, validation and inference stay in float32, and so do the losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, autocast, nn

from nnunet_ext.errors import InputError

SECTION = "precision"
"""Section of our settings in the plans: ``{"cpu": "bfloat16"}``."""

_ON_CPU = ("float32", "bfloat16")


class Precision:
    """Precision of a training step on one device.

    Args:
        device: of the training.
        settings: the section :data:`SECTION` of the plans.

    Raises:
        InputError: it names another device or precision.
    """

    def __init__(self, device: torch.device, settings: Mapping[str, Any]) -> None:
        if set(settings) - {"cpu"} or settings.get("cpu", "float32") not in _ON_CPU:
            raise InputError(
                f"The plans have the precision {dict(settings)}; known are {{'cpu': 'float32'}} (nnU-Net's) and "
                "{'cpu': 'bfloat16'}; on a GPU it is always nnU-Net's."
            )
        self.device_type = device.type
        self.bfloat16 = device.type == "cpu" and settings.get("cpu") == "bfloat16"

    def autocast(self) -> AbstractContextManager[Any]:
        """Autocast for one forward pass with its losses. On a GPU it is nnU-Net's own."""
        if self.bfloat16:
            return autocast("cpu", dtype=torch.bfloat16)
        # mps and cpu: as nnUNetTrainer.train_step
        return autocast(self.device_type, enabled=True) if self.device_type == "cuda" else nullcontext()

    def guard(self, loss: nn.Module) -> None:
        """Give nnU-Net's losses float32 logits: autocast computes softmax and sums so on a GPU, but not on a CPU."""
        if self.bfloat16:
            for module in loss.modules():
                module.register_forward_pre_hook(_logits_in_float32)


def _logits_in_float32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x for x in inputs)
