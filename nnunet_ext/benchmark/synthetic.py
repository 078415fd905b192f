"""A synthetic data set with the problem that PnPNet addresses: touching structures with a confused common boundary.

In every case two structures share one smooth body, along a curved, random interface. They differ in brightness, but

* towards the interface the brightness of both sides converges, so there is no edge where the label changes,
* the scanner blurs (partial volume, more of it across the thick slices), adds noise, and shades the image smoothly,
* brightness varies from case to case.

The remaining cues are those of an annotator: the trend over several millimetres, and the smoothness of the shapes.
nnU-Net mirrors images in training and in prediction, so nothing here depends on left and right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json, written_as_a_whole

GENERATOR_VERSION = 1
"""Raise this with every change that changes a voxel; a data set of another version is then written anew."""

DATASET = "Dataset900_TouchingStructures"
LABELS = {"background": 0, "dark": 1, "bright": 2}
SPACING = (2.5, 1.0, 1.0)
"""Spacing in mm, ``(z, y, x)``."""

STAMP = "generator.json"

BRIGHTNESS = (0.2, 0.85, 1.3)  # by label
CONVERGENCE = 2.5  # mm from the interface at which the brightness is 3/4 of the way to its structure's
BLUR = 0.9  # mm
NOISE = 0.14
SHADING = 0.08

Array = NDArray[np.floating[Any]]


class Case(NamedTuple):
    """One case: ``image`` float32 and ``labels`` uint8, both ``(z, y, x)`` with :data:`SPACING`."""

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]


def write_dataset(raw_folder: str | Path, *, cases: int = 12, held_out: int = 3, seed: int = 900) -> Path:
    """Write the data set in nnU-Net's raw format, unless it exists already, and return its folder.

    ``imagesTr`` and ``labelsTr`` hold ``cases`` training cases, ``imagesTs`` and ``labelsTs`` hold ``held_out`` more.

    Raises:
        InputError: a data set of this name exists that this function did not write.
    """
    folder = Path(raw_folder) / DATASET
    stamp = {"generator_version": GENERATOR_VERSION, "cases": cases, "held_out": held_out, "seed": seed}
    if folder.exists():
        if not (folder / STAMP).is_file():
            raise InputError(f"{folder} exists and was not written by nnunet-ext; choose another folder.")
        if json.loads((folder / STAMP).read_text()) == stamp:
            return folder

    description = {
        "channel_names": {"0": "MRI"},
        "labels": LABELS,
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "description": "Synthetic touching structures with confused boundaries, written by nnunet-ext demo.",
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with written_as_a_whole(folder, replace=True) as temporary:
        for index in range(cases + held_out):
            _write_case(temporary, "Tr" if index < cases else "Ts", f"touching_{index:03d}", make_case(seed, index))
        write_json(temporary / "dataset.json", description)
        write_json(temporary / STAMP, stamp)
    return folder


def make_case(seed: int, index: int) -> Case:
    """Case number ``index``; it depends only on the two numbers."""
    rng = np.random.default_rng([seed, index])
    shape = (int(rng.integers(14, 17)), int(rng.integers(36, 41)), int(rng.integers(36, 41)))
    z, y, x = _millimetres(shape, centre=rng.uniform(-1, 1, 3))

    # the body: an ellipsoid with a wavy surface; positive inside
    radii = rng.uniform((11, 11, 12), (13, 13, 15))
    body = 1 - np.sqrt((z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2)
    body += 0.12 * _smooth_noise(rng, shape, 5.0)

    # the interface: a wavy, tilted plane near the middle; signed distance from it, roughly in mm
    angle, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4)
    side = np.cos(angle) * x + np.sin(angle) * y + tilt * z + rng.uniform(-2.5, 2.5)
    side += 2.0 * _smooth_noise(rng, shape, 5.0)
    labels = np.where(body <= 0, 0, np.where(side > 0, 2, 1)).astype(np.uint8)

    # brightness: a trend from one structure to the other, without an edge
    levels = np.asarray(BRIGHTNESS) + 0.07 * rng.standard_normal(3)
    inside = levels[1] + (levels[2] - levels[1]) * (1 + np.tanh(side / CONVERGENCE)) / 2
    outside = levels[0] + 0.12 * _smooth_noise(rng, shape, 4.0)
    image = np.where(body > 0, inside, outside)

    # the scanner
    image = gaussian_filter(image, [BLUR * blur / mm for blur, mm in zip((1.5, 1, 1), SPACING, strict=True)])
    image *= 1 + SHADING * _smooth_noise(rng, shape, 15.0)
    image += NOISE * rng.standard_normal(shape)
    return Case((1000 * image).astype(np.float32), labels)


def _millimetres(shape: Sequence[int], centre: Array) -> list[Array]:
    """Coordinates ``(z, y, x)`` of every voxel in mm, relative to a point that is ``centre`` mm off the middle."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm - offset for n, mm, offset in zip(shape, SPACING, centre, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij"))


def _smooth_noise(rng: np.random.Generator, shape: Sequence[int], scale: float) -> Array:
    """Random field with mean 0 and standard deviation 1 that varies over ``scale`` mm."""
    field = gaussian_filter(rng.standard_normal(shape), [scale / mm for mm in SPACING], mode="wrap")
    return (field - field.mean()) / field.std()


def _write_case(folder: Path, part: str, name: str, case: Case) -> None:
    import SimpleITK as sitk

    for array, file in ((case.image, f"images{part}/{name}_0000.nii.gz"), (case.labels, f"labels{part}/{name}.nii.gz")):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING[::-1])
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(folder / file))
