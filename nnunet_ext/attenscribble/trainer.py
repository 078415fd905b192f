"""Trainers for scribbles: masked CRF loss, attentive similarity, both, and the published formulation.

All of them need the ignore label, which nnU-Net's own loss leaves out already (partial loss): stock ``nnUNetTrainer``
on the same data is the baseline that the additional terms must beat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor, nn

from nnunet_ext.attenscribble.attentive_similarity_loss import attentive_similarity_loss, pooled, several_classes
from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss
from nnunet_ext.attenscribble.learned import Learned
from nnunet_ext.attenscribble.network import (
    AttendedUNet,
    AttenScribbleOptions,
    as_projected,
    crf_window,
    similarity_window,
)
from nnunet_ext.attenscribble.similarity import AffinityHead
from nnunet_ext.attenscribble.spatial_attention import QueriesAndKeys
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.clean_image import WithCleanImage
from nnunet_ext.nnunet.outputs import finest
from nnunet_ext.nnunet.partial_cross_entropy import PartialCrossEntropy
from nnunet_ext.nnunet.plans import extension_settings, with_overrides
from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.nnunet.trainer import SEGMENTATION, CommonTrainer

CRF, ASL, MEAN_SIMILARITY, GATE = "crf", "similarity_loss", "mean_similarity", "gate"


class nnUNetTrainerAttenScribble(CommonTrainer):
    """Partial loss, masked CRF loss and attentive similarity, with the sound defaults of the options."""

    options: ClassVar[AttenScribbleOptions] = AttenScribbleOptions()

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
        options = cls.options_from(extension_settings(configuration_manager.configuration, "attenscribble"))
        return AttendedUNet(planned, options, configuration_manager.patch_size)

    @classmethod
    def options_from(cls, overrides: Mapping[str, Any]) -> AttenScribbleOptions:
        """The options of this class with those of a plans file on top."""
        return with_overrides(cls.options, overrides, "attenscribble")

    def initialize(self) -> None:
        if self.labels.ignore_label is None:
            raise InputError(
                f"{type(self).__name__} learns from scribbles, but data set {self.plans_manager.dataset_name} has no "
                'ignore label; add "ignore": N to the labels in dataset.json, where N is the highest label plus 1, '
                "and give it to every voxel that is not annotated."
            )
        settings = self.configuration_manager.configuration
        self.method = self.options_from(extension_settings(settings, "attenscribble"))
        window, downsample = crf_window(self.configuration_manager.spacing)
        self.crf = MaskedCRFLoss(
            window,
            exclusive=not self.labels.has_regions,
            downsample=downsample,
            offsets_per_step=self.method.offsets_per_step,
        )
        super().initialize()

    def build_aux(self) -> Mapping[str, nn.Module]:
        """The gate, the affinity head of every stage, and in side mode its queries and keys."""
        network = unwrap(self.network)
        assert isinstance(network, AttendedUNet)
        planned, stages = network.planned, network.stages
        self.windows = {str(s): similarity_window(planned, s, self.configuration_manager.spacing) for s in stages}
        aux: dict[str, nn.Module] = {"learned": Learned(self.labels.num_heads, self.method.wait)}
        aux |= {f"affinity_{stage}": AffinityHead(self.method.heads, self.method.published) for stage in stages}
        if self.method.attention == "side":
            for stage in stages:
                channels = planned.channels[stage]
                aux[f"projection_{stage}"] = QueriesAndKeys(channels, self.method.heads, self.method.head_dim)
        return aux

    def current_term_weights(self) -> Mapping[str, float]:
        """Both regularisers grow from 0; gate and mean similarity are logged with the terms and are none."""
        epochs = self.method.ramp * self.num_epochs
        ramp = min(1.0, self.current_epoch / epochs) if epochs > 0 else 1.0
        regularisers = {CRF: ramp * self.method.crf_weight, ASL: ramp * self.method.asl_weight}
        return {**regularisers, MEAN_SIMILARITY: 0.0, GATE: 0.0}

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        transforms = CommonTrainer.get_training_transforms(*args, **kwargs)
        return WithCleanImage(transforms) if self.method.crf_image == "clean" else transforms

    def network_input(self, data: Tensor) -> Tensor:
        """Without the clean image, which only the CRF loss sees."""
        return data[:, : -self.image_channels] if self.method.crf_image == "clean" else data

    def compute_terms(self, output: Any, data: Tensor, target: Tensor | list[Tensor]) -> dict[str, Tensor]:
        clean, channels = self.method.crf_image == "clean", self.image_channels
        image = data[:, -channels:] if clean else data[:, :channels]  # without the previous stage of a cascade
        logits, attended = output
        labels = finest(target)
        full = finest(logits)
        probabilities = full.float().sigmoid() if self.labels.has_regions else full.float().softmax(1)
        gate = self.aux["learned"](probabilities.detach(), self.labels.one_hot(labels))
        terms = {SEGMENTATION: self.loss(logits, target), GATE: gate}
        terms[CRF] = gate * self.crf(full, image, ~self.labels.annotated(labels))
        if attended:
            terms |= self.similarity_terms(probabilities, labels, attended)
            terms[ASL] = gate * terms[ASL]
        return terms

    def similarity_terms(self, probabilities: Tensor, target: Tensor, attended: dict[str, Any]) -> dict[str, Tensor]:
        """Attentive similarity loss, averaged over stages, and the mean similarity."""
        counts = several_classes(self.labels.presence(target))
        losses, means = [], []
        for stage, given in attended.items():
            projected = as_projected(given) if len(given) == 2 else self.aux[f"projection_{stage}"](given[0])
            similarity = self.aux[f"affinity_{stage}"](projected, self.windows[stage])
            p = pooled(probabilities, tuple(similarity.shape[2:]), self.method.published)
            losses.append(
                attentive_similarity_loss(
                    similarity,
                    p,
                    self.windows[stage],
                    counts,
                    exclusive=not self.labels.has_regions,
                    published=self.method.published,
                    gamma=self.method.gamma,
                )
            )
            means.append(similarity.detach().sigmoid().mean())
        return {ASL: torch.stack(losses).mean(), MEAN_SIMILARITY: torch.stack(means).mean()}


class nnUNetTrainerMaskedCRF(nnUNetTrainerAttenScribble):
    """The masked CRF loss alone; the network is stock nnU-Net's."""

    options: ClassVar[AttenScribbleOptions] = AttenScribbleOptions(attention="none")


class nnUNetTrainerSSA(nnUNetTrainerAttenScribble):
    """Spatial self-attention in the trunk with the partial loss alone: what attention does without its losses."""

    options: ClassVar[AttenScribbleOptions] = AttenScribbleOptions(attention="trunk", crf_weight=0.0, asl_weight=0.0)


class nnUNetTrainerAttenScribblePaper(nnUNetTrainerAttenScribble):
    """The published formulation: cross entropy on annotated pixels, both terms at once, attention in the trunk.

    nnU-Net's stay the planned backbone, its augmentation and its schedule. Options in the plans do not apply to it.
    """

    options: ClassVar[AttenScribbleOptions] = AttenScribbleOptions(
        attention="trunk", published=True, asl_weight=9.2, ramp=0.0, wait=0.0
    )

    hyperparameters: ClassVar[Mapping[str, Any]] = {"enable_deep_supervision": False, "weight_decay": 1e-4}

    @classmethod
    def options_from(cls, overrides: Mapping[str, Any]) -> AttenScribbleOptions:
        return cls.options

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
