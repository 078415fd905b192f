"""Modules of the method in float64 with random weights, and their weights as NumPy arrays for the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_ext.pnpnet.blocks import ConvDialect, ResidualBlock

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
INSTANCE = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def dialect(dim: int, batch_norm: bool = False) -> ConvDialect:
    """Norm as in the plans or as in the published code; ReLU, because the reference has it."""
    if batch_norm:
        return ConvDialect(CONV[dim], BATCH[dim], nonlin=nn.ReLU)
    return ConvDialect(CONV[dim], INSTANCE[dim], {"affine": True}, nn.ReLU)


def randomise(module: nn.Module, seed: int = 0) -> Any:
    """float64, training mode, every parameter random (norm gains and biases too)."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().train()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return module


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def conv_norm(block: nn.Module, name: str) -> dict[str, np.ndarray]:
    """Weights of one conv → norm block as ``{name}_weight``, ``{name}_gamma``, ``{name}_beta``."""
    return {
        f"{name}_weight": array(block.conv.weight),
        f"{name}_gamma": array(block.norm.weight),
        f"{name}_beta": array(block.norm.bias),
    }


def residual_weights(block: ResidualBlock) -> dict[str, np.ndarray]:
    return {
        **conv_norm(block.main[0], "reduce"),
        **conv_norm(block.main[1], "conv"),
        **conv_norm(block.shortcut, "shortcut"),
    }
