"""A short training of any trainer of the package on arrays: the real step, the real losses, no files of a data set."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnunet_ext.catalogue import resolve
from nnunet_ext.nnunet.trainer import CommonTrainer

DATASET = "Dataset999_Toy"
EPOCHS = 20
"""Ramps and learning rates change by epoch."""

SCHEDULE = {"epochs": EPOCHS, "learning_rate": 0.1, "momentum": 0.9, "warmup_steps": 10}
"""Schedule of the small benchmarks of this package, which reaches the same end as nnU-Net's in fewer steps."""

Batch = Callable[[int], tuple[Tensor, Tensor]]
"""Step → image ``(B, C, *patch)`` and labels ``(B, 1, *patch)``, int16."""

More = Callable[[int], Mapping[str, Any]]
"""Step → further entries of the batch, such as patches without labels."""


def plans(
    patch: tuple[int, ...],
    batch_size: int,
    features: tuple[int, ...],
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Plans of a small ``PlainConvUNet`` on a spacing of 1 mm; methods have their defaults but for ``options``."""
    dim, stages = len(patch), len(features)
    network = {
        "n_stages": stages,
        "features_per_stage": list(features),
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
        "kernel_sizes": [[3] * dim] * stages,
        "strides": [[1] * dim, *[[2] * dim] * (stages - 1)],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    settings = {
        "data_identifier": "toy",
        "batch_size": batch_size,
        "patch_size": list(patch),
        "spacing": [1.0] * dim,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": dim == 2,
        "nnunet_ext": {"schedule": SCHEDULE, **(options or {})},
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "toy",
        "transpose_forward": [0, 1, 2],
        "original_median_spacing_after_transp": [1.0] * 3,
        "original_median_shape_after_transp": [patch[0]] * 3,
        "label_manager": "LabelManager",
        "configurations": {"2d" if dim == 2 else "3d_fullres": settings},
    }


def train(
    trainer: str, toy_plans: dict[str, Any], labels: Mapping[str, Any], batch: Batch, steps: int, *, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    """Train, and return what predicts logits ``(B, K, *patch)`` from an image ``(B, C, *patch)``.

    Arguments are those of :func:`trained`.
    """
    return predictor(trained(trainer, toy_plans, labels, batch, steps, seed=seed).network)


def predictor(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what predicts logits ``(B, K, *patch)`` from an image ``(B, C, *patch)``, without gradients."""

    def predict(image: Tensor) -> Tensor:
        with torch.no_grad():
            return network(image)

    return predict


def trained(
    trainer: str,
    toy_plans: dict[str, Any],
    labels: Mapping[str, Any],
    batch: Batch,
    steps: int,
    *,
    more: More | None = None,
    seed: int = 0,
) -> CommonTrainer:
    """Train, and return the trainer, whose network is set to evaluation without deep supervision.

    Args:
        trainer: name in the catalogue.
        toy_plans: of :func:`plans`; their schedule is set to these steps.
        labels: as in ``dataset.json``.
        batch: what the loader would give.
        steps: in all, a multiple of :data:`EPOCHS`.
        more: what else the loader would give.
        seed: of the weights, and of all that the method draws.
    """
    dataset = {"channel_names": {"0": "MRI"}, "labels": dict(labels), "numTraining": 1, "file_ending": ".nii.gz"}
    ((configuration, settings),) = toy_plans["configurations"].items()
    per_epoch = steps // EPOCHS
    settings["nnunet_ext"]["schedule"] = {**SCHEDULE, "iterations": per_epoch}
    with _folders(), contextlib.redirect_stdout(io.StringIO()):  # nnU-Net prints its citation
        torch.manual_seed(seed)
        content = {**toy_plans, "continue_training": False}
        made = resolve(trainer)(content, configuration, 0, dataset, torch.device("cpu"))
        made.initialize()
        made.network.train()
        made.set_deep_supervision_enabled(made.enable_deep_supervision)
        scales = made._get_deep_supervision_scales()
        for step in range(steps):
            if step % per_epoch == 0:
                made.current_epoch, made.step_in_epoch = step // per_epoch, 0
                made.lr_scheduler.step(made.current_epoch)
            image, target = batch(step)
            targets = [_scaled(target, scale) for scale in scales] if scales is not None else target
            keys = [str(n) for n in range(len(image))]
            made.train_step({"data": image, "target": targets, "keys": keys, **(more(step) if more else {})})
        made.set_deep_supervision_enabled(False)
    made.network.eval()
    return made


def _scaled(target: Tensor, scale: tuple[float, ...]) -> Tensor:
    """The target for deep supervision, as nnU-Net's augmentation makes it."""
    size = [round(n * factor) for n, factor in zip(target.shape[2:], scale, strict=True)]
    return interpolate(target.float(), size, mode="nearest-exact").to(target.dtype)


@contextlib.contextmanager
def _folders() -> Iterator[None]:
    """nnU-Net's folders, empty and gone at the end."""
    names = [f"nnUNet_{kind}" for kind in ("raw", "preprocessed", "results")]
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            os.environ[name] = str(Path(folder) / name)
        data = Path(folder) / "nnUNet_preprocessed" / DATASET / "toy"
        data.mkdir(parents=True)
        (data / "case.b2nd").touch()  # nnU-Net infers the class of the data set from the file ending
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name)
                else:
                    os.environ[name] = value
