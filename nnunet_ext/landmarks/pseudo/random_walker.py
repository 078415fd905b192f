"""The engine ``random-walker``, which runs everywhere: seeded by the prompts, stopped by edges of the image.

A voxel is foreground if a random walker from there, which avoids crossing edges, probably meets foreground seeds before
background seeds (Grady, *Random walks for image segmentation*, IEEE TPAMI 2006; solved by scikit-image). The engine
works in a box around the prompts. The faces of the box are background, because the organ lies between its landmarks.
Foreground prompts are balls, because a walker seldom meets single voxels. The engine knows nothing about organs: where
they have no edge, it guesses.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial import cKDTree

from nnunet_ext.data.geometry import Floats
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.pseudo.engines import Engine

# BETA and RADIUS are the best of a few values on a dozen cases of the hippocampus; MARGIN matters little

BETA = 2000.0
"""Penalty for crossing edges, for intensities scaled to [0, 1]."""

RADIUS = 0.2
"""Radius of the foreground balls, as a fraction of the smallest distance between foreground and background prompts."""

MARGIN = 0.35
"""Margin of the box around the prompts, as a fraction of its longest side."""

SMOOTHING = 0.5
"""Standard deviation of a Gaussian filter before edges are measured, in units of the finest spacing."""

LARGEST_BOX = 300_000
"""Largest box in voxels that is solved as it is; larger ones are solved on a coarser grid."""


def load(model: str | None) -> Engine:
    """Return the engine, which needs no model.

    Raises:
        InputError: a model is given.
    """
    if model is not None:
        raise InputError(f"--model is {model}, but random-walker has no model; leave it out.")
    return random_walker_mask


def random_walker_mask(
    image: NDArray, spacing_mm: Sequence[float], foreground: Floats, background: Floats
) -> NDArray[np.bool_]:
    """The engine; arguments as in :mod:`nnunet_ext.landmarks.pseudo.engines`.

    The same prompts give the same mask. An image without edges gives an empty mask.
    """
    from skimage.segmentation import random_walker

    spacing = np.asarray(spacing_mm, float)
    points = np.concatenate([foreground, background]) * spacing
    margin = MARGIN * np.ptp(points, 0).max()
    low = np.maximum(np.floor((points.min(0) - margin) / spacing).astype(int), 0)
    high = np.minimum(np.ceil((points.max(0) + margin) / spacing).astype(int) + 1, image.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    shape = high - low

    part = image[box].astype(float)
    coarser = min(1.0, (LARGEST_BOX / part.size) ** (1 / 3))
    if coarser < 1:
        part = zoom(part, np.maximum(coarser, 1 / shape), order=1, grid_mode=True, mode="nearest")
    step = spacing * shape / part.shape  # spacing in mm of the grid that is solved
    part = gaussian_filter(part, SMOOTHING * step.min() / step)
    darkest, brightest = np.percentile(part, [1, 99])
    mask = np.zeros(image.shape, bool)
    if darkest == brightest:  # no edges: nothing can be found
        return mask
    part = np.clip((part - darkest) / (brightest - darkest), 0, 1)

    seeds = _seeds(part.shape, step, (foreground - low + 0.5) * spacing, (background - low + 0.5) * spacing)
    if seeds.all() or not (seeds == 2).any():
        probability = (seeds == 1).astype(float)
    else:
        with warnings.catch_warnings():
            # scikit-image warns of probabilities slightly outside [0, 1], which are harmless here
            warnings.simplefilter("ignore", UserWarning)
            settings = {"beta": BETA, "mode": "cg_j", "tol": 1e-3, "spacing": step / step.min()}
            probability = random_walker(part, seeds, return_full_prob=True, **settings)[0]
    if coarser < 1:
        probability = zoom(probability, shape / part.shape, order=1, grid_mode=True, mode="nearest")
    mask[box] = probability > 0.5
    return mask


def _seeds(shape: Sequence[int], step_mm: Floats, foreground_mm: Floats, background_mm: Floats) -> NDArray[np.int32]:
    """Seeds of the walker, 1 foreground, 2 background, 0 unknown. Points are in mm from the corner of the box."""
    seeds = np.zeros(shape, np.int32)
    for axis in range(len(shape)):
        if shape[axis] > 2:
            seeds[(slice(None),) * axis + ([0, -1],)] = 2
    tree = cKDTree((np.indices(shape).reshape(len(shape), -1).T + 0.5) * step_mm)
    radius = 0.0
    if len(background_mm):
        seeds.ravel()[tree.query(background_mm)[1]] = 2
        radius = RADIUS * cKDTree(background_mm).query(foreground_mm)[0].min()
    # foreground last, so that it wins where both fall into one voxel of a coarse grid
    for near in tree.query_ball_point(foreground_mm, radius):
        seeds.ravel()[near] = 1
    seeds.ravel()[tree.query(foreground_mm)[1]] = 1
    return seeds
