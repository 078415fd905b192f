"""Clips of neighbouring slices for a network with 2D layers, from configuration ``2d``.

nnU-Net's loader, augmentation and sliding window work on slices or on volumes, depending on the number of axes of the
patch size. So the patch becomes three-dimensional, ``[T, H, W]``, while the planned network and the preprocessed data
stay those of ``2d``, and nnU-Net's own code does the rest. In training, T is short; in validation and inference, whose
patch size is that of the plans in the model folder, it is long.

Preprocessing keeps slices as they are: ``2d`` never resamples across them (``default_preprocessor.py``, 2.8.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from batchgeneratorsv2.helpers.scalar_type import sample_scalar
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import distributed as dist

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.clip_loader import GAP, SINGLE, blank_padding, clip_loaders
from nnunet_ext.nnunet.plans import require_unet
from nnunet_ext.nnunet.trainer import CommonTrainer

__all__ = ["GAP", "SINGLE", "SliceClips", "WithinSlices", "blurs", "require_2d"]


class SliceClips(CommonTrainer):
    """A trainer whose patches are clips.

    Attributes:
        clip: slices per training sample; 1 for data sets of single slices.
    """

    def clip_lengths(self) -> tuple[int, int]:
        """Return the slices of a patch in training and in inference; called once."""
        raise NotImplementedError

    def single_slices(self) -> float:
        """Return the share of the training clips that are made of single slices from anywhere; by default none."""
        return 0.0

    @classmethod
    def check_plans(cls, plans: Mapping[str, Any], configuration: str) -> None:
        super().check_plans(plans, configuration)
        if cls.patches_only:
            raise InputError(
                f"{cls.__name__} trains on clips of slices, which losses for scribbles and partial labels do not take; "
                "put these in front of another trainer."
            )
        require_2d(plans, configuration, cls.__name__)

    def adapt_configuration(self) -> None:
        super().adapt_configuration()
        settings = self.configuration_manager.configuration
        self.clip, length = self.clip_lengths()
        if self.plans_manager.original_median_shape_after_transp[0] == 1:
            self.print_to_log_file("The images are single slices: there is nothing to propagate through.")
            self.clip = length = 1
        # a model that is loaded again has three axes already
        size = [length, *settings["patch_size"][-2:]]
        settings["patch_size"] = size
        # as many slices per step as nnU-Net planned, so that memory stays what it was; and as many clips in one process
        # as in another, since nnU-Net's batch Dice gathers tensors whose sizes must be equal (dice.py, 2.8.1)
        ranks = dist.get_world_size() if self.is_ddp else 1
        settings["batch_size"] = max(2, ranks * max(1, round(settings["batch_size"] / self.clip / ranks)))
        # nnU-Net writes these plans, not those above, into the model folder
        self.plans_manager.plans["configurations"][self.configuration_name]["patch_size"] = list(size)

    @property
    def training_patch_size(self) -> list[int]:
        return [self.clip, *self.configuration_manager.patch_size[-2:]]

    @contextmanager
    def _patch_size(self, size: list[int]) -> Iterator[None]:
        settings = self.configuration_manager.configuration
        before = settings["patch_size"]
        settings["patch_size"] = size
        try:
            yield
        finally:
            settings["patch_size"] = before

    def get_dataloaders(self) -> tuple[Any, Any]:
        axis = self.plans_manager.transpose_forward[0]
        single = self.single_slices() if self.clip > 1 else 0.0
        with self._patch_size(self.training_patch_size), clip_loaders(axis, single):
            return super().get_dataloaders()

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, bool, Any, Any]:  # noqa: N802
        """Return those of 2D, with one in-plane transform for all slices of a clip, which may also be reversed."""
        with self._patch_size(list(self.configuration_manager.patch_size[-2:])):
            rotation, _, size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        axes = (0, 1, 2) if self.clip > 1 else (1, 2)
        # a patch of one slice has no order to turn around
        self.inference_allowed_mirroring_axes = axes if self.configuration_manager.patch_size[0] > 1 else (1, 2)
        return rotation, True, np.array([self.clip, *size]), axes

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        transforms = super().get_training_transforms(*args, **kwargs)
        for blur in blurs(transforms):
            blur.blur_sigma = WithinSlices(blur.blur_sigma)
        blank_padding(transforms)
        return transforms

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        scales = super()._get_deep_supervision_scales()
        return None if scales is None else [[1.0, *scale] for scale in scales]


class WithinSlices:
    """Sigma of nnU-Net's blur that leaves the first axis out.

    Slices are farther apart than pixels, and its kernel does not fit into a clip of one or two of them.
    """

    def __init__(self, sigma: Any) -> None:
        self.sigma = sigma

    def __call__(self, shape: Sequence[int], dim: int) -> float:
        """``dim``: counted from 1."""
        return 0.1 if dim == 1 else sample_scalar(self.sigma, shape, dim=dim)  # 0.1: a kernel of one voxel


def blurs(transform: Any) -> Iterator[GaussianBlurTransform]:
    """All of nnU-Net's blurs in nested transforms."""
    if isinstance(transform, GaussianBlurTransform):
        yield transform
    nested = [getattr(transform, name, None) or [] for name in ("transforms", "list_of_transforms")]
    for part in [*nested[0], *nested[1], *([transform.transform] if hasattr(transform, "transform") else [])]:
        yield from blurs(part)


def require_2d(plans: Mapping[str, Any], configuration: str, trainer: str) -> None:
    """Raise InputError unless this configuration has a network with 2D layers."""
    settings = PlansManager(plans).get_configuration(configuration).configuration
    require_unet(settings, f"Plans {plans['plans_name']}, configuration {configuration}")
    kind = settings["architecture"]["arch_kwargs"]["conv_op"].rpartition(".")[2]
    if kind != "Conv2d":
        raise InputError(
            f"{trainer} segments volumes with 2D layers, but configuration {configuration} has {kind}; train "
            "configuration 2d."
        )
