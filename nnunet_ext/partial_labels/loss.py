"""nnU-Net's segmentation loss for batches whose samples have different annotated labels.

*Classes* (softmax): in a sample in which only some organs were annotated, "background" means "none of these". Its
probability is therefore that of the background plus those of all organs that nobody looked for (the marginal loss of
Shi et al., *Marginal loss and exclusion loss for partially supervised multi-organ segmentation*, MedIA 2021)::

    q_0 = p_0 + Σ_{k not annotated} p_k,   q_k = p_k for annotated k
    CE   = mean over voxels of −log q_label
    Dice = mean over pairs (sample, annotated organ) of (2 Σ q y + s) / (Σ q + Σ y + s)

Neither term depends on how the network divides q_0 among its parts.

*Regions* (sigmoid) are heads of their own: binary cross entropy and Dice over the annotated ones of each sample.

With everything annotated this is nnU-Net's own loss: its sums, smoothing, per sample or over the batch (and over the
processes), ignored voxels left out. A pair that is not annotated does not count in the mean, instead of counting as
perfect. Deviation from Shi et al.: their exclusion loss is left out, because classes of one softmax exclude each other
already.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from nnunet_ext.nnunet.labels import LabelView


class PartialLabelsLoss(nn.Module):
    """Drop-in for ``DC_and_CE_loss`` (classes) and ``DC_and_BCE_loss`` (regions), alone or under deep supervision.

    Args:
        labels: reads the targets.
        batch_dice: Dice over the batch instead of per sample.
        smooth: of the Dice.
        do_bg: include the background in the Dice (classes).
        over_processes: sum of a tensor over the processes of a distributed training, with a gradient; needed where
            ``batch_dice`` is, as in nnU-Net.

    ``annotated`` is set before every call: ``(B, K)`` bool, which heads were annotated in each sample, on the CPU (no
    synchronisation); None: all. A sample without any, not even the background, does not count.
    """

    annotated: Tensor | None

    def __init__(
        self,
        labels: LabelView,
        *,
        batch_dice: bool,
        smooth: float = 1e-5,
        do_bg: bool = False,
        over_processes: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.labels = labels
        self.batch_dice = batch_dice
        self.smooth = smooth
        self.do_bg = do_bg or labels.has_regions
        self.over_processes = over_processes
        self.annotated = None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """A scalar, in float32.

        Args:
            logits: ``(B, K, *spatial)``.
            target: ``(B, 1 or R, *spatial)``, as nnU-Net's loader gives it.
        """
        annotated = torch.ones(logits.shape[:2], dtype=torch.bool) if self.annotated is None else self.annotated
        if annotated.shape != logits.shape[:2]:
            raise ValueError(f"annotated is {tuple(annotated.shape)}, but the logits are {tuple(logits.shape)}")
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            logits = only_annotated_logits(logits, annotated, self.labels)
            target = only_annotated_target(target, annotated, self.labels)
            # where not even the background was annotated, it is only what nnU-Net pads patches with
            valid = self.labels.annotated(target) & _as_channels(annotated.any(1, keepdim=True), target)
            annotated = annotated.to(logits.device)
            if self.labels.has_regions:
                probabilities = logits.sigmoid()
                entropy = self._binary_cross_entropy(logits, target, valid, annotated)
            else:
                probabilities = logits.softmax(1)
                entropy = self._cross_entropy(logits, target, valid)
            return entropy + self._dice(probabilities, self.labels.one_hot(target), valid, annotated)

    def _cross_entropy(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        losses = cross_entropy(logits, (target * valid)[:, 0].long(), reduction="none")
        return (losses * valid[:, 0]).sum() / valid.sum().clamp(min=1)

    def _binary_cross_entropy(self, logits: Tensor, target: Tensor, valid: Tensor, annotated: Tensor) -> Tensor:
        regions = target[:, : self.labels.num_heads].to(logits.dtype)
        counted = valid & _as_channels(annotated, logits)
        losses = binary_cross_entropy_with_logits(logits, regions, reduction="none")
        # nnU-Net's mean over voxels and regions becomes a sum over regions where there is an ignore label
        scale = 1 if self.labels.ignore_label is None else self.labels.num_heads
        return scale * (losses * counted).sum() / counted.sum().clamp(min=1)

    def _dice(self, probabilities: Tensor, one_hot: Tensor, valid: Tensor, annotated: Tensor) -> Tensor:
        """Minus the soft Dice, the mean over pairs (sample, head) that were annotated; 0 if there are none."""
        space = tuple(range(2, probabilities.ndim))
        sums = torch.stack(
            [
                (probabilities * one_hot).sum(space),
                (probabilities * valid).sum(space),
                one_hot.sum(space),
                torch.ones_like(annotated),
            ]
        )
        sums = (sums * annotated)[..., 0 if self.do_bg else 1 :]
        if self.batch_dice:
            sums = sums.sum(1)
            if self.over_processes is not None:
                sums = self.over_processes(sums)
        both, predicted, labelled, pairs = sums
        dice = (2 * both + self.smooth) / (predicted + labelled + self.smooth).clamp(min=1e-8)
        counted = pairs > 0
        return -(dice * counted).sum() / counted.sum().clamp(min=1)


def only_annotated_logits(logits: Tensor, annotated: Tensor, labels: LabelView) -> Tensor:
    """Logits in which heads that were not annotated are never predicted.

    Classes: the softmax of the result is q of the module's docstring. Regions: their probability becomes 0.

    Args:
        logits: ``(B, K, *spatial)``.
        annotated: ``(B, K)`` bool.
        labels: of the data set.
    """
    if annotated.all():
        return logits
    hidden = ~_as_channels(annotated, logits)
    # finite, because 0 · inf is nan: after softmax and sigmoid it is 0 just the same
    never = torch.finfo(logits.dtype).min
    if labels.has_regions:
        return logits.masked_fill(hidden, never)
    hidden[:, 0] = True  # the background is a part of what is merged
    merged = logits.masked_fill(~hidden, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([merged, logits.masked_fill(hidden, never)[:, 1:]], 1)


def only_annotated_target(target: Tensor, annotated: Tensor, labels: LabelView) -> Tensor:
    """The target in which labels that were not annotated become background; clean label maps have none.

    Values below 0, which lie outside of the image, stay.

    Args:
        target: ``(B, 1 or R, *spatial)``, as nnU-Net's loader gives it.
        annotated: ``(B, K)`` bool.
        labels: of the data set.
    """
    if annotated.all():
        return target
    if labels.has_regions:
        regions = target[:, : labels.num_heads] * _as_channels(annotated, target)
        return torch.cat([regions, target[:, labels.num_heads :]], 1)
    values = torch.arange(labels.num_heads) * annotated
    if labels.ignore_label is not None:
        values = torch.cat([values, torch.full((len(values), 1), labels.ignore_label)], 1)
    values = values.to(target.device, target.dtype)
    kept = values.gather(1, target.flatten(1).long().clamp(min=0)).view_as(target)
    return torch.where(target < 0, target, kept)


def _as_channels(annotated: Tensor, like: Tensor) -> Tensor:
    """``(B, K)`` → ``(B, K, 1, …)`` on the device of ``like``."""
    return annotated.to(like.device).view(*annotated.shape, *[1] * (like.ndim - 2))
