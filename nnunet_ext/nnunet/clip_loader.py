"""nnU-Net's loader for clips: windows that overhang the volume, and padding that stays recognisable.

nnU-Net draws the first slice of a patch so that the patch lies inside of the volume. The first of D slices is then in
one of D − T + 1 windows, a middle one in T of them, so the ends of organs are seen least. Here windows may overhang by
T − 1 slices at both ends, so every slice is in T of D + T − 1 windows. Around a voxel of the foreground, at a share
``(z + u) / D`` of the volume with ``u`` uniform in [0, 1), the window is the one at the same share of all windows: it
holds the voxel, and where foreground is spread evenly, so are the windows.

Slices that overhang are −1 in the loader's target. Augmentation changes their zeros (noise, contrast), so they become
zero again where nnU-Net removes −1: the network recognises padding by its zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_ext.nnunet.loaders import loaders_built_by

GAP = "gap"
"""Entry of a batch: ``(B,)`` float32, mm between two slices."""

PADDING = -1
"""Label of voxels outside of the image, in nnU-Net's loader."""


class ClipLoader(nnUNetDataLoader):
    """See the module's docstring; batches have :data:`GAP`, too.

    Args:
        slice_axis: axis of the original image across which slices lie.
    """

    def __init__(self, *args: Any, slice_axis: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slice_axis = slice_axis
        self.need_to_pad[0] = 2 * (self.patch_size[0] - 1)
        self._gaps: dict[str, float] = {}

    def get_bbox(
        self, data_shape: Any, force_fg: bool, class_locations: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[int], list[int]]:
        """Return the bounds of a patch; those within slices are nnU-Net's."""
        lower, upper = super().get_bbox(data_shape, force_fg, class_locations, *args, **kwargs)
        length, depth = int(self.patch_size[0]), int(data_shape[0])
        if force_fg or self.has_ignore:  # around a voxel, which nnU-Net puts into the middle
            voxel = min(max(int(lower[0]) + length // 2, 0), depth - 1)
            share = (voxel + np.random.uniform()) / depth
            lower[0] = int(share * (depth + length - 1)) - (length - 1)
        upper[0] = lower[0] + length
        return lower, upper

    def generate_train_batch(self) -> dict[str, Any]:
        """Return a batch of nnU-Net's with :data:`GAP`."""
        batch = super().generate_train_batch()
        return {**batch, GAP: torch.tensor([self._gap(key) for key in batch["keys"]], dtype=torch.float32)}

    def _gap(self, case: str) -> float:
        if case not in self._gaps:
            self._gaps[case] = float(self._data.load_case(case)[3]["spacing"][self.slice_axis])
        return self._gaps[case]


def clip_loaders(slice_axis: int) -> AbstractContextManager[None]:
    """Context in which ``nnUNetTrainer.get_dataloaders`` builds :class:`ClipLoader`; see :func:`loaders_built_by`."""
    return loaders_built_by(partial(ClipLoader, slice_axis=slice_axis), "clips")


class BlankPadding(BasicTransform):
    """Sets slices of the image to zero that lie outside of the volume, by the target.

    So is a slice of a patch that lies beside the body altogether, where nnU-Net's crop left nothing but zeros.
    """

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        outside = (data_dict["segmentation"][0] == PADDING).flatten(1).all(1)
        data_dict["image"][:, outside] = 0
        return data_dict


def blank_padding(transforms: Any) -> None:
    """Put :class:`BlankPadding` into nnU-Net's training transforms, in place, before −1 is removed from the target.

    Raises:
        RuntimeError: there is no place, or more than one, where nnU-Net removes −1.
    """
    places = [
        (compose, index)
        for compose in _composes(transforms)
        for index, one in enumerate(compose.transforms)
        if isinstance(one, RemoveLabelTransform) and one.label_value == PADDING
    ]
    if len(places) != 1:
        raise RuntimeError(
            f"nnU-Net's transforms remove the label −1 in {len(places)} places instead of 1, so padding cannot be told "
            "from the image with this version of nnU-Net; install one that nnunet-ext supports."
        )
    compose, index = places[0]
    compose.transforms.insert(index, BlankPadding())


def _composes(transform: Any) -> Iterator[ComposeTransforms]:
    if isinstance(transform, ComposeTransforms):
        yield transform
        for part in transform.transforms:
            yield from _composes(part)
