"""Trainers that penalise the worst neighbour of the same class.

:class:`SCNP` goes in front of any trainer of this package that trains with a segmentation loss of logits and target.
"""

from __future__ import annotations

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunet_ext.nnunet.trainer import CommonTrainer
from nnunet_ext.scnp.loss import SameClassNeighbours


class SCNP(CommonTrainer):
    """The segmentation loss of the next trainer among the bases of a class, on penalised logits.

    The validation loss in nnU-Net's log is on penalised logits too; Dice and predictions are not.
    """

    def _build_loss(self) -> nn.Module:
        loss = super()._build_loss()
        if isinstance(loss, DeepSupervisionWrapper):  # every resolution on its own
            loss.loss = self._penalised(loss.loss)
            return loss
        return self._penalised(loss)

    def _penalised(self, loss: nn.Module) -> nn.Module:
        return SameClassNeighbours(loss, self.labels.one_hot, self.labels.annotated)


class nnUNetTrainerSCNP(SCNP):
    """Stock nnU-Net with the penalty in its loss; the trained network is stock nnU-Net's."""
