"""Does a prompt rename the structure under it, or is it about a part of it?

Moved centres change pixels of whole slices by what they look like. That is right if a whole structure has the wrong
label: then it should change everywhere, as far as it exists. It is wrong if a border is a little off: then the centres
move for the sake of a few pixels, and others change that nobody meant.

So a prompt is tried on its slice first. It renames if at least half of the region under it would get its label. Then
its centres move and propagate. Otherwise they stay, and only what is nearby and looks like it follows
(:mod:`nnunet_ext.interactive.nearby`).

*Inferred*: all of it (docs/s2vnet.md says what was measured).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as connected

RENAMED = 0.5
"""Share of the region under a prompt that must get its label."""


def renames(before: NDArray, tried: NDArray, pixels: NDArray[np.int64], label: int) -> bool:
    """Return whether a prompt renames what is under it on one slice.

    The region is what has the label of a drawn pixel and is in one piece with it, by the eight neighbours of a pixel.
    Drawn pixels that have the label of the prompt already do not count.

    Args:
        before: shown labels, ``(H, W)``.
        tried: labels with moved centres, ``(H, W)``.
        pixels: rows and columns of the drawn pixels, ``(P, 2)``.
        label: value of the label of the prompt.
    """
    drawn = np.zeros(before.shape, bool)
    drawn[tuple(pixels.T)] = True
    drawn &= before != label
    region = np.zeros(before.shape, bool)
    for value in np.unique(before[drawn]):
        regions, _ = connected(before == value, np.ones((3, 3)))
        region |= np.isin(regions, np.unique(regions[drawn & (before == value)]))
    return bool(region.any() and (tried[region] == label).mean() >= RENAMED)
