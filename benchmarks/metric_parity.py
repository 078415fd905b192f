"""Do our numbers equal those of the packages that define them? On the label maps of two folders.

::

    python benchmarks/metric_parity.py GT_FOLDER PRED_FOLDER --labels left=1 right=2

For every case and label HD95, ASSD and NSD at 1 mm are computed by ours, by ``surface-distance`` (definition "surface")
and by MedPy (definition "voxel"; it has no NSD). The table gives the largest difference, and the means of the two
definitions on the same masks: how far they are apart is why one must be named. The exit code is 1 if a number differs
by more than 1e-6.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

import numpy as np
import surface_distance
from medpy.metric import binary

from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.data.reading import Reader
from nnunet_ext.evaluation.folders import evaluate_folders
from nnunet_ext.evaluation.overlay import masks

NUMBERS = ("HD95 (mm)", "ASSD (mm)", "NSD at 1 mm")


def theirs(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> dict[str, list[float]]:
    """The three numbers by definition; MedPy has no NSD."""
    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    return {
        "surface": [
            surface_distance.compute_robust_hausdorff(distances, 95),
            sum(surface_distance.compute_average_surface_distance(distances)) / 2,
            surface_distance.compute_surface_dice_at_tolerance(distances, 1.0),
        ],
        "voxel": [binary.hd95(prediction, reference, spacing), binary.assd(prediction, reference, spacing), np.nan],
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", metavar="GT_FOLDER")
    parser.add_argument("prediction", metavar="PRED_FOLDER")
    parser.add_argument("--labels", nargs="+", required=True, metavar="NAME=N")
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore", DeprecationWarning)  # surface-distance 0.1 uses old names of scipy
    labels = ScoredLabels.from_words(arguments.labels)

    ours: dict[str, list[list[float]]] = {"surface": [], "voxel": []}
    others: dict[str, list[list[float]]] = {"surface": [], "voxel": []}
    evaluations = {
        definition: evaluate_folders(
            arguments.reference, arguments.prediction, labels=labels, common=True, definition=definition, processes=1
        )
        for definition in ("surface", "voxel")
    }
    reader = Reader(evaluations["surface"].settings.reader)
    for surface, voxel in zip(evaluations["surface"].cases, evaluations["voxel"].cases, strict=True):
        reference, prediction = reader.labels(surface.reference), reader.labels(surface.prediction)
        truth = masks(reference.array, reference.array, labels)
        predicted = masks(prediction.array, reference.array, labels)
        for label in labels.values:
            if surface.metrics[label].status != "both":
                continue
            expected = theirs(predicted[label], truth[label], reference.spacing_mm)
            for definition, case in (("surface", surface), ("voxel", voxel)):
                found = case.metrics[label]
                ours[definition].append([found.hd95_mm, found.assd_mm, found.nsd[1.0]])
                others[definition].append(expected[definition])

    both = {name: np.asarray(values) for name, values in ours.items()}
    differences = {name: np.abs(both[name] - np.asarray(others[name])).max(0) for name in both}
    print(f"{len(both['surface'])} pairs of masks in {len(evaluations['surface'].cases)} cases\n")
    print("| | surface: mean | largest difference to surface-distance | voxel: mean | largest difference to MedPy |")
    print("|---|---:|---:|---:|---:|")
    for i, name in enumerate(NUMBERS):
        medpy = "has none" if np.isnan(differences["voxel"][i]) else f"{differences['voxel'][i]:.0e}"
        means = [f"{both[definition][:, i].mean():.4f}" for definition in ("surface", "voxel")]
        print(f"| {name} | {means[0]} | {differences['surface'][i]:.0e} | {means[1]} | {medpy} |")
    return int(max(np.nanmax(values) for values in differences.values()) > 1e-6)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
