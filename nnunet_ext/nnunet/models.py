"""Where nnU-Net keeps trained models."""

from __future__ import annotations

from pathlib import Path

from nnunetv2.utilities.file_path_utilities import get_output_folder


def model_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """Where nnU-Net keeps the folds of a model; ``dataset`` is a number or a name."""
    return Path(get_output_folder(dataset, trainer, plans, configuration))
