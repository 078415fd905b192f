"""Prompts of a public protocol: a box for every structure, then rounds of one click per structure.

The protocol is that of the challenge *CVPR 2025: Foundation Models for Interactive 3D Biomedical Image Segmentation*,
as in its published evaluation (``CVPR25_iter_eval.py`` and ``get_boxes.py``), so that numbers compare with published
ones:

* *Box*: around the structure in the slice of its median voxel, in the order of the array, enlarged on every side by 0
  to 5 pixels in 256.
* *Click*: in the largest region (26 neighbours) of voxels that belong to the structure in only one of prediction and
  reference, on the voxel farthest from the outside, counted in voxels, not mm; among several by a fixed choice.
* *Areas* under DSC and NSD are over the five clicks, without the box, by trapezoids: 4 is perfect. NSD has a tolerance
  of 2 mm, and counts as 0 if DSC is not above 0.2. Means are over the structures that the reference holds.

Our deviations:

* The challenge also tells in which slices a structure begins and ends; no prompt of a session can tell that.
* The enlargement of a box depends only on the name of the case.
* If a structure is predicted instead of another one, our click names the right one. The challenge clicks "not this
  one", and a session has no such click.
* Voxels with the ignore label are never wrong.
* A volume of one slice has the NSD of a 2D image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from scipy.ndimage import distance_transform_edt, find_objects, label

from nnunet_ext.data.label_definitions import ScoredLabels, numbers_of
from nnunet_ext.interactive.click_effects import Click
from nnunet_ext.interactive.drawing import Box

CLICKS = 5
"""Number of rounds of clicks after the box."""

NSD_TOLERANCE_MM = 2.0

LEAST_DSC = 0.2
"""Up to this DSC, NSD counts as 0."""

CASUAL, REFERENCE_SIZE = 5, 256
"""Largest enlargement of a box on every side in pixels, and the size of the slice that it refers to."""

CHOICE = 42
"""Seed of the choice among voxels that are equally far from the outside."""


def boxes(reference: NDArray, values: Iterable[int], slice_axis: int, case: str) -> dict[int, Box]:
    """Return a box in one slice for every structure that a reference holds, by label.

    Args:
        reference: label map, ``(z, y, x)``.
        values: labels of the structures.
        slice_axis: axis across the slices.
        case: name of the case, which decides how much the boxes are enlarged.
    """
    random = np.random.default_rng(crc32(case.encode()))
    found = {}
    for value in values:
        places = np.argwhere(np.moveaxis(reference == value, slice_axis, 0))
        if len(places):
            found[value] = _box(
                places, np.delete(reference.shape, slice_axis), slice_axis, int(random.integers(CASUAL + 1))
            )
    return found


def _box(places: NDArray[np.int64], size: NDArray[np.int64], slice_axis: int, casual: int) -> Box:
    """Box of voxels ``(P, 3)``, given as slice, row and column, in the slice of the median voxel."""
    middle = int(places[len(places) // 2, 0])
    here = places[places[:, 0] == middle, 1:]
    margin = casual * size // REFERENCE_SIZE
    low, high = np.maximum(here.min(0) - margin, 0), np.minimum(here.max(0) + 1 + margin, size)
    box = np.stack((low, high), 1).tolist()
    box.insert(slice_axis, [middle, middle + 1])
    return box


def round_of_clicks(prediction: NDArray, reference: NDArray, labels: ScoredLabels) -> dict[str, Click]:
    """Return one click by name for every structure of the reference that is not perfect.

    Args:
        prediction: label map, ``(z, y, x)``.
        reference: label map of the same shape.
        labels: the structures, and the ignore label of the reference, whose voxels are never wrong.
    """
    counts = np.ones(reference.shape, bool) if labels.ignore is None else reference != labels.ignore
    found = {}
    for name, value in labels.values.items():
        predicted, true = (np.isin(each, numbers_of(value)) for each in (prediction, reference))
        place = largest_centre((predicted != true) & counts) if (true & counts).any() else None
        if place is not None:
            voxel, size = place
            found[name] = Click(voxel, int(reference[voxel]), size)
    return found


def largest_centre(wrong: NDArray[np.bool_]) -> tuple[tuple[int, int, int], int] | None:
    """Return the centre of the largest region of a 3D mask, and its number of voxels; None if the mask is empty."""
    regions, number = label(wrong, np.ones((3, 3, 3)))
    if not number:
        return None
    sizes = np.bincount(regions.ravel())[1:]
    largest = int(sizes.argmax())
    box = find_objects(regions)[largest]
    depth = distance_transform_edt(np.pad(regions[box] == largest + 1, 1))  # beyond the image counts as outside
    deepest = np.argwhere(depth == depth.max()) - 1
    z, y, x = deepest[np.random.RandomState(CHOICE).choice(len(deepest))] + [part.start for part in box]
    return (int(z), int(y), int(x)), int(sizes[largest])


def area_under(scores: Sequence[float]) -> float:
    """Return the area under scores after 1, 2, … clicks, by trapezoids; at most 4 for five scores."""
    return float(trapezoid(scores))
