"""Features of slices, kept up to a number of bytes.

The U-Net is most of the work on a slice, and its features depend neither on the direction in which centres propagate,
nor on clicks. So both directions, and everything after a click, can share them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from torch import Tensor


class FeatureCache:
    """The most recently used features, as many as fit. The others are computed again, on a CPU to the same bits.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._kept: OrderedDict[Hashable, list[Tensor]] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The features of this key, computed if they are not there."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = compute()
        size = _bytes(found)
        if size <= self.limit:
            while self.size + size > self.limit:
                self.size -= _bytes(self._kept.popitem(last=False)[1])
            self._kept[key] = found
            self.size += size
        return found

    def take(self, key: Hashable, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The features of this key, for the last time: they are not kept any longer."""
        if key not in self._kept:
            return compute()
        found = self._kept.pop(key)
        self.size -= _bytes(found)
        return found


def _bytes(features: Sequence[Tensor]) -> int:
    return sum(f.numel() * f.element_size() for f in features)
