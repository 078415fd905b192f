"""Trainers for data sets in which some cases carry a segmentation, others landmarks, and perhaps some both.

One network predicts both, and every batch holds both kinds of cases. The segmentation learns from nnU-Net's own loss
where something is annotated, the landmarks from their heatmaps where they are known. The bridge covers the rest: a
landmark pulls the boundary of an organ that nobody drew in this case (direction A), and a drawn boundary pulls the
heatmap of a landmark that nobody placed (direction B). Where nothing is drawn, an average of the network may also teach
it (self-training).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor, nn

from nnunet_ext.babloss.loss import BridgeLoss
from nnunet_ext.babloss.network import LandmarkUNet
from nnunet_ext.babloss.options import BaBLossOptions
from nnunet_ext.babloss.published import published_bridge
from nnunet_ext.babloss.self_trainer import SelfTraining
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.heatmaps import HeatmapLoss, PaperHeatmapLoss, PlaceLoss, heatmaps
from nnunet_ext.landmarks.mirroring import Mirroring
from nnunet_ext.landmarks.points import State
from nnunet_ext.landmarks.training.data import SECTION
from nnunet_ext.landmarks.training.validation import LandmarkValidation
from nnunet_ext.nnunet.labels import finest
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.partial_cross_entropy import PartialCrossEntropy
from nnunet_ext.nnunet.plans import extension_settings
from nnunet_ext.nnunet.trainer import INSIDE, Batch
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.partial_labels.declaration import annotated_labels, keys_like_ours
from nnunet_ext.partial_labels.trainer import PartialLabels

HEATMAP, PLACE, BRIDGE_A, BRIDGE_B = "heatmap", "place", "bridge_a", "bridge_b"
PAIRS_A, PAIRS_B = "pairs_a", "pairs_b"
"""Statistics: how many pairs of landmark and organ took part in each direction."""


class LandmarkTrainer(LandmarkValidation):
    """Base of the trainers with landmarks: the network, and the terms of both heads and of the bridge."""

    methods: ClassVar[tuple[type[MethodOptions], ...]] = (BaBLossOptions,)
    heatmap_loss_class: ClassVar[type[nn.Module]] = HeatmapLoss

    @classmethod
    def attach(cls, network: nn.Module, settings: Mapping[str, Any], options: SimpleNamespace) -> nn.Module:
        """Put a landmark decoder beside the planned one."""
        count, own = len(extension_settings(settings, SECTION)["names"]), options.babloss
        return LandmarkUNet(PlannedUNet(network), count, own.heatmap_stage, own.encoder_gradient)

    def to_remember(
        self, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
    ) -> dict[str, Mapping[str, Any]]:
        known = super().to_remember(plans, configuration, dataset_json)
        options = self.options.babloss
        if (options.a_weight or options.b_weight) and not self.landmark_declaration.surface_of:
            hint = keys_like_ours(dataset_json)
            raise InputError(
                f"{type(self).__name__} lets landmarks and surfaces of organs teach each other, but dataset.json of "
                f"{plans['dataset_name']} names no landmark that lies on an organ{hint and f' ({hint})'}; add to its "
                '"landmarks" for example "surface_of": {"tip": ["liver"]}, or train with nnUNetTrainerLandmark, which '
                "needs none."
            )
        return known

    @property
    def shares(self) -> Mapping[str, float]:
        return {name: getattr(self.options.babloss, name) for name in ("segmented_share", "landmark_share")}

    def landmark_settings(self, mirroring: Mirroring) -> dict[str, Any]:
        options = self.options.babloss
        widths = {"heatmap_sigma": options.heatmap_sigma, "surface_sigma": options.surface_sigma or None}
        return {**super().landmark_settings(mirroring), **widths}

    def initialize(self) -> None:
        options, spacing, regions = self.options.babloss, self.configuration_manager.spacing, self.labels.has_regions
        self.heatmap_width, self.heatmap_mm = options.heatmap_width(spacing), options.heatmap_mm(spacing)
        self.heatmap_loss = self.heatmap_loss_class(self.heatmap_width, target=options.heatmap_target)
        self.place_loss = PlaceLoss(self.heatmap_width, options.heatmap_target)
        self.bridge = BridgeLoss(self.organs_of_landmarks(), spacing, exclusive=not regions, **options.of_the_bridge())
        super().initialize()

    def option_weights(self) -> Mapping[str, float]:
        """The bridge waits until there are predictions, then grows."""
        options = self.options.babloss
        ramp = options.ramp(self.current_epoch, self.num_epochs)
        bridge = {BRIDGE_A: ramp * options.a_weight, BRIDGE_B: ramp * options.b_weight}
        return {**super().option_weights(), HEATMAP: options.heatmap_weight, PLACE: options.place_weight, **bridge}

    def compute_terms(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        logits, landmark_logits = output
        across = batch["landmark_across"] / self.heatmap_mm
        known = (landmark_logits, batch["landmarks"], batch["landmark_states"], across)
        terms = {**super().compute_terms(logits, batch), HEATMAP: self.heatmap_loss(*known)}
        if self.options.babloss.place_weight:
            terms[PLACE] = self.place_loss(*known)
        return terms | self.bridge_terms(finest(logits), landmark_logits, batch)

    def bridge_terms(self, logits: Tensor, landmark_logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the directions that this trainer has."""
        options, states, target = self.options.babloss, batch["landmark_states"], finest(batch["target"])
        drawn, inside = self.drawn(batch), batch.get(INSIDE)
        terms: dict[str, Tensor] = {}
        if options.a_weight:
            nobody = self.bridge.organs_with(~drawn)
            a = self.bridge.landmark_pulls_boundary(logits, batch["landmarks"], states, nobody, inside)
            terms[BRIDGE_A] = a.loss
            self.record(PAIRS_A, a.active)
        if options.b_weight:
            labels, annotated = self.labels.one_hot(target), self.labels.annotated(target)
            use = self.bridge.organs_with(drawn)
            b = self.bridge.boundary_pulls_landmark(landmark_logits, labels, annotated, states, use, inside)
            terms[BRIDGE_B] = b.loss
            self.record(PAIRS_B, b.active)
        return terms

    def drawn(self, batch: Batch) -> Tensor:
        """``(B, heads)`` bool: labels that somebody looked for in this case, also if they are not there."""
        return batch["segmented"][:, None].expand(-1, self.labels.num_heads)


