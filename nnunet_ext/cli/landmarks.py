"""``nnunet-ext landmarks …``."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ext.cli.flags import (
    Commands,
    add_command,
    add_group,
    add_new_dataset,
    add_processes,
    add_raw_dataset,
    write_and_print,
)
from nnunet_ext.cli.models import add_prediction_flags, model_folder, prediction


def _check(arguments: argparse.Namespace) -> int:
    from nnunet_ext.landmarks.check import check_landmarks

    report = check_landmarks(arguments.dataset, labels=arguments.labels, processes=arguments.processes)
    out = Path(arguments.out or f"nnunet_ext_landmarks_{report.dataset.raw.name}")
    write_and_print(report, out, "findings.csv, distances.csv and check.json  everything that was found")
    return report.exit_code


def _convert(arguments: argparse.Namespace) -> None:
    from nnunet_ext.landmarks.formats import convert

    written = convert(
        arguments.files,
        arguments.to,
        out=arguments.out,
        coordinates=arguments.coordinates,
        force=arguments.force,
    )
    print(f"{written[0]}{f' and {len(written) - 1} more' if len(written) > 1 else ''} written")


def _predict(arguments: argparse.Namespace) -> None:
    from nnunet_ext.landmarks.formats import TABLE
    from nnunet_ext.landmarks.predictor import FOLDER, predict

    found = predict(
        arguments.images,
        arguments.out,
        model_folder(arguments),
        prediction(arguments),
        threshold=arguments.threshold,
    )
    out = Path(arguments.out)
    print(f"{len(found)} cases: segmentations in {out}, {out / FOLDER} for 3D Slicer, {out / TABLE} as one table")


def _pseudo_label(arguments: argparse.Namespace) -> None:
    from nnunet_ext.landmarks.pseudo.generate import Options, pseudo_label

    options = Options(engine=arguments.engine, model=arguments.model, shell_mm=arguments.shell, seed=arguments.seed)
    print(pseudo_label(arguments.dataset, arguments.new_dataset, options, processes=arguments.processes).report())


def _evaluate(arguments: argparse.Namespace) -> None:
    from nnunet_ext.landmarks.evaluate import evaluate

    evaluation = evaluate(
        arguments.references,
        arguments.predictions,
        labels=arguments.labels,
        dataset_json=arguments.dataset_json,
        common=arguments.common,
        processes=arguments.processes,
    )
    predictions = Path(arguments.predictions)
    out = Path(arguments.out or (predictions if predictions.is_dir() else predictions.parent) / "evaluation")
    write_and_print(evaluation, out, "landmarks_summary.json and landmarks_metrics.csv  every case and landmark")


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    parts = add_group(
        commands, "landmarks", "check a data set with landmarks, convert and evaluate landmarks, make masks from them"
    )
    check = add_command(
        parts,
        "check",
        _check,
        "look for what is wrong with landmarks before a training, and whether they lie on their organs; exit code 1 if "
        "something is fatal",
        "nnunet-ext landmarks check 204",
    )
    add_raw_dataset(check)
    check.add_argument("--labels", metavar="FOLDER", help="measure distances in these label maps, not in labelsTr")
    add_processes(check)
    check.add_argument("-o", "--out", metavar="FOLDER", help="default: nnunet_ext_landmarks_DATASET")
    convert = add_command(
        parts,
        "convert",
        _convert,
        "write files of landmarks (.mrk.json, .fcsv, .csv, .json) as one .mrk.json per case, or as one table of all",
        "nnunet-ext landmarks convert *.fcsv --to mrk.json -o landmarksTr",
    )
    convert.add_argument("files", nargs="+", metavar="FILE", help="files, or folders of them")
    convert.add_argument("--to", required=True, choices=["mrk.json", "csv"])
    convert.add_argument("-o", "--out", default=".", metavar="FOLDER", help="default: the current folder")
    convert.add_argument(
        "--coordinates", choices=["LPS", "RAS"], help="of the positions in the files, whatever the files say"
    )
    convert.add_argument("--force", action="store_true", help="replace files that are there")
    predict = add_command(
        parts,
        "predict",
        _predict,
        "segmentations and landmarks of a folder of images, with the flags of nnUNetv2_predict",
        "nnunet-ext landmarks predict -i imagesTs -o predictions -d 204 -c 3d_fullres -tr nnUNetTrainerBaBLoss -f 0",
    )
    add_prediction_flags(predict, "nnUNetTrainerBaBLoss")
    predict.add_argument("--threshold", type=float, metavar="P", help="landmarks less sure than this are absent")
    predict.add_argument("-prev_stage_predictions", dest="previous_stage", metavar="FOLDER", help="of a cascade")
    evaluate = add_command(
        parts,
        "evaluate",
        _evaluate,
        "compare landmarks with references: mean radial error, SDR, missed and false ones, distance from organs",
        "nnunet-ext landmarks evaluate landmarksTs predictions",
        "nnunet-ext landmarks evaluate landmarksTs predictions --labels labelsTs",
    )
    evaluate.add_argument("references", metavar="REFERENCES", help="folder, or a table of all cases")
    evaluate.add_argument("predictions", metavar="PREDICTIONS", help="folder, or a table of all cases")
    evaluate.add_argument(
        "--labels",
        metavar="FOLDER",
        help="label maps, of the references or predicted: how far from organs is it there?",
    )
    evaluate.add_argument("-djfile", "--dataset-json", metavar="FILE", help="default: near references or predictions")
    evaluate.add_argument("--common", action="store_true", help="score only the cases that are in both")
    add_processes(evaluate)
    evaluate.add_argument("-o", "--out", metavar="FOLDER", help="default: PREDICTIONS/evaluation")
    _add_pseudo_label(parts)


def _add_pseudo_label(parts: Commands) -> None:
    pseudo = add_command(
        parts,
        "pseudo-label",
        _pseudo_label,
        "write a data set in which cases with only landmarks have masks of organs, where these pass filters",
        "nnunet-ext landmarks pseudo-label 204 --new-dataset 304",
        "nnunet-ext landmarks pseudo-label 204 --new-dataset 305 --engine nninteractive --model nnInteractive_v1.0",
    )
    add_raw_dataset(pseudo)
    add_new_dataset(pseudo)
    pseudo.add_argument(
        "--engine",
        default="random-walker",
        metavar="NAME",
        help="random-walker, nninteractive, sam, or module:function of yours (%(default)s)",
    )
    pseudo.add_argument("--model", metavar="PATH", help="weights of the engine")
    pseudo.add_argument(
        "--shell", type=float, default=5.0, metavar="MM", help="of background around a mask (%(default)s)"
    )
    pseudo.add_argument("--seed", type=int, default=0, metavar="N", help="of the moved prompts (%(default)s)")
    add_processes(pseudo)
