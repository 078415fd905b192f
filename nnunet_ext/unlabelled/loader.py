"""nnU-Net's data loader with additional patches of images without labels in its batches.

=================  =============================  ===============================================================
key of a batch     type                           meaning
=================  =============================  ===============================================================
``unlabelled``     float32 (U, C, *spatial)       patches of images without labels, with nnU-Net's augmentation
=================  =============================  ===============================================================

All other entries are nnU-Net's. The additional patches lie anywhere, like nnU-Net's patches that ignore foreground.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from nnunet_ext.nnunet.transforms import OUTSIDE

KEY = "unlabelled"
ZERO = 1e-3
"""Voxels with normalised grey values closer to 0 than this lie outside the body: nnU-Net leaves zeros there, which its
resampling blurs slightly."""


class ImagesOnly:
    """A data set of nnU-Net that reads only images, neither labels nor their locations.

    Args:
        files: preprocessed file by case, without its ending.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        blosc2.set_nthreads(1)
        self.files = dict(files)
        self.identifiers = sorted(files)

    def load_case(self, identifier: str) -> tuple[Any, np.ndarray, None, dict[str, Any]]:
        """Load a case for nnU-Net's loader: image ``(C, z, y, x)``, labels that are all 0, no previous stage."""
        mapped = {} if os.name == "nt" else {"mmap_mode": "r"}  # as in nnUNetDatasetBlosc2
        image = blosc2.open(urlpath=f"{self.files[identifier]}.b2nd", mode="r", dparams={"nthreads": 1}, **mapped)
        return image, np.broadcast_to(np.int8(0), (1, *image.shape[1:])), None, {"class_locations": {}}


class OutsideByImage:
    """nnU-Net's transforms for an image without labels, with the outside of the body found by its zeros.

    nnU-Net marks the outside of the body with the label −1, and sets the augmented image to 0 there. This class writes
    these labels before the transforms run.

    Args:
        transforms: nnU-Net's transforms.
        channels: channels that were normalised only inside the body.
    """

    def __init__(self, transforms: Callable[..., dict[str, Any]], channels: Sequence[int]) -> None:
        self.transforms = transforms
        self.channels = list(channels)

    def __call__(self, image: Tensor, segmentation: Tensor) -> dict[str, Any]:
        """Transform one patch; ``image``: ``(C, *spatial)``, ``segmentation``: ``(1, *spatial)``."""
        outside = (image[self.channels].abs() < ZERO).all(0, keepdim=True)
        return self.transforms(image=image, segmentation=segmentation.masked_fill(outside, OUTSIDE))


class WithUnlabelled(nnUNetDataLoader):
    """nnU-Net's loader of labelled cases; a second loader fills ``batch["unlabelled"]``."""

    def __init__(self, *args: Any, images: nnUNetDataLoader, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.images = images

    def generate_train_batch(self) -> dict[str, Any]:
        return {**super().generate_train_batch(), KEY: self.images.generate_train_batch()["data"]}


def with_unlabelled(
    files: Mapping[str, Path], count: int, masked_channels: Sequence[int], *args: Any, **kwargs: Any
) -> WithUnlabelled:
    """Build nnU-Net's loader with additional patches of images without labels.

    Args:
        files: see :class:`ImagesOnly`.
        count: number of patches without labels in a batch.
        masked_channels: channels that were normalised only inside the body.
        args: positional arguments of nnU-Net's loader, data and batch size first.
        kwargs: keyword arguments of nnU-Net's loader.
    """
    _, _, *others = args
    transforms = kwargs["transforms"]
    if masked_channels and transforms is not None:
        transforms = OutsideByImage(transforms, masked_channels)
    settings = {**kwargs, "oversample_foreground_percent": 0.0, "transforms": transforms}
    images = nnUNetDataLoader(ImagesOnly(files), count, *others, **settings)
    images.has_ignore = False  # otherwise it would look for labelled voxels
    return WithUnlabelled(*args, images=images, **kwargs)


def as_seen(batch: Mapping[str, Any], channels: int) -> Tensor | None:
    """Return the patches without labels as the network sees them, ``(U, C, *spatial)``; None if there are none.

    Args:
        batch: batch of the training.
        channels: number of the network's input channels; further channels, from a trainer's transforms, are cut off.
    """
    patches = batch.get(KEY)
    return None if patches is None else torch.as_tensor(patches)[:, :channels]
