"""nnU-Net's data loader with landmarks: batches hold them, and mix segmented cases and cases with landmarks.

=========================  ===================  =======================================================================
key of a batch             type                 meaning
=========================  ===================  =======================================================================
``landmarks``              float32 (B, K, dim)  voxels of the patch that the network sees; nan unless present in it, or
                                                in 2D in another slice at a place that this patch shows
``landmark_states``        int8 (B, K)          :class:`State` in this patch: a landmark elsewhere is absent here; in 2D
                                                also one in another slice
``landmark_across``        float32 (B, K)       in 2D, mm between this slice and that of the landmark; otherwise 0
``landmark_case_states``   int8 (B, K)          :class:`State` in the case: absent means absent from the whole image
``segmented``              bool (B,)            whether the case has a segmentation. The target does not tell: outside
                                                the image nnU-Net writes background, also in unsegmented cases
=========================  ===================  =======================================================================

When a flip exchanges left and right, both states are exchanged with the points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ext.data.geometry import inside
from nnunet_ext.landmarks.points import ROUNDING, State
from nnunet_ext.landmarks.training.augmentation import KEYPOINTS, STATES
from nnunet_ext.landmarks.training.cases import (
    DatasetWithLandmarks,
    LandmarkCase,
    Locations,
    systematic_sample,
    with_segmented_share,
)
from nnunet_ext.nnunet.loaders import loaders_built_by

KEYS = ("landmarks", "landmark_states", "landmark_case_states", "landmark_across", "segmented")
"""Keys of a batch that nnU-Net's does not have."""


def landmark_entries(
    points: Tensor,
    states: Tensor,
    segmented: Tensor,
    case_states: Tensor | None = None,
    across: Tensor | None = None,
) -> dict[str, Tensor]:
    """The entries of a batch that nnU-Net's does not have; see the module.

    Args:
        points: ``(B, K, dim)``.
        states: in the patch, ``(B, K)``.
        segmented: ``(B,)``.
        case_states: in the case, ``(B, K)``; by default those in the patch.
        across: mm across slices, ``(B, K)``; by default 0.
    """
    case_states = states if case_states is None else case_states
    across = torch.zeros(states.shape) if across is None else across
    return dict(zip(KEYS, (points, states, case_states, across, segmented), strict=True))


