"""Trainers made of two methods: only their bases, first the framework, then the trainer inside it.

The only file that may import two methods. ``MedContext`` (two views and a teacher) and ``MaskedCRF`` (a loss on voxels
without annotation) go in front of any trainer of this package. The combinations here are tested; others are two lines.
"""

from __future__ import annotations

from nnunet_ext.attenscribble.trainer import MaskedCRF
from nnunet_ext.medcontext.trainer import MedContext
from nnunet_ext.pnpnet.trainer import nnUNetTrainerPnPNet


class nnUNetTrainerMaskedCRFPnPNet(MaskedCRF, nnUNetTrainerPnPNet):
    """PnPNet from scribbles: its pull maps are learned from annotated voxels, the CRF loss acts on the others."""


class nnUNetTrainerMedContextPnPNet(MedContext, nnUNetTrainerPnPNet):
    """PnPNet trained on full and masked views with a teacher; its pull maps are supervised on both."""
