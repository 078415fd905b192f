"""One view of nnU-Net's three kinds of target: classes, regions, and either of them with an ignore label.

=================  ==================================================  =======================================
data set           target of nnU-Net's loader, ``(B, C, *spatial)``    heads of the network
=================  ==================================================  =======================================
classes            ``C = 1``, int16 label values                       one per class, background first
regions            ``C = R``, bool, regions may overlap                one per region, no background
+ ignore label     classes: the value ``ignore_label``;                none
                   regions: one more channel, last, True = ignore
=================  ==================================================  =======================================

Outputs of the networks of this package; extras are whatever a loss term of a method needs:

============================  =====================  ====================================
network                       deep supervision       none
============================  =====================  ====================================
nnU-Net's, and all in eval    list, finest first     ``(B, K, *spatial)``
with extras, in training      ``(list, extras)``     ``((B, K, *spatial), extras)``
============================  =====================  ====================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nnunet_ext.data.label_definitions import declared_labels


@dataclass(frozen=True)
class LabelView:
    """Reads targets of one data set.

    Args:
        num_heads: output channels of the network, ``K``.
        has_regions: heads are overlapping regions (sigmoid), not classes (softmax).
        ignore_label: value of the ignore label, or None.
    """

    num_heads: int
    has_regions: bool
    ignore_label: int | None = None

    @classmethod
    def from_label_manager(cls, label_manager: Any) -> LabelView:
        """The view of a data set from nnU-Net's ``LabelManager``."""
        return cls(label_manager.num_segmentation_heads, label_manager.has_regions, label_manager.ignore_label)

    def annotated(self, target: Tensor) -> Tensor:
        """``(B, 1, *spatial)`` bool: True where the target says something, False where it says "ignore"."""
        if self.ignore_label is None:
            return torch.ones_like(target[:, :1], dtype=torch.bool)
        if self.has_regions:
            return ~target[:, -1:].bool()
        return target != self.ignore_label

    def one_hot(self, target: Tensor) -> Tensor:
        """``(B, K, *spatial)`` float32; at ignored voxels every channel is 0, so they carry no weight anywhere."""
        if self.has_regions:
            return (target[:, : self.num_heads].bool() & self.annotated(target)).float()
        classes = torch.arange(self.num_heads, device=target.device).view(1, -1, *[1] * (target.ndim - 2))
        return (target == classes).float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(B, K, *spatial)`` of classes or regions, in single precision or wider."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.sigmoid() if self.has_regions else logits.softmax(1)

    @staticmethod
    def heads_of(names: Sequence[str], labels: Mapping[str, Any]) -> list[int]:
        """Return the heads of these labels or regions.

        Args:
            names: keys of ``labels``.
            labels: entry ``labels`` of ``dataset.json``.
        """
        heads = LabelView.head_names(labels)
        return [heads.index(name) for name in names]

    @staticmethod
    def head_names(labels: Mapping[str, Any]) -> list[str]:
        """Return the names of the heads, in their order: the classes, background first, or the regions.

        Args:
            labels: entry ``labels`` of ``dataset.json``.
        """
        own = {name: value for name, value in declared_labels({"labels": labels}).items() if name != "ignore"}
        if any(isinstance(value, tuple) for value in own.values()):
            return [name for name, value in own.items() if value not in (0, (0,))]
        return sorted(own, key=own.__getitem__)

    def resize(self, target: Tensor, size: Sequence[int]) -> Tensor:
        """The target at another resolution, nearest neighbour as nnU-Net's deep supervision does it.

        Labels are resized *before* they become one-hot: averaging one-hot maps would blend ignored voxels into classes.
        """
        if tuple(target.shape[2:]) == tuple(size):
            return target
        return interpolate(target.float(), tuple(size), mode="nearest-exact").to(target.dtype)


def finest(pyramid: Tensor | list[Tensor]) -> Tensor:
    """The first of a list of logits or targets, which is full resolution; a tensor as it is.

    Not ``pyramid[0]``: without deep supervision that is the first *sample* of the batch.
    """
    return pyramid[0] if isinstance(pyramid, list) else pyramid


def finest_logits(output: Any) -> Tensor:
    """``(B, K, *spatial)``: the full-resolution logits in what a network returned."""
    return finest(output[0] if isinstance(output, tuple) else output)