class nnUNetTrainerBaBLoss(SelfTraining, LandmarkTrainer, PartialLabels):
    """Segmentation and landmarks in one network, with both directions of the bridge."""

    needs_annotated_labels: ClassVar[bool] = False

    def annotated_heads_of(self, batch: Batch) -> Tensor:
        """A sample in which nothing is drawn does not count in the mean of Dice; nnU-Net counts it as perfect."""
        annotated = super().annotated_heads_of(batch)
        return annotated & batch["segmented"][:, None].to(annotated.device)

    def drawn(self, batch: Batch) -> Tensor:
        return batch["annotated"].to(self.device)


class nnUNetTrainerLandmark(nnUNetTrainerBaBLoss):
    """Segmentation and landmarks in one network, without the bridge."""

    fixed_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"babloss": {"a_weight": 0.0, "b_weight": 0.0}}


class nnUNetTrainerBaBLossPaper(LandmarkTrainer):
    """The published arithmetic, with both sides of each term on the same image.

    The planned network, patches and augmentation stay nnU-Net's; the published code resizes volumes to 128³ and does
    not augment. All else is published: :mod:`nnunet_ext.babloss.published`, heatmaps up to 255, cross entropy, Adam.
    """

    published: ClassVar[bool] = True
    heatmap_loss_class: ClassVar[type[nn.Module]] = PaperHeatmapLoss
    landmark_scale: ClassVar[float | None] = PaperHeatmapLoss.SCALE
    hyperparameters: ClassVar[Mapping[str, Any]] = {"enable_deep_supervision": False, "initial_lr": 5e-4}

    def build_optimizer(self, aux_parameters: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, Any]:
        """Adam with a constant learning rate: the published code never calls its scheduler."""
        optimizer = torch.optim.Adam([*self.network.parameters(), *aux_parameters], self.initial_lr)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, exponent=0.0)

    def on_train_start(self) -> None:
        super().on_train_start()
        if unread := keys_like_ours(self.dataset_json):
            self.print_to_log_file(f"WARNING: of the keys of dataset.json {unread}")
        if annotated_labels(self.dataset_json):
            self.print_to_log_file("WARNING: annotated_labels is not read, so organs that nobody drew are background")

    def _build_loss(self) -> nn.Module:
        if self.labels.has_regions:
            raise InputError(f"{type(self).__name__} is published for classes; use nnUNetTrainerBaBLoss.")
        return PartialCrossEntropy(-1 if self.labels.ignore_label is None else self.labels.ignore_label)

    def bridge_terms(self, logits: Tensor, landmark_logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        drawn, states, target = self.drawn(batch)[:, :1], batch["landmark_states"], finest(batch["target"])
        a, b = published_bridge(
            logits.float(),
            landmark_logits.float() / PaperHeatmapLoss.SCALE,
            heatmaps(batch["landmarks"], states, target.shape[2:], self.heatmap_width),
            self.labels.one_hot(target),
            known=(states == State.PRESENT) & ~drawn,
            unknown=(states == State.UNKNOWN) & drawn,
            organs=self.bridge.organs,
            n=self.options.babloss.levels,
        )
        return {BRIDGE_A: a, BRIDGE_B: b}
