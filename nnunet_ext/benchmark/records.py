"""Records of a training: epochs, curves and weights from nnU-Net's own files, versions and hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from scipy.stats import theilslopes

from nnunet_ext.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

CURVES = ("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice")
"""Curves of nnU-Net's log, one value per epoch."""


def training(fold: Path) -> dict[str, Any]:
    """Epoch times, curves and weights of a finished training.

    Args:
        fold: folder of the fold, with ``checkpoint_final.pth``.

    Returns:
        ``epoch_seconds`` and ``curves`` (one value per epoch), ``late_gain`` (see :func:`late_gain`), ``weights``
        (see :func:`weights`), ``trainer``, ``configuration``, ``plans``, and the ``settings`` of the configuration as
        trained.
    """
    from nnunet_ext.nnunet.untrusted import load_untrusted

    checkpoint = load_untrusted(fold / "checkpoint_final.pth")
    log = checkpoint["logging"]
    arguments = checkpoint["init_args"]
    starts, ends = log.get("epoch_start_timestamps", []), log.get("epoch_end_timestamps", [])
    curves = {name: [float(value) for value in log.get(name, [])] for name in CURVES}
    return {
        "trainer": checkpoint["trainer_name"],
        "configuration": arguments["configuration"],
        "epoch_seconds": [round(end - start, 2) for start, end in zip(starts, ends, strict=False)],
        "curves": curves,
        "late_gain": late_gain(curves["mean_fg_dice"]),
        "weights": weights(checkpoint["network_weights"]),
        "plans": arguments["plans"]["plans_name"],
        "settings": {
            key: value
            for key, value in arguments["plans"]["configurations"][arguments["configuration"]].items()
            if key in ("batch_size", "patch_size", "spacing", "nnunet_ext", "data_identifier")
        },
    }


def weights(state: Mapping[str, Tensor]) -> int:
    """Return the number of values in the state of a network.

    A module with several names counts once. In nnU-Net's networks the encoder is also a part of the decoder, and so on.
    """
    once = {(value.data_ptr(), tuple(value.shape)): value.numel() for value in state.values()}
    return sum(once.values())


def late_gain(dice: Sequence[float]) -> float | None:
    """Return the gain of a training over the last quarter of its schedule, measured by a fitted straight line.

    The slope is that of Theil and Sen (median of the slopes between all pairs of epochs), so no single epoch decides.

    Args:
        dice: nnU-Net's pseudo Dice (mean over labels) after every epoch.

    Returns:
        Gain in Dice, on the scale 0 to 1; None with fewer than two defined values.
    """
    epochs = max(1, len(dice) // 4)
    values = np.asarray(dice[-epochs - 1 :], float)  # from the epoch before the quarter on
    there = np.flatnonzero(np.isfinite(values))
    if len(there) < 2:
        return None
    slope, *_ = theilslopes(values[there], there)
    return float(slope * epochs)


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on, and the git commit if this package runs from a repository."""
    found = {"nnunet_ext": __version__, "python": platform.python_version()}
    for package in ("nnunetv2", "torch", "dynamic-network-architectures", "batchgeneratorsv2"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    commit = git_state(Path(__file__).parent)
    return {**found, "nnunet_ext commit": commit} if commit else found


def git_state(folder: Path) -> str | None:
    """Commit of the repository around ``folder``, with ``+ changes`` if it is not clean; None without a repository."""
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        ).stdout.strip()
        return run("rev-parse", "--short=12", "HEAD") + (" + changes" if run("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPU of this machine."""
    import torch

    from nnunet_ext.nnunet.precision import has_bfloat16_units

    found: dict[str, Any] = {
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "bfloat16": has_bfloat16_units(),  # processors of one name with and without them differ five times in time
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
