"""Self-training around nnU-Net: the network labels a batch of unlabelled patches and learns from it.

A step makes two passes after the start::

    unlabelled u → network, without gradient → hard labels l;  turn(u) → network → nnU-Net's loss with turn(l)
    labelled x   → network → nnU-Net's loss
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from nnunet_ext.nnunet.labels import finest_logits
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.trainer import Batch
from nnunet_ext.selftraining.options import SelfTrainingOptions
from nnunet_ext.unlabelled.training import UnlabelledData
from nnunet_ext.unlabelled.turns import turned

PSEUDO = "pseudo_segmentation"


class nnUNetTrainerSelfTraining(UnlabelledData):
    """The network's own labels of unlabelled patches, turned with them: the control for MedContext."""

    methods: ClassVar[tuple[type[MethodOptions], ...]] = (SelfTrainingOptions,)
    needs_unlabelled: ClassVar[bool] = True

    @property
    def started(self) -> bool:
        """Whether the network labels patches in this epoch."""
        return self.current_epoch + 1e-9 >= self.options.selftraining.start * self.num_epochs

    def loss_passes(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        unlabelled = self.unlabelled(batch)
        if unlabelled is not None and self.started:
            turns = self.draw_turns(unlabelled)
            target = turned(self.own_labels(unlabelled), turns)
            output = self.run_network(turned(unlabelled, turns), batch)
            yield {PSEUDO: self.loss(output, self.as_target(target, output))}
        yield from super().loss_passes(batch)

    @torch.no_grad()
    def own_labels(self, image: Tensor) -> Tensor:
        """Label patches ``(U, C, *spatial)`` with the network, in the form of nnU-Net's targets.

        Returns:
            Classes ``(U, 1, *spatial)`` int16, or regions ``(U, R, *spatial)`` bool; no voxel has the ignore label.
        """
        logits = finest_logits(self.run_network(image, {}))
        torch.clear_autocast_cache()  # some versions keep weights that were cast without gradient
        if not self.labels.has_regions:
            return logits.argmax(1, keepdim=True).short()
        regions = logits > 0
        if self.labels.ignore_label is None:
            return regions
        return torch.cat([regions, torch.zeros_like(regions[:, :1])], 1)

    def as_target(self, target: Tensor, output: Any) -> Any:
        """Return a full-resolution target at the resolutions of the network's outputs."""
        if not isinstance(output, list):
            return target
        return [self.labels.resize(target, level.shape[2:]) for level in output]

    def term_weight(self, name: str) -> float:
        return self.options.selftraining.weight if name == PSEUDO else super().term_weight(name)
