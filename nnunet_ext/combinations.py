"""Trainers made of two methods: nothing but their bases, the framework first, then what it goes around.

The only file that may import two methods. ``MedContext`` (two views and a teacher) and ``MaskedCRF`` (a loss on what is
not annotated) go in front of any trainer of this package; those here are tested combinations, others are two lines.
"""

from __future__ import annotations

from nnunet_ext.attenscribble.trainer import MaskedCRF
from nnunet_ext.medcontext.trainer import MedContext
from nnunet_ext.pnpnet.trainer import nnUNetTrainerPnPNet


class nnUNetTrainerMaskedCRFPnPNet(MaskedCRF, nnUNetTrainerPnPNet):
    """PnPNet from scribbles: its pull maps are learned from annotated voxels, the CRF loss acts on the others."""


class nnUNetTrainerMedContextPnPNet(MedContext, nnUNetTrainerPnPNet):
    """PnPNet trained on full and masked views with a teacher; its pull maps are supervised on both."""
