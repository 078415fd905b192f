"""nnU-Net's data loader, whose batches hold landmarks, and both kinds of cases.

=========================  ===================  =======================================================================
key of a batch             type                 what it is
=========================  ===================  =======================================================================
``landmarks``              float32 (B, K, dim)  voxels of the patch that the network sees; nan unless present in it
``landmark_states``        int8 (B, K)          :class:`State` in this patch: one that is elsewhere is absent here, in
                                                2D one of another slice too
``landmark_case_states``   int8 (B, K)          :class:`State` in the case: absent means absent from the whole image
``segmented``              bool (B,)            whether anything is drawn in the case. The target does not tell: beyond
                                                the image nnU-Net writes background, also where nothing is drawn
=========================  ===================  =======================================================================

Where a flip exchanges left and right, both states are exchanged with the points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ext.data.geometry import inside
from nnunet_ext.landmarks.points import State
from nnunet_ext.landmarks.training.augmentation import KEYPOINTS, STATES
from nnunet_ext.landmarks.training.cases import (
    DatasetWithLandmarks,
    LandmarkCase,
    Locations,
    systematic_sample,
    with_segmented_share,
)
from nnunet_ext.nnunet.loaders import loaders_built_by


class LandmarkDataLoader(nnUNetDataLoader):
    """nnU-Net's loader of a :class:`DatasetWithLandmarks`; its ``transforms`` carry keypoints or are None.

    Every batch holds segmented cases and cases with landmarks in their proportion, or at least ``segmented_share`` of
    the former. Without an ignore label, and in segmented cases, patches are where nnU-Net's are, and at landmarks where
    it wants foreground; cases with landmarks only have them anywhere otherwise, as nothing in them is ignored.
    """

    def __init__(
        self,
        data: DatasetWithLandmarks,
        *args: Any,
        transforms: Any = None,
        segmented_share: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.patches = _Patches(transforms)
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
        lower, upper = super().get_bbox(data_shape, force_fg, class_locations, *args, **kwargs)
        self.patches.begin(case, lower, self.patch_size_was_2d)
        return lower, upper

    def generate_train_batch(self) -> dict[str, Any]:
        self.patches.done.clear()
        batch = super().generate_train_batch()
        return batch | self.patches.collated()


class _Patches:
    """Stands where nnU-Net's loader has its transforms, and adds the landmarks of the patch that was just cut out."""

    def __init__(self, transforms: Callable[..., dict[str, Any]] | None) -> None:
        self.transforms = transforms
        self.current: dict[str, Tensor] = {}
        self.segmented = True
        self.done: list[tuple[Tensor, ...]] = []

    def begin(self, case: LandmarkCase, start: Sequence[int], flat: bool) -> None:
        """A patch of a case was chosen.

        Args:
            case: what is known of it.
            start: first voxel of the patch, ``(3,)``.
            flat: the patch is one slice, whose axis nnU-Net removes.
        """
        voxels = torch.from_numpy(case.keypoints.voxels - np.asarray(start, np.float32))
        case_states = torch.from_numpy(case.keypoints.states)
        states = case_states.clone()
        if flat:
            states[(case_states == State.PRESENT) & (voxels[:, 0].abs() > 0.5)] = State.ABSENT
            voxels = voxels[:, 1:]
        self.current = {KEYPOINTS: voxels, STATES: torch.stack([states, case_states], 1)}
        self.segmented = case.annotation.segmentation

    def __call__(self, image: Tensor, segmentation: Tensor) -> dict[str, Any]:
        result: dict[str, Any] = {"image": image, "segmentation": segmentation, **self.current}
        if self.transforms is not None:
            result = self.transforms(**result)
        seen = _seen(result.pop(KEYPOINTS), result.pop(STATES), tuple(result["image"].shape[1:]))
        self.done.append((*seen, torch.tensor(self.segmented)))
        return result

    def collated(self) -> dict[str, Tensor]:
        """The landmarks of a batch."""
        keys = ("landmarks", "landmark_states", "landmark_case_states", "segmented")
        return {key: torch.stack(parts) for key, parts in zip(keys, zip(*self.done, strict=True), strict=True)}


def _seen(voxels: Tensor, states: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Points ``(K, dim)``, states in the patch and in the case ``(K,)``, after all transforms."""
    state, case_state = states.unbind(1)
    state = state.clone()
    there = state == State.PRESENT
    visible = torch.from_numpy(inside(voxels.numpy(), shape))
    state[there & ~visible] = State.ABSENT
    # a deformation that folds space leaves no answer
    state[there & voxels.isnan().any(1)] = State.UNKNOWN
    points = voxels.masked_fill((state != State.PRESENT)[:, None], torch.nan)
    return points, state, case_state.clone()


def landmark_loaders(segmented_share: float = 0.0) -> AbstractContextManager[None]:
    """Context in which ``nnUNetTrainer.get_dataloaders`` builds :class:`LandmarkDataLoader`.

    Args:
        segmented_share: of the samples in training; validation keeps the proportion of its cases.
    """
    shares = chain((segmented_share,), repeat(0.0))

    def build(*args: Any, **kwargs: Any) -> LandmarkDataLoader:
        return LandmarkDataLoader(*args, segmented_share=next(shares), **kwargs)

    return loaders_built_by(build, "landmarks")
