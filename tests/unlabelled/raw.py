"""Raw images without labels for the tiny data set of :mod:`tests.tiny`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tests import tiny


def write_image(file: Path, array, spacing=(1.0, 1.0, 1.0)) -> None:
    """Write ``(z, y, x)``; the spacing is in the order of the file, x first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.asarray(array, np.float32))
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))


def write_images(root: Path, names=("new_0", "new_1", "new_2"), folder: str = "imagesUn", seed: int = 7) -> Path:
    """Noise with a bright box, brighter than any labelled image, so that a patch tells where it is from."""
    place = root / "raw" / tiny.DATASET / folder
    rng = np.random.default_rng(seed)
    for name in names:
        image = rng.normal(0, 0.3, (18, 20, 22))
        image[5:12, 6:14, 7:15] += 2
        write_image(place / f"{name}_0000.nii.gz", image)
    return place


def labelled_image(root: Path, case: str):
    """The voxels of a labelled image."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(root / "raw" / tiny.DATASET / "imagesTr" / f"{case}_0000.nii.gz")))
