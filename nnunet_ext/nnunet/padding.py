"""The padding of patches: it is not annotated, so it gets the ignore label if there is one.

nnU-Net fills the segmentation with −1 where a patch reaches beyond the image (``crop_and_pad_nd(seg, bbox, -1)`` in its
loader) and where a rotated or smaller image leaves a gap (``padding_value_seg=-1``), and its last transform of labels
turns −1 into the background (``RemoveLabelTansform(-1, 0)``). With dense labels that is harmless. With scribbles nearly
everything that counts as annotated background is then this empty margin.

Here −1 stays until the batch reaches the trainer, which turns it into "ignore" and keeps where it was. Preprocessing
also uses −1 for background where the image is black (``crop_to_nonzero``). That is annotated, so those voxels get
:data:`BLACK` when they are read. Both are negative, as ``MaskImageTransform`` wants it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import SegOnlyTransform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from torch import Tensor

from nnunet_ext.nnunet.labels import LabelView, finest
from nnunet_ext.nnunet.trainer import INSIDE, Batch, CommonTrainer
from nnunet_ext.nnunet.transforms import OUTSIDE, composes, removal_of_outside

BLACK = -2
"""Label of annotated background where the image is black, while it is loaded."""

ANNOTATED = "annotated"
"""Statistic: annotated voxels as a share of the voxels inside of the image."""


class UnannotatedPadding(CommonTrainer):
    """A trainer that treats everything outside of the image as unlabelled, in training and validation.

    Batches have :data:`~nnunet_ext.nnunet.trainer.INSIDE`, ``(B, 1, *spatial)`` bool: where the image is.
    """

    @property
    def padding_is_annotated(self) -> bool:
        """Whether padding counts as annotated background, as in stock nnU-Net."""
        return self.labels.ignore_label is None

    @property
    def knows_inside(self) -> bool:
        """Whether training batches say where the image is, also if padding counts as annotated."""
        return not self.padding_is_annotated

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        transforms = super().get_training_transforms(*args, **kwargs)
        if self.knows_inside:
            keep_outside(transforms)
        return transforms

    def get_validation_transforms(self, *args: Any, **kwargs: Any) -> Any:
        transforms = super().get_validation_transforms(*args, **kwargs)
        if not self.padding_is_annotated:
            keep_outside(transforms)
        return transforms

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        training, validation = super().get_tr_and_val_datasets()
        if self.knows_inside:
            training = DatasetWithBlack(training)
        if not self.padding_is_annotated:
            validation = DatasetWithBlack(validation)
        return training, validation

    def without_padding(self, batch: Batch) -> Batch:
        """Set voxels outside of the image to "ignore", or to background, and add where the image is."""
        targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        filled, inside = zip(
            *(filled_outside(target, self.labels, self.padding_is_annotated) for target in targets), strict=True
        )
        target = list(filled) if isinstance(batch["target"], list) else filled[0]
        return {**batch, "target": target, INSIDE: inside[0]}

    def prepare_batch(self, batch: Batch) -> Batch:
        if self.knows_inside:
            batch = self.without_padding(batch)
        if not self.padding_is_annotated:
            annotated = self.labels.annotated(finest(batch["target"]))
            self.record(ANNOTATED, annotated.sum() / batch[INSIDE].sum().clamp(min=1))
        return super().prepare_batch(batch)

    def unlabelled_voxels(self, batch: Batch) -> Tensor:
        """``(B, 1, *spatial)`` bool: voxels of the image that are not annotated."""
        nothing = ~self.labels.annotated(finest(batch["target"]))
        return nothing & batch[INSIDE] if INSIDE in batch else nothing

    @property
    def what_validation_patches_show(self) -> str:
        if self.padding_is_annotated:
            return super().what_validation_patches_show
        return "the voxels of the images in the validation patches"

    def validation_step(self, batch: dict) -> dict:
        return super().validation_step(batch if self.padding_is_annotated else self.without_padding(batch))


def filled_outside(target: Tensor, labels: LabelView, annotated: bool = False) -> tuple[Tensor, Tensor]:
    """Return the target as all of this package expects it, and ``(B, 1, *spatial)`` bool: True inside of the image.

    Args:
        target: ``(B, 1, *spatial)`` labels, :data:`OUTSIDE` outside; regions: bool, ``(B, R + 1, *spatial)``, one more
            with an ignore label, whose last channel is what is outside. Without that channel nothing is.
        labels: of the data set.
        annotated: what is outside becomes background; otherwise "ignore", which the data set must have.
    """
    if not labels.has_regions:
        outside = target == OUTSIDE
        fill = 0 if annotated else labels.ignore_label
        assert fill is not None
        return target.masked_fill(outside, fill), ~outside
    if target.shape[1] == labels.num_heads + (labels.ignore_label is not None):
        return target, torch.ones_like(target[:, :1], dtype=torch.bool)
    own, outside = target[:, :-1], target[:, -1:].bool()
    if not annotated:
        own = torch.cat([own[:, :-1], own[:, -1:].bool() | outside], 1)
    return own, ~outside


class DatasetWithBlack:
    """nnU-Net's data set without −1 in its segmentations: black voxels have :data:`BLACK`.

    Args:
        dataset: of preprocessed cases.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # asked for before __init__, by pickle
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Load a case like nnU-Net, its segmentation read as it is needed."""
        data, segmentation, previous, properties = self.dataset.load_case(identifier)
        return data, _Black(segmentation), previous, properties


class _Black:
    """A stored segmentation ``(1, *spatial)``, of which nnU-Net's loader reads a patch."""

    def __init__(self, stored: Any) -> None:
        self.stored = stored
        self.shape, self.dtype = stored.shape, stored.dtype

    def __getitem__(self, place: Any) -> np.ndarray:
        values = np.asarray(self.stored[place])
        return np.where(values == OUTSIDE, values.dtype.type(BLACK), values)


class KeepOutside(SegOnlyTransform):
    """Replaces nnU-Net's removal of −1 from labels ``(C, *spatial)``: −1 stays in the first channel.

    Further channels are the previous stage of a cascade, in which nothing is outside.
    """

    def _apply_to_segmentation(self, segmentation: Tensor, **params: Any) -> Tensor:
        own, previous = segmentation[:1], segmentation[1:]
        own[own == BLACK] = 0
        previous[previous == OUTSIDE] = 0
        return segmentation


def keep_outside(transforms: Any) -> None:
    """Change nnU-Net's transforms, in place, so that what is outside of the image stays :data:`OUTSIDE`.

    With regions, which have a channel each, it gets one, after that of the ignore label.

    Args:
        transforms: what ``nnUNetTrainer.get_training_transforms`` or ``get_validation_transforms`` returns.

    Raises:
        RuntimeError: there is no place, or more than one, where nnU-Net removes −1.
    """
    compose, index = removal_of_outside(
        transforms, ", or train with attenscribble.padding_annotated = true in the plans"
    )
    compose.transforms[index] = KeepOutside()
    for compose in composes(transforms):
        for transform in compose.transforms:
            if isinstance(transform, ConvertSegmentationToRegionsTransform):
                transform.regions.append(torch.Tensor([OUTSIDE]))
