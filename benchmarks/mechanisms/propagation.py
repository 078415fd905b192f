"""Propagation of S2VNet: two equal discs in every slice, of which one is the object, and one slice says which.

Volumes of eight slices. The object is on the left or on the right, and the other disc is no part of it. In half of the
training clips the object is brighter in slice 0; in the others nothing tells it but a click. A network that sees one
slice knows nothing after slice 0: if it takes both discs, its Dice is 2/3. What the slices before remember must carry
the answer to the last one, at default options, and it must be the memory of this volume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.mechanisms.toy import Answer, dice
from benchmarks.mechanisms.training import plans, predictor, trained
from nnunet_ext.s2vnet.memory_test import Volume, memory_test
from nnunet_ext.s2vnet.network import S2VNet, slices_with_image
from nnunet_ext.s2vnet.prompts import Prompts

LABELS = {"background": 0, "object": 1}
SIZE, RADIUS, CENTRES = 16, 3, (3.5, 11.5)
"""Pixels of a side, of a disc, and columns of the two discs."""

FEATURES = (8, 12, 16)
STEPS, CLIPS, CLIP = 120, 8, 4
"""Steps, clips in a step, and slices of a clip; S2VNet's own default is 4."""

TEST, DEPTH = 16, 8
"""Volumes and their slices, twice as many as in a clip."""

NOISE, CUE = 0.2, 2.0
ALONE, KNOWN, GAIN = 0.75, 0.9, 0.2
"""Dice that slices alone cannot exceed, that is asked of S2VNet, and by which its own memory must win."""


def run(options: Mapping[str, Any] | None = None, *, seed: int = 0) -> list[Answer]:
    """Train stock nnU-Net on slices and S2VNet on clips, and test what travels from slice to slice.

    Args:
        options: of S2VNet that are not its defaults.
        seed: of the weights.
    """
    stock, network = stock_network(seed), propagating_network(options, seed)
    told, untold = volumes(TEST, DEPTH, True, 1), volumes(TEST, DEPTH, False, 2)
    alone = predictor(stock)(told[0].transpose(1, 2).flatten(0, 1)).argmax(1).unflatten(0, (TEST, DEPTH))
    later = {
        "stock nnU-Net": after_slice_0(alone, told[1]),
        "S2VNet": after_slice_0(segmented(network, told[0]), told[1]),
    }
    memories = memory_test(network, [Volume(*both) for both in zip(*told, strict=True)])
    own, none, other = (mean(scores) for scores in memories)
    clicks = {"no click": None, "a click": clicks_in_slice_0(untold[1])}
    asked = {arm: after_slice_0(segmented(network, untold[0], made), untold[1]) for arm, made in clicks.items()}
    known = f"at most {ALONE} without, at least {KNOWN} with"
    return [
        Answer("slice 0 shows it", "Dice of slices 1 to 7", later, known, solved(later)),
        Answer(
            "slice 0 shows it",
            "Dice by memory",
            {"own": own, "none": none, "of another volume": other},
            f"own by {GAIN} better than both",
            own - max(none, other) >= GAIN,
        ),
        Answer("a click in slice 0", "Dice of slices 1 to 7", asked, known, solved(asked)),
    ]


def solved(reached: Mapping[str, float]) -> bool:
    """Whether the first arm cannot know the object, and the second one does."""
    without, with_it = reached.values()
    return without <= ALONE and with_it >= KNOWN


def propagating_network(options: Mapping[str, Any] | None, seed: int) -> S2VNet:
    """S2VNet after its training; ``options`` and ``seed`` as in :func:`run`."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        image, labels = volumes(CLIPS, CLIP, step % 2 == 0, 1000 + step)
        return image, labels[:, None].short()

    made = plans((SIZE, SIZE), CLIPS * CLIP, FEATURES, {"s2vnet": options} if options else {})
    network = trained("nnUNetTrainerS2VNet", made, LABELS, batch, STEPS, seed=seed).network
    assert isinstance(network, S2VNet)
    return network


def stock_network(seed: int) -> torch.nn.Module:
    """Stock nnU-Net after the same number of steps on the slices of the same clips, each alone."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        image, labels = volumes(CLIPS, CLIP, step % 2 == 0, 1000 + step)
        return image.transpose(1, 2).flatten(0, 1), labels.flatten(0, 1)[:, None].short()

    made = plans((SIZE, SIZE), CLIPS * CLIP, FEATURES)
    return trained("nnUNetTrainerReference", made, LABELS, batch, STEPS, seed=seed).network


def volumes(number: int, slices: int, cue: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Images ``(B, 1, T, H, W)`` and labels ``(B, T, H, W)``; the discs move a little from slice to slice.

    Args:
        number: of volumes; in every other one the object is on the left.
        slices: of a volume.
        cue: the object is brighter than the other disc, in slice 0 alone.
        seed: of rows and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(SIZE).float()
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    drift = torch.linspace(-1, 1, slices).view(1, slices, 1, 1)
    row = 6 + 4 * torch.rand(number, 2, 1, 1, 1, generator=generator)
    left, right = (
        (y - row[:, side] - drift) ** 2 + (x - column) ** 2 < RADIUS**2 for side, column in enumerate(CENTRES)
    )
    is_left = (torch.arange(number) % 2 == 0).view(-1, 1, 1, 1)
    labels = torch.where(is_left, left, right)
    images = NOISE * torch.randn(number, 1, slices, SIZE, SIZE, generator=generator) + (left | right)[:, None].float()
    if cue:
        images[:, :, 0] += CUE * labels[:, None, 0]
    return images, labels.long()


def clicks_in_slice_0(labels: Tensor) -> Prompts:
    """One click per volume, in the middle of the object; ``labels``: ``(B, T, H, W)``."""
    middles = [volume[0].nonzero().float().mean(0).round().tolist() for volume in labels]
    return batch_of([Prompts.click([0, *middle], LABELS["object"]) for middle in middles])


def batch_of(prompts: Sequence[Prompts]) -> Prompts:
    """The prompts of several volumes, as many for each, as those of one batch."""
    names = ("position", "label", "weight", "age")
    return Prompts(*(torch.cat([getattr(one, name) for one in prompts]) for name in names))


def segmented(network: S2VNet, images: Tensor, prompts: Prompts | None = None) -> Tensor:
    """Labels ``(B, T, H, W)`` that the forward chain predicts."""
    with torch.no_grad():
        chain = network.propagate(images.unbind(2), slices_with_image(images), prompts and prompts.on_slice)
        return torch.stack([one.logits.argmax(1) for one in chain], 1)


def after_slice_0(predicted: Tensor, labels: Tensor) -> float:
    """Dice of the object in all slices but the first; both ``(B, T, H, W)``."""
    return dice(predicted[:, 1:] == LABELS["object"], labels[:, 1:] == LABELS["object"])
