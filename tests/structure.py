"""Which trainers are built alike, so that not every test need run for all of them.

A few representatives get everything: whole trainings, predictions, killed and continued trainings, two processes. Every
other trainer is made of parts of theirs: no module of its network, no auxiliary module and no optimizer that none of
them has, and no more passes. It takes a step and is restored from its checkpoint (``end_to_end/test_structure.py``,
which also compares the parts); ``pytest -m slow`` runs everything for it, too.
"""

from __future__ import annotations

import pytest

REPRESENTATIVES = (
    "nnUNetTrainerReference",
    "nnUNetTrainerPnPNet",
    "nnUNetTrainerSDM",
    "nnUNetTrainerPnPNetPaper",
    "nnUNetTrainerAttenScribble",
    "nnUNetTrainerAttenScribblePaper",
    "nnUNetTrainerMedContext",
    "nnUNetTrainerMedContextPaper",  # with two passes over labelled patches
    "nnUNetTrainerPartialLabels",
    "nnUNetTrainerBaBLoss",
    "nnUNetTrainerBaBLossPaper",
    "nnUNetTrainerS2VNet",
    "nnUNetTrainerMedContextPnPNet",
    "nnUNetTrainerMedContextPrimusS",
)

MADE_OF = {
    "nnUNetTrainerCCM": ("nnUNetTrainerPnPNet",),
    "nnUNetTrainerSCNP": ("nnUNetTrainerReference",),
    "nnUNetTrainerSegmentedOnly": ("nnUNetTrainerReference",),
    "nnUNetTrainerMaskedCRF": ("nnUNetTrainerAttenScribble",),
    "nnUNetTrainerSSA": ("nnUNetTrainerAttenScribblePaper",),
    "nnUNetTrainerMedContextMaskedOnly": ("nnUNetTrainerMedContextPaper",),
    "nnUNetTrainerTubeCutout": ("nnUNetTrainerMedContext",),
    "nnUNetTrainerSelfTraining": ("nnUNetTrainerMedContext",),
    "nnUNetTrainerLandmark": ("nnUNetTrainerBaBLoss",),
    "nnUNetTrainerS2VNetNoPropagation": ("nnUNetTrainerS2VNet",),
    "nnUNetTrainerMaskedCRFPnPNet": ("nnUNetTrainerAttenScribble", "nnUNetTrainerPnPNet"),
}
"""Every other trainer, and the representatives of whose parts it is made."""


def marks_of(trainer: str, configuration: str = "2d") -> tuple[pytest.MarkDecorator, ...]:
    """Marks of a test that runs everything for this trainer: slow, unless it represents others.

    Published formulations are slow on volumes: plans do not make them small.
    """
    published = trainer.endswith("Paper") and configuration != "2d"
    return () if trainer in REPRESENTATIVES and not published else (pytest.mark.slow,)
