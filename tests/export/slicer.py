"""The rules by which the nnU-Net extension of 3D Slicer reads a model folder.

Of ``SlicerNNUNetLib/Parameter.py`` in KitwareMedical/SlicerNNUnet at commit dc4000e, said again in our words.
"""

from __future__ import annotations

import json
from pathlib import Path


def model_folder(chosen: Path) -> Path:
    """Return the folder of the first ``dataset.json`` at or below what the user chose, or beside a chosen fold."""
    places = [chosen, chosen.parent] if (chosen / "checkpoint_final.pth").exists() else [chosen]
    found = [file for place in places for file in place.rglob("dataset.json")]
    assert found, f"no dataset.json in {chosen}"
    return found[0].parent


def problem(chosen: Path, folds: tuple[int, ...] = (0,)) -> str | None:
    """Return why the extension refuses a folder; None if it takes it."""
    folder = model_folder(chosen)
    if missing := [fold for fold in folds if not (folder / f"fold_{fold}").exists()]:
        return f"missing folds {missing}"
    if empty := [fold for fold in folds if not (folder / f"fold_{fold}" / "checkpoint_final.pth").exists()]:
        return f"folds without weights {empty}"
    if len(folder.name.split("__")) != 3:
        return f"configuration folder {folder.name}"
    dataset = folder.parent.name
    return None if dataset.startswith("Dataset") or dataset.isdecimal() else f"dataset folder {dataset}"


def command(chosen: Path, images: Path, out: Path, folds: tuple[int, ...] = (0,)) -> tuple[list[str], Path]:
    """Return the arguments of ``nnUNetv2_predict`` with the extension's defaults, and what nnUNet_results is then."""
    folder = model_folder(chosen)
    trainer, plans, configuration = folder.name.split("__")
    model = ["-d", folder.parent.name, "-tr", trainer, "-p", plans, "-c", configuration, "-f", *map(str, folds)]
    settings = ["-npp", "1", "-nps", "1", "-step_size", "0.5", "-device", "cpu", "-chk", "checkpoint_final.pth"]
    arguments = ["-i", images.as_posix(), "-o", out.as_posix(), *model, *settings, "--disable_tta"]
    return arguments, folder.parent.parent


def segments(chosen: Path) -> dict[str, str]:
    """Return the names that the extension gives to the segments of a prediction."""
    labels = json.loads((model_folder(chosen) / "dataset.json").read_text())["labels"]
    return {f"Segment_{value}": name for name, value in labels.items()}
