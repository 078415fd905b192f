"""A tiny data set whose landmarks are bright spots, one brightness for each: a patch shows which one is where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.landmarks.formats import write_markups
from nnunet_ext.landmarks.points import ABSENT, present
from tests import tiny

NAMES = ("left", "right", "top", "never")
BRIGHTNESS = np.array([100.0, 200.0, 300.0])
KINDS = ("segmentation", "landmarks", "segmentation and landmarks", "segmentation", "landmarks", "landmarks")
SHAPE = (22, 26, 28)
BORDER = 3  # of zeros, which nnU-Net crops


def description(**landmarks: Any) -> dict[str, Any]:
    return {**tiny.dataset_json("ignore"), "landmarks": {"names": list(NAMES), **landmarks}}


def spots(seed: int) -> np.ndarray:
    """``(3, 3)``: a voxel for each landmark but the last, each in a quarter of the image of its own."""
    low = np.array([[5, 5, 20], [5, 16, 5], [14, 5, 5]])
    return low + np.random.default_rng(seed).integers(0, 4, (3, 3))


def image_of(voxels: np.ndarray, seed: int) -> np.ndarray:
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    array = 10 + np.random.default_rng(seed).normal(0, 0.5, SHAPE)
    for voxel, brightness in zip(voxels, BRIGHTNESS, strict=True):
        array += brightness * np.exp(-((grid - voxel) ** 2).sum(-1) / (2 * 1.5**2))
    inner = np.zeros(SHAPE)
    inside = (slice(BORDER, -BORDER),) * 3
    inner[inside] = array[inside]
    return inner


def write(root: Path, content: dict[str, Any] | None = None) -> Path:
    """Raw and preprocessed, both configurations of ``tiny.plans``; without ``splits_final.json``."""
    content, plans = content or description(), tiny.plans()
    raw, folder = root / "raw" / tiny.DATASET, root / "preprocessed" / tiny.DATASET
    for sub in (raw / "imagesTr", raw / "labelsTr", raw / "landmarksTr", folder / "gt_segmentations", root / "results"):
        sub.mkdir(parents=True)
    manager = PlansManager(plans)
    for seed, kind in enumerate(KINDS):
        name, voxels = f"case_{seed}", spots(seed)
        labels = np.full(SHAPE, 3, np.uint8)
        if kind.startswith("segmentation"):
            labels[:] = 0
            labels[8:14, 8:14, 8:14] = 1 + seed % 2
        files = raw / "imagesTr" / f"{name}_0000.nii.gz", raw / "labelsTr" / f"{name}.nii.gz"
        for array, file in zip((image_of(voxels, seed).astype(np.float32), labels), files, strict=True):
            image = sitk.GetImageFromArray(array)
            image.SetDirection((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
            image.SetOrigin((30.0, 40.0, -50.0))
            sitk.WriteImage(image, str(file))
        if kind.endswith("landmarks"):
            points = [image.TransformIndexToPhysicalPoint([int(i) for i in voxel[::-1]]) for voxel in voxels]
            landmarks = dict(zip(NAMES, [*map(present, points), ABSENT], strict=True))
            write_markups(raw / "landmarksTr" / f"{name}.mrk.json", landmarks)
        (folder / "gt_segmentations" / files[1].name).write_bytes(files[1].read_bytes())
        for configuration in plans["configurations"]:
            settings = manager.get_configuration(configuration)
            target = folder / settings.data_identifier
            target.mkdir(exist_ok=True)
            DefaultPreprocessor(verbose=False).run_case_save(
                str(target / name), [str(files[0])], str(files[1]), manager, settings, content
            )
    for file, what in {"dataset": content, "nnUNetPlans": plans, "dataset_fingerprint": {}}.items():
        (folder / f"{file}.json").write_text(json.dumps(what))
    return root
