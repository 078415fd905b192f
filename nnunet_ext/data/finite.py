"""Voxels of images that are no finite numbers, and what nnU-Net makes of them.

Measured with nnU-Net 2.8: one NaN makes all voxels of a preprocessed image NaN, through the mean of its normalisation
or, with that of CT, when it is resampled. One infinite voxel does the same, but the normalisation of CT clips it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def not_finite(image: NDArray) -> str | None:
    """What to say about the voxels that are NaN or infinite; None if there are none.

    Args:
        image: ``(C, …)``; the channel is named if there are several.
    """
    for number, channel in enumerate(image):
        wrong = int((~np.isfinite(channel)).sum())
        if wrong:
            nan = int(np.isnan(channel).sum())
            counts = " and ".join(f"{n} {what}" for n, what in ((nan, "NaN"), (wrong - nan, "infinite")) if n)
            where = f"channel {number} of the image" if len(image) > 1 else "the image"
            return (
                f"{where} has {counts} among its {channel.size} voxels: nnU-Net's normalisation and resampling spread "
                "them to the whole image, and the loss becomes NaN; replace them, for example by its lowest value"
            )
    return None
