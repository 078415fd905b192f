"""Trainers made of two methods: nothing but their bases, the framework first, then what it goes around.

The only file that may import two methods.
"""

from __future__ import annotations

from nnunet_ext.medcontext.trainer import MedContext
from nnunet_ext.pnpnet.trainer import nnUNetTrainerPnPNet


class nnUNetTrainerMedContextPnPNet(MedContext, nnUNetTrainerPnPNet):
    """PnPNet trained on full and masked views with a teacher; its centres are supervised on both."""
