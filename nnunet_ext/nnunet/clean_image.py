"""The image of a training patch without intensity augmentation, on the grid of the augmented one.

nnU-Net's loader hands on an image and a segmentation and nothing else. Its transforms, however, know a third thing: a
regression target, which is warped, mirrored and cropped like the image, and which intensity transforms leave alone. The
image itself goes in as such a target, and what comes out travels as additional channels of the image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class WithCleanImage:
    """nnU-Net's training transforms; their image has the channels of the clean image last.

    Args:
        transforms: what ``nnUNetTrainer.get_training_transforms`` returns.
    """

    def __init__(self, transforms: Callable[..., dict[str, Tensor]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Tensor, segmentation: Tensor) -> dict[str, Tensor]:
        """``image``: ``(C, *spatial)``, ``segmentation``: ``(1, *spatial)``, of one patch."""
        result = self.transforms(image=image, segmentation=segmentation, regression_target=image.clone())
        result["image"] = torch.cat([result["image"], result.pop("regression_target")])
        return result
