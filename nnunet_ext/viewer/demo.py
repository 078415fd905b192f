"""The demo: a synthetic image, and a small model that comes with the package.

The image is a phantom: an organ with a lesion, and a vessel beside it. The image does not show whether the lesion is a
cyst or a tumour; the model predicts a cyst, and a click decides. The model has seen only such phantoms and is useless
for real data. ``viewer/train_demo.py`` trains it again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from nnunet_ext.files import replacing

MODEL = Path(__file__).with_name("demo_model")
"""Folder of the model, as nnU-Net writes it."""

SIZE = 80
"""Width and height of a slice in pixels."""

SPACING_MM = (8.0, 2.0, 2.0)
"""Spacing of z, y and x."""

LABELS = {"background": 0, "organ": 1, "cyst": 2, "tumour": 3, "vessel": 4}

SEED, SLICES = 77, 14
"""Seed and number of slices of the image that the demo opens."""


def phantom(
    rng: np.random.Generator, slices: int, lesion_label: int = LABELS["cyst"]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Image and labels, ``(slices, SIZE, SIZE)`` each; the image does not depend on the label of the lesion.

    Args:
        rng: source of random place, shape and noise.
        slices: number of slices.
        lesion_label: label of the lesion.
    """
    z = np.linspace(-1, 1, slices)
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    image, labels = np.zeros((slices, SIZE, SIZE)), np.zeros((slices, SIZE, SIZE), np.uint8)
    texture = gaussian_filter(rng.normal(size=image.shape), (0.7, 2, 2))
    texture /= texture.std()
    cy, cx = SIZE * (0.5 + 0.03 * rng.normal()), SIZE * (0.40 + 0.03 * rng.normal())
    ly, lx = cy + SIZE * rng.uniform(-0.10, 0.10), cx + SIZE * rng.uniform(-0.10, 0.08)
    radius = SIZE * rng.uniform(0.055, 0.085)
    angle = np.arctan2(y - cy, x - cx)
    body = ((y - SIZE / 2) / (SIZE * 0.40)) ** 2 + ((x - SIZE / 2) / (SIZE * 0.47)) ** 2 < 1
    bone = np.hypot(y - SIZE * 0.80, x - SIZE * 0.5) < SIZE * 0.06
    for k in range(slices):
        outline = np.sqrt(max(0.15, 1 - (z[k] / 1.35) ** 2))
        outline = outline * (1 + 0.10 * np.sin(2 * angle + 0.5) + 0.06 * np.sin(3 * angle + z[k]))
        organ = np.hypot((y - cy) / (SIZE * 0.27), (x - cx) / (SIZE * 0.25)) < outline
        vessel = np.hypot(y - cy - SIZE * (0.05 + 0.04 * z[k]), x - SIZE * 0.66) < SIZE * 0.05
        height = np.sqrt(max(0.0, 1.02 - (z[k] / 0.95) ** 2))
        lesion = np.hypot(y - ly - SIZE * 0.02 * z[k], x - lx + SIZE * 0.02 * z[k]) < radius * height
        image[k] = (0.24 + 0.04 * texture[k]) * body
        image[k][bone] = 0.95
        for mask, label, value in (
            (organ & body, LABELS["organ"], 0.58),
            (vessel, LABELS["vessel"], 0.85),
            (lesion & organ, lesion_label, 0.36),
        ):
            image[k][mask] = value + 0.02 * texture[k][mask]
            labels[k][mask] = label
    image = gaussian_filter(image, (0, 0.7, 0.7)) + 0.03 * rng.normal(size=image.shape)
    return image.astype(np.float32), labels


def write_phantom(folder: Path, seed: int = SEED) -> Path:
    """Write the image of the demo into a folder, unless it is there, and return its file."""
    file = folder / "phantom_0000.nii.gz"
    if file.is_file():
        return file
    array, _ = phantom(np.random.default_rng(seed), SLICES)
    image = sitk.GetImageFromArray((1000 * array).round().astype(np.int16))
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin([-0.5 * SIZE * SPACING_MM[2], -0.5 * SIZE * SPACING_MM[1], -0.5 * SLICES * SPACING_MM[0]])
    with replacing(file) as temporary:
        sitk.WriteImage(image, str(temporary))
    return file
