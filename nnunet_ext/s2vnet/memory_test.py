"""Memory test: does the memory from slice to slice help, and is it about this patient?

Each volume is segmented three times by the same network: with its own memory, with none (every slice stands alone), and
with the memory of another volume, at the same share of its slices. If its own memory is no better than none,
propagation does nothing; if another patient's memory does as well, it says nothing about the patient.

Source: none of the publication's; *added*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_ext.errors import InputError
from nnunet_ext.s2vnet.centroid_aggregation import Bank
from nnunet_ext.s2vnet.network import S2VNet, slices_with_image


class Volume(NamedTuple):
    """A preprocessed volume with its labels; all volumes of a test have the same rows and columns, such as a tile.

    Attributes:
        image: ``(C, D, h, w)``.
        labels: ``(D, h, w)`` int, indices of labels; negative where nothing is annotated.
        gap: mm between two slices; None: as planned.
    """

    image: Tensor
    labels: Tensor
    gap: float | None = None


class MemoryTest(NamedTuple):
    """Dice of each volume, the mean over the foreground labels that occur in it.

    Attributes:
        own: with the memory of its own slices.
        none: without memory.
        other: with that of the next volume of the list.
    """

    own: list[float]
    none: list[float]
    other: list[float]


def memory_test(network: S2VNet, volumes: Sequence[Volume]) -> MemoryTest:
    """Segment volumes with three memories, in the forward direction.

    Args:
        network: of labels; is set to evaluation. On its device.
        volumes: at least two.

    Raises:
        InputError: there are fewer than two volumes, their rows and columns differ, one has no foreground, or the
            network has no memory, or regions.
    """
    if network.aggregation is None:
        raise InputError(
            "The network was built without propagation, so it has no memory to test; train nnUNetTrainerS2VNet with "
            "clip and inference_clip above 1."
        )
    if network.label_heads.regions is not None:
        raise InputError("The network has regions, which may overlap; the memory test needs a network of labels.")
    if len(volumes) < 2:
        raise InputError(f"The memory test got {len(volumes)} volumes; give at least 2, so that memories can change.")
    if len(sizes := {tuple(one.image.shape[2:]) for one in volumes}) > 1:
        raise InputError(f"The volumes have rows and columns {sorted(sizes)}; cut all of them to one size.")
    network.eval()
    with torch.inference_mode():
        own = [_segmented(network, one, None) for one in volumes]
        none = [_segmented(network, one, [Bank()] * one.image.shape[1]) for one in volumes]
        other = [
            _segmented(network, one, _at_same_share(own[(index + 1) % len(volumes)][1], one.image.shape[1]))
            for index, one in enumerate(volumes)
        ]
    number = network.label_heads.num_labels
    return MemoryTest(
        *(
            [_dice(labels, one.labels.cpu(), number) for (labels, _), one in zip(found, volumes, strict=True)]
            for found in (own, none, other)
        )
    )


def _segmented(network: S2VNet, volume: Volume, banks: Sequence[Bank] | None) -> tuple[Tensor, list[Bank]]:
    """Labels ``(D, h, w)``, and the memory of its own slices at each slice; ``banks``: memory that it gets instead."""
    device = network.centres.device
    image = volume.image.to(device)[None]
    gap = None if volume.gap is None else torch.tensor([volume.gap], device=device)
    own = [Bank()] * image.shape[2]

    def recall(step: int, bank: Bank) -> Bank:
        own[step] = bank
        return bank if banks is None else replace(banks[step], gap=gap)

    chain = network.propagate(image.unbind(2), slices_with_image(image), bank=Bank(gap=gap), recall=recall)
    logits = [one.logits for one in chain]
    return torch.stack(logits, 2)[0].argmax(0).cpu(), own


def _at_same_share(banks: Sequence[Bank], depth: int) -> list[Bank]:
    """The banks of another volume for one of so many slices, which may be more or fewer."""
    return [banks[round(index * (len(banks) - 1) / max(1, depth - 1))] for index in range(depth)]


def _dice(found: Tensor, labels: Tensor, number: int) -> float:
    found, scores = found.masked_fill(labels < 0, -1), []
    for label in range(1, number):
        a, b = found == label, labels == label
        if b.any():
            scores.append(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
    if not scores:
        raise InputError("A volume has no foreground label, so its Dice is not defined; leave it out.")
    return sum(scores) / len(scores)
