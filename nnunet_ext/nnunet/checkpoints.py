"""Checkpoints that cannot be read, and what a training goes on from instead.

Ours are replaced as a whole, so a killed training leaves none; a full or failing disk, or a copy that was cut off, can.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from nnunet_ext.errors import InputError

LATEST, BEST = "checkpoint_latest.pth", "checkpoint_best.pth"


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[Path, dict[str, Any]]:
    """A checkpoint and the file that it is from: ``path``, or the best one if the latest is damaged.

    A damaged last one is not replaced by an earlier one: it is what is validated and shipped.

    Args:
        path: of a checkpoint of nnU-Net.
        device: to load to.

    Raises:
        InputError: it is damaged, and there is nothing to fall back to.
    """
    try:
        return path, _load(path, device)
    except InputError:
        if path.name != LATEST or not path.with_name(BEST).is_file():
            raise
    return path.with_name(BEST), _load(path.with_name(BEST), device)


def _load(path: Path, device: torch.device | str) -> dict[str, Any]:
    try:
        # the user's own file, which holds more than tensors
        checkpoint = torch.load(path, map_location=device, weights_only=False)
        if "network_weights" in checkpoint:
            return checkpoint
        reason = "it has no network_weights"
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
    raise InputError(
        f"{path} is no checkpoint that can be read ({reason}); restore it from a copy, or delete it: then --c goes on "
        f"from {BEST}, or starts anew."
    )
