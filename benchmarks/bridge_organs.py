"""Direction B of BaBLoss on real organs: where is the best place of a landmark, by the loss at its default options?

::

    python benchmarks/bridge_organs.py Dataset004_Hippocampus --cases 20
    python benchmarks/bridge_organs.py Dataset027_ACDC --cases 20              # whole volumes, thick slices
    python benchmarks/bridge_organs.py Dataset027_ACDC --cases 20 --slices     # every slice alone, as in 2D

Landmarks are the extreme points of each label and of the interface of every two (``nnunet-ext landmarks derive``), on
dense labels. A heatmap, as wide as those that the network is taught, is moved along the axis of each landmark, from 8
voxels inside of its surface to 8 outside. Lengths are in voxels of the finest spacing:

* *downhill*: where a landmark comes to rest that starts at its true place and goes where the loss falls, on that axis;
  0 is its true place, positive is outwards.
* *best*: the place on the whole axis with the smallest loss, which may be at another side of the organ.
* *off*: the distance of such a place from the nearest surface of the organ, of the farther one if there are two. It is
  exact: from a point to the nearest voxel that is on the other side.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ext.babloss.loss import BridgeLoss
from nnunet_ext.babloss.options import BaBLossOptions
from nnunet_ext.data.geometry import Floats, Geometry
from nnunet_ext.data.raw import RawDataset, a_few, open_dataset
from nnunet_ext.landmarks.heatmaps import heatmaps
from nnunet_ext.landmarks.points import State
from nnunet_ext.landmarks.rules import DIRECTIONS, Kind, Rule, array_axes, thick_axis

Mask = NDArray[np.bool_]

REACH, STEP = 8.0, 0.25
"""Voxels of the finest spacing: how far from the landmark its best place is looked for, and in which steps."""

HALF = 0.5
"""Voxels by which the best place may be off the surface."""


@dataclass(frozen=True)
class Place:
    """A landmark on labelled organs.

    Attributes:
        organs: the organs on whose surface it lies, ``(z, y, x)`` or ``(y, x)``.
        point: continuous index.
        axis: axis of the array along which it is extreme.
        side: 1 or −1, the sense of outwards.
        spacing_mm: spacing of the axes of the array.
    """

    name: str
    organs: tuple[Mask, ...]
    point: Floats
    axis: int
    side: int
    spacing_mm: tuple[float, ...]


def places(labels: NDArray, geometry: Geometry, names: Sequence[str], *, slices: bool) -> Iterator[Place]:
    """The landmarks of a label map whose classes 1, 2, … have these names.

    Args:
        labels: ``(z, y, x)``.
        slices: each slice alone. The slices lie along the first axis.
    """
    masks = {name: labels == value for value, name in enumerate(names, start=1)}
    axes = array_axes(geometry)
    across = [axis for axis, _ in axes].index(0) if slices else thick_axis(geometry)
    directions = [way for patient, pair in enumerate(DIRECTIONS) if patient != across for way in pair]
    kinds: list[Kind] = ["extreme-points", "interface"] if len(names) > 1 else ["extreme-points"]
    parts = range(len(labels)) if slices else [None]
    for part in parts:
        seen = masks if part is None else {name: _only(mask, part) for name, mask in masks.items()}
        for rule in (Rule.of(kind, names, directions, across) for kind in kinds):
            for name, point in rule.points(seen, geometry).items():
                if point is None or not np.isfinite(point).all():
                    continue
                way = name.rsplit("_", 1)[1]
                patient = next(axis for axis, pair in enumerate(DIRECTIONS) if way in pair)
                axis, sense = axes[patient]
                side = sense if way == DIRECTIONS[patient][1] else -sense
                organs, spacing = [seen[organ] for organ in rule.surface_of[name]], geometry.spacing_mm
                if part is None:
                    yield Place(name, tuple(organs), point, axis, side, tuple(spacing))
                else:
                    flat = tuple(organ[part] for organ in organs)
                    yield Place(name, flat, point[1:], axis - 1, side, tuple(spacing[1:]))


class Found(NamedTuple):
    """Where direction B wants a landmark.

    Attributes:
        downhill: how far outwards it comes to rest from its true place.
        downhill_off: distance of that place from the surface.
        best_off: distance from the surface of the best place on the whole axis.
    """

    downhill: float
    downhill_off: float
    best_off: float


def wanted(place: Place, options: BaBLossOptions) -> Found:
    """Move a heatmap along the axis of a landmark, and find where the loss is smallest."""
    finest = min(place.spacing_mm)
    scale = np.array(place.spacing_mm) / finest
    # where the heatmap goes, the window of the loss around it (three sigmas), and its levels
    radius = np.ceil((REACH + 3 * options.sigma + options.levels) / scale).astype(int) + 2
    centre = np.round(place.point).astype(int)
    box = tuple(slice(c, c + 2 * r + 1) for c, r in zip(centre, radius, strict=True))
    organs = [np.pad(organ, [(r, r) for r in radius])[box] for organ in place.organs]
    start = place.point - centre + radius
    bridge = BridgeLoss([[(k,) for k in range(1, len(organs) + 1)]], place.spacing_mm, **options.of_the_bridge())
    hot = np.stack([~np.logical_or.reduce(organs), *organs]).astype(np.float32)
    one_hot, annotated = torch.from_numpy(hot)[None], torch.ones(1, 1, *hot.shape[1:], dtype=torch.bool)
    state, use = torch.tensor([[State.UNKNOWN]]), torch.ones(1, 1, dtype=torch.bool)
    outwards = place.side * np.eye(len(start))[place.axis] / scale[place.axis]
    shifts = [STEP * number for number in range(round(-REACH / STEP), round(REACH / STEP) + 1)]
    values = []
    for shift in shifts:
        heatmap = _heatmap(hot.shape[1:], start + shift * outwards, options.heatmap_sigma / scale)
        found = bridge.boundary_pulls_landmark(heatmap, one_hot, annotated, state, use)
        assert found.active == len(organs)
        values.append(found.loss.item())
    here = shifts.index(0.0)
    while (lower := min((here, here - 1, here + 1), key=values.__getitem__)) != here and 0 < lower < len(values) - 1:
        here = lower  # of equals the first is the smallest
    # of equally good places, the one nearest to the landmark
    best = min(range(len(values)), key=lambda n: (round(values[n], 6), abs(shifts[n])))

    def off(shift: float) -> float:
        return max(distance_from_surface(organ, start + shift * outwards, scale) for organ in organs)

    return Found(shifts[here], off(shifts[here]), off(shifts[best]))


def distance_from_surface(organ: Mask, point: Floats, scale: Floats) -> float:
    """Distance of a point, a continuous index, from the faces between an organ and the rest, in units of ``scale``."""
    inside = organ[tuple(np.clip(np.round(point).astype(int), 0, np.array(organ.shape) - 1))]
    other = np.argwhere(organ != inside)
    return float(np.linalg.norm(np.maximum(np.abs(other - point) - 0.5, 0) * scale, axis=1).min())


def measure(source: RawDataset, cases: int, *, slices: bool, options: BaBLossOptions) -> dict[str, list[Found]]:
    """For each label and interface of a data set, :func:`wanted` of all landmarks of evenly chosen cases."""
    names = [source.classes[value] for value in sorted(source.classes) if value]
    reader, found = source.reader(), defaultdict(list)
    for case in a_few(source.cases, cases):
        volume = reader.labels(case.label)
        for place in places(volume.array, Geometry.from_volume(volume), names, slices=slices):
            found[place.name.rsplit("_", 1)[0]].append(wanted(place, options))
    return dict(found)


def _only(mask: Mask, part: int) -> Mask:
    result = np.zeros_like(mask)
    result[part] = mask[part]
    return result


def _heatmap(shape: Sequence[int], point: Floats, sigma: Floats) -> Tensor:
    """Logits ``(1, 1, *shape)`` as a network predicts them: peaks are not quite 1, and the background not 0."""
    rendered = heatmaps(torch.tensor(point)[None, None], torch.tensor([[State.PRESENT]]), shape, tuple(sigma))
    return torch.logit(0.001 + 0.95 * rendered)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--slices", action="store_true", help="every slice alone")
    parser.add_argument("--sigma", type=float, help="width of the sharpened heatmap instead of the default")
    arguments = parser.parse_args(argv)
    options = BaBLossOptions() if arguments.sigma is None else BaBLossOptions(sigma=arguments.sigma)
    source = open_dataset(arguments.dataset)
    found = measure(source, arguments.cases, slices=arguments.slices, options=options)
    print("| surface of | landmarks | downhill | off, mean | off, largest | within ½ | best: mean off | largest off |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, values in found.items():
        downhill, downhill_off, best_off = zip(*values, strict=True)
        within = sum(distance <= HALF for distance in downhill_off)
        print(
            f"| {name} | {len(values)} | {mean(downhill):+.2f} | {mean(downhill_off):.2f} | {max(downhill_off):.2f} | "
            f"{within} | {mean(best_off):.2f} | {max(best_off):.2f} |"
        )


if __name__ == "__main__":
    main()
