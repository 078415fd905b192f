"""nnU-Net's augmentation for landmarks: points move with the voxels.

The transforms of batchgeneratorsv2 know a key ``keypoints``, but those that move voxels do not implement it. Each of
them is wrapped here. The wrapper draws the same random numbers, leaves the image and the segmentation to the wrapped
transform, and moves the points itself. Transforms that change only the image or only the segmentation stay as they are.
Besides ``keypoints``, ``(K, dim)``, data may hold ``keypoint_states``, ``(K, …)``; they are reordered when landmarks
change places.
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
"""Accepted error in voxels of the new image. A grid of float32 is exact to about a tenth of it."""

STEPS = 100
"""Largest number of steps. An affine map needs one. Where a deformation needs more than these, it is folded, and the
answer is not unique."""

# these override BasicTransform.apply and move nothing
_STILL = (ImageOnlyTransform, SegOnlyTransform, MaskImageTransform, MoveSegAsOneHotToDataTransform)

Data = dict[str, Any]


def with_keypoints(transform: BasicTransform, mirroring: Mirroring | None = None) -> BasicTransform:
    """The same transform, for ``keypoints`` too. Its image and segmentation are bit for bit the same.

    Args:
        transform: result of ``nnUNetTrainer.get_training_transforms`` or ``get_validation_transforms``.
        mirroring: which flips exchange which landmarks; none by default.

    Raises:
        InputError: it contains a transform that may move points in an unknown way.
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
    """A transform that also moves points."""

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
            keypoints: ``(K, dim)``, voxels of the image before the transform.
            shape: shape of that image, ``(dim,)``.
            data: data after the transform, without the points; entries that belong to the points may be changed.
            params: parameters that the transform drew.
        """
        raise NotImplementedError


class _Warping(_WithKeypoints):
    def moved(self, keypoints: Tensor, shape: Sequence[int], data: Data, params: Data) -> Tensor:
        centre, grid = params["center_location_in_pixels"], params["grid"]
        if grid is None:
            # then SpatialTransform crops whole voxels (batchgeneratorsv2.transforms.utils.cropping)
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
    """Return where points of an image lie after the image was resampled on a grid.

    The grid maps every voxel of the new image to its place in the old image. A landmark needs the inverse: the place in
    the new image that was sampled at the landmark. The map is affine (rotation and scaling) plus an elastic
    deformation, so steps with the inverse of the affine part alone converge to the answer.

    Args:
        points: ``(K, dim)``, continuous indices of the old image; nan stays nan.
        grid: ``(*new shape, dim)``, grid of ``torch.nn.functional.grid_sample``: places in the old image from −1 to 1,
            last axis first.
        shape: shape of the old image, ``(dim,)``.
        affine: ``(dim, dim)``, voxels of the old image per voxel of the new one; an approximation is enough.
        align_corners: argument of ``grid_sample``: −1 and 1 are the centres of the outer voxels, not their faces.

    Returns:
        ``(K, dim)``, continuous indices of the new image, also beyond its border; nan where the search fails.
    """
    points, size, matrix = np.asarray(points, float), np.asarray(shape), np.asarray(affine, float)
    inverse, last = np.linalg.inv(matrix), np.asarray(grid.shape[:-1]) - 1
    parts = np.moveaxis(grid, -1, 0)[::-1]
    scale = (size - 1) / 2 if align_corners else size / 2

    def sampled(index: Floats) -> Floats:
        """Place in the old image of an ``index`` of the new one; beyond the border the map continues affinely."""
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
