"""MedContext on images without labels: a sign that no label ever explained.

Two equal discs, of which one is the object. A bright block at the upper border says which; in the eight labelled images
it is the only sign. In the images without labels a dark block at the lower border says the same. Held-out images have
the dark block alone. Labels never say what it means, but the teacher sees the bright one, and where a mask hides that
from the student, the dark one is all it has. With images without labels the student must learn the second sign, at
default options; with the labelled ones alone nobody can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.mechanisms.toy import Answer, dice
from benchmarks.mechanisms.training import plans, predictor, trained
from nnunet_ext.unlabelled.loader import KEY

LABELS = {"background": 0, "object": 1}
SIZE, RADIUS, CENTRES = 32, 4, (9.5, 21.5)
"""Pixels of a side, of a disc, and columns of the two discs."""

BLOCK, BRIGHT, DARK, NOISE = 4, 2.0, -2.0, 0.2
"""Side of both signs, which is that of a block of MedContext's masks at this size, their grey values, and the noise."""

FEATURES, BATCH_SIZE = (8, 16, 16, 16), 4
"""Four stages, so that a disc sees both borders."""

STEPS = 240
LABELLED, UNLABELLED, TEST = 8, 64, 64
GAIN, KNOWN, LOSS = 0.2, 0.8, 0.05
"""Dice that images without labels must win, and reach, with the second sign, and may cost with the first."""


class Arm(NamedTuple):
    """A trainer of the catalogue, and whether it is given images without labels."""

    trainer: str
    unlabelled: bool


ARMS = {
    "stock nnU-Net": Arm("nnUNetTrainerReference", False),
    "labelled alone": Arm("nnUNetTrainerMedContext", False),
    "with unlabelled": Arm("nnUNetTrainerMedContext", True),
}


def run(arms: Mapping[str, Arm] = ARMS, options: Mapping[str, Any] | None = None, *, seed: int = 0) -> list[Answer]:
    """Train the arms, and segment images that have the second sign alone, or the first.

    Args:
        arms: the last two are compared.
        options: of MedContext that are not its defaults, for arms that are given images without labels.
        seed: of the weights and masks.
    """
    networks = {arm: network_of(chosen, options, seed) for arm, chosen in arms.items()}
    second, first = (
        {arm: dice_of(network, *images(TEST, 3, **signs)) for arm, network in networks.items()}
        for signs in ({"dark": True}, {"bright": True})
    )
    alone, with_it = list(second.values())[-2:]
    before, after = list(first.values())[-2:]
    return [
        Answer(
            "the second sign",
            "Dice",
            second,
            f"gain of at least {GAIN} over the labelled alone, to at least {KNOWN}",
            with_it - alone >= GAIN and with_it >= KNOWN,
        ),
        Answer("the first sign", "Dice", first, f"loss of at most {LOSS}", after >= before - LOSS),
    ]


def network_of(arm: Arm, options: Mapping[str, Any] | None, seed: int) -> torch.nn.Module:
    """The network of an arm after its training; options and seed as in :func:`run`."""
    labelled, labels = images(LABELLED, 1, bright=True)
    others, _ = images(UNLABELLED, 2, bright=True, dark=True)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = np.random.default_rng(step).permutation(LABELLED)[:BATCH_SIZE]
        return labelled[drawn], labels[drawn][:, None].short()

    def more(step: int) -> dict[str, Tensor]:
        return {KEY: others[np.random.default_rng(STEPS + step).permutation(UNLABELLED)[:BATCH_SIZE]]}

    chosen = {"medcontext": options} if options and arm.unlabelled else {}
    made = plans((SIZE, SIZE), BATCH_SIZE, FEATURES, chosen)
    drawn = more if arm.unlabelled else None
    return trained(arm.trainer, made, LABELS, batch, STEPS, more=drawn, seed=seed).network


def images(number: int, seed: int, *, bright: bool = False, dark: bool = False) -> tuple[Tensor, Tensor]:
    """Images ``(B, 1, H, W)`` and labels ``(B, H, W)``.

    Args:
        number: of images.
        seed: of places and noise, and of the side of the object.
        bright: the first sign is there, at the upper border, on the side of the object.
        dark: the second sign is there, at the lower border, on the same side.
    """
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(SIZE).float()
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    is_left = torch.rand(number, generator=generator) < 0.5
    row = (SIZE - 1) / 2 + 4 * torch.rand(number, 2, 1, 1, generator=generator) - 2
    left, right = ((y - row[:, side]) ** 2 + (x - column) ** 2 < RADIUS**2 for side, column in enumerate(CENTRES))
    labels = torch.where(is_left[:, None, None], left, right)
    image = NOISE * torch.randn(number, SIZE, SIZE, generator=generator) + (left | right)
    for there, rows, value in ((bright, slice(None, BLOCK), BRIGHT), (dark, slice(-BLOCK, None), DARK)):
        for sample, on_the_left in enumerate(is_left.tolist() if there else []):
            first = 2 * BLOCK if on_the_left else SIZE - 3 * BLOCK
            image[sample, rows, first : first + BLOCK] += value
    return image[:, None], labels.long()


def dice_of(network: torch.nn.Module, image: Tensor, labels: Tensor) -> float:
    """Dice of the object in all images."""
    return dice(predictor(network)(image).argmax(1) == LABELS["object"], labels == LABELS["object"])
