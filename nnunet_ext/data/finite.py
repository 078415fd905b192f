"""NaN and infinite voxels of images, and what nnU-Net makes of them.

Measured with nnU-Net 2.8 and its default resampling: one NaN makes every voxel of the preprocessed image NaN. It
spreads through the mean of the normalisation or, with CT normalisation, through the resampling. One infinite voxel does
the same, except that CT normalisation clips it. In NIfTI files read with ITK neither happens: ITK reads both as 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.findings import Finding


def not_finite(image: NDArray) -> str | None:
    """Describe the NaN and infinite voxels of an image, and the fix; None if there are none.

    Args:
        image: ``(C, …)``, from nnU-Net's reader; with several channels the text names the first bad one.
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
    """Describe the voxels of a NIfTI file that are NaN or infinite but that ITK reads as 0, and the fix; None if none.

    Args:
        files: files that :func:`~nnunet_ext.data.headers.require_whole` accepts.
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


def not_finite_findings(case: str, image: NDArray, files: Iterable[Path], reader: str) -> list[Finding]:
    """Return at most one finding: what :func:`not_finite` or, if it finds nothing, :func:`read_as_zero` describes.

    Args:
        case: name of the case.
        image: as for :func:`not_finite`.
        files: its files.
        reader: name of nnU-Net's reader.
    """
    if text := not_finite(image):
        return [Finding("fatal", "not finite", text, case)]
    text = read_as_zero(files, reader)
    return [Finding("warning", "not finite", text, case)] if text else []


def _counts(voxels: NDArray) -> str:
    """The text ``2 NaN and 1 infinite``; empty if there are none."""
    wrong = int((~np.isfinite(voxels)).sum())
    nan = int(np.isnan(voxels).sum()) if wrong else 0
    return " and ".join(f"{n} {what}" for n, what in ((nan, "NaN"), (wrong - nan, "infinite")) if n)
