"""Options of MedContext."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from nnunet_ext.errors import InputError
from nnunet_ext.medcontext.consistency import Kind, Region
from nnunet_ext.medcontext.masking import Fill
from nnunet_ext.medcontext.published import restarting
from nnunet_ext.medcontext.teacher import ema_momentum
from nnunet_ext.nnunet.options import STRICT, MethodOptions

Target = Literal["teacher", "self"]
"""Source of the logits on the whole patch with which the masked one is compared: the moving average, or the network
itself, in the same step."""

LabelledView = Literal["whole", "part", "both"]
"""View of labelled patches: whole; a part of the batch masked, in the same pass; or both, in two passes."""

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class MedContextOptions(MethodOptions):
    """Sound defaults; a plans file may override any of them.

    Published values are those of the released nnFormer for Synapse; others are named where they differ.
    """

    SECTION: ClassVar[str] = "medcontext"

    mask_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Share of the columns to hide. Published: 0.4; UNETR and BraTS: 0.6."""
    block: Annotated[int, Field(ge=1)] | None = None
    """Side of a column in voxels; None: an eighth of the patch's. Published: 4 of 128; UNETR: 16 of 96."""
    fill: Fill = "zero"
    """Value of hidden voxels. Published: a learned token that starts at 0."""
    mask_per_sample: bool = True
    """Published: False, one mask for the whole batch."""
    labelled: LabelledView | None = None
    """View of labelled patches. None: ``"whole"`` beside images without labels, otherwise ``"part"``, or ``"both"``
    where a batch has one patch. Published: ``"both"``."""
    part: Share = 0.5
    """Share of the labelled patches of a batch that are masked with ``"part"``; at least one patch."""
    turn: bool = True
    """The student sees images without labels turned and flipped, and is compared with the teacher's answer turned
    likewise. Published: False."""
    consistency: Kind | None = None
    """Form of the consistency, see :mod:`nnunet_ext.medcontext.consistency`. None: ``"labels"`` on images without
    labels, ``"kl"`` on labelled patches. Published: ``"official"``."""
    region: Region = "patch"
    """Voxels that ``"kl"``, ``"mse"`` and ``"labels"`` compare: all of the patch, or the hidden ones."""
    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """Probability above which ``"kl"``, ``"mse"`` and ``"labels"`` believe the teacher. Published: 0, everywhere."""
    beta: Annotated[float, Field(ge=0)] | None = None
    """Weight of the consistency; 0: there is no teacher. None: 1 for ``"labels"``, otherwise 0.5. Published: 0.4; UNETR
    and ACDC: 0.5."""
    start: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the training before which there is no masked view: until then it is an ordinary training, because the
    teacher knows nothing yet. Published: 0."""
    ramp: Share = 0.2
    """Share of the training over which ``beta`` rises to its value, from ``start`` on. Published: 0."""
    target: Target = "teacher"
    """``"self"`` saves the teacher's memory. Published: the teacher, which in effect is the network of the step
    before."""
    every: Annotated[int, Field(ge=1)] = 1
    """Compute masked views only at every n-th step (of labelled patches not for ``"part"``); 3 costs about 1.4 times an
    ordinary training."""
    full_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss terms on the whole patch. Published: 1."""
    masked_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss terms on the masked patch. Published: 1. With 0.5 and 0.5 gradients stay as large as
    nnU-Net's."""
    ema_memory: Annotated[float, Field(gt=0, le=1)] = 0.025
    """Share of the training over which the teacher is a mean, 10 steps at least; its momentum follows."""
    ema_base: Share | None = None
    """Momentum of the teacher after its warm-up. None: that of ``ema_memory``. Meant by the code: 0.996."""
    ema_final: Share | None = None
    """Momentum at the end of the training. None: it does not change, so the length of the memory stays the same. Meant
    by the code: 1."""
    ema_warmup: Share = 0.01
    """Share of the training over which the momentum rises from 0. Published: 10 of 1000 epochs."""
    ema_restarts: bool = False
    """Start the schedule of the momentum, twice as long, again in each epoch. Published: True, by mistake."""
    keep_teacher: bool = False
    """Write ``checkpoint_teacher.pth`` beside ``checkpoint_final.pth``, with the weights of the teacher."""
    cutout: Share = 0.5
    """Share of the samples that ``nnUNetTrainerTubeCutout`` masks; half of the views of MedContext are masked too."""

    @property
    def compares(self) -> bool:
        """Whether there is a consistency at all."""
        return self.beta is None or self.beta > 0

    @property
    def without_effect(self) -> Collection[str]:
        has_teacher = self.compares and self.target == "teacher"
        is_masked = {self.form(labelled=labelled) for labelled in (True, False)} & {"kl", "mse", "labels"}
        used = {
            ("consistency", "target", "ramp"): self.compares,
            ("region", "confidence"): self.compares and bool(is_masked),
            ("ema_base", "ema_final", "ema_warmup", "ema_restarts", "keep_teacher"): has_teacher,
            ("ema_memory",): has_teacher and self.ema_base is None,
            ("part",): self.labelled in (None, "part"),
            ("masked_weight",): self.labelled in (None, "both"),
        }
        return [name for names, has_effect in used.items() if not has_effect for name in names]

    def require_masked_views(self, unlabelled: bool) -> None:
        """Raise InputError if nothing would be masked; ``unlabelled``: whether there are images without labels."""
        if self.labelled == "whole" and not unlabelled:
            raise InputError(
                "medcontext option labelled is whole, so only images without labels are masked, but there are none; "
                "set it to part or both, or add such images."
            )

    def form(self, *, labelled: bool) -> Kind:
        """Return the form of the consistency on patches with or without labels."""
        return self.consistency or ("kl" if labelled else "labels")

    def weight(self, *, labelled: bool) -> float:
        """Return the weight of the consistency after its ramp, on patches with or without labels."""
        if self.beta is not None:
            return self.beta
        return 1.0 if self.form(labelled=labelled) == "labels" else 0.5

    def rise(self, epoch: int, epochs: int) -> float:
        """Return the factor on ``beta`` in an epoch: 0 before ``start``, 1 after the ramp.

        All steps of an epoch have the factor of its end, so the log can state the weight.

        Args:
            epoch: from 0.
            epochs: of the whole training.
        """
        done = epoch + 1 - self.start * epochs
        if done < 1e-9:
            return 0.0
        return min(1.0, done / max(self.ramp * epochs, 1e-9))

    def momentum(self, epoch: int, batch: int, epochs: int, iterations: int) -> float:
        """Return the momentum of the teacher's update after this batch of this epoch, both counted from 0.

        Args:
            epoch: of the training.
            batch: within the epoch.
            epochs: of the whole training.
            iterations: of an epoch.
        """
        step, total = epoch * iterations + batch, epochs * iterations
        base = 1 - 1 / max(10, self.ema_memory * total) if self.ema_base is None else self.ema_base
        final = base if self.ema_final is None else self.ema_final
        if self.ema_restarts:
            step, total = restarting(batch, total)
        return ema_momentum(step, total, base, final, round(self.ema_warmup * total))

    @classmethod
    def as_published(cls) -> Self:
        """Return the arithmetic of the released nnFormer for Synapse."""
        return cls(
            block=4,
            mask_per_sample=False,
            labelled="both",
            turn=False,
            consistency="official",
            confidence=0.0,
            beta=0.4,
            start=0.0,
            ramp=0.0,
            ema_base=0.996,
            ema_final=1.0,
            ema_restarts=True,
        )
