"""nnU-Net's loader for clips: windows that overhang the volume, and padding that stays recognisable.

nnU-Net draws the first slice of a patch so that the patch lies inside of the volume. The first of D slices is then in
one of D − T + 1 windows, a middle one in T of them, so the ends of organs are seen least. Here windows may overhang by
T − 1 slices at both ends, so every slice is in T of D + T − 1 windows. Around a voxel of the foreground, at a share
``(z + u) / D`` of the volume with ``u`` uniform in [0, 1), the window is the one at the same share of all windows: it
holds the voxel, and where foreground is spread evenly, so are the windows.

Neighbouring slices look alike, so a step on clips sees less than a step on as many slices from anywhere. Some clips of
a batch may therefore be made of single slices, each drawn and augmented on its own (``single_slices``).

Slices that overhang are −1 in the loader's target. Augmentation changes their zeros (noise, contrast), so they become
zero again where nnU-Net removes −1: the network recognises padding by its zeros.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_ext.nnunet.loaders import loaders_built_by
from nnunet_ext.nnunet.transforms import OUTSIDE, removal_of_outside

GAP = "gap"
"""Entry of a batch: ``(B,)`` float32, mm between two slices."""

SINGLE = "single_slices"
"""Entry of a batch: ``(B,)`` bool, clips whose slices come from anywhere and do not know each other."""


class ClipLoader(nnUNetDataLoader):
    """See the module's docstring; batches have :data:`GAP`, too.

    Args:
        slice_axis: axis of the original image across which slices lie.
        single_slices: share of the clips that are made of single slices; nnU-Net's own share of patches around the
            foreground is then a probability, because a batch of few clips cannot keep it otherwise.
    """

    def __init__(
        self,
        data: Any,
        batch_size: int,
        patch_size: Any,
        final_patch_size: Any,
        *args: Any,
        slice_axis: int,
        single_slices: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if single_slices:
            kwargs = {**kwargs, "probabilistic_oversampling": True}
        super().__init__(data, batch_size, patch_size, final_patch_size, *args, **kwargs)
        self.slice_axis = slice_axis
        self.need_to_pad[0] = 2 * (self.patch_size[0] - 1)
        self._gaps: dict[str, float] = {}
        self.clips, self.single_slices = batch_size, single_slices
        self._of_slices: ClipLoader | None = None
        if single_slices:
            sizes = [[1, *size[1:]] for size in (patch_size, final_patch_size)]
            self._of_slices = ClipLoader(data, 1, *sizes, *args, slice_axis=slice_axis, **kwargs)

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
        """Return a batch of nnU-Net's with :data:`GAP` and :data:`SINGLE`."""
        single = int(self.single_slices * self.clips + np.random.uniform())  # right on average
        parts = []
        if single < self.clips:
            self.batch_size = self.clips - single
            parts.append(super().generate_train_batch())
        if single:
            parts.append(self._clips_of_slices(single))
        batch = _joined(parts)
        batch[GAP] = torch.tensor([self._gap(key) for key in batch["keys"]], dtype=torch.float32)
        batch[SINGLE] = torch.arange(self.clips) >= self.clips - single
        return batch

    def _clips_of_slices(self, number: int) -> dict[str, Any]:
        """So many clips of single slices. A clip has the key of its first slice."""
        assert self._of_slices is not None
        length = int(self.patch_size[0])
        self._of_slices.batch_size = number * length
        batch = nnUNetDataLoader.generate_train_batch(self._of_slices)

        def stacked(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(0, (number, length)).squeeze(3).transpose(1, 2)

        target = batch["target"]
        return {
            "data": stacked(batch["data"]),
            "target": [stacked(one) for one in target] if isinstance(target, list) else stacked(target),
            "keys": batch["keys"][::length],
        }

    def _gap(self, case: str) -> float:
        if case not in self._gaps:
            self._gaps[case] = float(self._data.load_case(case)[3]["spacing"][self.slice_axis])
        return self._gaps[case]


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Several batches as one."""
    if len(parts) == 1:
        return dict(parts[0])
    targets = [part["target"] for part in parts]
    if isinstance(targets[0], list):
        target: Any = [torch.cat(several) for several in zip(*targets, strict=True)]
    else:
        target = torch.cat(targets)
    keys = [key for part in parts for key in part["keys"]]
    return {"data": torch.cat([part["data"] for part in parts]), "target": target, "keys": keys}


def clip_loaders(slice_axis: int, single_slices: float = 0.0) -> AbstractContextManager[None]:
    """Context in which ``nnUNetTrainer.get_dataloaders`` builds :class:`ClipLoader`; see :func:`loaders_built_by`.

    Args:
        slice_axis: see :class:`ClipLoader`.
        single_slices: of training; validation has none.
    """
    build = partial(ClipLoader, slice_axis=slice_axis)
    return loaders_built_by(build, "clips", training=partial(build, single_slices=single_slices))


class BlankPadding(BasicTransform):
    """Sets slices of the image to zero that lie outside of the volume, by the target.

    So is a slice of a patch that lies beside the body altogether, where nnU-Net's crop left nothing but zeros.
    """

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        outside = (data_dict["segmentation"][0] == OUTSIDE).flatten(1).all(1)
        data_dict["image"][:, outside] = 0
        return data_dict


def blank_padding(transforms: Any) -> None:
    """Put :class:`BlankPadding` into nnU-Net's training transforms, in place, before −1 is removed from the target.

    Raises:
        RuntimeError: there is no place, or more than one, where nnU-Net removes −1.
    """
    compose, index = removal_of_outside(transforms)
    compose.transforms.insert(index, BlankPadding())
