"""Pseudo-labels: confident predictions of a teacher as labels, and the loss on them.

Where the teacher's probability for a class reaches a threshold, that class is the label, on unlabelled voxels only; all
other voxels do not count::

    L = mean CE  +  1 − mean over foreground classes of (2 Σ p y + s) / (Σ p + Σ y + s)

y: the pseudo-label; sums over these voxels of the batch; foreground classes that occur in y. Without any L is 0.

After Luo et al., *Scribble-Supervised Medical Image Segmentation via Dual-Branch Network and Dynamically Mixed Pseudo
Labels Supervision*, MICCAI 2022 (DMPLS). Deviations of the loss, each with its reason (the teacher is a matter of the
trainers, :mod:`nnunet_ext.nnunet.pseudo_label_training`):

* *A threshold.* Their labels count everywhere; early in a training most of them are wrong.
* *Cross entropy beside Dice*, as in nnU-Net's own loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

SMOOTH = 1e-5
"""s, as in nnU-Net's Dice loss."""


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
