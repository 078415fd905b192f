"""Time of HD95, ASSD, NSD at 1 mm, Dice and IoU of three classes: ours, ``surface-distance``, and MedPy.

::

    python benchmarks/surface_metrics.py                               # 96×160×160 and 128×256×256, a few minutes
    python benchmarks/surface_metrics.py --shapes 64x64x64 --repeats 3 --json out.json

Reference and prediction are label maps of three organ-like shapes that touch each other, at a spacing of 2×0.8×0.8 mm;
the prediction's boundaries are those of the reference plus noise. All methods get the whole label maps and compute
every number for every class on one thread. Numbers are compared before anything is timed. MedPy has no NSD, so it is
spared that work.

The second table is about one step: the distances between the surfaces of all classes, in both directions, on the crop
of each class. Ours leaves out elements that the surfaces share, tries short steps on the lattice, and asks a k-d tree
for what is left. The table compares it with the tree alone, and with the distance transforms of scipy, SimpleITK and
``edt``. A prediction of pure noise is where a tree is at its worst; ours uses scipy's distance transform there.

Times are CPU times of this process, so that other processes on a busy machine count little. All methods take turns
(A B C A B C …), and a ratio compares two times of the same round. The exit code is 1 if the numbers of two methods
differ. A package that is not installed has a row that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from nnunet_ext.evaluation import surfaces
from nnunet_ext.evaluation.metrics import label_metrics

SPACING_MM = (2.0, 0.8, 0.8)
TOLERANCE_MM = 1.0
LABELS = {"one": 1, "two": 2, "three": 3}
OURS, OURS_VOXEL = "ours, surface", "ours, voxel"
BASELINE = {OURS: OURS, "surface-distance": OURS, OURS_VOXEL: OURS_VOXEL, "MedPy": OURS_VOXEL}
"""Reference of the ratios of each method: ours, by the same definition of a surface."""

Numbers = dict[str, float]
Case = tuple[NDArray[np.uint8], NDArray[np.uint8]]


# -- data -------------------------------------------------------------------------------------------------------------


def similar(shape: Sequence[int]) -> Case:
    """Prediction and reference of which each class has a Dice between 0.9 and 0.98, depending on the resolution."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)

    def smooth_noise(coarse: Sequence[int]) -> NDArray:
        zoom = [n / m for n, m in zip(shape, coarse, strict=True)]
        return ndimage.zoom(rng.standard_normal(coarse), zoom, order=1)

    organs = [((-0.2, -0.3, -0.1), 0.42), ((0.0, 0.1, 0.25), 0.38), ((0.3, -0.1, -0.35), 0.35)]
    radii = [
        np.sqrt(sum((axis - x) ** 2 for axis, x in zip(axes, centre, strict=True))) / radius
        + 0.08 * smooth_noise((6, 6, 6))
        for centre, radius in organs
    ]
    maps = []
    for amount in (0.05, 0.0):
        fields = np.stack([field + amount * smooth_noise((12, 16, 16)) for field in radii])
        labels = fields.argmin(0) + 1
        labels[fields.min(0) > 1] = 0
        maps.append(labels.astype(np.uint8))
    return maps[0], maps[1]


def noise(shape: Sequence[int]) -> Case:
    """A prediction with a random label in every voxel, as of a network that has learned nothing."""
    return np.random.default_rng(0).integers(0, 4, shape, dtype=np.uint8), similar(shape)[1]


# -- methods that compute all numbers ---------------------------------------------------------------------------------


def ours(definition: surfaces.Definition) -> Callable[[Case], Numbers]:
    def run(case: Case) -> Numbers:
        found = label_metrics(*case, SPACING_MM, LABELS, definition=definition, nsd_tolerances_mm=(TOLERANCE_MM,))
        return {
            f"{name} {what}": value
            for name, case in found.items()
            for what, value in (
                ("hd95", case.hd95_mm),
                ("assd", case.assd_mm),
                ("nsd", case.nsd[TOLERANCE_MM]),
                ("dice", case.dice),
                ("iou", case.iou),
            )
        }

    return run


def with_surface_distance(case: Case) -> Numbers:
    import surface_distance

    result = {}
    for name, label in LABELS.items():
        prediction, reference = case[0] == label, case[1] == label
        distances = surface_distance.compute_surface_distances(reference, prediction, SPACING_MM)
        dice = surface_distance.compute_dice_coefficient(reference, prediction)
        result |= {
            f"{name} hd95": surface_distance.compute_robust_hausdorff(distances, 95),
            f"{name} assd": sum(surface_distance.compute_average_surface_distance(distances)) / 2,
            f"{name} nsd": surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM),
            f"{name} dice": dice,
            f"{name} iou": dice / (2 - dice),
        }
    return result


