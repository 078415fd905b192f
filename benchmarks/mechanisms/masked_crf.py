"""Masked CRF loss: the border of an organ in noise, of which only the core is annotated.

An ellipsoid, brighter than the background by 2.5 standard deviations of the noise. A third of its voxels is annotated,
around its centre, and a thin shell of the background at a distance; between them nobody says where the organ ends, but
the image does. With the partial loss alone the border lies wherever the network happens to put it. The masked CRF loss,
at default options, must put it where the image has it. In 3D it shrinks this organ, because a smaller one has less
border; the force against shrinking (``crf_volume_power``) must hold it up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from benchmarks.mechanisms.toy import Answer
from benchmarks.mechanisms.training import plans, train

LABELS = {"background": 0, "organ": 1, "ignore": 2}
ARMS = {"partial loss": "nnUNetTrainerReference", "with masked CRF": "nnUNetTrainerMaskedCRF"}
SIZE = {2: 40, 3: 20}
FEATURES, BATCH_SIZE = (8, 16, 32), 4
STEPS = {2: 120, 3: 80}
TRAINING, TEST = 16, 8
CONTRAST, NOISE, BLUR = 0.5, 0.2, 0.5
CORE, SHELL = 1 / 3, (1.45, 1.6)
"""Annotated share of the organ's voxels; background annotated between these multiples of the organ's radius."""

GAIN, GAIN_OF_FORCE = 0.02, 0.1
"""Dice that the CRF loss must win in 2D, and that the force against shrinking must win in 3D."""


def run(arms: dict[str, str] = ARMS, dims: tuple[int, ...] = (2, 3)) -> list[Answer]:
    """Train the arms, and compare them with the true shape on images that were not trained with.

    Args:
        arms: name → trainer; the two of the toy in 2D.
        dims: numbers of dimensions.
    """
    answers = []
    if 2 in dims:
        answers += compared("2D", {arm: trained(trainer, 2) for arm, trainer in arms.items()}, GAIN)
    if 3 in dims:
        options = {"without a force": {}, "with a force": {"crf_volume_power": 2 / 3}}
        found = {arm: trained("nnUNetTrainerMaskedCRF", 3, own) for arm, own in options.items()}
        answers += compared("3D, masked CRF", found, GAIN_OF_FORCE)
    return answers


def compared(task: str, arms: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]], gain: float) -> list[Answer]:
    """Dice and volume of two arms, of which the second must win.

    Args:
        task: for the table.
        arms: what :func:`trained` returned.
        gain: Dice that the second must win.
    """
    of_arms = {arm: scores(*result) for arm, result in arms.items()}
    dice, volume = ({arm: both[place] for arm, both in of_arms.items()} for place in (0, 1))
    without, with_it = dice.values()
    errors = [abs(ratio - 1) for ratio in volume.values()]
    second = list(arms)[1]
    return [
        Answer(task, "Dice to the true shape", dice, f"gain of at least {gain}", with_it - without >= gain),
        Answer(task, "volume by true volume", volume, f"1, and nearer to it {second}", errors[1] < errors[0]),
    ]


def scores(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean Dice of the images, and the volume of all by the true one; of what :func:`trained` returns."""
    dice = 2 * (found & truth).sum(1) / (found.sum(1) + truth.sum(1))
    return float(dice.mean()), float(found.sum() / truth.sum())


def trained(
    trainer: str, dim: int, options: Mapping[str, Any] | None = None, seed: int = 0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Predicted and true organ in the test images, ``(TEST, voxels)`` each.

    Args:
        trainer: name in the catalogue.
        dim: 2 or 3.
        options: of the method that are not its defaults.
        seed: of the weights.
    """
    image, labels, _ = batch_of(dim, range(TRAINING))
    held_out, _, truth = batch_of(dim, range(1000, 1000 + TEST))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = np.random.default_rng(step).permutation(TRAINING)[:BATCH_SIZE]
        return image[drawn], labels[drawn]

    made = plans((SIZE[dim],) * dim, BATCH_SIZE, FEATURES, {"attenscribble": options} if options else {})
    predict = train(trainer, made, LABELS, batch, STEPS[dim], seed=seed)
    return (predict(held_out).argmax(1) == 1).flatten(1).numpy(), truth.flatten(1).numpy()


def batch_of(dim: int, seeds: range) -> tuple[Tensor, Tensor, Tensor]:
    """Images ``(B, 1, *spatial)``, labels of the same shape and true organs ``(B, *spatial)``."""
    cases = [case(dim, seed) for seed in seeds]
    images, labels, organs = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*cases, strict=True))
    return images[:, None].float(), labels[:, None].short(), organs


def case(dim: int, seed: int) -> tuple[NDArray, NDArray, NDArray[np.bool_]]:
    """One image, its labels with scribbles, and its true organ.

    Args:
        dim: 2 or 3.
        seed: of place, size, direction and noise.
    """
    rng, size = np.random.default_rng(seed), SIZE[dim]
    grid = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * dim, indexing="ij"))
    axis = rng.normal(size=dim)
    axis /= np.linalg.norm(axis)
    offset = grid - rng.uniform(-0.08, 0.08, dim).reshape(-1, *[1] * dim) * size
    length, width = rng.uniform(0.26, 0.32) * size, rng.uniform(0.18, 0.24) * size
    along = np.tensordot(axis, offset, 1)
    across = np.sqrt(np.maximum((offset**2).sum(0) - along**2, 0))
    radius = np.hypot(along / length, across / width)  # 1 on the surface
    organ = radius < 1
    image = gaussian_filter(CONTRAST * organ, BLUR) + rng.normal(0, NOISE, organ.shape)
    labels = np.full(organ.shape, LABELS["ignore"])
    labels[radius < CORE ** (1 / dim)] = LABELS["organ"]
    labels[(radius > SHELL[0]) & (radius < SHELL[1])] = LABELS["background"]
    return (image - image.mean()) / image.std(), labels, organ
