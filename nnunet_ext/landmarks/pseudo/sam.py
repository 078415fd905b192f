"""The engine ``sam``: Segment Anything (Kirillov et al., ICCV 2023) on 2D slices, propagated to the others.

It segments the slices that hold foreground points, then goes on from slice to slice with the innermost point of the
last mask as the prompt, until the mask vanishes or jumps in size. Written after the interface of ``segment_anything``
1.0, and **never run here** with a real model: the tests replace it by a stand-in with the same interface. Checkpoints
of MedSAM have the same format, but were trained with boxes, not with points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from nnunet_ext.data.geometry import Floats
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.pseudo.engines import Engine

JUMP = 2.0
"""From one slice to the next the area changes at most by this factor."""


def load(model: str | None) -> Engine:
    """Args:
    model: checkpoint, with ``vit_b``, ``vit_l`` or ``vit_h`` in its name.

    Raises:
        InputError: it is not installed, or there is no such file.
    """
    try:
        from segment_anything import SamPredictor, sam_model_registry
    except ImportError:
        raise InputError("The engine sam needs segment_anything: pip install segment-anything.") from None
    kind = re.search(r"vit_[blh]", Path(model).name) if model else None
    if model is None or kind is None or not Path(model).is_file():
        raise InputError(f"--model is {model}, but sam needs a checkpoint file with vit_b, vit_l or vit_h in its name.")
    import torch

    network = sam_model_registry[kind[0]](checkpoint=model)
    predictor = SamPredictor(network.to("cuda:0" if torch.cuda.is_available() else "cpu"))

    def engine(
        image: NDArray, spacing_mm: Sequence[float], foreground: Floats, background: Floats
    ) -> NDArray[np.bool_]:
        return slice_by_slice(predictor, image, spacing_mm, foreground, background)

    return engine


def slice_by_slice(
    predictor: Any, image: NDArray, spacing_mm: Sequence[float], foreground: Floats, background: Floats
) -> NDArray[np.bool_]:
    """An engine made of a 2D predictor with the interface of ``SamPredictor``."""
    axis = int(np.argmax(spacing_mm))
    volume, mask = np.moveaxis(image, axis, 0), np.zeros(image.shape, bool)
    slices = np.moveaxis(mask, axis, 0)
    darkest, brightest = np.percentile(volume, [0.5, 99.5])
    grey = np.clip((volume - darkest) / max(brightest - darkest, 1e-9) * 255, 0, 255).astype(np.uint8)
    # the slice of each point, and its place (row, column) in it
    inner, outer = (
        (np.rint(points[:, axis]).astype(int), np.delete(points, axis, 1)) for points in (foreground, background)
    )

    def segment(z: int, inside: Floats) -> NDArray[np.bool_]:
        outside = outer[1][outer[0] == z]
        predictor.set_image(np.repeat(grey[z][..., None], 3, -1))
        found, _, _ = predictor.predict(
            point_coords=np.concatenate([inside, outside])[:, ::-1],
            point_labels=np.array([1] * len(inside) + [0] * len(outside)),
            multimask_output=False,
        )
        return np.asarray(found[0], bool)

    prompted = sorted(set(inner[0].tolist()))
    for z in prompted:
        slices[z] = segment(z, inner[1][inner[0] == z])
    for start in prompted:
        for step in (-1, 1):
            last, z = slices[start], start + step
            while 0 <= z < len(slices) and z not in prompted and last.any():
                depth = distance_transform_edt(np.pad(last, 1))[1:-1, 1:-1]
                centre = np.array(np.unravel_index(depth.argmax(), depth.shape), float)
                found = segment(z, centre[None])
                if not last.sum() / JUMP <= found.sum() <= last.sum() * JUMP:
                    break
                slices[z] |= found
                last, z = found, z + step
    return mask