def with_medpy(case: Case) -> Numbers:
    from medpy.metric import binary

    result = {}
    for name, label in LABELS.items():
        prediction, reference = case[0] == label, case[1] == label
        result |= {
            f"{name} hd95": binary.hd95(prediction, reference, SPACING_MM),
            f"{name} assd": binary.assd(prediction, reference, SPACING_MM),
            f"{name} dice": binary.dc(prediction, reference),
            f"{name} iou": binary.jc(prediction, reference),
        }
    return result


METHODS: dict[str, tuple[str, Callable[[Case], Numbers]]] = {
    OURS: ("nnunet_ext", ours("surface")),
    "surface-distance": ("surface_distance", with_surface_distance),
    OURS_VOXEL: ("nnunet_ext", ours("voxel")),
    "MedPy": ("medpy", with_medpy),
}
"""By name: the package it needs, and the work."""


# -- ways to find distances -------------------------------------------------------------------------------------------

Pair = tuple[surfaces.Surface, surfaces.Surface]


def surface_pairs(case: Case) -> list[Pair]:
    """The two surfaces of each class, on the crop around both."""
    pairs = []
    for label in LABELS.values():
        masks = [each == label for each in case]
        box = ndimage.find_objects((masks[0] | masks[1]).astype(np.uint8))[0]
        one, other = (surfaces.find_surface(mask[box], SPACING_MM, "surface") for mask in masks)
        pairs.append((one, other))
    return pairs


def by_ours(start: surfaces.Surface, end: surfaces.Surface) -> NDArray:
    found = surfaces.directed_distances(start, end, SPACING_MM)
    return np.pad(found.distances, (len(start.points) - len(found.distances), 0))


def by_tree(start: surfaces.Surface, end: surfaces.Surface) -> NDArray:
    tree = cKDTree(end.points * SPACING_MM, balanced_tree=False, compact_nodes=False)
    return tree.query(start.points * SPACING_MM)[0]


def by_tree_unless_shared(start: surfaces.Surface, end: surfaces.Surface) -> NDArray:
    shared = end.lattice[tuple(start.points.T)]
    return np.pad(by_tree(start._replace(points=start.points[~shared]), end), (int(shared.sum()), 0))


def by_scipy(start: surfaces.Surface, end: surfaces.Surface) -> NDArray:
    return ndimage.distance_transform_edt(~end.lattice, SPACING_MM)[start.lattice]


def by_simpleitk(start: surfaces.Surface, end: surfaces.Surface) -> NDArray:
    image = sitk.GetImageFromArray(end.lattice.astype(np.uint8))
    image.SetSpacing(SPACING_MM[::-1])
    squared = sitk.SignedMaurerDistanceMap(image, squaredDistance=True, useImageSpacing=True)
    # the distance to the object's border, negative inside: a surface is nowhere thick, so what is inside is at 0
    return np.sqrt(np.maximum(sitk.GetArrayViewFromImage(squared)[start.lattice], 0))


def by_edt(start: surfaces.Surface, end: surfaces.Surface) -> NDArray:
    import edt

    return edt.edt(~end.lattice, anisotropy=SPACING_MM, parallel=1)[start.lattice]


WAYS: dict[str, tuple[str, Callable[[surfaces.Surface, surfaces.Surface], NDArray]]] = {
    "ours": ("nnunet_ext", by_ours),
    "k-d tree, all elements": ("scipy", by_tree),
    "k-d tree, elements not shared": ("scipy", by_tree_unless_shared),
    "scipy distance transform": ("scipy", by_scipy),
    "SimpleITK Maurer": ("SimpleITK", by_simpleitk),
    "edt": ("edt", by_edt),
}
"""By name: the package it needs, and distances in mm from every element of the first surface, in any order."""


# -- measurement ------------------------------------------------------------------------------------------------------


