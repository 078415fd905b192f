"""nnU-Net's augmentation for landmarks: what moves voxels moves points.

The transforms of batchgeneratorsv2 know a key ``keypoints``, but those that move voxels do not implement it. Each of
them is wrapped here in a transform that draws the same random numbers, leaves the image and the segmentation to it, and
moves the points itself. Transforms of the image or of the segmentation alone pass by. Beside ``keypoints``, ``(K,
dim)``, may go ``keypoint_states``, ``(K, …)``, which only follows when landmarks change places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform, SegOnlyTransform
from batchgeneratorsv2.transforms.nnunet.seg_to_onehot import MoveSegAsOneHotToDataTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from torch import Tensor

from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.mirroring import Mirroring
from nnunet_ext.landmarks.warping import follow

KEYPOINTS, STATES = "keypoints", "keypoint_states"
_SLICES = "keypoint_slices"

# they overwrite BasicTransform.apply and move nothing
_STILL = (ImageOnlyTransform, SegOnlyTransform, MaskImageTransform, MoveSegAsOneHotToDataTransform)

Data = dict[str, Any]


def with_keypoints(transform: BasicTransform, mirroring: Mirroring | None = None) -> BasicTransform:
    """The same transform, for ``keypoints`` too. Image and segmentation stay bit for bit what they were.

    Args:
        transform: what ``nnUNetTrainer.get_training_transforms`` or ``get_validation_transforms`` returns.
        mirroring: which flips exchange which landmarks; none by default.

    Raises:
        InputError: it holds a transform of which it is not known how it moves points.
    """
    rule = mirroring or Mirroring()
    if type(transform) is ComposeTransforms:
        return _like(transform, transforms=[with_keypoints(part, rule) for part in transform.transforms])
    if type(transform) is RandomTransform:
        return _like(transform, transform=with_keypoints(transform.transform, rule))
    if type(transform) is OneOfTransform:
        parts = [with_keypoints(part, rule) for part in transform.list_of_transforms]
        return _like(transform, list_of_transforms=parts)
    if type(transform) is SpatialTransform:
        return _Warping(transform)
    if type(transform) is MirrorTransform:
        return _Flipping(transform, rule)
    if type(transform) is Convert3DTo2DTransform:
        return _ToSlices(transform)
    if type(transform) is Convert2DTo3DTransform:
        return _ToVolume(transform)
    if isinstance(transform, _STILL):
        return transform
    raise InputError(
        f"The augmentation {type(transform).__name__} may move voxels, and landmarks would not follow it; remove it "
        "from the training transforms, or teach nnunet_ext.landmarks.training.augmentation how it moves points."
    )


def _like(original: BasicTransform, **changed: Any) -> BasicTransform:
    same = copy(original)
    vars(same).update(changed)
    return same


class _WithKeypoints(BasicTransform):
    """A transform, and what it does to points."""

    def __init__(self, transform: BasicTransform) -> None:
        super().__init__()
        self.transform = transform

    def get_parameters(self, **data: Any) -> Data:
        return self.transform.get_parameters(**data)

    def apply(self, data: Data, **params: Any) -> Data:
        # without the points: the wrapped transform would raise NotImplementedError
        keypoints = data.pop(KEYPOINTS, None)
        shape = tuple(data["image"].shape[1:])
        data = self.transform.apply(data, **params)
        if keypoints is not None:
            data[KEYPOINTS] = self.moved(keypoints, shape, data, params)
        return data

    def moved(self, keypoints: Tensor, shape: Sequence[int], data: Data, params: Data) -> Tensor:
        """The points after the transform.

        Args:
            keypoints: ``(K, dim)``, voxels of the image before it.
            shape: of that image, ``(dim,)``.
            data: after it, without the points; what belongs to them may be changed.
            params: that it drew.
        """
        raise NotImplementedError


class _Warping(_WithKeypoints):
    def moved(self, keypoints: Tensor, shape: Sequence[int], data: Data, params: Data) -> Tensor:
        centre, grid = params["center_location_in_pixels"], params["grid"]
        if grid is None:
            # SpatialTransform cuts out whole voxels then (batchgeneratorsv2.transforms.utils.cropping)
            start = [math.floor(c) - size // 2 for c, size in zip(centre, self.transform.patch_size, strict=True)]
            return keypoints - torch.tensor(start, dtype=keypoints.dtype)
        affine = np.eye(len(shape)) if params["affine"] is None else params["affine"]
        found = follow(keypoints.numpy(), grid.numpy(), shape, affine, self.transform.align_corners)
        return torch.from_numpy(found).to(keypoints.dtype)


class _Flipping(_WithKeypoints):
    def __init__(self, transform: BasicTransform, mirroring: Mirroring) -> None:
        super().__init__(transform)
        self.mirroring = mirroring

    def moved(self, keypoints: Tensor, shape: Sequence[int], data: Data, params: Data) -> Tensor:
        keypoints = keypoints.clone()
        for axis in params["axes"]:
            keypoints[:, axis] = shape[axis] - 1 - keypoints[:, axis]
        order = self.mirroring.order_after(params["axes"])
        if order is None:
            return keypoints
        if STATES in data:
            data[STATES] = data[STATES][order]
        return keypoints[order]


class _ToSlices(_WithKeypoints):
    def moved(self, keypoints: Tensor, shape: Sequence[int], data: Data, params: Data) -> Tensor:
        data[_SLICES] = keypoints[:, :1]
        return keypoints[:, 1:]


class _ToVolume(_WithKeypoints):
    def moved(self, keypoints: Tensor, shape: Sequence[int], data: Data, params: Data) -> Tensor:
        return torch.cat([data.pop(_SLICES), keypoints], 1)
