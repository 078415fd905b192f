"""Trainers of MedContext: a training framework around any network, and the controls it must be compared with.

A step makes up to three passes, one after the other, each with its own backward pass::

    unlabelled u, M turn(u)   → student → β · consistency(student(M turn(u)), turn(teacher(u)))
    labelled x, whole         → student → nnU-Net's loss
    labelled x, masked Mx     → student → nnU-Net's loss  +  β · consistency(student(Mx), teacher(x))

With images without labels (:mod:`nnunet_ext.unlabelled`) there are the first two: on labelled voxels the teacher only
repeats the label. Without them there is one pass, in which half of the labelled patches are masked, with the terms of
the third line. Published are the second and the third. Until ``start`` there is only the second, which is nnU-Net.

Gradients are those of the sum, activations those of one pass. The teacher is the moving average of the student. It
lives beside the network, so the trained network and its inference are the same as without MedContext.

:class:`MedContext` goes in front of any trainer of this package, see :mod:`nnunet_ext.combinations`: the terms of that
trainer are computed on all labelled views.

Deviations from the published code beside those of ``masking``, ``teacher`` and ``consistency``:

* *A backward pass per view* instead of one of the summed loss: the same gradients in half the memory.
* *No supervised term of the teacher.* Part of the code has one, which changes no gradient of the student.
* *A start and a ramp.* In the code all terms count from the first step, when a teacher knows nothing.
* *Images without labels*, which the paper does not use. Their view is turned, too, and the teacher's confident labels
  are its target, which was better than probabilities of a view that is only masked (docs/results/medcontext.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from nnunet_ext.errors import InputError
from nnunet_ext.medcontext.base_trainer import TEACHER, AveragedTeacher, TubeMasking, alone, part_of
from nnunet_ext.medcontext.consistency import consistency, sure
from nnunet_ext.medcontext.options import LabelledView
from nnunet_ext.nnunet.labels import finest_logits
from nnunet_ext.nnunet.trainer import Batch, CommonTrainer
from nnunet_ext.unlabelled.training import UnlabelledData
from nnunet_ext.unlabelled.turns import turned

CONSISTENCY = "consistency"
UNLABELLED = "unlabelled_consistency"
MASKED = "masked_"
"""Prefix of the names of terms on the masked patch."""


class MedContext(UnlabelledData, AveragedTeacher):
    """Masked views with a teacher, around the next trainer among the bases of a class, which must have one pass."""

    def initialize(self) -> None:
        require_single_pass(type(self))
        super().initialize()
        if self.context.every > self.num_iterations_per_epoch:
            raise InputError(
                f"medcontext option every is {self.context.every}, but an epoch has {self.num_iterations_per_epoch} "
                "iterations, so some epochs would have no masked view; choose every at most as large."
            )

    def get_dataloaders(self) -> Any:
        loaders = super().get_dataloaders()
        self.context.require_masked_views(self.draws_unlabelled)
        return loaders

    def labelled_view(self, unlabelled: Tensor | None) -> LabelledView:
        """Return which views of labelled patches there are in this epoch."""
        if not self.rise() or (unlabelled is not None and self.context.labelled is None):
            return "whole"
        # a part of one patch would be all of it; all processes must make the same passes, also with uneven shares
        processes = torch.distributed.get_world_size() if self.is_ddp else 1
        return self.context.labelled or ("part" if self.configuration_manager.batch_size // processes > 1 else "both")

    def rise(self) -> float:
        """The factor on the consistency in this epoch; 0: there are no masked views yet."""
        return self.context.rise(self.current_epoch, self.num_epochs)

    def loss_passes(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        unlabelled = self.unlabelled(batch)
        view, due = self.labelled_view(unlabelled), self.rise() > 0 and self.step % self.context.every == 0
        if unlabelled is not None and due and self.context.compares:
            with alone(self.network):
                yield {UNLABELLED: self.unlabelled_term(unlabelled, batch)}
        image = self.network_input(batch)
        if view == "part":
            yield self.part_terms(image, batch)
            return
        output = self.run_network(image, batch)
        itself = finest_logits(output).detach()
        yield self.compute_terms(output, batch)
        del output  # its graph, before the next one is built
        if view == "both" and due:
            soft_target = finest_logits(self.aux[TEACHER](image)) if TEACHER in self.aux else itself
            hidden = self.hide(image)
            output = self.run_network(self.masked(image, hidden), batch)
            terms = {MASKED + name: term for name, term in self.compute_terms(output, batch).items()}
            if self.context.compares:
                terms[CONSISTENCY] = self.compare(finest_logits(output), soft_target, hidden, labelled=True)
            yield terms

    def unlabelled_term(self, images: Tensor, batch: Batch) -> Tensor:
        """Return the consistency of the turned and masked view of patches without labels, ``(U, C, *spatial)``."""
        soft_target = self.soft_target(images, batch)
        if self.context.turn:
            turns = self.draw_turns(images)
            images, soft_target = turned(images, turns), turned(soft_target, turns)
        hidden = self.hide(images)
        output = self.run_network(self.masked(images, hidden), {**batch, "data": images})
        return self.compare(finest_logits(output), soft_target, hidden, labelled=False)

    def part_terms(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of one pass in which some labelled patches, ``(B, C, *spatial)``, are masked."""
        chosen = part_of(len(image), self.context.part, image.device)
        hidden = torch.zeros_like(image[:, :1], dtype=torch.bool)
        hidden[chosen] = self.hide(image[chosen])
        output = self.run_network(self.masked(image, hidden), batch)
        terms = self.compute_terms(output, batch)
        if self.context.compares:
            soft_target = self.soft_target(image, batch, chosen)
            terms[CONSISTENCY] = self.compare(finest_logits(output)[chosen], soft_target, hidden[chosen], labelled=True)
        return terms

    def soft_target(self, image: Tensor, batch: Batch, chosen: Tensor | slice = slice(None)) -> Tensor:
        """Return the logits of the chosen whole patches of ``image``, ``(B, C, *spatial)``, without gradient."""
        if TEACHER in self.aux:
            return finest_logits(self.aux[TEACHER](image[chosen]))
        with torch.no_grad():  # of the whole batch: a network may need all of it
            logits = finest_logits(self.run_network(image, {**batch, "data": image}))[chosen]
        torch.clear_autocast_cache()  # some versions keep weights that were cast without gradient
        return logits

    def compare(self, student: Tensor, teacher: Tensor, hidden: Tensor, *, labelled: bool) -> Tensor:
        """Return the consistency of logits, ``(B, K, *spatial)``, of patches with or without labels."""
        options, form, exclusive = self.context, self.context.form(labelled=labelled), not self.labels.has_regions
        among = hidden if options.region == "hidden" else torch.ones_like(hidden)
        if form in ("kl", "mse", "labels"):
            self.record("sure", sure(teacher, exclusive, options.confidence).float().mean())
        return consistency(student, teacher, form, exclusive=exclusive, confidence=options.confidence, among=among)

    def term_weight(self, name: str) -> float:
        if name in (CONSISTENCY, UNLABELLED):
            return self.context.weight(labelled=name == CONSISTENCY) * self.rise()
        view = self.context.masked_weight if name.startswith(MASKED) else self.context.full_weight
        return view * super().term_weight(name.removeprefix(MASKED))


