"""Tube masks: hide columns of blocks that go through all slices of a patch.

The in-plane axes are cut into a grid of square blocks. A fixed number of its columns is drawn and hidden in all slices
alike, so that the next slice does not show what is hidden in one::

    slice 0   ░░██░░░░      slice 1   ░░██░░░░      …
              ░░░░░░██                ░░░░░░██

In 3D the slice axis is axis 0, where nnU-Net puts the coarsest spacing; in an isotropic data set it may be any
anatomical axis. In 2D there is no slice axis, and blocks are hidden.

Deviations from the published code, each with its reason:

* *Voxels of the input are hidden*, not embedded tokens by a learned token: a planned network is convolutional, and its
  skip connections would show the decoder what its tokens hide (as they do in the code's UNETR).
* *The size of a block follows the patch* (an eighth of its shorter in-plane side). The code has the token size of each
  transformer: 1/6 of the side (UNETR), 1/32 (nnFormer).
* *Tubes run along the slice axis.* In the code's UNETR they run from left to right.
* *Every sample has its own mask* unless asked otherwise; in the code a batch shares one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from nnunet_ext.errors import InputError

Fill = Literal["zero", "noise", "mean"]
"""Value of hidden voxels: 0, noise with mean and standard deviation of their channel, or that mean."""


def default_block(in_plane: Sequence[int]) -> int:
    """The power of two nearest to an eighth of the shorter side, between 4 and 32; all in voxels."""
    return min(32, max(4, 2 ** round(math.log2(min(in_plane) / 8))))


class Tubes:
    """The columns of a patch, and how many of them are hidden.

    Attributes:
        grid: blocks along height and width.
        columns: how many there are.
        hidden: how many of them are hidden.

    Args:
        patch: its shape in voxels, ``(slices, height, width)`` or ``(height, width)``.
        ratio: share of the columns to hide, from 0 to below 1; their number is rounded down.
        block: side of a column in voxels; by default :func:`default_block`. The last ones are cut off at the border.

    Raises:
        InputError: ``ratio`` is out of range, or so small that it hides no column.
    """

    def __init__(self, patch: Sequence[int], ratio: float, block: int | None = None) -> None:
        self.patch = tuple(patch)
        self.in_plane = self.patch[-2:]
        self.block = default_block(self.in_plane) if block is None else block
        self.grid = tuple(-(-size // self.block) for size in self.in_plane)
        self.columns = math.prod(self.grid)
        self.hidden = int(ratio * self.columns + 1e-9)  # 0.29 · 100 is 28.999…
        if not 0 <= ratio < 1:
            raise InputError(f"A mask hides a share of the columns of a patch from 0 to below 1, but got {ratio}.")
        if ratio > 0 and self.hidden == 0:
            raise InputError(
                f"A share of {ratio} of {self.columns} columns is none: patch {'×'.join(map(str, self.patch))} has a "
                f"grid of {'×'.join(map(str, self.grid))} blocks of {self.block} voxels; hide more, or smaller blocks."
            )

    def draw(
        self,
        batch: int,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        *,
        per_sample: bool = True,
    ) -> Tensor:
        """Masks of a batch, ``(B, 1, *patch)`` bool, True where hidden; a view that must not be written to.

        Args:
            batch: ``B``.
            device: of the masks.
            generator: of random numbers, on that device; PyTorch's own by default.
            per_sample: False: one mask for the whole batch, as in the published code.
        """
        masks = batch if per_sample else 1
        order = torch.rand(masks, self.columns, device=device, generator=generator).argsort(1)
        hidden = torch.zeros(masks, self.columns, dtype=torch.bool, device=device)
        hidden.scatter_(1, order[:, : self.hidden], True)
        height, width = self.in_plane
        blocks = hidden.view(masks, 1, *self.grid)
        voxels = blocks.repeat_interleave(self.block, 2).repeat_interleave(self.block, 3)[:, :, :height, :width]
        if len(self.patch) == 3:
            voxels = voxels[:, :, None]
        return voxels.expand(batch, 1, *self.patch)

    def __str__(self) -> str:
        return (
            f"{self.hidden} of {self.columns} columns of {self.block}×{self.block} voxels are hidden "
            f"in a patch of {'×'.join(map(str, self.patch))}"
        )


def apply_mask(data: Tensor, hidden: Tensor, fill: Fill = "zero", image_channels: int | None = None) -> Tensor:
    """``data`` without its hidden voxels, in all channels; ``data`` itself stays as it is.

    Args:
        data: ``(B, C, *spatial)``, z-scored by nnU-Net, where 0 is the mean.
        hidden: ``(B, 1, *spatial)`` bool.
        fill: of the channels of the image.
        image_channels: how many channels are image, all by default. The others are the one-hot prediction of the
            previous stage of a cascade, and become 0, or they would show what is hidden.
    """
    image = data[:, :image_channels]
    filled = torch.where(hidden, _filler(image, fill), image)
    if filled.shape[1] == data.shape[1]:
        return filled
    return torch.cat([filled, data[:, image_channels:].masked_fill(hidden, 0)], 1)


def _filler(image: Tensor, fill: Fill) -> Tensor:
    """Return the values of hidden voxels, of a shape that broadcasts to the image's."""
    if fill == "zero":
        return image.new_zeros(())
    axes = tuple(range(2, image.ndim))
    mean = image.mean(axes, keepdim=True)
    if fill == "mean":
        return mean
    return mean + image.std(axes, keepdim=True) * torch.randn_like(image)
