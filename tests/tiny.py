"""Tiny plans, networks, targets and data sets that are real enough for nnU-Net's own code to run on them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_ext.catalogue import resolve
from nnunet_ext.landmarks.formats import write_markups
from nnunet_ext.landmarks.points import present
from nnunet_ext.landmarks.training.loader import landmark_entries

DATASET = "Dataset901_Tiny"
LABELS: dict[str, dict[str, Any]] = {
    "classes": {"labels": {"background": 0, "left": 1, "right": 2}},
    "regions": {"labels": {"background": 0, "whole": [1, 2], "right": 2}, "regions_class_order": [1, 2]},
    "ignore": {"labels": {"background": 0, "left": 1, "right": 2, "ignore": 3}},
    "regions+ignore": {
        "labels": {"background": 0, "whole": [1, 2], "right": 2, "ignore": 3},
        "regions_class_order": [1, 2],
    },
}

OPTIONS: dict[str, dict[str, Any]] = {
    "attenscribble": {"max_tokens": 600},  # else a patch of 16³ is attended to as 4096 tokens
    "s2vnet": {"width": 8, "heads": 2, "embedding": 4, "inference_clip": 4},
    "medcontext": {"start": 0.0, "ramp": 0.0},  # else the first steps have nothing of it
    "selftraining": {"start": 0.0},
    "unlabelled": {"images": "others-of-the-split", "transductive": True},  # the split leaves no others than these
}
"""Options of our section in the plans: methods that are small enough for patches of 16 voxels, and start at once."""


def rooms_of(trainer: str) -> set[str]:
    """The packages of ours in which the classes that a trainer of the catalogue is made of live."""
    bases = [base.__module__.split(".") for base in resolve(trainer).__mro__]
    return {module[1] for module in bases if module[0] == "nnunet_ext"}


def configurations_for(trainer: str) -> list[str]:
    """Configurations of :func:`plans` that a trainer of the catalogue can train."""
    if any(base.__module__ == PRIMUS for base in resolve(trainer).__mro__):
        return ["3d_fullres"]
    return ["2d"] if "s2vnet" in rooms_of(trainer) else ["2d", "3d_fullres"]


PRIMUS = "nnunetv2.training.nnUNetTrainer.primus.primus_trainers"


def shrink_transformers(set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """Give nnU-Net's Primus trainers 2 layers of 24 features, if they are imported; the smallest has 12 of 396."""
    if (module := sys.modules.get(PRIMUS)) is None:  # importing it takes seconds
        return
    from dynamic_network_architectures.architectures.primus import Primus

    def build(channels: int, *sizes: Any, **settings: Any) -> nn.Module:
        _, token, heads, _, _, patch = sizes
        return Primus(channels, 24, token, heads, 2, 2, patch, **settings)

    set_attribute(module, "Primus", build)


def kind_for(trainer: str) -> str:
    """The kind of labels that a trainer of the catalogue needs."""
    return "ignore" if rooms_of(trainer) & {"attenscribble", "babloss"} else "classes"


DECLARES: dict[str, dict[str, Any]] = {
    "babloss": {"landmarks": {"names": ["tip"], "surface_of": {"tip": ["left"]}}},
    "partial_labels": {"annotated_labels": {"tiny_0": ["left"]}},
}
"""Content of dataset.json beside the labels that trainers of these rooms need."""


def declared(trainer: str) -> dict[str, Any]:
    """Content of dataset.json beside the labels that a trainer of the catalogue needs."""
    # BaBLoss knows partial labels, but does not need them
    rooms = rooms_of(trainer)
    room = "babloss" if "babloss" in rooms else "partial_labels"
    return DECLARES[room] if room in rooms else {}


def declare(root: Path, content: dict[str, Any]) -> None:
    """Add to dataset.json of a data set of :func:`write_preprocessed`, and write the landmarks that it declares."""
    for folder in ("raw", "preprocessed"):
        file = root / folder / DATASET / "dataset.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **content}))
    if "landmarks" in content:
        image = sitk.ReadImage(str(root / "raw" / DATASET / "imagesTr" / "tiny_5_0000.nii.gz"))
        tip = present(image.TransformIndexToPhysicalPoint([size // 2 for size in image.GetSize()]))
        for case in ("tiny_0", "tiny_5"):
            write_markups(root / "raw" / DATASET / "landmarksTr" / f"{case}.mrk.json", {"tip": tip})


def dataset_json(kind: str = "classes") -> dict[str, Any]:
    return {"channel_names": {"0": "MRI"}, "numTraining": 6, "file_ending": ".nii.gz", **deepcopy(LABELS[kind])}


def architecture(
    dim: int = 3,
    *,
    residual: bool = False,
    features: Sequence[int] = (4, 6, 8),
    kernel_sizes: Sequence[Sequence[int]] | None = None,
    strides: Sequence[Sequence[int]] | None = None,
) -> dict[str, Any]:
    """The ``architecture`` entry of a configuration."""
    stages = len(features)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet."
        + ("ResidualEncoderUNet" if residual else "PlainConvUNet"),
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [list(k) for k in kernel_sizes or [[3] * dim] * stages],
            "strides": [list(s) for s in strides or [[1] * dim] + [[2] * dim] * (stages - 1)],
            "n_blocks_per_stage" if residual else "n_conv_per_stage": [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(dim: int = 3, patch_size: Sequence[int] | None = None, **network: Any) -> dict[str, Any]:
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": f"nnUNetPlans_{dim}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch_size or [16] * dim),
        "median_image_size_in_voxels": [16.0] * dim,
        "spacing": [1.0] * dim,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": architecture(dim, **network),
        "batch_dice": dim == 2,
        "nnunet_ext": deepcopy(OPTIONS),
    }


def plans(**configurations: dict[str, Any]) -> dict[str, Any]:
    """Plans with these configurations, ``3d_fullres`` and ``2d`` by default."""
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [16, 16, 16],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": dict.fromkeys(["max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"], 1.0)
        },
        "configurations": configurations or {"3d_fullres": configuration(3), "2d": configuration(2)},
    }


