"""Trainers for scribbles: masked CRF loss, attentive similarity, and both. The published formulation is beside.

All of them need the ignore label, which nnU-Net's own loss already leaves out (partial loss). Stock ``nnUNetTrainer``
on the same data is the baseline that the additional terms must beat.

:class:`MaskedCRF` goes in front of any trainer of this package, see :mod:`nnunet_ext.combinations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from nnunet_ext.attenscribble.attentive_similarity import AttentiveSimilarity
from nnunet_ext.attenscribble.attentive_similarity_loss import several_classes
from nnunet_ext.attenscribble.confidence_gate import ConfidenceGate
from nnunet_ext.attenscribble.crf_window import crf_loss, crf_weight, described
from nnunet_ext.attenscribble.network import AttendedUNet
from nnunet_ext.attenscribble.options import AttenScribbleOptions
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.clean_image import CLEAN_IMAGE
from nnunet_ext.nnunet.labels import finest, finest_logits
from nnunet_ext.nnunet.options import THE_PLANS, MethodOptions, PseudoLabelOptions
from nnunet_ext.nnunet.pretrained import unwrap_as
from nnunet_ext.nnunet.pseudo_label_training import PSEUDO, PseudoLabels
from nnunet_ext.nnunet.trainer import INSIDE, Batch
from nnunet_ext.nnunet.unet import PlannedUNet

CRF, ASL = "crf", "similarity_loss"
MEAN_SIMILARITY, GATE = "mean_similarity", "gate"
"""Statistics."""
CONFIDENCE, SIMILARITY = "confidence", "similarity"
"""Auxiliary modules."""


class MaskedCRF(PseudoLabels):
    """The masked CRF loss on top of the network and the terms of the next trainer among the bases of a class.

    The option ``pseudo_weight`` adds a loss on pseudo-labels.
    """

    methods: ClassVar[tuple[type[MethodOptions], ...]] = (AttenScribbleOptions,)

    patches_only: ClassVar[bool] = True

    has_attention: ClassVar[bool] = False
    """Whether the network is one with attention; the options of attention mean nothing to others."""

    @classmethod
    def resolve_options(cls, settings: Mapping[str, Any], where: str = THE_PLANS) -> SimpleNamespace:
        options = super().resolve_options(settings, where)
        if not cls.has_attention:
            options.attenscribble = replace(options.attenscribble, attention="side", asl_weight=0.0)
        return options

    def initialize(self) -> None:
        if self.labels.ignore_label is None:
            raise InputError(
                f"{type(self).__name__} learns from scribbles, but data set {self.plans_manager.dataset_name} has no "
                'ignore label; add "ignore": N to the labels in dataset.json, where N is the highest label plus 1, '
                "and give it to every voxel that is not annotated."
            )
        options, spacing = self.options.attenscribble, self.configuration_manager.spacing
        self.crf = crf_loss(spacing, options, exclusive=not self.labels.has_regions)
        self.crf_weight = crf_weight(spacing, options)
        super().initialize()

    @property
    def padding_is_annotated(self) -> bool:
        return self.options.attenscribble.padding_annotated

    @property
    def pseudo_options(self) -> PseudoLabelOptions:
        return self.options.attenscribble

    @property
    def has_clean_image(self) -> bool:
        """The clean image is loaded if the CRF loss compares it or the teacher sees it."""
        return super().has_clean_image or self.options.attenscribble.compares_clean_image

    @property
    def gate(self) -> ConfidenceGate:
        return cast(ConfidenceGate, self.aux[CONFIDENCE])

    def build_aux(self) -> Mapping[str, nn.Module]:
        gate = ConfidenceGate(self.labels.num_heads, self.options.attenscribble.wait)
        return {CONFIDENCE: gate, **super().build_aux()}

    def on_train_start(self) -> None:
        super().on_train_start()
        self.print_to_log_file(described(self.configuration_manager.spacing, self.options.attenscribble))
        self.gate.leave_out(self.labels.heads_of(self.unannotated, self.dataset_json["labels"]))

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        ramped, epoch = self.options.attenscribble.ramped, self.current_epoch
        ended = ramped(epoch, self.num_epochs) == 1 and (epoch == 0 or ramped(epoch - 1, self.num_epochs) < 1)
        if ended and self.options.attenscribble.regularises:
            self.print_to_log_file(self.gate.described(self.labels.head_names(self.dataset_json["labels"])))

    def option_weights(self) -> Mapping[str, float]:
        """The regulariser grows from 0, later the pseudo-labels."""
        options, now = self.options.attenscribble, (self.current_epoch, self.num_epochs)
        ramp, pseudo = options.ramped(*now), options.ramped(*now, options.pseudo_start) * options.pseudo_weight
        own = {CRF: ramp * options.faded(*now) * self.crf_weight, ASL: ramp * options.asl_weight, PSEUDO: pseudo}
        return {**super().option_weights(), **own}

    def prepare_batch(self, batch: Batch) -> Batch:
        """Add ``crf_image``, ``(B, C, *spatial)``, without the previous stage of a cascade."""
        batch = super().prepare_batch(batch)
        clean = self.options.attenscribble.compares_clean_image
        return {**batch, "crf_image": batch[CLEAN_IMAGE] if clean else batch["data"][:, : self.image_channels]}

    def image_within(self, batch: Batch) -> Tensor | None:
        """Return where regularisers see an image; None: everywhere, as the published ones take padding for image."""
        return None if self.options.attenscribble.published else batch.get(INSIDE)

    def compute_terms(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """nnU-Net's loss, and the regularisers whose weight is not 0."""
        terms = super().compute_terms(output, batch)
        if not self.options.attenscribble.regularises:
            return terms
        logits, labels = finest_logits(output).float(), finest(batch["target"])
        gate = self.gate(self.labels.probabilities(logits.detach()), self.labels.one_hot(labels))
        self.record(GATE, gate.mean())
        logits, inside = self.gate.gated(logits, exclusive=not self.labels.has_regions), self.image_within(batch)
        receives = ~self.labels.annotated(labels) if inside is None else self.unlabelled_voxels(batch)
        if self.crf_weight > 0:
            terms[CRF] = self.crf(logits, batch["crf_image"], receives, inside)
        return terms | self.pseudo_term(logits, batch)


