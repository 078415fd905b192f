"""Small raw data sets with landmarks for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_ext.landmarks.formats import write_markups
from nnunet_ext.landmarks.points import Landmark, present

NAME = "Dataset204_Boxes"
SHAPE = (20, 24, 28)
SPACING = (2.0, 1.0, 1.5)  # z, y, x
ANGLE = np.deg2rad(20)
DIRECTION = (np.cos(ANGLE), -np.sin(ANGLE), 0.0, np.sin(ANGLE), np.cos(ANGLE), 0.0, 0.0, 0.0, 1.0)
LABELS = {"background": 0, "box": 1, "ignore": 2}
BLOCK = {
    "names": ["left", "right", "top"],
    "surface_of": {name: ["box"] for name in ("left", "right", "top")},
    "mirror_pairs": [["left", "right"]],
}


class Case:
    """A box in an image whose centre is ``centre_mm``, with landmarks on three of its faces."""

    def __init__(self, seed: int, centre_mm: tuple[float, float, float] = (-60.0, 80.0, -20.0)) -> None:
        z, y, x = np.random.default_rng(seed).integers(4, 8, 3)
        self.array = np.zeros(SHAPE, np.uint8)
        self.array[z : z + 8, y : y + 10, x : x + 12] = 1
        reference = sitk.GetImageFromArray(self.array)
        reference.SetSpacing(SPACING[::-1])
        reference.SetDirection(DIRECTION)
        middle = reference.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in SHAPE[::-1]])
        reference.SetOrigin([float(c - m) for c, m in zip(centre_mm, middle, strict=True)])
        self.image = reference
        indices = {
            "left": (z + 4, y + 5, x + 11.5),
            "right": (z + 4, y + 5, x - 0.5),
            "top": (z + 7.5, y + 5, x + 6),
        }
        self.landmarks: dict[str, Landmark] = {name: self.at(index) for name, index in indices.items()}

    def at(self, index: tuple[float, ...]) -> Landmark:
        """A landmark at a continuous index ``(z, y, x)``."""
        return present(self.image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index[::-1]]))

    def write(self, file: Path, array: np.ndarray) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(self.image)
        sitk.WriteImage(image, str(file))


def write_dataset(root: Path, cases: dict[str, tuple[Case, str]], **more: Any) -> Path:
    """``cases``: by name the case, and what of it is annotated: ``labels``, ``landmarks``, ``both`` or ``none``."""
    folder = root / NAME
    (folder / "landmarksTr").mkdir(parents=True, exist_ok=True)
    for name, (case, kind) in cases.items():
        case.write(folder / "imagesTr" / f"{name}_0000.nii.gz", case.array.astype(np.float32))
        segmented = kind in ("labels", "both")
        case.write(folder / "labelsTr" / f"{name}.nii.gz", case.array if segmented else np.full_like(case.array, 2))
        if kind in ("landmarks", "both"):
            write_markups(folder / "landmarksTr" / f"{name}.mrk.json", case.landmarks)
    describe(folder, numTraining=len(cases), **more)
    return folder


def describe(folder: Path, **more: Any) -> None:
    content = {"channel_names": {"0": "MRI"}, "labels": LABELS, "file_ending": ".nii.gz", "landmarks": BLOCK, **more}
    (folder / "dataset.json").write_text(json.dumps(content))
