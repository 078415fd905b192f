"""Decides whether the network that inference needs is the one that nnU-Net planned.

Nobody keeps a list. The network of the trainer's class is built as for inference, beside that of nnU-Net's own trainer
under it: ``nnUNetTrainer``, or one that builds another network than the plans describe, such as those of Primus. It is
the planned one if it holds all tensors of the planned one, under their names and with their shapes, and if both compute
the same logits, bit for bit, when *every* parameter of the trainer's network is drawn at random: what that network has
beside the planned one then takes no part in the segmentation, whatever its weights, and may be left out.
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
        planned: the inference network is the planned one.
        reason: if it is not: what is different.
        left_out: if it is: first names of modules that inference can do without.
    """

    planned: bool
    reason: str = ""
    left_out: tuple[str, ...] = ()


def stock_trainer(trainer: type[nnUNetTrainer]) -> type[nnUNetTrainer]:
    """Return nnU-Net's own trainer under ``trainer`` whose network it trains."""
    bases = [base for base in trainer.__mro__ if base.__module__.startswith("nnunetv2.")]
    return next(base for base in bases if "build_network_architecture" in vars(base))


def judge(trainer: type[nnUNetTrainer], model: Model, configuration: str) -> Verdict:
    """Compare the inference network of ``trainer`` with the planned one; the weights of neither matter."""
    own = model.inference_network(trainer, configuration)
    planned = model.inference_network(stock_trainer(trainer), configuration)
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
    image = random_image(model, configuration, trainer)
    try:
        same = torch.equal(logits(planned, image), logits(own, image))
    except RuntimeError as error:  # such as a patch of slices for a network that sees single slices
        message = str(error).partition("\n")[0][:120]
        return Verdict(False, f"the planned network cannot be applied to patches of this model ({message})")
    if not same:
        part = f"{', '.join(added)} take part in them" if added else "with the same weights"
        return Verdict(False, f"its logits are not those of the planned network: {part}")
    return Verdict(True, left_out=added)


def logits(network: nn.Module, image: Tensor) -> Tensor:
    """Return logits in evaluation mode, ``(1, C, *spatial)`` → ``(1, heads, *spatial)``."""
    with torch.inference_mode():
        return network.eval()(image)


def random_image(model: Model, configuration: str, trainer: type[nnUNetTrainer] | None = None) -> Tensor:
    """``(1, C, *spatial)``: as small as the strides allow, two voxels at the bottleneck, or a whole patch.

    Args:
        model: for which the image is.
        configuration: of the model.
        trainer: of the network; without it, or if the network is not that of the plans, the patch is whole.
    """
    _, settings = model.managers(configuration)
    size = list(settings.patch_size)
    if trainer is not None and stock_trainer(trainer) is nnUNetTrainer:
        strides = settings.network_arch_init_kwargs.get("strides", [])
        down = [math.prod(axis) for axis in zip(*strides, strict=True)]
        for axis in range(1, len(down) + 1):  # from behind: slices may come before the axes of the network
            size[-axis] = min(size[-axis], 2 * down[-axis])
    channels, _ = model.channels(configuration)
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
