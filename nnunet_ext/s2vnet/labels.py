"""Turns the logits of centres into those of labels, and of nnU-Net's heads.

Every centre belongs to a label, background included, so no matching is needed and a click knows its centre
(*inferred*).

* Labels: a label's logit is the log-sum-exp over its centres; a softmax over labels follows.
* Regions, which may overlap: ``g_r = logsumexp_{c in r} logit_c − logsumexp_{c not in r} logit_c``. Its sigmoid is the
  sum of the softmax over the labels of the region, exactly, so regions share the clustering of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_ext.errors import InputError


@dataclass(frozen=True)
class LabelHeads:
    """Assignment of centres to labels, and of labels to heads.

    Args:
        num_labels: L, background included, ignore label excluded.
        regions: label indices of each head; None if heads are the labels themselves.

    Raises:
        InputError: a region is empty, holds all labels, or one that is not there.
    """

    num_labels: int
    regions: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        for region in self.regions or ():
            inside = set(region)
            if not inside or not inside < set(range(self.num_labels)):
                raise InputError(
                    f"The region of labels {list(region)} does not split the {self.num_labels} labels of the data set "
                    "in two: give each region at least one label, and leave at least one out; correct dataset.json."
                )

    def owners(self, per_label: int, background: int) -> list[int]:
        """The label of each centre, with so many centres per label, and so many for label 0."""
        return [0] * background + [label for label in range(1, self.num_labels) for _ in range(per_label)]

    def label_logits(self, logits: Tensor, owners: Sequence[int]) -> Tensor:
        """``(B, N, *spatial)`` of centres → ``(B, L, *spatial)`` of labels."""
        if len(owners) == self.num_labels:
            return logits
        sizes = [list(owners).count(label) for label in range(self.num_labels)]
        return torch.stack([part.logsumexp(1) for part in logits.split(sizes, 1)], 1)

    def head_logits(self, label_logits: Tensor) -> Tensor:
        """``(B, L, *spatial)`` of labels → ``(B, heads, *spatial)``, what nnU-Net expects."""
        if self.regions is None:
            return label_logits
        heads = []
        for region in self.regions:
            outside = [label for label in range(self.num_labels) if label not in region]
            inside = label_logits[:, list(region)].logsumexp(1)
            heads.append(inside - label_logits[:, outside].logsumexp(1))
        return torch.stack(heads, 1)

    def label_map(self, target: Tensor, annotated: Tensor) -> Tensor:
        """The labels in a target; −1 where nothing is annotated.

        Labels that no region tells apart become the first of them.

        Args:
            target: of nnU-Net's loader, ``(B, 1, *spatial)`` labels or ``(B, R, *spatial)`` regions.
            annotated: ``(B, 1, *spatial)`` bool.

        Returns:
            ``(B, *spatial)`` int64.
        """
        if self.regions is None:
            labels = target[:, 0].long()
        else:
            signatures = torch.tensor(
                [[label in region for region in self.regions] for label in range(self.num_labels)],
                device=target.device,
            )
            heads = target[:, : len(self.regions)].bool()
            shape = (1, self.num_labels, len(self.regions), *[1] * (heads.ndim - 2))
            labels = (heads[:, None] == signatures.view(shape)).sum(2).argmax(1)
        return labels.masked_fill(~annotated[:, 0], -1)
