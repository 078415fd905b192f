"""Checkpoints: how they are written, those that cannot be read, and the one from which a training continues instead.

Ours are replaced as a whole, so a killed training leaves no damaged one. A failing disk or an incomplete copy can.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.untrusted import UntrustedCheckpoint, load_untrusted

FINAL, LATEST, BEST = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[Path, dict[str, Any]]:
    """A checkpoint and the file that it is from: ``path``, or the best one if the latest is damaged.

    There is no replacement for a damaged final checkpoint, because that is the one that is validated and shipped.

    Args:
        path: of a checkpoint of nnU-Net.
        device: to load to.

    Raises:
        UntrustedCheckpoint: it can run code.
        InputError: it is damaged, and there is nothing to fall back to.
    """
    try:
        return path, _load(path, device)
    except UntrustedCheckpoint:
        raise  # it is whole, and another one is not what was asked for
    except InputError as error:
        if path.name != LATEST or not path.with_name(BEST).is_file():
            advice = f"restore it from a copy, or delete it: then --c goes on from {BEST}, or starts anew"
            raise InputError(f"{str(error).removesuffix('.')}; {advice}.") from None
    return path.with_name(BEST), _load(path.with_name(BEST), device)


def to_continue(path: Path) -> Path:
    """The checkpoint from which ``--c`` goes on, if nnU-Net names ``path``.

    nnU-Net takes the final one if there is one. But a fold that is trained again, or for more epochs, and stopped in
    between has the final one of before, and a later latest one; nnU-Net deletes the latest one when a training ends.
    """
    latest = path.with_name(LATEST)
    is_older = path.name == FINAL and latest.is_file() and latest.stat().st_mtime > path.stat().st_mtime
    return latest if is_older else path


def write_checkpoint(content: Any, path: Path) -> None:
    """Write a checkpoint to the disk; a caller that must not lose the old file writes beside it first.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # PyTorch complains about a position in the file and hides what the file system said
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.flush()
        os.fsync(file.fileno())


def _load(path: Path, device: torch.device | str) -> dict[str, Any]:
    checkpoint = load_untrusted(path, device)
    if "network_weights" not in checkpoint:
        raise InputError(f"{path} is no checkpoint of nnU-Net: it has no network_weights.")
    return checkpoint
