"""Cross entropy on annotated voxels only: the supervised term of publications without a Dice loss.

nnU-Net's own loss adds Dice on annotated voxels and deep supervision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PartialCrossEntropy(nn.Module):
    """Cross entropy averaged over annotated voxels; 0 without any."""

    def __init__(self, ignore_label: int) -> None:
        super().__init__()
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """``logits``: ``(B, K, *spatial)``, ``target``: ``(B, 1, *spatial)``."""
        labels = target[:, 0].long()
        annotated = torch.ne(labels, self.ignore_label)
        losses = nn.functional.cross_entropy(logits, labels * annotated, reduction="none")
        return (losses * annotated).sum() / annotated.sum().clamp(min=1)
