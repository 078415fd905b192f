"""``nnunet-ext landmarks …``."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ext.cli.flags import (
    SEVERAL,
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
    from nnunet_ext.files import require_folder
    from nnunet_ext.landmarks.check import check_landmarks

    require_folder(arguments.out or ".")
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
        surface_sigma=arguments.surface_sigma,
    )
    out = Path(arguments.out)
    print(f"{len(found)} cases: segmentations in {out}, {out / FOLDER} for 3D Slicer, {out / TABLE} as one table")


def _pseudo_label(arguments: argparse.Namespace) -> None:
    from nnunet_ext.landmarks.pseudo.candidates import Options
    from nnunet_ext.landmarks.pseudo.generate import pseudo_label

    options = Options(engine=arguments.engine, model=arguments.model, shell_mm=arguments.shell, seed=arguments.seed)
    print(pseudo_label(arguments.dataset, arguments.new_dataset, options, processes=arguments.processes).report())


def _derive(arguments: argparse.Namespace) -> None:
    from nnunet_ext.landmarks.derive import derive_dataset
    from nnunet_ext.landmarks.derived import Options

    options = Options(
        segmented=arguments.segmented,
        by=arguments.by,
        rule=arguments.rule,
        labels=tuple(arguments.labels),
        axes=arguments.axes,
        seed=arguments.seed,
        splits=arguments.splits,
        fold=arguments.fold,
        landmarks_everywhere=arguments.landmarks_everywhere,
    )
    derived = derive_dataset(
        arguments.dataset, arguments.new_dataset, options, force=arguments.force, processes=arguments.processes
    )
    print(derived.report())


def _from_masks(arguments: argparse.Namespace) -> None:
    from nnunet_ext.landmarks.from_masks import landmarks_from_masks

    found = landmarks_from_masks(
        arguments.masks, arguments.dataset, arguments.out, force=arguments.force, processes=arguments.processes
    )
    print(f"{len(found)} cases in {arguments.out}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from nnunet_ext.files import require_folder
    from nnunet_ext.landmarks.evaluate import evaluate

    predictions = Path(arguments.predictions)
    out = Path(arguments.out or (predictions if predictions.is_dir() else predictions.parent) / "evaluation")
    require_folder(out)
    evaluation = evaluate(
        arguments.references,
        arguments.predictions,
        labels=arguments.labels,
        dataset_json=arguments.dataset_json,
        common=arguments.common,
        processes=arguments.processes,
    )
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
        "look for mistakes in landmarks before a training, and measure whether they lie on their organs; exit code 1 "
        "if a mistake is fatal",
        "nnunet-ext landmarks check 204",
    )
    add_raw_dataset(check)
    check.add_argument("--labels", metavar="FOLDER", help="measure distances in these label maps, not in labelsTr")
    add_processes(check)
    check.add_argument("-o", "--out", metavar="FOLDER", help="folder to write to (nnunet_ext_landmarks_DATASET)")
    convert = add_command(
        parts,
        "convert",
        _convert,
        "write files of landmarks (.mrk.json, .fcsv, .csv, .json) as one .mrk.json per case, or as one table",
        "nnunet-ext landmarks convert *.fcsv --to mrk.json -o landmarksTr",
    )
    convert.add_argument("files", nargs="+", metavar="FILE", help="files, or folders of them")
    convert.add_argument("--to", required=True, choices=["mrk.json", "csv"], help="format to write")
    convert.add_argument("-o", "--out", default=".", metavar="FOLDER", help="folder to write to (current folder)")
    convert.add_argument(
        "--coordinates", choices=["LPS", "RAS"], help="coordinate system of the files, whatever they state"
    )
    convert.add_argument("--force", action="store_true", help="replace existing files")
    predict = add_command(
        parts,
        "predict",
        _predict,
        "predict segmentations and landmarks of a folder of images, with the flags of nnUNetv2_predict",
        "nnunet-ext landmarks predict -i imagesTs -o predictions -d 204 -c 3d_fullres -tr nnUNetTrainerBaBLoss -f 0",
    )
    add_prediction_flags(predict, "nnUNetTrainerBaBLoss")
    predict.add_argument("--threshold", type=float, metavar="P", help="confidence below which a landmark is absent")
    predict.add_argument(
        "--surface-sigma",
        type=float,
        metavar="VOXELS",
        help="how far from the predicted surface of its organ to seek a landmark; 0: anywhere (as trained)",
    )
    predict.add_argument(
        "-prev_stage_predictions",
        dest="previous_stage",
        metavar="FOLDER",
        help="predictions of a cascade's first stage",
    )
    evaluate = add_command(
        parts,
        "evaluate",
        _evaluate,
        "compare landmarks with references: mean radial error, SDR, missed and false landmarks, distance from organs",
        "nnunet-ext landmarks evaluate landmarksTs predictions",
        "nnunet-ext landmarks evaluate landmarksTs predictions --labels labelsTs",
    )
    evaluate.add_argument("references", metavar="REFERENCES", help="folder, or a table of all cases")
    evaluate.add_argument("predictions", metavar="PREDICTIONS", help="folder, or a table of all cases")
    evaluate.add_argument(
        "--labels",
        metavar="FOLDER",
        help="label maps, true or predicted, to measure distances from organs in",
    )
    evaluate.add_argument(
        "-djfile", "--dataset-json", metavar="FILE", help="dataset.json (default: near references or predictions)"
    )
    evaluate.add_argument("--common", action="store_true", help="score only the cases that are in both")
    add_processes(evaluate)
    evaluate.add_argument("-o", "--out", metavar="FOLDER", help="folder to write to (PREDICTIONS/evaluation)")
    _add_derive(parts)
    _add_pseudo_label(parts)


def _add_derive(parts: Commands) -> None:
    derive = add_command(
        parts,
        "derive",
        _derive,
        "from a data set with dense labels, write one in which most cases have landmarks by a rule instead of masks",
        "nnunet-ext landmarks derive 27 --new-dataset 227 --labels RV LVC --segmented 8 --by 'patient\\d+'",
        "nnunet-ext landmarks derive 4 --new-dataset 304 --rule interface --segmented 8 --by pairs --splits FILE",
    )
    add_raw_dataset(derive)
    add_new_dataset(derive)
    derive.add_argument(
        "--rule",
        choices=["extreme-points", "interface"],
        default="extreme-points",
        help="extreme points of labels, or of the interface of every two (%(default)s)",
    )
    derive.add_argument("--labels", **SEVERAL, default=[], metavar="NAME", help="labels or regions (default: all)")
    derive.add_argument(
        "--axes",
        choices=["auto", "in-plane", "all"],
        default="auto",
        help="axes of the image; auto leaves out the axis across thick slices (%(default)s)",
    )
    derive.add_argument("--segmented", type=int, required=True, metavar="N", help="number of subjects that keep masks")
    derive.add_argument("--by", metavar="SUBJECTS", help="which cases are one subject, as in nnunet-ext splits")
    derive.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the choice of subjects (%(default)s)")
    derive.add_argument("--splits", metavar="FILE", help="file of folds: choose training subjects of one fold")
    derive.add_argument("--fold", type=int, default=0, metavar="F", help="fold of --splits (%(default)s)")
    derive.add_argument("--landmarks-everywhere", action="store_true", help="give cases with masks landmarks, too")
    derive.add_argument("--force", action="store_true", help="replace a data set that this command wrote")
    add_processes(derive)
    from_masks = add_command(
        parts,
        "from-masks",
        _from_masks,
        "find landmarks in label maps by the rule of a derived data set, as a control of predicted landmarks",
        "nnunet-ext landmarks from-masks predictions -d 227 -o predictions/by_rule",
    )
    from_masks.add_argument("masks", metavar="MASKS", help="folder of label maps, such as predictions")
    from_masks.add_argument("-d", "--dataset", required=True, metavar="DATASET", help="data set of landmarks derive")
    from_masks.add_argument("-o", "--out", required=True, metavar="FOLDER", help="folder for CASE.mrk.json")
    from_masks.add_argument("--force", action="store_true", help="replace existing files")
    add_processes(from_masks)


def _add_pseudo_label(parts: Commands) -> None:
    pseudo = add_command(
        parts,
        "pseudo-label",
        _pseudo_label,
        "write a data set in which cases with only landmarks get masks of organs that pass filters",
        "nnunet-ext landmarks pseudo-label 204 --new-dataset 304",
        "nnunet-ext landmarks pseudo-label 204 --new-dataset 305 --engine s2vnet --model MODEL_FOLDER",
        "nnunet-ext landmarks pseudo-label 204 --new-dataset 306 --engine nninteractive --model nnInteractive_v1.0",
    )
    add_raw_dataset(pseudo)
    add_new_dataset(pseudo)
    pseudo.add_argument(
        "--engine",
        default="random-walker",
        metavar="NAME",
        help="random-walker, s2vnet, nninteractive, sam, or your own module:function (%(default)s)",
    )
    pseudo.add_argument("--model", metavar="PATH", help="weights of the engine")
    pseudo.add_argument(
        "--shell", type=float, default=5.0, metavar="MM", help="thickness of the background around masks (%(default)s)"
    )
    pseudo.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the moved prompts (%(default)s)")
    add_processes(pseudo)
