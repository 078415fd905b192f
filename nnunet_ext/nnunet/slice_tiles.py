"""Tiles of the patch size that cover a slice, and the slice that they add up to.

Padding, steps and Gaussian are those of nnU-Net's sliding window, in two dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, eq=False)
class SliceTiles:
    """Tiles of all slices of one size.

    Attributes:
        size: rows and columns of a padded slice, at least those of a patch.
        inside: rows and columns of it without padding.
        places: rows and columns of the padded slice that the network sees together.
        weight: of the pixels of a tile, ``(patch_h, patch_w)`` float32.
    """

    size: tuple[int, int]
    inside: tuple[slice, slice]
    places: tuple[tuple[slice, slice], ...]
    weight: Tensor

    @classmethod
    def of(
        cls,
        size: Sequence[int],
        patch: Sequence[int],
        step: float,
        gaussian: bool = True,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (never changed)
    ) -> SliceTiles:
        """Cover slices.

        Args:
            size: their rows and columns.
            patch: rows and columns of a tile.
            step: between tiles, in patches.
            gaussian: False: all pixels of a tile count alike.
            device: of :attr:`weight`.
        """
        patch = tuple(patch)
        padded, inside = pad_nd_image(torch.empty(tuple(size)), patch, "constant", {"value": 0}, True, None)
        steps = compute_steps_for_sliding_window(tuple(padded.shape), patch, step)
        places = [(slice(y, y + patch[0]), slice(x, x + patch[1])) for y, x in itertools.product(*steps)]
        weight = (
            compute_gaussian(patch, 1.0 / 8, 10, torch.float32, device)
            if gaussian
            else torch.ones(patch, device=device)
        )
        height, width = padded.shape
        return cls((height, width), tuple(inside), tuple(places), weight)

    def padded(self, image: Tensor) -> Tensor:
        """``(…, H, W)`` → ``(…, *size)``, with zeros around it; the same tensor if there is nothing to pad."""
        (rows, columns), (height, width) = self.inside, self.size
        room = (columns.start, width - columns.stop, rows.start, height - rows.stop)
        return pad(image, room) if any(room) else image

    def blended(self, tiles: Iterable[Iterable[Tensor]]) -> Tensor:
        """Weighted mean of the tiles where they overlap.

        Args:
            tiles: parts of the logits of each tile, which add up to them, ``(heads, patch_h, patch_w)`` on the device
                of :attr:`weight`.

        Returns:
            ``(heads, H, W)``, without padding.
        """
        weights, total = torch.zeros(self.size, device=self.weight.device), None
        for (rows, columns), parts in zip(self.places, tiles, strict=True):
            weights[rows, columns] += self.weight
            for part in parts:
                if total is None:
                    total = torch.zeros((len(part), *self.size), device=self.weight.device)
                total[:, rows, columns] += self.weight * part
        assert total is not None
        total /= weights
        return total[(slice(None), *self.inside)]
