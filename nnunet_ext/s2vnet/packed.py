"""Compressed arrays: label maps and masks are large and simple, and many of them are kept at a time."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Packed(NamedTuple):
    """An array, compressed."""

    data: bytes
    shape: tuple[int, ...]
    type: str

    @classmethod
    def of(cls, array: NDArray) -> Packed:
        return cls(zlib.compress(np.ascontiguousarray(array).tobytes(), 1), array.shape, array.dtype.str)

    def unpacked(self) -> NDArray:
        return np.frombuffer(zlib.decompress(self.data), self.type).reshape(self.shape)


def packed(mask: Tensor | None) -> Packed | None:
    """Compress a tensor of any device; None stays None."""
    return None if mask is None else Packed.of(mask.cpu().numpy())


def unpacked(mask: Packed | None, device: torch.device) -> Tensor | None:
    """Return the tensor that :func:`packed` was given, on a device."""
    return None if mask is None else torch.from_numpy(mask.unpacked().copy()).to(device)
