"""Quarter turns and flips of patches, drawn anew for each: exact, so that labels turn with their image.

A patch is turned in the plane of its last two axes, if they have the same number of voxels (nnU-Net's in-plane axes; a
turn out of that plane would mix spacings), and flipped along the axes along which nnU-Net mirrors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Turn:
    """One turn.

    Attributes:
        quarters: turns by 90° in the plane of the last two axes, 0 to 3.
        flipped: spatial axes that are flipped afterwards, from 0.
    """

    quarters: int
    flipped: tuple[int, ...]

    def __call__(self, patch: Tensor) -> Tensor:
        """Turn ``(C, *spatial)``."""
        turned = torch.rot90(patch, self.quarters, (-2, -1))
        return turned.flip([axis + 1 for axis in self.flipped])


def draw_turn(size: Sequence[int], axes: Sequence[int], generator: torch.Generator | None = None) -> Turn:
    """Draw one turn.

    Args:
        size: of the patch in voxels, without channels.
        axes: spatial axes that may be flipped, from 0.
        generator: of random numbers, on the CPU; PyTorch's own by default.
    """
    quarters = int(torch.randint(4, (), generator=generator)) if size[-1] == size[-2] else 0
    flips = torch.rand(len(axes), generator=generator) < 0.5
    return Turn(quarters, tuple(axis for axis, flip in zip(axes, flips.tolist(), strict=True) if flip))


def turned(patches: Tensor, turns: Sequence[Turn]) -> Tensor:
    """Turn every patch of ``(B, C, *spatial)`` by its own turn."""
    return torch.stack([turn(patch) for turn, patch in zip(turns, patches, strict=True)])