def network(dim: int = 3, *, heads: int = 3, channels: int = 1, deep_supervision: bool = True, **kw: Any) -> nn.Module:
    """The network that nnU-Net builds from :func:`architecture`."""
    arch = architecture(dim, **kw)
    return get_network_from_plans(
        arch["network_class_name"],
        arch["arch_kwargs"],
        arch["_kw_requires_import"],
        channels,
        heads,
        allow_init=True,
        deep_supervision=deep_supervision,
    )


def write_preprocessed(raw: Path, preprocessed: Path, kind: str = "classes", seed: int = 0) -> Path:
    """A raw data set of 6 cases and its preprocessed form for both configurations of :func:`plans`.

    Two touching boxes on a noisy background; brightness tells the labels.
    """
    description, all_plans = dataset_json(kind), plans()
    folder = preprocessed / DATASET
    (folder / "gt_segmentations").mkdir(parents=True)
    for sub in ("imagesTr", "labelsTr"):
        (raw / DATASET / sub).mkdir(parents=True)
    rng = np.random.default_rng(seed)
    manager = PlansManager(all_plans)
    cases = [f"tiny_{index}" for index in range(6)]
    for case in cases:
        label = np.zeros((18, 20, 22), np.uint8)
        z, y, x = rng.integers(3, 6, 3)
        label[z : z + 9, y : y + 9, x : x + 5] = 1
        label[z : z + 9, y : y + 9, x + 5 : x + 11] = 2
        image = (label + rng.normal(0, 0.3, label.shape)).astype(np.float32)
        if "ignore" in kind:
            label[rng.random(label.shape) < 0.3] = 3
        image_file = raw / DATASET / "imagesTr" / f"{case}_0000.nii.gz"
        label_file = raw / DATASET / "labelsTr" / f"{case}.nii.gz"
        sitk.WriteImage(sitk.GetImageFromArray(image), str(image_file))
        sitk.WriteImage(sitk.GetImageFromArray(label), str(label_file))
        (folder / "gt_segmentations" / label_file.name).write_bytes(label_file.read_bytes())
        for name in all_plans["configurations"]:
            settings = manager.get_configuration(name)
            output = folder / settings.data_identifier
            output.mkdir(exist_ok=True)
            DefaultPreprocessor(verbose=False).run_case_save(
                str(output / case), [str(image_file)], str(label_file), manager, settings, description
            )
    for name, content in {
        "dataset": description,
        "nnUNetPlans": all_plans,
        "dataset_fingerprint": {},
        "splits_final": [{"train": cases[:4], "val": cases[4:]}],
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (raw / DATASET / "dataset.json").write_text(json.dumps(description))
    return folder


def make_data_folders(preprocessed: Path) -> Path:
    """Folders of preprocessed data without data, for trainers that are only given batches; returns the data set's."""
    for dim in (2, 3):
        data = preprocessed / DATASET / f"nnUNetPlans_{dim}d"
        data.mkdir(parents=True)
        (data / "case.b2nd").touch()  # nnU-Net infers the class of the data set from the file ending
    return preprocessed / DATASET


def batch(trainer: Any, seed: int = 0) -> dict[str, Any]:
    """A random batch as nnU-Net's loader would give it to this trainer."""
    generator = torch.Generator().manual_seed(seed)
    size = getattr(trainer, "training_patch_size", trainer.configuration_manager.patch_size)
    data = torch.randn(trainer.batch_size, trainer.num_input_channels, *size, generator=generator)
    manager = trainer.label_manager
    if manager.has_regions:
        channels = manager.num_segmentation_heads + manager.has_ignore_label
        full = torch.rand(trainer.batch_size, channels, *size, generator=generator) < 0.5
    else:
        values = manager.num_segmentation_heads + manager.has_ignore_label
        full = torch.randint(0, values, (trainer.batch_size, 1, *size), generator=generator).short()
    scales = trainer._get_deep_supervision_scales()
    if scales is None:
        return {"data": data, "target": full}
    sizes = [[round(s * f) for s, f in zip(size, scale, strict=True)] for scale in scales]
    resized = [
        nn.functional.interpolate(full.float(), tuple(s), mode="nearest-exact").to(full.dtype) if s != size else full
        for s in sizes
    ]
    return {"data": data, "target": resized}


def weights_after_two_steps(trainer: Any, batch: dict[str, Any]) -> list[torch.Tensor]:
    """The weights of the network after two steps on the same batch, in the middle of the training."""
    trainer.current_epoch = trainer.num_epochs // 2
    torch.manual_seed(0)
    trainer.network.train()
    for _ in range(2):
        trainer.train_step(deepcopy(batch))
    return list(trainer.network.state_dict().values())


def batch_with_everything(trainer: Any, seed: int = 0) -> dict[str, Any]:
    """:func:`batch` with all that any trainer asks for.

    Sample 0 has the first landmark, and its case, ``case_0``, is the one that may be known to be annotated in part.
    """
    made = batch(trainer, seed)
    size, dim = len(made["data"]), made["data"].ndim - 2
    landmarks = len(trainer.dataset_json.get("landmarks", {}).get("names", ()))
    states = torch.full((size, landmarks), -1, dtype=torch.int8)
    points = torch.full((size, landmarks, dim), torch.nan)
    states[:1, :1], points[:1, :1] = 1, 1.5
    return {
        **made,
        "keys": [f"case_{sample}" for sample in range(size)],
        **landmark_entries(points, states, torch.arange(size) != 0),
    }
