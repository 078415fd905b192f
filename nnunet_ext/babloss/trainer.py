"""Trainers for data sets in which some cases carry a segmentation, others landmarks, and perhaps some both.

One network predicts both, and every batch holds both kinds of cases. The segmentation learns from nnU-Net's own loss
where something is annotated, the landmarks from their heatmaps where they are known. The bridge is for the rest: a
landmark pulls the boundary of an organ that nobody drew in this case (direction A), and a drawn boundary pulls the
heatmap of a landmark that nobody placed (direction B).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor, nn

from nnunet_ext.babloss.loss import BridgeLoss
from nnunet_ext.babloss.network import LandmarkUNet
from nnunet_ext.babloss.options import BaBLossOptions
from nnunet_ext.babloss.published import published_bridge
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.heatmaps import HeatmapLoss, PaperHeatmapLoss, heatmaps
from nnunet_ext.landmarks.points import State
from nnunet_ext.landmarks.training.data import SECTION, LandmarkData
from nnunet_ext.landmarks.training.validation import LandmarkValidation
from nnunet_ext.nnunet.outputs import finest
from nnunet_ext.nnunet.partial_cross_entropy import PartialCrossEntropy
from nnunet_ext.nnunet.plans import extension_settings, with_overrides
from nnunet_ext.nnunet.trainer import SEGMENTATION, CommonTrainer
from nnunet_ext.partial_labels.cases import AnnotatedHeads
from nnunet_ext.partial_labels.trainer import PartialLabels

HEATMAP, BRIDGE_A, BRIDGE_B = "heatmap", "bridge_a", "bridge_b"
PAIRS_A, PAIRS_B = "pairs_a", "pairs_b"


class LandmarkTrainer(LandmarkValidation, LandmarkData, CommonTrainer):
    """What all trainers here have in common: the network, and the terms of both heads and of the bridge."""

    options: ClassVar[BaBLossOptions] = BaBLossOptions()
    heatmap_loss_class: ClassVar[type[nn.Module]] = HeatmapLoss

    @classmethod
    def options_from(cls, overrides: Mapping[str, Any]) -> BaBLossOptions:
        """The options of this class with those of a plans file on top."""
        return with_overrides(cls.options, overrides, "babloss")

    @classmethod
    def build_network_architecture(
        cls, plans_manager: Any, configuration_manager: Any, *args: Any, **kwargs: Any
    ) -> nn.Module:
        """The planned network with a landmark decoder; nnU-Net calls this for training and for inference."""
        settings = configuration_manager.configuration
        options = cls.options_from(extension_settings(settings, "babloss"))
        planned = cls.planned_unet(plans_manager, configuration_manager, *args, **kwargs)
        return LandmarkUNet(planned, len(extension_settings(settings, SECTION)["names"]), options.heatmap_stage)

    def initialize(self) -> None:
        self.method = self.options_from(extension_settings(self.configuration_manager.configuration, "babloss"))
        spacing = self.configuration_manager.spacing
        self.heatmap_sigma = [self.method.heatmap_sigma * min(spacing) / mm for mm in spacing]
        self.heatmap_loss = self.heatmap_loss_class(self.heatmap_sigma)
        options = {**self.method.of_the_bridge(), "exclusive": not self.labels.has_regions}
        self.bridge = BridgeLoss(self.organs_of_landmarks(), spacing, **options)
        super().initialize()

    def organs_of_landmarks(self) -> list[list[tuple[int, ...]]]:
        """For each landmark, the output channels of each organ on whose surface it lies."""
        heads = AnnotatedHeads.from_dataset_json(self.dataset_json, has_regions=self.labels.has_regions).names
        declared = self.landmark_declaration
        return [[(heads.index(organ),) for organ in declared.surface_of.get(name, ())] for name in declared.names]

    def current_term_weights(self) -> Mapping[str, float]:
        """The bridge waits until there are predictions, then grows; numbers of pairs are logged and are no terms."""
        ramp = self.method.ramp(self.current_epoch, self.num_epochs)
        bridge = {BRIDGE_A: ramp * self.method.a_weight, BRIDGE_B: ramp * self.method.b_weight}
        return {HEATMAP: self.method.heatmap_weight, **bridge, PAIRS_A: 0.0, PAIRS_B: 0.0}

    def train_step(self, batch: dict) -> dict:
        keys = ("landmarks", "landmark_states", "segmented")
        self.points, self.states, self.segmented = (batch[k].to(self.device, non_blocking=True) for k in keys)
        return super().train_step(batch)

    def compute_terms(self, output: Any, data: Tensor, target: Tensor | list[Tensor]) -> dict[str, Tensor]:
        logits, landmark_logits = output
        heatmap = self.heatmap_loss(landmark_logits, self.points, self.states)
        terms = {SEGMENTATION: self.loss(logits, target), HEATMAP: heatmap}
        return terms | self.bridge_terms(finest(logits), landmark_logits, finest(target))

    def bridge_terms(self, logits: Tensor, landmark_logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The directions that this trainer has, and how many pairs of landmark and organ took part in each."""
        drawn = self.drawn()
        organs = [[channel for organ in of_landmark for channel in organ] for of_landmark in self.bridge.organs]
        terms: dict[str, Tensor] = {}
        if self.method.a_weight:
            nobody = torch.stack([~drawn[:, channels].any(1) for channels in organs], 1)
            a = self.bridge.landmark_pulls_boundary(logits, self.points, self.states, nobody)
            terms |= {BRIDGE_A: a.loss, PAIRS_A: a.active.float()}
        if self.method.b_weight:
            every = torch.stack([drawn[:, channels].all(1) for channels in organs], 1)
            labels, annotated = self.labels.one_hot(target), self.labels.annotated(target)
            b = self.bridge.boundary_pulls_landmark(landmark_logits, labels, annotated, self.states, every)
            terms |= {BRIDGE_B: b.loss, PAIRS_B: b.active.float()}
        return terms

    def drawn(self) -> Tensor:
        """``(B, heads)`` bool: which labels somebody drew in this case, if only to say that they are not there."""
        return self.segmented[:, None].expand(-1, self.labels.num_heads)


