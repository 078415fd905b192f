"""Where nnU-Net's transforms turn its label for what is outside of the image into background.

nnU-Net fills the segmentation with −1 beyond the image. Its last transform of labels removes it, and some trainers must
know before that where the image is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform

OUTSIDE = -1
"""Label of voxels outside of the image, in nnU-Net's loader."""


def composes(transform: Any) -> Iterator[ComposeTransforms]:
    """All lists of transforms in nested ones."""
    if isinstance(transform, ComposeTransforms):
        yield transform
        for part in transform.transforms:
            yield from composes(part)


def removal_of_outside(transforms: Any, advice: str = "") -> tuple[ComposeTransforms, int]:
    """The list of transforms, and the index in it, where nnU-Net removes :data:`OUTSIDE`.

    Args:
        transforms: what ``nnUNetTrainer.get_training_transforms`` or ``get_validation_transforms`` returns.
        advice: ends the message.

    Raises:
        RuntimeError: there is no such place, or more than one.
    """
    places = [
        (compose, index)
        for compose in composes(transforms)
        for index, one in enumerate(compose.transforms)
        if isinstance(one, RemoveLabelTransform) and one.label_value == OUTSIDE
    ]
    if len(places) != 1:
        raise RuntimeError(
            f"nnU-Net's transforms remove the label −1 in {len(places)} places instead of 1, so padding cannot be told "
            f"from the image with this version of nnU-Net; install one that nnunet-ext supports{advice}."
        )
    return places[0]
