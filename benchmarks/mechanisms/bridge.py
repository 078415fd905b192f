"""Bridge of BaBLoss: where the loss is smallest, for balls of known surface, and where the published loss is.

Direction B: a ball is labelled, and a heatmap, as wide as those that the network is taught, lies at a distance from its
centre. The loss must be smallest where the heatmap lies on the surface. Direction A: a landmark lies on the surface of
a ball of known size, and a ball with the same centre is predicted. The loss must be smallest for the known size.
Nothing is trained: the loss is the one that the trainer builds from its default options, in 3D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.mechanisms.toy import Answer
from nnunet_ext.babloss.loss import BridgeLoss
from nnunet_ext.babloss.options import BaBLossOptions
from nnunet_ext.babloss.published import published_loss, published_soft_map
from nnunet_ext.landmarks.points import State

RADII = (3, 4, 6, 10, 16)
"""Radii of the balls, in voxels."""

SHIFTS = (0.0, 0.25, 0.5, 0.75)
"""Shifts of the ball against the voxels; errors are the mean over them."""

MARGIN = 12
"""Voxels from the surface to the edge of the image: beyond the 8 levels in which the loss sees a surface."""

REACH, NEAR = 6.0, 2.0
"""Voxels beyond the surface to which the best place is looked for, from the centre on, and around the known radius the
best size. The published loss is given as much room as the ball has."""

STEP = 0.1
"""Voxels between two sizes that are tried."""

SLOPE = 4.0
"""Slope of the predicted logits at the surface, per voxel."""

SURFACE, SIZE = 0.5, 0.2 + STEP / 2
"""Voxels by which a landmark may be off the surface, and the radius of an organ off the known one."""

PLACE, LARGER = "best landmark beyond the surface, voxels", "best radius beyond the known one, voxels"


Optimum = Callable[[int, float, BaBLossOptions], float]
"""Radius, shift and options → voxels by which the best place or size is off."""


def run() -> list[Answer]:
    """Find the optima of both directions, and those of the published loss beside them."""
    paper = BaBLossOptions.as_published()
    rows = [("B", PLACE, place_as_published), ("A", LARGER, size_as_published)]
    misses = f"misses every one by more than {SURFACE}"
    found = [(f"direction {name}, published", what, errors(best, paper, RADII)) for name, what, best in rows]
    return [*at_options(), *(Answer(task, what, error, misses, missed(error)) for task, what, error in found)]


def at_options(options: Mapping[str, Any] | None = None, radii: Sequence[int] = RADII) -> list[Answer]:
    """Find the optima of both directions.

    Args:
        options: of BaBLoss that are not its defaults.
        radii: of the balls.
    """
    chosen = BaBLossOptions(**(options or {}))
    place, size = errors(best_place, chosen, radii), errors(best_size, chosen, radii)
    return [
        Answer("direction B", PLACE, place, f"0, up to {SURFACE}", within(place, SURFACE)),
        Answer("direction A", LARGER, size, f"0, up to {SIZE:g}", within(size, SIZE)),
    ]


def errors(best: Optimum, options: BaBLossOptions, radii: Sequence[int]) -> dict[str, float]:
    """Mean error of an optimum over the shifts, by radius."""
    return {f"radius {radius}": mean(best(radius, shift, options) for shift in SHIFTS) for radius in radii}


def within(found: Mapping[str, float], limit: float) -> bool:
    """Say whether no error is larger than a limit."""
    return all(abs(error) <= limit for error in found.values())


def missed(found: Mapping[str, float]) -> bool:
    """Say whether every error is larger than half a voxel."""
    return all(abs(error) > SURFACE for error in found.values())


def best_place(radius: int, shift: float, options: BaBLossOptions) -> float:
    """Direction B: the best place of a landmark on the last axis, beyond the surface."""
    shape, centre = (2 * MARGIN + 1, 2 * MARGIN + 1, 2 * (radius + MARGIN) + 1), radius + MARGIN + shift
    inside = distances(shape, [MARGIN, MARGIN, centre]) <= radius
    one_hot, annotated = torch.stack([~inside, inside])[None].float(), torch.ones(1, 1, *shape, dtype=torch.bool)
    bridge, state, use = bridge_of(options), torch.tensor([[State.UNKNOWN]]), torch.ones(1, 1, dtype=torch.bool)

    def loss(beyond: float) -> float:
        square = distances(shape, [MARGIN, MARGIN, centre + radius + beyond]) ** 2
        heatmap = torch.exp(-square / (2 * options.heatmap_sigma**2))
        # a network's peaks are not quite 1, nor is its background 0
        logits = torch.logit(0.001 + 0.95 * heatmap)[None, None]
        found = bridge.boundary_pulls_landmark(logits, one_hot, annotated, state, use)
        assert found.active
        return found.loss.item()

    return smallest(loss, -radius, REACH, 0.25)


def best_size(radius: int, shift: float, options: BaBLossOptions) -> float:
    """Direction A: the best radius of the predicted ball, beyond the known one."""
    shape, landmark = (2 * MARGIN + 1,) * 3, [MARGIN, MARGIN, MARGIN + shift]
    distance = distances(shape, [MARGIN, MARGIN, MARGIN + shift - radius])
    bridge, yes = bridge_of(options), torch.ones(1, 1, dtype=torch.bool)
    point, state = torch.tensor([[landmark]], dtype=torch.float64), torch.tensor([[State.PRESENT]])

    def loss(beyond: float) -> float:
        organ = SLOPE * (radius + beyond - distance)
        logits = torch.stack([torch.zeros_like(organ), organ])[None]
        found = bridge.landmark_pulls_boundary(logits, point, state, yes)
        assert found.active
        return found.loss.item()

    return smallest(loss, -NEAR, NEAR, STEP)


def place_as_published(radius: int, shift: float, options: BaBLossOptions) -> float:
    """The same as :func:`best_place`, of the published loss."""
    shape = (2 * (radius + MARGIN) + 1,) * 3
    middle, centre = radius + MARGIN, radius + MARGIN + shift
    soft_map = published_soft_map((distances(shape, [middle, middle, centre]) <= radius).double(), options.levels)
    assert soft_map is not None

    def gaussian(at: float) -> Tensor:
        return torch.exp(-((torch.arange(shape[0], dtype=torch.float64) - at) ** 2) / (2 * options.heatmap_sigma**2))

    # a Gaussian is the product of those of its axes; the divisor of the published loss is the same at all places
    profile = torch.einsum("ijk,i,j->k", soft_map, gaussian(middle), gaussian(middle))
    return smallest(lambda beyond: -float(profile @ gaussian(centre + radius + beyond)), -radius, REACH, 0.25)


def size_as_published(radius: int, shift: float, options: BaBLossOptions) -> float:
    """The same as :func:`best_size`, of the published loss."""
    shape, middle = (2 * (radius + MARGIN) + 1,) * 3, radius + MARGIN
    distance = distances(shape, [middle, middle, middle + shift])
    landmark = distances(shape, [middle, middle, middle + shift + radius])
    heatmap = torch.exp(-(landmark**2) / (2 * options.heatmap_sigma**2))

    def loss(beyond: float) -> float:
        organ = torch.sigmoid(SLOPE * (radius + beyond - distance))
        # its largest component is that of all that is not exactly 0
        value = published_loss(torch.where(organ > 0.5, organ, 0.0), heatmap, options.levels)
        assert value is not None
        return value.item()

    return smallest(loss, 1.0 - radius, REACH, 0.5)


def bridge_of(options: BaBLossOptions) -> BridgeLoss:
    """The loss as the trainer builds it, for one landmark on the surface of the one organ, at 1 mm."""
    return BridgeLoss([[(1,)]], (1.0, 1.0, 1.0), **options.of_the_bridge())


def smallest(loss: Callable[[float], float], first: float, last: float, step: float) -> float:
    """The place of the smallest loss; the middle of all such places, if they are several."""
    places = [first + step * number for number in range(round((last - first) / step) + 1)]
    values = [loss(place) for place in places]
    return mean(place for place, value in zip(places, values, strict=True) if value <= min(values) + 1e-9)


def distances(shape: Sequence[int], centre: Sequence[float]) -> Tensor:
    """``(*shape)`` float64: voxels from a centre."""
    axes = [torch.arange(n, dtype=torch.float64) - c for n, c in zip(shape, centre, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