class nnUNetTrainerLandmark(LandmarkTrainer, PartialLabels):
    """Segmentation and landmarks in one network, without the bridge."""

    needs_annotated_labels: ClassVar[bool] = False
    options: ClassVar[BaBLossOptions] = BaBLossOptions(a_weight=0.0, b_weight=0.0)

    @contextmanager
    def annotated_in(self, batch: dict) -> Iterator[Tensor]:
        """A sample in which nothing is drawn leaves the mean of Dice; nnU-Net counts it as perfect, and learns less."""
        with super().annotated_in(batch) as annotated:
            annotated &= batch["segmented"][:, None]
            yield annotated

    def drawn(self) -> Tensor:
        assert self.partial_loss.annotated is not None
        return self.partial_loss.annotated.to(self.device)


class nnUNetTrainerBaBLoss(nnUNetTrainerLandmark):
    """Both directions of the bridge."""

    options: ClassVar[BaBLossOptions] = BaBLossOptions()


class nnUNetTrainerBaBLossPaper(LandmarkTrainer):
    """The published arithmetic, with both sides of each term on the same image. Options in the plans do not apply.

    nnU-Net's stay the planned network, its patches and its augmentation; the published one resizes volumes to 128³ and
    has none. The rest of :mod:`nnunet_ext.babloss.published`, heatmaps that reach 255, cross entropy, Adam.
    """

    options: ClassVar[BaBLossOptions] = BaBLossOptions.published()
    heatmap_loss_class: ClassVar[type[nn.Module]] = PaperHeatmapLoss
    landmark_scale: ClassVar[float | None] = PaperHeatmapLoss.SCALE
    hyperparameters: ClassVar[Mapping[str, Any]] = {"enable_deep_supervision": False, "initial_lr": 5e-4}

    @classmethod
    def options_from(cls, overrides: Mapping[str, Any]) -> BaBLossOptions:
        return cls.options

    def build_optimizer(self, aux_parameters: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, Any]:
        """Adam with a constant learning rate: the published code never calls its scheduler."""
        optimizer = torch.optim.Adam([*self.network.parameters(), *aux_parameters], self.initial_lr)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, exponent=0.0)

    def _build_loss(self) -> nn.Module:
        if self.labels.has_regions:
            raise InputError(f"{type(self).__name__} is published for classes; use nnUNetTrainerBaBLoss.")
        return PartialCrossEntropy(-1 if self.labels.ignore_label is None else self.labels.ignore_label)

    def bridge_terms(self, logits: Tensor, landmark_logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        drawn = self.drawn()[:, :1]
        a, b = published_bridge(
            logits.float(),
            landmark_logits.float() / PaperHeatmapLoss.SCALE,
            heatmaps(self.points, self.states, target.shape[2:], self.heatmap_sigma),
            self.labels.one_hot(target),
            known=(self.states == State.PRESENT) & ~drawn,
            unknown=(self.states == State.UNKNOWN) & drawn,
            organs=self.bridge.organs,
            n=self.method.levels,
        )
        return {BRIDGE_A: a, BRIDGE_B: b}
