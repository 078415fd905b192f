"""Trainers for scribbles: masked CRF loss, attentive similarity, both, and the published formulation.

All of them need the ignore label, which nnU-Net's own loss leaves out already (partial loss): stock ``nnUNetTrainer``
on the same data is the baseline that the additional terms must beat.

:class:`MaskedCRF` goes in front of any trainer of this package, see :mod:`nnunet_ext.combinations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor, nn

from nnunet_ext.attenscribble.attentive_similarity import AttentiveSimilarity
from nnunet_ext.attenscribble.attentive_similarity_loss import several_classes
from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss
from nnunet_ext.attenscribble.learned import Learned
from nnunet_ext.attenscribble.network import AttendedUNet, AttenScribbleOptions, crf_window
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.clean_image import WithCleanImage
from nnunet_ext.nnunet.outputs import finest, finest_logits
from nnunet_ext.nnunet.partial_cross_entropy import PartialCrossEntropy
from nnunet_ext.nnunet.plans import extension_settings, with_overrides
from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.nnunet.trainer import CommonTrainer

CRF, ASL, MEAN_SIMILARITY, GATE = "crf", "similarity_loss", "mean_similarity", "gate"
LEARNED, SIMILARITY = "learned", "similarity"


class MaskedCRF(CommonTrainer):
    """The masked CRF loss, around the trainer that is next in the bases of a class: its network, its terms."""

    # not "options": a trainer that is wrapped has its own under that name
    attenscribble: ClassVar[AttenScribbleOptions] = AttenScribbleOptions(attention="none")

    @classmethod
    def attenscribble_from(cls, overrides: Mapping[str, Any]) -> AttenScribbleOptions:
        """The options of this class with those of a plans file on top."""
        return with_overrides(cls.attenscribble, overrides, "attenscribble")

    def initialize(self) -> None:
        if self.labels.ignore_label is None:
            raise InputError(
                f"{type(self).__name__} learns from scribbles, but data set {self.plans_manager.dataset_name} has no "
                'ignore label; add "ignore": N to the labels in dataset.json, where N is the highest label plus 1, '
                "and give it to every voxel that is not annotated."
            )
        settings = self.configuration_manager.configuration
        self.scribble_options = self.attenscribble_from(extension_settings(settings, "attenscribble"))
        window, downsample = crf_window(self.configuration_manager.spacing)
        self.crf = MaskedCRFLoss(
            window,
            exclusive=not self.labels.has_regions,
            downsample=downsample,
            offsets_per_step=self.scribble_options.offsets_per_step,
        )
        super().initialize()

    def build_aux(self) -> Mapping[str, nn.Module]:
        """The gate."""
        return {LEARNED: Learned(self.labels.num_heads, self.scribble_options.wait), **super().build_aux()}

    @property
    def ramp(self) -> float:
        """From 0 to 1 in the first epochs."""
        epochs = self.scribble_options.ramp * self.num_epochs
        return min(1.0, self.current_epoch / epochs) if epochs > 0 else 1.0

    def current_term_weights(self) -> Mapping[str, float]:
        """The regulariser grows from 0; the gate is logged with the terms and is none."""
        return {**super().current_term_weights(), CRF: self.ramp * self.scribble_options.crf_weight, GATE: 0.0}

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        transforms = super().get_training_transforms(*args, **kwargs)
        return WithCleanImage(transforms) if self.scribble_options.crf_image == "clean" else transforms

    def network_input(self, data: Tensor) -> Tensor:
        """Without the clean image, which only the CRF loss sees."""
        return super().network_input(
            data[:, : -self.image_channels] if self.scribble_options.crf_image == "clean" else data
        )

    def compute_terms(self, output: Any, data: Tensor, target: Tensor | list[Tensor]) -> dict[str, Tensor]:
        clean, channels = self.scribble_options.crf_image == "clean", self.image_channels
        image = data[:, -channels:] if clean else data[:, :channels]  # without the previous stage of a cascade
        logits, labels = finest_logits(output), finest(target)
        gate = self.aux[LEARNED](self.probabilities(logits.detach()), self.labels.one_hot(labels))
        terms = {**super().compute_terms(output, data, target), GATE: gate}
        return {**terms, CRF: gate * self.crf(logits, image, ~self.labels.annotated(labels))}

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(B, K, *spatial)`` of classes or regions, in single precision."""
        return logits.float().sigmoid() if self.labels.has_regions else logits.float().softmax(1)


class nnUNetTrainerMaskedCRF(MaskedCRF):
    """The masked CRF loss alone; the network is stock nnU-Net's."""


class nnUNetTrainerAttenScribble(MaskedCRF):
    """Partial loss, masked CRF loss and attentive similarity, with the sound defaults of the options."""

    attenscribble: ClassVar[AttenScribbleOptions] = AttenScribbleOptions()

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The planned network, with attention in its trunk or not; nnU-Net calls this for training and inference."""
        planned = cls.planned_unet(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        options = cls.attenscribble_from(extension_settings(configuration_manager.configuration, "attenscribble"))
        return AttendedUNet(planned, options, configuration_manager.patch_size)

    def build_aux(self) -> Mapping[str, nn.Module]:
        """Beside the gate what turns attention into a similarity."""
        network = unwrap(self.network)
        assert isinstance(network, AttendedUNet)
        spacing, exclusive = self.configuration_manager.spacing, not self.labels.has_regions
        similarity = AttentiveSimilarity(network, self.scribble_options, spacing, exclusive=exclusive)
        return {**super().build_aux(), SIMILARITY: similarity}

    def current_term_weights(self) -> Mapping[str, float]:
        """As the CRF loss, so the similarity's; its mean is logged with the terms and is none."""
        weights = {ASL: self.ramp * self.scribble_options.asl_weight, MEAN_SIMILARITY: 0.0}
        return {**super().current_term_weights(), **weights}

    def compute_terms(self, output: Any, data: Tensor, target: Tensor | list[Tensor]) -> dict[str, Tensor]:
        logits, attended = output
        terms = super().compute_terms(logits, data, target)
        if attended:
            counts = several_classes(self.labels.presence(finest(target)))
            loss, mean = self.aux[SIMILARITY](self.probabilities(finest(logits)), counts, attended)
            terms |= {ASL: terms[GATE] * loss, MEAN_SIMILARITY: mean}
        return terms


class nnUNetTrainerSSA(nnUNetTrainerAttenScribble):
    """Spatial self-attention in the trunk with the partial loss alone: what attention does without its losses."""

    attenscribble: ClassVar[AttenScribbleOptions] = AttenScribbleOptions(
        attention="trunk", crf_weight=0.0, asl_weight=0.0
    )


class nnUNetTrainerAttenScribblePaper(nnUNetTrainerAttenScribble):
    """The published formulation: cross entropy on annotated pixels, both terms at once, attention in the trunk.

    nnU-Net's stay the planned backbone, its augmentation and its schedule. Options in the plans do not apply to it.
    """

    attenscribble: ClassVar[AttenScribbleOptions] = AttenScribbleOptions(
        attention="trunk", published=True, asl_weight=9.2, ramp=0.0, wait=0.0
    )

    hyperparameters: ClassVar[Mapping[str, Any]] = {"enable_deep_supervision": False, "weight_decay": 1e-4}

    @classmethod
    def attenscribble_from(cls, overrides: Mapping[str, Any]) -> AttenScribbleOptions:
        return cls.attenscribble

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
