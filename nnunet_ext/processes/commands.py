"""nnU-Net's console commands as child processes: how to start and continue them, and their environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.discovery import VARIABLE, extended_value

# runs the console command named by the first argument, even if its script is not on the PATH
_CONSOLE_COMMAND = (
    "import sys; from importlib.metadata import entry_points; sys.argv.pop(0); "
    "sys.exit(next(iter(entry_points(group='console_scripts', name=sys.argv[0]))).load()())"
)


def console(command: Sequence[str]) -> list[str]:
    """Return the command line for a console command of this Python, such as ``["nnUNetv2_train", "4", …]``."""
    return [sys.executable, "-c", _CONSOLE_COMMAND, *command]


def continuation(fold: Path) -> str | None:
    """Return the flag with which ``nnUNetv2_train`` continues in ``fold``, the folder of a fold.

    Returns:
        ``"--val"`` if only the final validation is missing, ``"--c"`` if there is a checkpoint to continue from,
        ``""`` if the training has not begun, None if it is finished.
    """
    if (fold / "checkpoint_final.pth").is_file():
        return None if (fold / "validation" / "summary.json").is_file() else "--val"
    return "--c" if any(fold.glob("checkpoint_*.pth")) else ""


def environment(
    *, raw: Path | str, preprocessed: Path | str, results: Path | str, augmenting: int | None = None
) -> dict[str, str]:
    """The environment of every command: the caller's, with nnU-Net's folders set and our trainers known.

    Args:
        raw: ``nnUNet_raw``.
        preprocessed: ``nnUNet_preprocessed``.
        results: ``nnUNet_results``.
        augmenting: number of processes for augmentation in a training; 0 augments in the main process, None chooses by
            the number of cores. The caller's ``nnUNet_n_proc_DA`` wins over it.
    """
    # the main process computes and the workers mostly wait, so two workers suit even two cores
    workers = str(max(2, min(8, os.cpu_count() or 1)))
    return {
        **os.environ,
        "nnUNet_raw": str(raw),
        "nnUNet_preprocessed": str(preprocessed),
        "nnUNet_results": str(results),
        VARIABLE: extended_value(os.environ.get(VARIABLE)),
        "nnUNet_n_proc_DA": os.environ.get("nnUNet_n_proc_DA", workers if augmenting is None else str(augmenting)),
        "nnUNet_def_n_proc": os.environ.get("nnUNet_def_n_proc", workers),
        "nnUNet_wandb_enabled": "0",  # trial runs are not logged
        # for the workers; on the CPU nnU-Net itself gives the main process all cores (torch.set_num_threads)
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",  # the progress bars read the output
    }


def for_planner(own: dict[str, str]) -> dict[str, str]:
    """The environment ``own`` with at least one process for augmentation, without which nnU-Net's planner fails."""
    return own if own["nnUNet_n_proc_DA"] != "0" else {**own, "nnUNet_n_proc_DA": "1"}
