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
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor

from nnunet_ext.data.geometry import Floats
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.mirroring import Mirroring

KEYPOINTS, STATES = "keypoints", "keypoint_states"
_SLICES = "keypoint_slices"

TOLERANCE = 1e-3
"""Voxels of the new image. A grid of float32 is exact to about a tenth of it."""

STEPS = 100
"""An affine map needs one. A deformation that needs more is folded there, and the answer is not unique."""

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


# --- points on a resampled grid ---------------------------------------------------------------------------------------


def follow(points: ArrayLike, grid: NDArray, shape: Sequence[int], affine: ArrayLike, align_corners: bool) -> Floats:
    """Return where points of an image are after the image was resampled on a grid.

    Augmentation asks for every voxel of the new image where it lies in the old one. A landmark needs the inverse: which
    place of the new image was taken from here. The map is the affine one that rotates and scales, and what elastic
    deformation adds to it, so stepping with the inverse of the affine part alone converges to the answer.

    Args:
        points: ``(K, dim)``, continuous indices of the old image; nan stays nan.
        grid: ``(*new shape, dim)``, where ``torch.nn.functional.grid_sample`` samples: the old image from −1 to 1, its
            last axis first.
        shape: of the old image, ``(dim,)``.
        affine: ``(dim, dim)``, voxels of the old image per voxel of the new one. It may be rough.
        align_corners: of ``grid_sample``: −1 and 1 are the centres of the outer voxels, not their faces.

    Returns:
        ``(K, dim)``, continuous indices of the new image, also beyond its border; nan where they cannot be found.
    """
    points, size, matrix = np.asarray(points, float), np.asarray(shape), np.asarray(affine, float)
    inverse, last = np.linalg.inv(matrix), np.asarray(grid.shape[:-1]) - 1
    parts = np.moveaxis(grid, -1, 0)[::-1]
    scale = (size - 1) / 2 if align_corners else size / 2

    def sampled(index: Floats) -> Floats:
        """Place in the old image of ``index`` in the new one; beyond its border the map goes on as the affine one."""
        within = np.clip(index, 0, last)
        unit = [map_coordinates(part, within.T, float, order=1) for part in parts]
        return np.stack(unit, 1) * scale + (size - 1) / 2 + (index - within) @ matrix.T

    found = np.full_like(points, np.nan)
    known = np.isfinite(points).all(1)
    goal = points[known]
    index = np.broadcast_to(last / 2, goal.shape)
    for _ in range(STEPS):
        step = (goal - sampled(index)) @ inverse.T
        index = index + step
        if np.abs(step).max(initial=0) < TOLERANCE:
            break
    found[known] = np.where((np.abs(step) < TOLERANCE).all(1, keepdims=True), index, np.nan)
    return found
