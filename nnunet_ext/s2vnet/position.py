"""Place of every pixel, added to the clustered features: a centre then knows where its pixels are.

Without it two structures that look alike have one centre, and neither propagation nor a click can tell them apart. The
channels are ``v, u, sin πv, cos πv, sin πu, cos πu``: rows and columns from the middle of what the network sees, in mm,
as multiples of half the longer side of the planned patch. So 1 is about the border, and pixels that are not square do
not distort distances.

The middle is that of the tile, which all slices of a chain share. A mirrored tile is another chain: its image, masks
and prompts are mirrored with it, and the grid stays, so the memory of a centre holds in its own chain. The network
cannot learn sides by heart, because training mirrors and crops at random.

Source: none of the publication's; *added*.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PLACES = 6
"""Channels of a position."""


def positions(shape: Sequence[int], size: Sequence[int], pixel: Sequence[float] | None = None) -> Tensor:
    """Return the channels of all cells of a grid over an image, ``(6, h, w)`` float32.

    Args:
        shape: ``(h, w)`` of the grid, whose cells divide the image evenly.
        size: ``(H, W)`` of the image, in pixels.
        pixel: height and width of a pixel, in half longer sides of the planned patch; None: pixels are square, and the
            image is the patch.
    """
    pixel = pixel or (2 / max(size), 2 / max(size))
    rows, columns = (
        ((torch.arange(cells) + 0.5) / cells - 0.5) * (length * extent)
        for cells, length, extent in zip(shape, size, pixel, strict=True)
    )
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([v, u, *(f(torch.pi * x) for x in (v, u) for f in (torch.sin, torch.cos))])


def with_positions(feature: Tensor, size: Sequence[int], pixel: Sequence[float] | None = None) -> Tensor:
    """``(B, C, h, w)`` → ``(B, C + 6, h, w)``; see :func:`positions`."""
    place = positions(feature.shape[2:], size, pixel).to(feature)
    return torch.cat((feature, place.expand(len(feature), -1, -1, -1)), 1)
