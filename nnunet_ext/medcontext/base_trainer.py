"""Bases of the trainers of MedContext: masked views of a patch, and an averaged teacher beside the network."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_ext.medcontext.masking import Tubes, apply_mask
from nnunet_ext.medcontext.options import MedContextOptions
from nnunet_ext.nnunet.averaged_network import KeepsTeachers
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.nnunet.trainer import CommonTrainer

TEACHER = "teacher"
KEPT = "checkpoint_teacher.pth"
"""File of the teacher of a finished training, beside nnU-Net's ``checkpoint_final.pth``."""


class TubeMasking(CommonTrainer):
    """Base of the trainers of MedContext: the options, and a masked view of a patch."""

    methods: ClassVar[tuple[type[MethodOptions], ...]] = (MedContextOptions,)

    @property
    def context(self) -> MedContextOptions:
        return self.options.medcontext

    @property
    def block(self) -> int | None:
        """Side of a hidden column in voxels; None: an eighth of the patch's."""
        return self.context.block

    def initialize(self) -> None:
        self.tubes = Tubes(self.training_patch_size, self.context.mask_ratio, self.block)
        super().initialize()

    def on_train_start(self) -> None:
        super().on_train_start()
        depth = "in all its slices alike" if len(self.tubes.patch) == 3 else "there is no depth to learn context from"
        self.print_to_log_file(f"MedContext: {self.tubes}, {depth}")

    def hide(self, image: Tensor) -> Tensor:
        """Draw the voxels to hide in ``(B, C, *spatial)``: ``(B, 1, *spatial)`` bool."""
        return self.tubes.draw(image.shape[0], image.device, per_sample=self.context.mask_per_sample)

    def masked(self, image: Tensor, hidden: Tensor) -> Tensor:
        """The masked view of what the network sees, ``(B, C, *spatial)``; ``hidden`` as :meth:`hide` draws it."""
        return apply_mask(image, hidden, self.context.fill, self.image_channels)


class AveragedTeacher(TubeMasking, KeepsTeachers):
    """Base of the trainers with a teacher: it follows the network by the schedule of the options."""

    def initialize(self) -> None:
        self.momentum = 0.0
        super().initialize()

    def teacher_names(self) -> tuple[str, ...]:
        has_one = self.context.target == "teacher" and self.context.compares
        return (*super().teacher_names(), *([TEACHER] if has_one else []))

    def teacher_momentum(self, name: str) -> float:
        if name != TEACHER:
            return super().teacher_momentum(name)
        now, schedule = (self.current_epoch, self.step_in_epoch), (self.num_epochs, self.num_iterations_per_epoch)
        self.momentum = self.context.momentum(*now, *schedule)
        return self.momentum

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        if TEACHER in self.aux:
            self.print_to_log_file(f"Teacher's momentum: {self.momentum:.6f}")

    def on_train_end(self) -> None:
        teacher: Any = self.aux[TEACHER] if TEACHER in self.aux and self.context.keep_teacher else None
        super().on_train_end()
        if teacher is not None:
            self.save_as_network(teacher.network, Path(self.output_folder) / KEPT)

    def save_as_network(self, weights: nn.Module, file: Path) -> None:
        """Write a checkpoint for nnU-Net's prediction with the weights of another network."""
        network = unwrap(self.network)
        own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(weights.state_dict())
        try:
            self.save_checkpoint(str(file))
        finally:
            network.load_state_dict(own)
        self.print_to_log_file(f"The teacher is kept: {file}; nnUNetv2_predict takes it with -chk {file.name}")


def part_of(batch: int, share: float, device: torch.device) -> Tensor:
    """Draw a share of the samples of a batch, at least one; returns their indices ``(n,)``."""
    return torch.randperm(batch, device=device)[: max(1, round(share * batch))]


def alone(network: torch.nn.Module) -> AbstractContextManager[Any]:
    """Context of a pass, and of its backward pass, whose gradients wait for the next one to be shared.

    It leaves heads out (those of coarse resolutions), for which DistributedDataParallel would wait for ever.
    """
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
