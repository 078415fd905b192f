"""Trainers for scribbles: masked CRF loss, attentive similarity, both, and the published formulation.

All of them need the ignore label, which nnU-Net's own loss leaves out already (partial loss): stock ``nnUNetTrainer``
on the same data is the baseline that the additional terms must beat.

:class:`MaskedCRF` goes in front of any trainer of this package, see :mod:`nnunet_ext.combinations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor, nn

from nnunet_ext.attenscribble.attentive_similarity import AttentiveSimilarity
from nnunet_ext.attenscribble.attentive_similarity_loss import several_classes
from nnunet_ext.attenscribble.confidence_gate import ConfidenceGate
from nnunet_ext.attenscribble.crf_window import crf_loss
from nnunet_ext.attenscribble.network import AttendedUNet
from nnunet_ext.attenscribble.options import AttenScribbleOptions
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.clean_image import WithCleanImage
from nnunet_ext.nnunet.labels import finest, finest_logits
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.partial_cross_entropy import PartialCrossEntropy
from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.nnunet.trainer import Batch, CommonTrainer
from nnunet_ext.nnunet.unet import PlannedUNet

CRF, ASL = "crf", "similarity_loss"
MEAN_SIMILARITY, GATE = "mean_similarity", "gate"
"""Statistics."""
CONFIDENCE, SIMILARITY = "confidence", "similarity"
"""Auxiliary modules."""


class MaskedCRF(CommonTrainer):
    """The masked CRF loss, around the trainer that is next in the bases of a class: its network, its terms."""

    methods: ClassVar[tuple[type[MethodOptions], ...]] = (AttenScribbleOptions,)

    def initialize(self) -> None:
        if self.labels.ignore_label is None:
            raise InputError(
                f"{type(self).__name__} learns from scribbles, but data set {self.plans_manager.dataset_name} has no "
                'ignore label; add "ignore": N to the labels in dataset.json, where N is the highest label plus 1, '
                "and give it to every voxel that is not annotated."
            )
        spacing, exclusive = self.configuration_manager.spacing, not self.labels.has_regions
        self.crf = crf_loss(spacing, self.options.attenscribble, exclusive=exclusive)
        super().initialize()

    def build_aux(self) -> Mapping[str, nn.Module]:
        gate = ConfidenceGate(self.labels.num_heads, self.options.attenscribble.wait)
        return {CONFIDENCE: gate, **super().build_aux()}

    def on_train_start(self) -> None:
        super().on_train_start()
        gate = self.aux[CONFIDENCE]
        assert isinstance(gate, ConfidenceGate)
        gate.leave_out(self.labels.heads_of(self.unannotated, self.dataset_json["labels"]))

    def option_weights(self) -> Mapping[str, float]:
        """The regulariser grows from 0."""
        options = self.options.attenscribble
        ramp = options.ramped(self.current_epoch, self.num_epochs)
        return {**super().option_weights(), CRF: ramp * options.crf_weight, ASL: ramp * options.asl_weight}

    @property
    def compares_clean_image(self) -> bool:
        """The CRF loss sees the image without intensity augmentation, which travels as additional channels."""
        options = self.options.attenscribble
        return options.crf_image == "clean" and options.crf_weight > 0

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        transforms = super().get_training_transforms(*args, **kwargs)
        return WithCleanImage(transforms) if self.compares_clean_image else transforms

    def prepare_batch(self, batch: Batch) -> Batch:
        """Add ``crf_image``, ``(B, C, *spatial)``, without the previous stage of a cascade."""
        data, channels = batch["data"], self.image_channels
        if self.compares_clean_image:
            data, image = data[:, :-channels], data[:, -channels:]
        else:
            image = data[:, :channels]
        return super().prepare_batch({**batch, "data": data, "crf_image": image})

    def compute_terms(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """nnU-Net's loss and the regularisers whose option is not 0."""
        terms = super().compute_terms(output, batch)
        options = self.options.attenscribble
        if options.crf_weight == options.asl_weight == 0:
            return terms
        logits, labels = finest_logits(output), finest(batch["target"])
        gate = self.aux[CONFIDENCE](self.probabilities(logits.detach()), self.labels.one_hot(labels))
        self.record(GATE, gate)
        if options.crf_weight > 0:
            terms[CRF] = gate * self.crf(logits, batch["crf_image"], ~self.labels.annotated(labels))
        return terms

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(B, K, *spatial)`` of classes or regions, in single precision."""
        return logits.float().sigmoid() if self.labels.has_regions else logits.float().softmax(1)


class nnUNetTrainerMaskedCRF(MaskedCRF):
    """The masked CRF loss alone; the network is stock nnU-Net's."""


class nnUNetTrainerAttenScribble(MaskedCRF):
    """Partial loss, masked CRF loss and attentive similarity, with the sound defaults of the options."""

    @classmethod
    def attach(cls, network: nn.Module, settings: Mapping[str, Any], options: SimpleNamespace) -> nn.Module:
        """Put attention into the trunk of the planned network, or beside it."""
        return AttendedUNet(PlannedUNet(network), options.attenscribble, settings["patch_size"])

    def build_aux(self) -> Mapping[str, nn.Module]:
        """Add to the gate the module that turns attention into a similarity."""
        network = unwrap(self.network)
        assert isinstance(network, AttendedUNet)
        spacing, exclusive = self.configuration_manager.spacing, not self.labels.has_regions
        similarity = AttentiveSimilarity(network, self.options.attenscribble, spacing, exclusive=exclusive)
        return {**super().build_aux(), SIMILARITY: similarity}

    def compute_terms(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        logits, attended = output
        target = finest(batch["target"])
        terms = super().compute_terms(logits, batch)
        if attended and self.options.attenscribble.asl_weight > 0:
            gate = self.aux[CONFIDENCE].openness
            counts = several_classes(self.labels.presence(target))
            loss, mean = self.aux[SIMILARITY](self.probabilities(finest(logits)), counts, attended)
            self.record(MEAN_SIMILARITY, mean)
            terms[ASL] = gate * loss
        return terms


class nnUNetTrainerSSA(nnUNetTrainerAttenScribble):
    """Spatial self-attention in the trunk with the partial loss alone: what attention does without its losses."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "attenscribble": {"attention": "trunk", "crf_weight": 0.0, "asl_weight": 0.0}
    }


class nnUNetTrainerAttenScribblePaper(nnUNetTrainerAttenScribble):
    """The published formulation: cross entropy on annotated pixels, both terms at once, attention in the trunk.

    nnU-Net's stay the planned backbone, its augmentation and the length of the training.
    """

    published: ClassVar[bool] = True

    hyperparameters: ClassVar[Mapping[str, Any]] = {"enable_deep_supervision": False, "weight_decay": 1e-4}

    def build_optimizer(self, aux_parameters: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, Any]:
        """SGD with momentum 0.9 and the polynomial schedule, as in the published code."""
        parameters = [*self.network.parameters(), *aux_parameters]
        optimizer = torch.optim.SGD(parameters, self.initial_lr, momentum=0.9, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def _build_loss(self) -> nn.Module:
        if self.labels.has_regions:
            raise InputError(f"{type(self).__name__} is published for classes; use nnUNetTrainerAttenScribble.")
        assert self.labels.ignore_label is not None
        return PartialCrossEntropy(self.labels.ignore_label)
