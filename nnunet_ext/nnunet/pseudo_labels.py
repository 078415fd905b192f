"""Pseudo-labels: on unlabelled voxels, the network learns the confident predictions of an average of itself.

The teacher is a moving average of the network (:mod:`nnunet_ext.nnunet.teacher`). It sees the image without intensity
augmentation, the network the augmented one. Where the teacher's probability for a class reaches a threshold, that class
is the label, on unlabelled voxels inside of the image only; all other voxels do not count::

    L = mean CE  +  1 − mean over foreground classes of (2 Σ p y + s) / (Σ p + Σ y + s)

y: the pseudo-label; sums over these voxels of the batch; foreground classes that occur in y. Without any L is 0.

After Luo et al., *Scribble-Supervised Medical Image Segmentation via Dual-Branch Network and Dynamically Mixed Pseudo
Labels Supervision*, MICCAI 2022 (DMPLS). Deviations, each with its reason:

* *One averaged network instead of a mixture of two decoders*: the trained network stays the planned one.
* *A threshold.* Their labels count everywhere; early in a training most of them are wrong.
* *Cross entropy beside Dice*, as in nnU-Net's own loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.averaged_network import AveragedNetwork
from nnunet_ext.nnunet.clean_image import CLEAN_IMAGE, CleanImage
from nnunet_ext.nnunet.labels import finest_logits
from nnunet_ext.nnunet.options import PseudoLabelOptions
from nnunet_ext.nnunet.padding import UnannotatedPadding
from nnunet_ext.nnunet.trainer import Batch

PSEUDO = "pseudo_labels"
"""Name of the loss term, and entry of batches: labels, and where they count."""
SHARE = "pseudo_share"
"""Statistic: voxels with a pseudo-label as a share of the unlabelled ones."""

SMOOTH = 1e-5
"""s, as in nnU-Net's Dice loss."""


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
        with self.precision.autocast():
            logits = finest_logits(self.average()(image))
        unlabelled = self.unlabelled_voxels(batch)
        exclusive = not self.labels.has_regions
        labels, use = pseudo_labels(self.labels.probabilities(logits), unlabelled, confidence, exclusive=exclusive)
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


@torch.no_grad()
def pseudo_labels(
    probabilities: Tensor, unlabelled: Tensor, confidence: float, *, exclusive: bool
) -> tuple[Tensor, Tensor]:
    """Labels by the teacher, ``(B, K, *spatial)`` of 0 and 1, and where they count, bool of the same shape.

    Args:
        probabilities: ``(B, K, *spatial)``, the teacher's.
        unlabelled: ``(B, 1, *spatial)`` bool.
        confidence: probability of the label from which on it counts.
        exclusive: classes, of which all count or none; each region counts by itself, inside and outside.
    """
    if exclusive:
        highest, best = probabilities.max(1)
        labels = one_hot(best, probabilities.shape[1]).movedim(-1, 1)
        certain = (highest >= confidence)[:, None].expand_as(labels)
    else:
        labels = probabilities > 0.5
        certain = torch.maximum(probabilities, 1 - probabilities) >= confidence
    return labels.to(probabilities.dtype), certain & unlabelled


def pseudo_label_loss(logits: Tensor, labels: Tensor, use: Tensor, *, exclusive: bool) -> Tensor:
    """The loss of the module, a scalar in float32 or wider; 0 with a gradient of 0 where no label counts.

    Args:
        logits: ``(B, K, *spatial)``.
        labels: of :func:`pseudo_labels`.
        use: where they count, of :func:`pseudo_labels`.
        exclusive: classes or regions.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        y, counted = labels.to(logits.dtype), use.to(logits.dtype)
        if exclusive:
            probabilities, entropy = logits.softmax(1), -logits.log_softmax(1) * y
            voxels = counted[:, 0].sum()
        else:
            probabilities = logits.sigmoid()
            entropy = binary_cross_entropy_with_logits(logits, y, reduction="none")
            voxels = counted.sum()
        space = (0, *range(2, logits.ndim))
        both, predicted, labelled = (
            (x * counted).sum(space)[int(exclusive) :] for x in (probabilities * y, probabilities, y)
        )
        occurs = (labelled > 0).to(logits.dtype)
        dice = (2 * both + SMOOTH) / (predicted + labelled + SMOOTH)
        # a weighted mean that is 0 where no class occurs
        overlap = (occurs * (1 - dice)).sum() / occurs.sum().clamp(min=1)
        return (entropy * counted).sum() / voxels.clamp(min=1) + overlap
