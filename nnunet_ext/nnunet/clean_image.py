"""The image of a training patch without intensity augmentation, on the grid of the augmented one.

nnU-Net's loader returns an image and a segmentation and nothing else. But its transforms also take a regression target,
which is warped, mirrored and cropped like the image, and which intensity transforms leave alone. We pass the image
itself as such a target, and append the result as additional channels of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nnunet_ext.nnunet.trainer import Batch, CommonTrainer

CLEAN_IMAGE = "clean_image"
"""Entry of batches: ``(B, channels of the image, *spatial)``."""


class CleanImage(CommonTrainer):
    """A trainer whose batches may have :data:`CLEAN_IMAGE`."""

    @property
    def has_clean_image(self) -> bool:
        """Whether batches have it."""
        return False

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        transforms = super().get_training_transforms(*args, **kwargs)
        return WithCleanImage(transforms) if self.has_clean_image else transforms

    def prepare_batch(self, batch: Batch) -> Batch:
        if self.has_clean_image:
            data, clean = batch["data"].tensor_split([-self.image_channels], 1)
            batch = {**batch, "data": data, CLEAN_IMAGE: clean}
        return super().prepare_batch(batch)


class WithCleanImage:
    """nnU-Net's training transforms; their image has the channels of the clean image last.

    Args:
        transforms: what ``nnUNetTrainer.get_training_transforms`` returns.
    """

    def __init__(self, transforms: Callable[..., dict[str, Tensor]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Tensor, segmentation: Tensor, **others: Tensor) -> dict[str, Tensor]:
        """``image``: ``(C, *spatial)``, ``segmentation``: ``(1, *spatial)``, of one patch; others as they are."""
        target = image.clone()
        result = self.transforms(image=image, segmentation=segmentation, regression_target=target, **others)
        result["image"] = torch.cat([result["image"], result.pop("regression_target")])
        return result
