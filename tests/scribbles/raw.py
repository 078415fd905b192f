"""Small raw data sets for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

SPACING = (4.0, 1.0, 0.8)  # z, y, x
LABELS = {"background": 0, "left": 1, "right": 2}
ANGLE = np.deg2rad(20)
OBLIQUE = (np.cos(ANGLE), -np.sin(ANGLE), 0.0, np.sin(ANGLE), np.cos(ANGLE), 0.0, 0.0, 0.0, 1.0)
ORIGIN = (-31.5, 12.25, 7.0)


def dense(seed: int = 0, shape: tuple[int, ...] = (6, 40, 48)) -> np.ndarray:
    """Two touching boxes, one of them with a second part, in all slices of a volume but the first."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    y, x = rng.integers(5, 9, 2)
    labels[..., y : y + 18, x : x + 12] = 1
    labels[..., y : y + 18, x + 12 : x + 22] = 2
    labels[..., 32:36, 40:45] = 1
    if len(shape) == 3:
        labels[0] = 0
    return labels


def image(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Grey values by class, slightly smoothed, with little noise."""
    smooth = gaussian_filter(labels.astype(np.float32) * 100, [0] * (labels.ndim - 2) + [0.5, 0.5])
    return smooth + np.random.default_rng(seed).normal(size=labels.shape).astype(np.float32)


def write(path: Path, array: np.ndarray, spacing: tuple[float, ...] = SPACING) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing(spacing[::-1][: array.ndim])
    if array.ndim == 3:
        volume.SetOrigin(ORIGIN)
        volume.SetDirection(OBLIQUE)
    sitk.WriteImage(volume, str(path))


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def write_dataset(
    folder: Path,
    labels: Mapping[str, np.ndarray],
    declared: Mapping[str, Any] = LABELS,
    *,
    images: Mapping[str, np.ndarray] | None = None,
    spacing: tuple[float, ...] = SPACING,
    **more: Any,
) -> Path:
    """Label maps by case; images show the labels unless they are given."""
    for case, array in labels.items():
        write(folder / "labelsTr" / f"{case}.nii.gz", array, spacing)
        write(folder / "imagesTr" / f"{case}_0000.nii.gz", image(array) if images is None else images[case], spacing)
    content = {
        "channel_names": {"0": "MRI"},
        "labels": declared,
        "numTraining": len(labels),
        "file_ending": ".nii.gz",
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