class nnUNetTrainerMaskedCRF(MaskedCRF):
    """The masked CRF loss alone; the network is stock nnU-Net's."""


class nnUNetTrainerAttenScribble(MaskedCRF):
    """Partial loss and masked CRF loss; the option ``asl_weight`` adds the attentive similarity (off by default)."""

    has_attention: ClassVar[bool] = True

    @classmethod
    def attach(cls, network: nn.Module, settings: Mapping[str, Any], options: SimpleNamespace) -> nn.Module:
        """Put attention into the trunk of the planned network, or beside it."""
        return AttendedUNet(PlannedUNet(network), options.attenscribble, settings["patch_size"])

    def build_aux(self) -> Mapping[str, nn.Module]:
        """Add to the gate the module that turns attention into a similarity, if its loss counts."""
        if not self.options.attenscribble.asl_weight:
            return super().build_aux()
        network = unwrap_as(self.network, AttendedUNet)
        spacing, options = self.configuration_manager.spacing, self.options.attenscribble
        similarity = AttentiveSimilarity(network, options, spacing, exclusive=not self.labels.has_regions)
        return {**super().build_aux(), SIMILARITY: similarity}

    def compute_terms(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        logits, attended = output
        terms = super().compute_terms(logits, batch)
        if SIMILARITY in self.aux:
            labels = finest(batch["target"])
            counts = several_classes(self.labels.one_hot(labels), self.labels.annotated(labels))
            gated = self.gate.gated(finest(logits).float(), exclusive=not self.labels.has_regions)
            probabilities, inside = self.labels.probabilities(gated), self.image_within(batch)
            terms[ASL], mean = self.aux[SIMILARITY](probabilities, counts, attended, inside)
            self.record(MEAN_SIMILARITY, mean)
        return terms


class nnUNetTrainerSSA(nnUNetTrainerAttenScribble):
    """Spatial self-attention in the trunk with the partial loss alone: the control for attention without its losses."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "attenscribble": {"attention": "trunk", "crf_weight": 0.0, "asl_weight": 0.0}
    }
