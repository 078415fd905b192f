"""``nnunet-ext evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ext.cli.flags import SEVERAL, Commands, add_command, add_processes
from nnunet_ext.errors import InputError


def _evaluate(arguments: argparse.Namespace) -> None:
    from nnunet_ext.data.label_definitions import ScoredLabels
    from nnunet_ext.evaluation.folders import evaluate_folders
    from nnunet_ext.evaluation.scores import interfaces_beside
    from nnunet_ext.files import require_folder
    from nnunet_ext.splits.subjects import group

    out = Path(arguments.out) if arguments.out else Path(arguments.prediction) / "evaluation"
    if out.suffix == ".json" and not out.is_dir():
        raise InputError(
            f"-o {out} is a folder here, for summary.json and metrics.csv, and not nnU-Net's file; give {out.parent}."
        )
    require_folder(out)
    evaluation = evaluate_folders(
        arguments.reference,
        arguments.prediction,
        labels=ScoredLabels.from_words(arguments.labels) if arguments.labels else None,
        dataset_json=arguments.dataset_json,
        plans=arguments.plans,
        common=arguments.common,
        nsd_tolerances_mm=arguments.nsd_tolerances or [1.0],
        definition=arguments.definition,
        empty="zero" if arguments.legacy_empty_zero else "diagonal",
        consistency=arguments.consistency,
        interfaces=arguments.interfaces,
        topology=arguments.topology,
        subjects=(lambda cases: group(cases, arguments.by).subject_of) if arguments.by else None,
        processes=arguments.processes,
    )
    table = out / "metrics.csv"
    print(evaluation.report(), flush=True)  # before a disk can refuse the files
    evaluation.write(out / "summary.json", table)
    print(f"\n{out / 'summary.json'}  nnU-Net's format and more\n{table}  every case and label")
    if arguments.interfaces:
        print(f"{interfaces_beside(table)}  every case and pair of labels that touch each other")


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    evaluate = add_command(
        commands,
        "evaluate",
        _evaluate,
        "compare predictions with their references: Dice, IoU, HD95, ASSD, normalised surface Dice, volumes",
        "nnunet-ext evaluate labelsTs predictions",
        "nnunet-ext evaluate labelsTs predictions --labels liver=1 organs=1,2 ignore=3",
    )
    evaluate.add_argument("reference", metavar="GT_FOLDER", help="references, in any format that nnU-Net reads")
    evaluate.add_argument("prediction", metavar="PRED_FOLDER", help="predictions, with the same file names")
    evaluate.add_argument("--labels", **SEVERAL, metavar="NAME=N", help="labels to score (default: from dataset.json)")
    evaluate.add_argument(
        "-djfile", "--dataset-json", metavar="FILE", help="dataset.json (default: beside predictions or references)"
    )
    evaluate.add_argument(
        "-pfile", "--plans", metavar="FILE", help="plans file (default: plans.json beside the predictions, if any)"
    )
    evaluate.add_argument(
        "--nsd-tolerances", **SEVERAL, type=float, metavar="MM", help="tolerances of surface Dice in mm (1)"
    )
    evaluate.add_argument(
        "--definition",
        choices=["surface", "voxel"],
        default="surface",
        help="definition of distances; surface: elements weighted by area, as in DeepMind's surface-distance; voxel: "
        "border voxels, as in MedPy (%(default)s)",
    )
    evaluate.add_argument(
        "--legacy-empty-zero", action="store_true", help="empty masks score 0 everywhere, as in the scribble papers"
    )
    evaluate.add_argument(
        "--consistency",
        action="store_true",
        help="also measure how well neighbouring slices agree, in predictions and references",
    )
    evaluate.add_argument(
        "--interfaces",
        action="store_true",
        help="also measure HD95, surface Dice and confusion where two labels touch",
    )
    evaluate.add_argument(
        "--topology", action="store_true", help="also count errors in the number of components, holes and cavities"
    )
    evaluate.add_argument(
        "--by",
        metavar="WAY",
        help="which cases are one subject, as for nnunet-ext splits; means are then over subjects",
    )
    evaluate.add_argument("--common", action="store_true", help="score only the cases that are in both folders")
    add_processes(evaluate)
    evaluate.add_argument("-o", "--out", metavar="FOLDER", help="folder to write to (PRED_FOLDER/evaluation)")
