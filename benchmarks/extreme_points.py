"""Extreme points of organs: how much better a segmentation would be if it respected the true ones.

::

    python benchmarks/extreme_points.py FOLDER... --dataset Dataset027_ACDC --labels RV LVC

Each folder holds predictions of cases whose label maps are in the data set, from which the extreme points in the slice
come. Two ways to respect them are tried on each label:

- **cut**: voxels beyond an extreme point are removed;
- **fitted**: the rest is grown or shrunk in its slices, by whole mm, until its own extreme points fit best.

Both know the true points, so a training that learns from landmarks cannot expect more from these two rules.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from nnunet_ext.data.raw import open_dataset
from nnunet_ext.evaluation.metrics import mean

REACH_MM = 6
"""Largest change of a surface."""

Mask = NDArray[np.bool_]


def extent(mask: Mask) -> NDArray[np.int64]:
    """First and last row and column of a mask ``(z, y, x)``, over all slices: ``(4,)``."""
    rows, columns = np.nonzero(mask.any(0))
    return np.array([rows.min(), rows.max(), columns.min(), columns.max()])


def cut(mask: Mask, limits: NDArray[np.int64]) -> Mask:
    """The part of a mask within an :func:`extent`."""
    top, bottom, left, right = limits
    found = np.zeros_like(mask)
    found[:, top : bottom + 1, left : right + 1] = mask[:, top : bottom + 1, left : right + 1]
    return found


def fitted(mask: Mask, limits: NDArray[np.int64], spacing_mm: Sequence[float]) -> Mask:
    """A mask within an :func:`extent`, grown or shrunk in its slices until its own is nearest; the smallest change."""

    def depth(part: Mask) -> NDArray[np.float64]:
        return distance_transform_edt(part, spacing_mm[1:]) - distance_transform_edt(~part, spacing_mm[1:])

    def distance(one: Mask) -> float:
        return float(abs(np.repeat(spacing_mm[1:], 2) * (extent(one) - limits)).sum())

    within = cut(mask, limits)
    if not within.any():
        return within
    inside = np.stack([depth(part) if part.any() else np.full(part.shape, -np.inf) for part in within])
    tried = [cut(inside > -mm, limits) for mm in sorted(range(-REACH_MM, REACH_MM + 1), key=abs)]
    return min([one for one in tried if one.any()], key=distance)


def dice(one: Mask, other: Mask) -> float:
    """Dice of two masks, of which one is not empty."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="PREDICTIONS")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--labels", nargs="+", required=True)
    arguments = parser.parse_args(argv)
    source = open_dataset(arguments.dataset)
    values = {name: value for value, name in source.classes.items()}
    if unknown := [name for name in arguments.labels if name not in values]:
        parser.error(f"--labels: {source.name} has no label {unknown[0]}; it has {', '.join(values)}")
    reader = source.reader()
    rows: dict[str, list[list[float]]] = {name: [] for name in arguments.labels}
    for folder in arguments.folders:
        there = [case for case in source.cases if (folder / case.label.name).is_file()]
        if not there:
            parser.error(f"{folder} holds no prediction of a case of {source.name}")
        for case in there:
            truth, predicted = reader.labels(case.label), reader.labels(folder / case.label.name).array
            for name in arguments.labels:
                true, own = truth.array == values[name], predicted == values[name]
                if true.any():
                    limits = extent(true)
                    ways = own, cut(own, limits), fitted(own, limits, truth.spacing_mm)
                    rows[name].append([dice(way, true) for way in ways])
    print("| label | cases | as predicted | cut | fitted |\n|---|---:|---:|---:|---:|")
    for name, found in rows.items():
        print(f"| {name} | {len(found)} | " + " | ".join(f"{mean(way):.3f}" for way in zip(*found, strict=True)) + " |")


if __name__ == "__main__":
    main()
