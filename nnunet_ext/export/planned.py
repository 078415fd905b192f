"""Decides whether the inference network of a trainer is the network that nnU-Net planned.

There is no list of trainers. The networks of the trainer's class and of ``nnUNetTrainer`` are built as for inference.
The trainer's network is the planned one if two conditions hold. It has all tensors of the planned one, under their
names and with their shapes. And with *every* parameter of the trainer's network drawn at random, both compute the same
logits, bit for bit. Its other modules then take no part in the segmentation, whatever their weights, and may be left
out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_ext.export.model import Model


@dataclass(frozen=True)
class Verdict:
    """Answer to whether stock nnU-Net can predict with the models of a trainer.

    Attributes:
        planned: whether the inference network is the planned one.
        reason: the difference, if it is not.
        left_out: top-level modules that inference does not need, if it is.
    """

    planned: bool
    reason: str = ""
    left_out: tuple[str, ...] = ()


def judge(trainer: type[nnUNetTrainer], model: Model, configuration: str) -> Verdict:
    """Compare the inference network of ``trainer`` with the planned one; their trained weights do not matter."""
    own = model.inference_network(trainer, configuration)
    planned = model.inference_network(nnUNetTrainer, configuration)
    weights, expected = own.state_dict(), planned.state_dict()
    unfit = [key for key, value in expected.items() if key not in weights or weights[key].shape != value.shape]
    if unfit:
        return Verdict(False, f"{len(unfit)} tensors of the planned network are missing or differ, first {unfit[0]}")
    added = tuple(dict.fromkeys(key.partition(".")[0] for key in weights if key not in expected))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    planned.load_state_dict({key: value for key, value in own.state_dict().items() if key in expected})
    image = random_image(model, configuration)
    try:
        same = torch.equal(logits(planned, image), logits(own, image))
    except RuntimeError as error:  # such as several slices for a network of single slices
        message = str(error).partition("\n")[0][:120]
        return Verdict(False, f"the planned network cannot be applied to patches of this model ({message})")
    if not same:
        part = f"{', '.join(added)} take part in them" if added else "with the same weights"
        return Verdict(False, f"its logits are not those of the planned network: {part}")
    return Verdict(True, left_out=added)


def logits(network: nn.Module, image: Tensor) -> Tensor:
    """Compute logits in evaluation mode, ``(1, C, *spatial)`` → ``(1, heads, *spatial)``."""
    with torch.inference_mode():
        return network.eval()(image)


def random_image(model: Model, configuration: str, *, whole_patch: bool = False) -> Tensor:
    """A random image ``(1, C, *spatial)``: a whole patch, or a small one with two voxels at the bottleneck."""
    _, settings = model.managers(configuration)
    size = list(settings.patch_size)
    if not whole_patch:
        strides = settings.network_arch_init_kwargs.get("strides", [])
        down = [math.prod(axis) for axis in zip(*strides, strict=True)]
        for axis in range(1, len(down) + 1):  # from the last axis: slices may precede the axes of the network
            size[-axis] = min(size[-axis], 2 * down[-axis])
    channels, _ = model.channels(configuration)
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
