"""Trainers with pseudo-labels: on unlabelled voxels, the network learns what an average of itself is sure of.

The teacher is a moving average of the network (:mod:`nnunet_ext.nnunet.teacher`). It sees the image without intensity
augmentation, the network the augmented one. Voxels outside of the image get no label.

Labels and loss are those of :mod:`nnunet_ext.nnunet.pseudo_labels`, after DMPLS. Another deviation from that: one
averaged network instead of a mixture of two decoders, so the trained network stays the planned one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.averaged_network import AveragedNetwork
from nnunet_ext.nnunet.clean_image import CLEAN_IMAGE, CleanImage
from nnunet_ext.nnunet.labels import finest_logits
from nnunet_ext.nnunet.options import PseudoLabelOptions
from nnunet_ext.nnunet.padding import UnannotatedPadding
from nnunet_ext.nnunet.pseudo_labels import pseudo_label_loss, pseudo_labels
from nnunet_ext.nnunet.trainer import Batch

PSEUDO = "pseudo_labels"
"""Name of the loss term, and entry of batches: labels, and where they count."""
SHARE = "pseudo_share"
"""Statistic: voxels with a pseudo-label as a share of the unlabelled ones."""


class PseudoLabels(CleanImage, UnannotatedPadding, AveragedNetwork):
    """A trainer that may have a term on pseudo-labels, which are made only in steps in which it has a weight."""

    @property
    def pseudo_options(self) -> PseudoLabelOptions:
        """Those of the method; by default there are no pseudo-labels."""
        return PseudoLabelOptions()

    def initialize(self) -> None:
        if self.pseudo_options.pseudo_weight > 0 and self.labels.ignore_label is None:
            raise InputError(
                f"{type(self).__name__} has pseudo_weight = {self.pseudo_options.pseudo_weight:g}, but dataset.json of "
                f"{self.plans_manager.dataset_name} declares no ignore label, so every voxel has a label and no "
                "pseudo-label would count; set pseudo_weight to 0."
            )
        super().initialize()

    @property
    def average_momentum(self) -> float | None:
        return self.pseudo_options.pseudo_momentum if self.pseudo_options.pseudo_weight > 0 else None

    @property
    def has_clean_image(self) -> bool:
        return super().has_clean_image or self.pseudo_options.pseudo_weight > 0

    def prepare_batch(self, batch: Batch) -> Batch:
        batch = super().prepare_batch(batch)
        if self.pseudo_options.pseudo_weight > 0 and self.term_weight(PSEUDO) > 0:
            batch[PSEUDO] = self._taught(batch, self.pseudo_options.pseudo_confidence)
        return batch

    def _taught(self, batch: Batch, confidence: float) -> tuple[Tensor, Tensor]:
        # of a cascade the previous stage stays
        image = torch.cat([batch[CLEAN_IMAGE], batch["data"][:, self.image_channels :]], 1)
        unlabelled = self.unlabelled_voxels(batch)
        # a segmented sample has nothing to be taught, which spares the teacher most of a batch of BaBLoss
        samples = unlabelled.flatten(1).any(1)
        shape = len(image), self.label_manager.num_segmentation_heads, *image.shape[2:]
        labels, use = image.new_zeros(shape), torch.zeros(shape, dtype=torch.bool, device=image.device)
        if samples.any():
            with self.precision.autocast():
                logits = finest_logits(self.average()(image[samples]))
            labels[samples], use[samples] = pseudo_labels(
                self.labels.probabilities(logits).to(labels.dtype),
                unlabelled[samples],
                confidence,
                exclusive=not self.labels.has_regions,
            )
        self.record(SHARE, use.sum() / unlabelled.expand_as(use).sum().clamp(min=1))
        return labels, use

    def pseudo_term(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the term on pseudo-labels, 0 in steps without, or no term if there never are any.

        Args:
            logits: ``(B, K, *spatial)``.
            batch: see :data:`~nnunet_ext.nnunet.trainer.Batch`.
        """
        if self.pseudo_options.pseudo_weight == 0:
            return {}
        nothing = torch.zeros_like(logits), torch.zeros_like(logits, dtype=torch.bool)
        labels, use = batch.get(PSEUDO, nothing)
        return {PSEUDO: pseudo_label_loss(logits, labels, use, exclusive=not self.labels.has_regions)}
