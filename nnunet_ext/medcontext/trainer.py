"""Trainers of MedContext: a training framework around any network, and the controls it must be compared with.

A step makes two passes, one after the other, each with its own backward pass::

    whole patch x    → student → nnU-Net's loss
    masked patch Mx  → student → nnU-Net's loss  +  β · consistency(student(Mx), teacher(x))

Gradients are those of the sum, activations those of one pass. The teacher is the moving average of the student; it
lives beside the network, so what is trained is the network that it would be without MedContext, and inference is too.

:class:`MedContext` goes in front of any trainer of this package, see :mod:`nnunet_ext.combinations`: the terms of that
trainer are computed on both views.

Deviations from the published code beside those of ``masking``, ``teacher`` and ``consistency``:

* *Two backward passes* instead of one of the summed loss: the same gradients in half the memory.
* *No supervised term of the teacher.* In part of the code it has one, which changes no gradient of the student.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.medcontext.consistency import consistency
from nnunet_ext.medcontext.masking import Tubes, apply_mask
from nnunet_ext.medcontext.options import MedContextOptions
from nnunet_ext.medcontext.teacher import Teacher
from nnunet_ext.nnunet.labels import finest_logits
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.nnunet.trainer import Batch, CommonTrainer

TEACHER = "teacher"
CONSISTENCY = "consistency"
MASKED = "masked_"
"""Prefix of the names of terms on the masked patch."""


class TubeMasking(CommonTrainer):
    """Base of all trainers here: the options, and a masked view of a patch."""

    methods: ClassVar[tuple[type[MethodOptions], ...]] = (MedContextOptions,)

    @property
    def context(self) -> MedContextOptions:
        return self.options.medcontext

    def initialize(self) -> None:
        self.tubes = Tubes(self.training_patch_size, self.context.mask_ratio, self.context.block)
        super().initialize()

    def on_train_start(self) -> None:
        super().on_train_start()
        depth = "in all its slices alike" if len(self.tubes.patch) == 3 else "there is no depth to learn context from"
        self.print_to_log_file(f"MedContext: {self.tubes}, {depth}")

    def masked(self, image: Tensor, among: Tensor | None = None) -> Tensor:
        """The masked view of what the network sees, ``(B, C, *spatial)``.

        ``among``: ``(B, 1, …)`` bool, which samples to mask; all by default.
        """
        hidden = self.tubes.draw(image.shape[0], image.device, per_sample=self.context.mask_per_sample)
        return apply_mask(image, hidden if among is None else hidden & among, self.context.fill, self.image_channels)


class MedContext(TubeMasking):
    """Full and masked view with a teacher, around the trainer, of one pass, that is next in the bases of a class."""

    def initialize(self) -> None:
        self.momentum = 0.0
        require_single_pass(type(self))
        super().initialize()
        if self.context.every > self.num_iterations_per_epoch:
            raise InputError(
                f"medcontext option every is {self.context.every}, but an epoch has {self.num_iterations_per_epoch} "
                "iterations, so some epochs would have no masked view; choose every at most as large."
            )

    def build_aux(self) -> Mapping[str, nn.Module]:
        aux = dict(super().build_aux())
        if self.context.target == "teacher" and self.context.beta > 0:
            aux[TEACHER] = Teacher(unwrap(self.network))
        return aux

    def loss_passes(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        image = self.network_input(batch)
        output = self.run_network(image, batch)
        soft_target = finest_logits(output).detach()
        yield self.compute_terms(output, batch)
        del output  # its graph, before the next one is built
        if self.step % self.context.every:
            return
        if TEACHER in self.aux:
            soft_target = finest_logits(self.aux[TEACHER](image))
        output = self.run_network(self.masked(image), batch)
        terms = {MASKED + name: term for name, term in self.compute_terms(output, batch).items()}
        if self.context.beta > 0:
            kind, exclusive = self.context.consistency, not self.labels.has_regions
            terms[CONSISTENCY] = consistency(finest_logits(output), soft_target, kind, exclusive=exclusive)
        yield terms

    def term_weight(self, name: str) -> float:
        if name == CONSISTENCY:
            return self.context.beta
        view = self.context.masked_weight if name.startswith(MASKED) else self.context.full_weight
        return view * super().term_weight(name.removeprefix(MASKED))

    def after_step(self) -> None:
        super().after_step()
        if TEACHER in self.aux:
            now, schedule = (self.current_epoch, self.step_in_epoch), (self.num_epochs, self.num_iterations_per_epoch)
            self.momentum = self.context.momentum(*now, *schedule)
            self.follow_student(self.momentum)

    def follow_student(self, momentum: float) -> None:
        """Update the teacher; with a momentum of 0 it becomes a copy of the student."""
        cast(Teacher, self.aux[TEACHER]).follow(unwrap(self.network), momentum)

    def on_train_start(self) -> None:
        super().on_train_start()
        # -pretrained_weights are loaded, and the weights of all processes made equal, after the teacher was built
        if TEACHER in self.aux and self.current_epoch == 0:
            self.follow_student(0.0)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        if TEACHER in self.aux:
            self.print_to_log_file(f"Teacher's momentum: {self.momentum:.6f}")

    def load_aux(self, state: dict[str, Tensor]) -> None:
        """Restore the teacher; a checkpoint without one is nnU-Net's own, or that of a finished training."""
        if TEACHER in self.aux and not any(key.startswith(f"{TEACHER}.") for key in state):
            self.print_to_log_file("The checkpoint holds no teacher: it starts as a copy of the network")
            self.follow_student(0.0)
            state = {**state, **self.aux[TEACHER].state_dict(prefix=f"{TEACHER}.")}
        super().load_aux(state)

    def on_train_end(self) -> None:
        if TEACHER in self.aux:
            del self.aux[TEACHER]  # checkpoint_final.pth is what people share, and nobody needs a teacher in it
        super().on_train_end()


class nnUNetTrainerMedContext(MedContext):
    """MedContext around the planned network, as the paper describes it."""


class nnUNetTrainerMedContextPaper(MedContext):
    """The released arithmetic: its teacher, masks and consistency.

    nnU-Net's stay the planned network (so the input is masked rather than tokens), its loss, augmentation and schedule.
    """

    published: ClassVar[bool] = True


class nnUNetTrainerMedContextMaskedOnly(MedContext):
    """Both views, but neither teacher nor consistency: what the supervised term on the masked view does alone."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"medcontext": {"beta": 0.0}}


class nnUNetTrainerTubeCutout(TubeMasking):
    """The same masks as plain augmentation, one pass per step: the control for masking itself."""

    def network_input(self, batch: Batch) -> Tensor:
        image = super().network_input(batch)
        chosen = torch.rand(image.shape[0], device=image.device) < self.context.cutout
        return self.masked(image, chosen.view(-1, *[1] * (image.ndim - 1)))


def require_single_pass(trainer: type[MedContext]) -> None:
    """Raise InputError if the trainer inside has passes of its own, which MedContext would leave out."""
    inside = trainer.__mro__[trainer.__mro__.index(MedContext) + 1 :]
    owner = next(base for base in inside if "loss_passes" in vars(base))
    if owner is not CommonTrainer:
        raise InputError(
            f"{trainer.__name__} puts MedContext around {owner.__name__}, which has loss passes of its own; MedContext "
            "goes around trainers of one pass (run_network and compute_terms)."
        )