class LandmarkDataLoader(nnUNetDataLoader):
    """nnU-Net's loader of a :class:`DatasetWithLandmarks`; its ``transforms`` carry keypoints or are None.

    Every batch holds segmented cases and cases with landmarks in proportion to their numbers, but at least
    ``segmented_share`` of segmented cases. nnU-Net places the patches, and may also centre them near landmarks where it
    centres them on foreground. A case with only landmarks has no labelled voxels, so its other patches lie anywhere in
    the image, even if the data set has an ignore label; of these, too, ``landmark_share`` are centred near landmarks.
    """

    def __init__(
        self,
        data: DatasetWithLandmarks,
        *args: Any,
        transforms: Any = None,
        segmented_share: float = 0.0,
        landmark_share: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.patches = _Patches(transforms)
        self.landmark_share = landmark_share
        super().__init__(data, *args, transforms=self.patches, **kwargs)
        self.annotations = [data.cases[name].annotation for name in self.indices]
        self.shares = with_segmented_share(self.annotations, segmented_share, self.sampling_probabilities)
        self.data_has_ignore: bool = self.has_ignore

    def get_indices(self) -> NDArray[np.str_]:
        return np.array(self.indices)[systematic_sample(self.annotations, self.batch_size, self.shares)]

    def get_bbox(
        self, data_shape: Any, force_fg: bool, class_locations: Locations, *args: Any, **kwargs: Any
    ) -> tuple[list[int], list[int]]:
        case = class_locations.case
        # with an ignore label nnU-Net centres patches on labelled voxels, and warns if there are none
        self.has_ignore = self.data_has_ignore and case.annotation.segmentation
        if self.landmark_share and not case.annotation.segmentation:
            force_fg = force_fg or np.random.random() < self.landmark_share
        lower, upper = super().get_bbox(data_shape, force_fg, class_locations, *args, **kwargs)
        self.patches.begin(case, lower, self.patch_size_was_2d)
        return lower, upper

    def generate_train_batch(self) -> dict[str, Any]:
        self.patches.done.clear()
        batch = super().generate_train_batch()
        return batch | self.patches.collated()


class _Patches:
    """Takes the place of the transforms in nnU-Net's loader, and adds the landmarks of the patch just cut out."""

    def __init__(self, transforms: Callable[..., dict[str, Any]] | None) -> None:
        self.transforms = transforms
        self.current: dict[str, Tensor] = {}
        self.segmented = True
        self.done: list[tuple[Tensor, ...]] = []

    def begin(self, case: LandmarkCase, start: Sequence[int], flat: bool) -> None:
        """Note the case and the place of the next patch.

        Args:
            case: the case of the patch.
            start: first voxel of the patch, ``(3,)``.
            flat: whether the patch is one slice; nnU-Net removes its first axis.
        """
        voxels = torch.from_numpy(case.keypoints.voxels - np.asarray(start, np.float32))
        case_states = torch.from_numpy(case.keypoints.states)
        states, across = case_states.clone(), torch.zeros(len(voxels))
        if flat:
            slices = torch.where(voxels[:, 0].abs() > 0.5, voxels[:, 0].round().abs(), 0.0)
            states[(case_states == State.PRESENT) & (slices > 0)] = State.ABSENT
            voxels, across = voxels[:, 1:], slices * case.slice_mm
        self.current = {KEYPOINTS: voxels, STATES: torch.stack([states, case_states, across], 1)}
        self.segmented = case.annotation.segmentation

    def __call__(self, image: Tensor, segmentation: Tensor) -> dict[str, Any]:
        result: dict[str, Any] = {"image": image, "segmentation": segmentation, **self.current}
        if self.transforms is not None:
            result = self.transforms(**result)
        seen = _seen(result.pop(KEYPOINTS), result.pop(STATES), tuple(result["image"].shape[1:]))
        self.done.append((*seen, torch.tensor(self.segmented)))
        return result

    def collated(self) -> dict[str, Tensor]:
        """The landmarks of a batch, by key."""
        points, states, case_states, across, segmented = map(torch.stack, zip(*self.done, strict=True))
        return landmark_entries(points, states, segmented, case_states, across)


def _seen(voxels: Tensor, states: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """After all transforms: points ``(K, dim)``, states in patch and case, and mm across slices, ``(K,)`` each."""
    state, case_state, across = states.unbind(1)
    state = state.to(torch.int8)
    visible = torch.from_numpy(inside(voxels.numpy(), shape, ROUNDING))
    state[(state == State.PRESENT) & ~visible] = State.ABSENT
    # where a deformation folds space, the new position is not known
    state[(case_state == State.PRESENT) & voxels.isnan().any(1)] = State.UNKNOWN
    points = voxels.masked_fill(~visible[:, None], torch.nan)
    return points, state, case_state.to(torch.int8), across.masked_fill(~visible, 0.0)


def landmark_loaders(segmented_share: float = 0.0, landmark_share: float = 0.0) -> AbstractContextManager[None]:
    """Context in which ``nnUNetTrainer.get_dataloaders`` builds :class:`LandmarkDataLoader`.

    Args:
        segmented_share: smallest share of segmented cases in training; validation keeps the proportion of its cases.
        landmark_share: in training, the share of an unsegmented case's patches that is placed near a landmark even
            where nnU-Net places a patch anywhere.
    """
    training = partial(LandmarkDataLoader, segmented_share=segmented_share, landmark_share=landmark_share)
    return loaders_built_by(LandmarkDataLoader, "landmarks", training)
