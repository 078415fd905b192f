"""nnU-Net's console commands as child processes: how they are started, continued, and what they find around them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.discovery import VARIABLE, extended_value

# the console command named by the first argument, whether or not its script is on the PATH
_CONSOLE_COMMAND = (
    "import sys; from importlib.metadata import entry_points; sys.argv.pop(0); "
    "sys.exit(next(iter(entry_points(group='console_scripts', name=sys.argv[0]))).load()())"
)


def console(command: Sequence[str]) -> list[str]:
    """Return what executes a console command such as ``["nnUNetv2_train", "4", …]`` of this Python environment."""
    return [sys.executable, "-c", _CONSOLE_COMMAND, *command]


def continuation(fold: Path) -> str | None:
    """Return the flag that ``nnUNetv2_train`` needs to go on in ``fold``, the folder of a fold.

    Returns:
        ``"--val"`` if only the final validation is missing, ``"--c"`` if there is a checkpoint to continue from,
        ``""`` if the training has to begin, None if it is done.
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
        augmenting: processes that augment in a training, 0 for the training's own, unless the caller's environment
            says so; None: as many as this machine carries.
    """
    # the main process computes and the others mostly wait, so even two cores carry two workers
    workers = str(max(2, min(8, os.cpu_count() or 1)))
    return {
        **os.environ,
        "nnUNet_raw": str(raw),
        "nnUNet_preprocessed": str(preprocessed),
        "nnUNet_results": str(results),
        VARIABLE: extended_value(os.environ.get(VARIABLE)),
        "nnUNet_n_proc_DA": os.environ.get("nnUNet_n_proc_DA", workers if augmenting is None else str(augmenting)),
        "nnUNet_def_n_proc": os.environ.get("nnUNet_def_n_proc", workers),
        "nnUNet_wandb_enabled": "0",  # trials are nothing to log
        # for the workers; on the CPU nnU-Net lets the main process use all cores (torch.set_num_threads)
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",  # the progress bars read along
    }


def for_planner(own: dict[str, str]) -> dict[str, str]:
    """The environment ``own`` with at least one process that augments: without, nnU-Net's planner fails."""
    return own if own["nnUNet_n_proc_DA"] != "0" else {**own, "nnUNet_n_proc_DA": "1"}
