"""Self-training of BaBLoss: cases in which nothing is drawn are labelled by an average of the network.

A landmark says something about one voxel of a boundary, and the bridge uses just that. The rest of such an image is an
image without labels, from which a network can learn by the confident predictions of its own average
(:mod:`nnunet_ext.nnunet.pseudo_labels`). This is the baseline that the bridge must beat; both may act together.

Source: none of the publication's; *added*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nnunet_ext.nnunet.labels import finest_logits
from nnunet_ext.nnunet.options import PseudoLabelOptions
from nnunet_ext.nnunet.pseudo_label_training import PSEUDO, PseudoLabels
from nnunet_ext.nnunet.trainer import Batch


class SelfTraining(PseudoLabels):
    """A trainer with the options of BaBLoss and, if ``pseudo_weight`` is above 0, a term on pseudo-labels."""

    @property
    def padding_is_annotated(self) -> bool:
        """As in stock nnU-Net: only scribbles make padding a large part of what is annotated."""
        return True

    @property
    def knows_inside(self) -> bool:
        """For the bridge, to which the end of the image is no surface."""
        return self.options.babloss.a_weight > 0 or self.options.babloss.b_weight > 0

    @property
    def pseudo_options(self) -> PseudoLabelOptions:
        return self.options.babloss

    def option_weights(self) -> Mapping[str, float]:
        options = self.options.babloss
        pseudo = options.ramp(self.current_epoch, self.num_epochs) * options.pseudo_weight
        return {**super().option_weights(), PSEUDO: pseudo}

    def compute_terms(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return super().compute_terms(output, batch) | self.pseudo_term(finest_logits(output).float(), batch)
