"""Voxels of images that are no finite numbers, and what nnU-Net makes of them.

Measured with nnU-Net 2.8 and its default resampling: one NaN makes all voxels of a preprocessed image NaN, through the
mean of its normalisation or, with that of CT, when it is resampled. One infinite voxel does the same, but the
normalisation of CT clips it. In NIfTI files neither gets that far if ITK reads them: it takes both for 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def not_finite(image: NDArray) -> str | None:
    """Describe the voxels that are NaN or infinite, and the fix; None if there are none.

    Args:
        image: ``(C, …)``, as nnU-Net's reader gives it; the channel is named if there are several.
    """
    for number, channel in enumerate(image):
        if counts := _counts(channel):
            where = f"channel {number} of the image" if len(image) > 1 else "the image"
            return (
                f"{where} has {counts} among its {channel.size} voxels: nnU-Net's normalisation and resampling spread "
                "them to the whole image, and the loss becomes NaN; replace them, for example by its lowest value"
            )
    return None


def read_as_zero(files: Iterable[Path], reader: str) -> str | None:
    """Describe the voxels that are NaN or infinite in NIfTI files, but 0 to ITK, and the fix; None if there are none.

    Args:
        files: whole ones.
        reader: name of nnU-Net's reader.
    """
    import nibabel

    for file in files:
        if "SimpleITK" in reader and file.name.lower().endswith((".nii", ".nii.gz")):
            voxels = np.asanyarray(nibabel.load(file).dataobj.get_unscaled())  # type: ignore[attr-defined]
            if voxels.dtype.kind in "fc" and (counts := _counts(voxels)):
                return (
                    f"{file.name} has {counts} among its {voxels.size} voxels: nnU-Net reads it with ITK, which takes "
                    "them for 0, whatever 0 means in this image; replace them, for example by its lowest value"
                )
    return None


def _counts(voxels: NDArray) -> str:
    """``2 NaN and 1 infinite``; empty if there are none."""
    wrong = int((~np.isfinite(voxels)).sum())
    nan = int(np.isnan(voxels).sum()) if wrong else 0
    return " and ".join(f"{n} {what}" for n, what in ((nan, "NaN"), (wrong - nan, "infinite")) if n)