class nnUNetTrainerMedContext(MedContext):
    """MedContext around the planned network, with images without labels where there are any."""


class nnUNetTrainerMedContextPaper(MedContext):
    """The released arithmetic: its teacher, masks and consistency.

    The planned network (so the input is masked rather than tokens), loss, augmentation and schedule stay nnU-Net's.
    """

    published: ClassVar[bool] = True


class nnUNetTrainerMedContextMaskedOnly(MedContext):
    """Both views, but neither teacher nor consistency: the control for the supervised term on the masked view."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "medcontext": {"beta": 0.0, "labelled": "both"},
        "unlabelled": {"images": "none"},
    }


class nnUNetTrainerTubeCutout(TubeMasking):
    """The same masks as plain augmentation, one pass per step: the control for masking itself."""

    def network_input(self, batch: Batch) -> Tensor:
        image = super().network_input(batch)
        chosen = torch.rand(image.shape[0], device=image.device) < self.context.cutout
        return self.masked(image, self.hide(image) & chosen.view(-1, *[1] * (image.ndim - 1)))


def require_single_pass(trainer: type[MedContext]) -> None:
    """Raise InputError if the inner trainer has passes of its own, which MedContext would leave out."""
    inside = trainer.__mro__[trainer.__mro__.index(MedContext) + 1 :]
    owner = next(base for base in inside if "loss_passes" in vars(base))
    if owner is not CommonTrainer:
        raise InputError(
            f"{trainer.__name__} puts MedContext around {owner.__name__}, which has loss passes of its own; MedContext "
            "goes around trainers of one pass (run_network and compute_terms)."
        )