def take_turns(work: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each work, round by round."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return times


def ratios(times: list[float], baseline: list[float]) -> dict[str, float]:
    values = [a / b for a, b in zip(times, baseline, strict=True)]
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def installed(table: dict[str, tuple[str, Any]]) -> dict[str, Any]:
    return {name: work for name, (package, work) in table.items() if find_spec(package) is not None}


def compare_methods(case: Case, repeats: int) -> dict[str, dict[str, Any]]:
    """Results of every installed method: times, ratios, and the largest relative difference from ours."""
    methods = installed(METHODS)
    numbers = {name: run(case) for name, run in methods.items()}  # also the warm-up
    times = take_turns({name: (lambda run=run: run(case)) for name, run in methods.items()}, repeats)
    return {
        name: {
            "seconds": times[name],
            "ratio": ratios(times[name], times[BASELINE[name]]),
            "difference": max(
                abs(value - numbers[BASELINE[name]][what]) / max(abs(value), 1e-9)
                for what, value in numbers[name].items()
            ),
        }
        for name in methods
    }


def compare_ways(case: Case, repeats: int) -> dict[str, dict[str, Any]]:
    """Results of every installed way to find distances: times, ratios to ours, the largest difference from it in mm."""
    pairs = surface_pairs(case)
    directed = [*pairs, *(pair[::-1] for pair in pairs)]

    def run(way: Callable[..., NDArray]) -> list[NDArray]:
        return [way(*pair) for pair in directed]

    ways = installed(WAYS)
    found = {name: [np.sort(distances) for distances in run(way)] for name, way in ways.items()}
    times = take_turns({name: (lambda way=way: run(way)) for name, way in ways.items()}, repeats)
    return {
        name: {
            "seconds": times[name],
            "ratio": ratios(times[name], times["ours"]),
            "difference": max(np.abs(a - b).max() for a, b in zip(found[name], found["ours"], strict=True)),
        }
        for name in ways
    }


# -- results ----------------------------------------------------------------------------------------------------------


def markdown(columns: Sequence[str], results: dict[str, dict[str, dict[str, Any]]], names: Sequence[str]) -> str:
    """A row for every name; two columns, time and ratio, for every result, and the largest difference."""
    header = [
        columns[0],
        *(f"{case}: {what}" for case in results for what in ("CPU time", "ratio to ours")),
        columns[1],
    ]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for name in names:
        found = [result[name] for result in results.values() if name in result]
        if not found:
            rows.append([name, "not installed", *[""] * (len(header) - 2)])
            continue
        cells = [name]
        for each in found:
            ratio = each["ratio"]
            cells.append(f"{1000 * statistics.median(each['seconds']):,.0f} ms")
            cells.append(f"{ratio['median']:.1f} ({ratio['min']:.1f} to {ratio['max']:.1f})")
        rows.append([*cells, f"{max(each['difference'] for each in found):.0e}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def shape(text: str) -> tuple[int, ...]:
        sizes = tuple(int(n) for n in text.split("x"))
        if len(sizes) != 3 or min(sizes) < 16:
            raise argparse.ArgumentTypeError(f"{text} is not three numbers from 16 on, like 96x160x160")
        return sizes

    def positive(text: str) -> int:
        if int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return int(text)

    default = [(96, 160, 160), (128, 256, 256)]
    result.add_argument(
        "--shapes", type=shape, nargs="+", default=default, metavar="ZxYxX", help="default: 96x160x160 128x256x256"
    )
    result.add_argument("--repeats", type=positive, default=5, help="rounds (default: %(default)s)")
    result.add_argument("--json", type=Path, metavar="OUT", help="write the raw numbers")
    return result


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    warnings.simplefilter("ignore", DeprecationWarning)  # surface-distance 0.1 uses old names of scipy
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    methods: dict[str, Any] = {}
    ways: dict[str, Any] = {}
    for shape in args.shapes:
        name = "×".join(map(str, shape))
        print(name, file=sys.stderr)
        methods[name] = compare_methods(similar(shape), args.repeats)
        ways[name] = compare_ways(similar(shape), args.repeats)
    smallest = min(args.shapes, key=np.prod)
    ways[f"{'×'.join(map(str, smallest))}, noise"] = compare_ways(noise(smallest), args.repeats)

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    about = {"machine": platform.machine(), "cores": os.cpu_count(), "load_average": load, "repeats": args.repeats}
    print(f"{about['cores']} cores, load {'unknown' if load is None else f'{load:.1f}'}, {args.repeats} rounds\n")
    print(markdown(("all numbers of 3 classes", "largest relative difference"), methods, list(METHODS)))
    print()
    print(markdown(("distances", "largest difference (mm)"), ways, list(WAYS)))
    print("\nTime: median. Ratio: median (min to max) of the rounds, to ours with the same definition of a surface.")
    if args.json is not None:
        args.json.write_text(json.dumps({**about, "methods": methods, "ways": ways}, indent=1) + "\n")
    differs = any(each["difference"] > 1e-6 for result in methods.values() for each in result.values())
    differs |= any(each["difference"] > 1e-4 for result in ways.values() for each in result.values())
    return int(differs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
