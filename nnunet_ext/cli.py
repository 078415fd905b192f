"""The command ``nnunet-ext``. Thin: every command parses its arguments and calls one public function."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nnunet_ext.errors import InputError
from nnunet_ext.version import __version__

if TYPE_CHECKING:
    from nnunet_ext.nnunet.models import Prediction

Command = Callable[[argparse.Namespace], int]


def _path(_: argparse.Namespace) -> int:
    from nnunet_ext.discovery import VARIABLE, extended_value

    print(extended_value(os.environ.get(VARIABLE)))
    return 0


def _trainers(_: argparse.Namespace) -> int:
    from nnunet_ext.catalogue import TRAINERS

    width = max(map(len, TRAINERS))
    for name, entry in TRAINERS.items():
        print(f"{name:<{width}}  {entry.description}")
    print("\nEach also with a number of epochs: -tr nnUNetTrainerPnPNet_50epochs")
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from nnunet_ext.doctor import run

    return run()


def _enable(_: argparse.Namespace) -> int:
    from nnunet_ext.permanent import enable

    print(enable())
    return 0


def _disable(_: argparse.Namespace) -> int:
    from nnunet_ext.permanent import disable

    print(disable())
    return 0


def _plans(arguments: argparse.Namespace) -> int:
    from nnunet_ext.nnunet.plans import write_plans

    written = write_plans(
        arguments.dataset,
        arguments.preset,
        base=arguments.plans,
        configurations=arguments.configuration,
        epochs=arguments.epochs,
        iterations=arguments.iterations,
        batch_size=arguments.batch_size,
        patch_size=arguments.patch_size,
        features=arguments.features,
        options=_options(arguments.option),
        out=arguments.out,
        force=arguments.force,
    )
    print(written.summary())
    return 0


def _options(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``["attenscribble.crf_weight=1.0"]`` → ``{"attenscribble": {"crf_weight": 1.0}}``; values are read as YAML."""
    import yaml

    options: dict[str, dict[str, Any]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        method, dot, option = name.partition(".")
        if not (equals and dot and method and option and value):
            raise InputError(f"--option {text!r} is not METHOD.NAME=VALUE, such as attenscribble.crf_weight=1.0.")
        try:
            options.setdefault(method, {})[option] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--option {text!r}: {value!r} is no YAML value.") from None
    return options


def _export(arguments: argparse.Namespace) -> int:
    from nnunet_ext.export.write import export_model

    exported = export_model(
        arguments.model,
        arguments.out,
        folds=arguments.folds,
        checkpoints=arguments.checkpoints,
        name=arguments.name,
        keep_trainer=arguments.keep_trainer,
        safetensors=arguments.safetensors,
        onnx=arguments.onnx,
        force=arguments.force,
    )
    print(exported.report())
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from nnunet_ext.demo.run import run_demo

    return run_demo(folder=arguments.folder, raw=arguments.raw, dataset=arguments.dataset, device=arguments.device)


def _evaluate(arguments: argparse.Namespace) -> int:
    from nnunet_ext.evaluation.folders import evaluate_folders
    from nnunet_ext.evaluation.labels import ScoredLabels

    evaluation = evaluate_folders(
        arguments.reference,
        arguments.prediction,
        labels=ScoredLabels.from_words(arguments.labels) if arguments.labels else None,
        dataset_json=arguments.dataset_json,
        plans=arguments.plans,
        common=arguments.common,
        nsd_tolerances_mm=arguments.nsd_tolerances,
        definition=arguments.definition,
        empty="zero" if arguments.legacy_empty_zero else "diagonal",
        consistency=arguments.consistency,
        processes=arguments.processes,
    )
    out = Path(arguments.out) if arguments.out else Path(arguments.prediction) / "evaluation"
    evaluation.write(out / "summary.json", out / "metrics.csv")
    print(evaluation.report())
    print(f"\n{out / 'summary.json'}  nnU-Net's format and more\n{out / 'metrics.csv'}  every case and label")
    return 0


def _benchmark_list(_: argparse.Namespace) -> int:
    from nnunet_ext.benchmark.spec import load, ready_specs

    for name, path in ready_specs().items():
        print(f"{name:<10} {load(name).description}\n{'':<10} {path}")
    return 0


def _benchmark_run(arguments: argparse.Namespace) -> int:
    from nnunet_ext.benchmark.run import run_benchmark

    return run_benchmark(
        arguments.benchmark,
        arguments.folder,
        executor=arguments.executor,
        at_once=arguments.jobs,
        parameters=arguments.parameter,
    )


def _benchmark_report(arguments: argparse.Namespace) -> int:
    from nnunet_ext.benchmark.report import report_benchmark, report_results

    if bool(arguments.folder) == bool(arguments.from_results):
        raise InputError("Give either the FOLDER of a benchmark or --from-results with folders of trained models.")
    if arguments.folder:
        print(report_benchmark(arguments.folder, arguments.out, baseline=arguments.baseline))
    else:
        print(
            report_results(
                arguments.from_results,
                arguments.out,
                baseline=arguments.baseline,
                reference=arguments.reference,
                folds=arguments.folds,
            )
        )
    return 0


def _scribbles_generate(arguments: argparse.Namespace) -> int:
    from nnunet_ext.scribbles.generate import generate_dataset
    from nnunet_ext.scribbles.label_map import Options

    options = Options(
        mode=arguments.mode,
        slice_fraction=arguments.slice_fraction,
        thickness=arguments.thickness,
        min_area=arguments.min_area,
        components=arguments.components,
        background=not arguments.no_background,
        seed=arguments.seed,
    )
    print(generate_dataset(arguments.dataset, arguments.out, options, processes=arguments.processes).report())
    return 0


def _scribbles_check(arguments: argparse.Namespace) -> int:
    from nnunet_ext.scribbles.check import check_dataset

    report = check_dataset(
        arguments.dataset, dense=arguments.dense, plans=arguments.plans, processes=arguments.processes
    )
    out = Path(arguments.out or f"nnunet_ext_scribbles_{report.dataset.name}")
    report.write(out)
    print(f"{report.report()}\n\n{out / 'overview.html'}  pictures of the suspicious cases")
    return report.exit_code


def _landmarks_check(arguments: argparse.Namespace) -> int:
    from nnunet_ext.landmarks.check import check_dataset

    report = check_dataset(arguments.dataset, labels=arguments.labels, processes=arguments.processes)
    out = Path(arguments.out or f"nnunet_ext_landmarks_{report.dataset.raw.name}")
    report.write(out)
    print(f"{report.report()}\n\n{out / 'findings.csv'}, distances.csv and check.json  everything that was found")
    return report.exit_code


def _landmarks_convert(arguments: argparse.Namespace) -> int:
    from nnunet_ext.landmarks.convert import convert

    written = convert(
        arguments.files,
        arguments.to,
        out=arguments.out,
        coordinates=arguments.coordinates,
        force=arguments.force,
    )
    print(f"{written[0]}{f' and {len(written) - 1} more' if len(written) > 1 else ''} written")
    return 0


def _model_folder(arguments: argparse.Namespace) -> Path:
    """The folder that is named, or the one that nnU-Net has for a data set, trainer, plans and configuration."""
    from nnunet_ext.nnunet.models import model_folder

    if arguments.model is not None:
        return Path(arguments.model)
    if arguments.dataset is None or arguments.configuration is None:
        raise InputError("Which model? Give -d DATASET -c CONFIGURATION -tr TRAINER -p PLANS, or -m MODEL_FOLDER.")
    return model_folder(arguments.dataset, arguments.trainer, arguments.plans, arguments.configuration)


def _prediction(arguments: argparse.Namespace) -> Prediction:
    """What the flags of :func:`_add_prediction_flags` say."""
    from nnunet_ext.nnunet.models import Prediction

    return Prediction(
        folds=arguments.folds,
        checkpoint=arguments.checkpoint,
        device=arguments.device,
        tta=not arguments.disable_tta,
        step_size=arguments.step_size,
        save_probabilities=arguments.save_probabilities,
        continue_prediction=arguments.continue_prediction,
        previous_stage=getattr(arguments, "previous_stage", None),
        on_device=not arguments.not_on_device,
        progress=not arguments.disable_progress_bar,
        processes=(arguments.npp, arguments.nps),
    )


def _landmarks_predict(arguments: argparse.Namespace) -> int:
    from nnunet_ext.landmarks.predictor import FOLDER, TABLE, predict

    found = predict(
        arguments.images,
        arguments.out,
        _model_folder(arguments),
        _prediction(arguments),
        threshold=arguments.threshold,
    )
    out = Path(arguments.out)
    print(f"{len(found)} cases: segmentations in {out}, {out / FOLDER} for 3D Slicer, {out / TABLE} as one table")
    return 0


def _s2v_predict(arguments: argparse.Namespace) -> int:
    from nnunet_ext.s2vnet.predictor import predict

    number = predict(
        arguments.images,
        arguments.out,
        _model_folder(arguments),
        _prediction(arguments),
        direction=arguments.direction,
    )
    print(f"{number} segmentations in {arguments.out}")
    return 0


def _session(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags of :func:`_add_session_flags` say, as arguments of a function that opens a session."""
    return {
        "model": _model_folder(arguments),
        "fold": arguments.fold,
        "checkpoint": arguments.checkpoint,
        "device": arguments.device,
        "torch_n_threads": arguments.threads,
        "cache_bytes": int(arguments.cache * 2**20),
    }


def _s2v_interact(arguments: argparse.Namespace) -> int:
    from nnunet_ext.s2vnet.interactive.interact import interact

    changes = interact(
        arguments.images,
        prompts=arguments.prompts,
        out=arguments.out,
        log=arguments.log,
        propagation=arguments.propagation == "on",
        **_session(arguments),
    )
    for number, change in enumerate(changes, 1):
        kind = change["prompt"]["type"]
        print(f"{number:>3} {kind:<9} changed {change['voxels']} voxels in {len(change['slices'])} slices")
    print(f"{arguments.out}  the segmentation")
    return 0


def _s2v_evaluate_clicks(arguments: argparse.Namespace) -> int:
    from nnunet_ext.s2vnet.interactive.evaluate_clicks import evaluate_clicks

    evaluation = evaluate_clicks(
        arguments.images,
        arguments.references,
        cases=arguments.cases,
        clicks=arguments.clicks,
        propagation={"on": [True], "off": [False], "both": [True, False]}[arguments.propagation],
        nsd_tolerance_mm=arguments.nsd_tolerance,
        done=lambda line: print(line, flush=True),
        **_session(arguments),
    )
    evaluation.write(arguments.out)
    print(f"\n{evaluation.report()}\n\n{Path(arguments.out) / 'clicks.csv'}, clicks.json and clicks.png")
    return 0


def _s2v_serve(arguments: argparse.Namespace) -> int:
    from nnunet_ext.viewer.serve import serve, serve_remote

    said = {"host": arguments.host, "say": lambda line: print(line, flush=True), **_session(arguments)}
    if arguments.nninteractive:
        if arguments.images or arguments.out or arguments.prompts_out:
            raise InputError(
                "With --nninteractive the plug-in opens the image and saves; leave out --image, --out and "
                "--prompts-out."
            )
        serve_remote(port=1527 if arguments.port is None else arguments.port, upload_mib=arguments.upload, **said)
        return 0
    if not arguments.images:
        raise InputError("Which image? Give --image FILE, one per channel.")
    serve(
        images=arguments.images,
        out=arguments.out,
        prompts_out=arguments.prompts_out,
        port=8000 if arguments.port is None else arguments.port,
        **said,
    )
    return 0


def _landmarks_pseudo_label(arguments: argparse.Namespace) -> int:
    from nnunet_ext.landmarks.pseudo.generate import Options, pseudo_label

    options = Options(engine=arguments.engine, model=arguments.model, shell_mm=arguments.shell, seed=arguments.seed)
    print(pseudo_label(arguments.dataset, arguments.out, options, processes=arguments.processes).report())
    return 0


def _landmarks_evaluate(arguments: argparse.Namespace) -> int:
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
    evaluation.write(out)
    print(
        f"{evaluation.report()}\n\n{out / 'landmarks_summary.json'} and landmarks_metrics.csv  every case and landmark"
    )
    return 0


def _splits(arguments: argparse.Namespace) -> int:
    if arguments.check is not None:
        from nnunet_ext.splits.check import check_splits

        if arguments.few_shot or arguments.out or arguments.force:
            raise InputError("--check writes nothing; leave out --few-shot, --out and --force.")
        checked = check_splits(
            arguments.dataset,
            arguments.check or None,
            by=arguments.by,
            images=not arguments.no_images,
            processes=arguments.processes,
        )
        print(checked.report())
        return checked.exit_code
    from nnunet_ext.splits.write import write_splits

    written = write_splits(
        arguments.dataset,
        arguments.by,
        folds=arguments.folds,
        shots=arguments.few_shot,
        seeds=arguments.seeds,
        validation_from=arguments.validation_from,
        validation_fold=arguments.validation_fold,
        out=arguments.out,
        force=arguments.force,
    )
    print(written.report())
    return 0


def _number_or_all(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of subjects nor 'all'") from None


def _add_prediction_flags(command: argparse.ArgumentParser, trainer: str) -> None:
    """Those of ``nnUNetv2_predict``, without ``-c``; with the trainer that is meant if none is named."""
    command.add_argument("-i", dest="images", required=True, metavar="FOLDER", help="images, as for nnUNetv2_predict")
    command.add_argument("-o", dest="out", required=True, metavar="FOLDER")
    command.add_argument("-m", "--model", metavar="FOLDER", help="model folder, instead of -d, -c, -tr and -p")
    command.add_argument("-d", dest="dataset", metavar="DATASET", help="number or name")
    command.add_argument("-tr", dest="trainer", default=trainer, metavar="TRAINER", help="%(default)s")
    command.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="%(default)s")
    command.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", help="default: all that were trained")
    command.add_argument("-chk", dest="checkpoint", default="checkpoint_final.pth", metavar="FILE", help="%(default)s")
    command.add_argument("-device", default="cuda", choices=["cuda", "cpu", "mps"], help="%(default)s")
    command.add_argument("-step_size", type=float, default=0.5, help="of the sliding window (%(default)s)")
    command.add_argument("--disable_tta", action="store_true", help="do not mirror")
    command.add_argument("--save_probabilities", action="store_true", help="of the segmentation")
    command.add_argument("--continue_prediction", action="store_true", help="leave out cases that are there")
    command.add_argument("--not_on_device", action="store_true", help="keep results in main memory")
    command.add_argument("--disable_progress_bar", action="store_true")
    command.add_argument("-npp", type=int, default=3, help="processes for preprocessing (%(default)s)")
    command.add_argument("-nps", type=int, default=3, help="processes for export (%(default)s)")


def _add_session_flags(command: argparse.ArgumentParser) -> None:
    """Which model, and how a session runs."""
    command.add_argument("-m", "--model", metavar="FOLDER", help="model folder, instead of -d, -c, -tr and -p")
    command.add_argument("-d", dest="dataset", metavar="DATASET", help="number or name")
    command.add_argument("-c", dest="configuration", default="2d", metavar="CONFIGURATION", help="%(default)s")
    command.add_argument("-tr", dest="trainer", default="nnUNetTrainerS2VNet", metavar="TRAINER", help="%(default)s")
    command.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="%(default)s")
    command.add_argument("-f", "--fold", metavar="FOLD", help="one; default: all, or the first that was trained")
    command.add_argument("-chk", dest="checkpoint", default="checkpoint_final.pth", metavar="FILE", help="%(default)s")
    command.add_argument(
        "-device", "--device", choices=["cuda", "cpu", "mps"], help="default: cuda if there is one, else cpu"
    )
    command.add_argument("--threads", type=int, metavar="N", help="of PyTorch on the CPU (default: all)")
    command.add_argument(
        "--cache", type=float, default=2048, metavar="MIB", help="memory for features; changes no result (%(default)s)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet-ext", description="Trainers that plug into stock nnU-Net v2, and the tools around them."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, function: Command, help_: str, example: str, to: Any = commands) -> argparse.ArgumentParser:
        command = to.add_parser(
            name,
            help=help_,
            description=help_[0].upper() + help_[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(function=function)
        return command

    add(
        "path",
        _path,
        "print the value for the environment variable through which nnU-Net finds these trainers; "
        "folders that it already names are kept",
        'export nnUNet_extTrainer="$(nnunet-ext path)"',
    )
    add("trainers", _trainers, "list the trainers", "nnunet-ext trainers")
    add("doctor", _doctor, "check this installation and say how to fix what is wrong", "nnunet-ext doctor")
    add(
        "enable",
        _enable,
        "let nnU-Net find these trainers in this Python environment without an export; undo with disable",
        "nnunet-ext enable",
    )
    add("disable", _disable, "undo enable", "nnunet-ext disable")

    plans = add(
        "plans",
        _plans,
        "write a plans file with a preset or a short schedule beside an existing one; nothing is preprocessed again",
        "nnunet-ext plans 4 --preset pnpnet --configuration 3d_fullres --epochs 100",
    )
    plans.add_argument("dataset", metavar="DATASET", help="number or name of a preprocessed data set")
    plans.add_argument(
        "--preset", nargs="+", default=[], metavar="NAME", help="presets from plans/, applied in this order"
    )
    plans.add_argument("--plans", default="nnUNetPlans", metavar="NAME", help="plans to start from (%(default)s)")
    plans.add_argument("--configuration", nargs="+", metavar="C", help="configurations to change (default: all)")
    plans.add_argument("--epochs", type=int, metavar="E", help="number of epochs")
    plans.add_argument("--iterations", type=int, metavar="I", help="training iterations per epoch")
    plans.add_argument("--batch-size", type=int, metavar="B")
    plans.add_argument("--patch-size", type=int, nargs="+", metavar="X")
    plans.add_argument("--features", type=int, nargs="+", metavar="F", help="channels of every stage")
    plans.add_argument(
        "--option",
        nargs="+",
        default=[],
        metavar="METHOD.NAME=VALUE",
        help="option of a method, such as attenscribble.crf_weight=1.0",
    )
    plans.add_argument("--out", metavar="NAME", help="name of the new plans (default: old name + presets)")
    plans.add_argument("--force", action="store_true", help="replace a different file of that name")

    demo = add(
        "demo",
        _demo,
        "train, predict and compare nnUNetTrainerReference and nnUNetTrainerPnPNet on a small synthetic data set",
        "nnunet-ext demo\n  nnunet-ext demo --raw /data/nnUNet_raw --dataset 4",
    )
    demo.add_argument("--folder", default="nnunet_ext_demo", help="where everything is written (%(default)s)")
    demo.add_argument("--raw", metavar="FOLDER", help="your own nnUNet_raw folder instead of the synthetic data")
    demo.add_argument("--dataset", metavar="ID", help="number or name of the data set in --raw")
    demo.add_argument("--device", choices=["cpu", "cuda", "mps"], default="cpu", help="(%(default)s)")

    evaluate = add(
        "evaluate",
        _evaluate,
        "compare predictions with their references: Dice, IoU, HD95, ASSD, normalised surface Dice, volumes",
        "nnunet-ext evaluate labelsTs predictions\n  nnunet-ext evaluate labelsTs predictions --labels liver=1 "
        "organs=1,2 ignore=3",
    )
    evaluate.add_argument("reference", metavar="GT_FOLDER", help="references, in any format that nnU-Net reads")
    evaluate.add_argument("prediction", metavar="PRED_FOLDER", help="predictions, with the same file names")
    evaluate.add_argument("--labels", nargs="+", metavar="NAME=N", help="what is scored (default: from dataset.json)")
    evaluate.add_argument("--dataset-json", metavar="FILE", help="default: beside predictions or references")
    evaluate.add_argument("--plans", metavar="FILE", help="default: plans.json beside the predictions, if there is one")
    evaluate.add_argument(
        "--nsd-tolerances", nargs="+", type=float, default=[1.0], metavar="MM", help="for surface Dice, in mm (1)"
    )
    evaluate.add_argument(
        "--definition",
        choices=["surface", "voxel"],
        default="surface",
        help="surface: elements weighted by area, as DeepMind's surface-distance; voxel: border voxels, as MedPy "
        "(%(default)s)",
    )
    evaluate.add_argument(
        "--legacy-empty-zero", action="store_true", help="empty masks score 0 everywhere, as in the scribble papers"
    )
    evaluate.add_argument(
        "--consistency",
        action="store_true",
        help="also how much neighbouring slices agree, in the predictions and in the references",
    )
    evaluate.add_argument("--common", action="store_true", help="score only the cases that are in both folders")
    evaluate.add_argument("--processes", type=int, metavar="N", help="cases at a time (default: number of cores)")
    evaluate.add_argument("-o", "--out", metavar="FOLDER", help="default: PRED_FOLDER/evaluation")

    export = add(
        "export",
        _export,
        "write a trained model for others: one of stock nnU-Net if its network is the planned one, otherwise one that "
        "says what it needs",
        "nnunet-ext export $nnUNet_results/Dataset004_Hippocampus/nnUNetTrainerMedContext__nnUNetPlans__3d_fullres "
        "--out medcontext.zip",
    )
    export.add_argument("model", metavar="RESULT_FOLDER", help="TRAINER__PLANS__CONFIGURATION in nnUNet_results")
    export.add_argument(
        "--out",
        required=True,
        metavar="FOLDER|ZIP",
        help="NAME.zip for nnUNetv2_install_pretrained_model_from_zip, or a folder for "
        "nnUNetv2_predict_from_modelfolder",
    )
    export.add_argument("-f", "--folds", nargs="+", metavar="FOLD", help="default: all that were trained")
    export.add_argument(
        "-chk",
        dest="checkpoints",
        nargs="+",
        default=["checkpoint_final.pth"],
        metavar="FILE",
        help="checkpoint_final.pth",
    )
    export.add_argument(
        "--as", dest="name", metavar="NAME", help="what others give after -tr (default: the name of the trainer)"
    )
    export.add_argument(
        "--keep-trainer", action="store_true", help="stay a model of its trainer, for example with its landmarks"
    )
    export.add_argument("--safetensors", action="store_true", help="weights also without pickle, described by JSON")
    export.add_argument("--onnx", action="store_true", help="network also as ONNX; needs the extra: nnunet-ext[onnx]")
    export.add_argument("--force", action="store_true", help="replace what an earlier export wrote")

    benchmark = commands.add_parser(
        "benchmark",
        help="train trainers against baselines on the same splits and plans, and report what can be said",
        description="Train trainers against baselines on the same splits and plans, and report what can be said.",
    )
    parts = benchmark.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add("list", _benchmark_list, "list the benchmarks that come with the package", "nnunet-ext benchmark list", parts)
    run = add(
        "run",
        _benchmark_run,
        "train, predict and evaluate everything a benchmark names; what is done already is kept",
        "nnunet-ext benchmark run cpu-smoke\n  nnunet-ext benchmark run mine.yaml --executor slurm --parameter "
        "slurm_partition=gpu slurm_gres=gpu:1",
        parts,
    )
    run.add_argument("benchmark", metavar="BENCHMARK", help="a YAML file, or the name of a ready benchmark")
    run.add_argument("--folder", help="where everything is written (nnunet_ext_benchmark_NAME)")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time on this machine (1)")
    run.add_argument("--executor", choices=["local", "slurm"], default="local", help="(%(default)s)")
    run.add_argument("--parameter", nargs="+", default=[], metavar="NAME=VALUE", help="for submitit")
    report = add(
        "report",
        _benchmark_report,
        "write report.html, report.md, CSV files and figures for a benchmark, or for models you already have",
        "nnunet-ext benchmark report nnunet_ext_benchmark_cpu\n  nnunet-ext benchmark report --from-results "
        "$nnUNet_results/Dataset004_Hippocampus/* --baseline nnUNetTrainer__nnUNetPlans__3d_fullres",
        parts,
    )
    report.add_argument("folder", nargs="?", metavar="FOLDER", help="of the benchmark")
    report.add_argument("--from-results", nargs="+", metavar="MODEL", help="folders TRAINER__PLANS__CONFIGURATION")
    report.add_argument("--baseline", help="what the others are compared with (default: that of the benchmark)")
    report.add_argument("--reference", metavar="FOLDER", help="with --from-results: references (default: nnU-Net's)")
    report.add_argument("--folds", nargs="+", type=int, metavar="F", help="with --from-results (default: all)")
    report.add_argument("-o", "--out", metavar="FOLDER", help="default: FOLDER/report")

    scribbles = commands.add_parser(
        "scribbles",
        help="draw scribbles from dense labels, and check a data set with scribbles",
        description="Draw scribbles from dense labels, and check a data set with scribbles.",
    )
    parts = scribbles.add_subparsers(title="commands", required=True, metavar="COMMAND")
    generate = add(
        "generate",
        _scribbles_generate,
        "write a data set with scribbles from one with dense labels; images are not copied",
        "nnunet-ext scribbles generate 38 --out 138\n  nnunet-ext scribbles generate 38 --out Dataset139_Lines --mode "
        "line --slice-fraction 0.3",
        parts,
    )
    generate.add_argument("dataset", metavar="DATASET", help="number or name in nnUNet_raw, or a folder")
    generate.add_argument("--out", required=True, metavar="NEW_ID", help="number or whole name of the new data set")
    generate.add_argument(
        "--mode", choices=["interior+border", "skeleton", "line"], default="interior+border", help="(%(default)s)"
    )
    generate.add_argument(
        "--slice-fraction", type=float, default=1.0, metavar="F", help="share of the slices to annotate (%(default)s)"
    )
    generate.add_argument("--thickness", type=int, default=3, metavar="N", help="in voxels (%(default)s)")
    generate.add_argument(
        "--min-area", type=int, default=1, metavar="N", help="voxels of a class in a slice to scribble (%(default)s)"
    )
    generate.add_argument(
        "--components", choices=["one", "all"], default="one", help="per class and slice (%(default)s)"
    )
    generate.add_argument("--no-background", action="store_true", help="draw foreground classes only")
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="(%(default)s)")
    generate.add_argument("--processes", type=int, metavar="N", help="cases at a time (default: number of cores)")
    check = add(
        "check",
        _scribbles_check,
        "look for what is wrong with scribbles before a training; exit code 1 if something is fatal",
        "nnunet-ext scribbles check 138\n  nnunet-ext scribbles check 138 --dense "
        "$nnUNet_raw/Dataset138_LiverScribble/labelsTr_dense",
        parts,
    )
    check.add_argument("dataset", metavar="DATASET", help="number or name in nnUNet_raw, or a folder")
    check.add_argument("--dense", metavar="FOLDER", help="dense label maps, to find leaks and what is missed")
    check.add_argument("--plans", default="nnUNetPlans", metavar="NAME", help="whose spacings are tried (%(default)s)")
    check.add_argument("--processes", type=int, metavar="N", help="cases at a time (default: number of cores)")
    check.add_argument("-o", "--out", metavar="FOLDER", help="default: nnunet_ext_scribbles_DATASET")

    landmarks = commands.add_parser(
        "landmarks",
        help="check a data set with landmarks, convert and evaluate landmarks, make masks from them",
        description="Check a data set with landmarks, convert and evaluate landmarks, make masks from them.",
    )
    parts = landmarks.add_subparsers(title="commands", required=True, metavar="COMMAND")
    check = add(
        "check",
        _landmarks_check,
        "look for what is wrong with landmarks before a training, and whether they lie on their organs; exit code 1 if "
        "something is fatal",
        "nnunet-ext landmarks check 204",
        parts,
    )
    check.add_argument("dataset", metavar="DATASET", help="number or name in nnUNet_raw, or a folder")
    check.add_argument("--labels", metavar="FOLDER", help="measure distances in these label maps, not in labelsTr")
    check.add_argument("--processes", type=int, metavar="N", help="cases at a time (default: number of cores)")
    check.add_argument("-o", "--out", metavar="FOLDER", help="default: nnunet_ext_landmarks_DATASET")
    convert = add(
        "convert",
        _landmarks_convert,
        "write files of landmarks (.mrk.json, .fcsv, .csv, .json) as one .mrk.json per case, or as one table of all",
        "nnunet-ext landmarks convert *.fcsv --to mrk.json -o landmarksTr",
        parts,
    )
    convert.add_argument("files", nargs="+", metavar="FILE", help="files, or folders of them")
    convert.add_argument("--to", required=True, choices=["mrk.json", "csv"])
    convert.add_argument("-o", "--out", default=".", metavar="FOLDER", help="default: the current folder")
    convert.add_argument(
        "--coordinates", choices=["LPS", "RAS"], help="of the positions in the files, whatever the files say"
    )
    convert.add_argument("--force", action="store_true", help="replace files that are there")
    predict = add(
        "predict",
        _landmarks_predict,
        "segmentations and landmarks of a folder of images, with the flags of nnUNetv2_predict",
        "nnunet-ext landmarks predict -i imagesTs -o predictions -d 204 -c 3d_fullres -tr nnUNetTrainerBaBLoss -f 0",
        parts,
    )
    _add_prediction_flags(predict, "nnUNetTrainerBaBLoss")
    predict.add_argument("-c", dest="configuration", metavar="CONFIGURATION")
    predict.add_argument("--threshold", type=float, metavar="P", help="landmarks less sure than this are absent")
    predict.add_argument("-prev_stage_predictions", dest="previous_stage", metavar="FOLDER", help="of a cascade")
    evaluate = add(
        "evaluate",
        _landmarks_evaluate,
        "compare landmarks with references: mean radial error, SDR, missed and false ones, distance from organs",
        "nnunet-ext landmarks evaluate landmarksTs predictions\n"
        "  nnunet-ext landmarks evaluate landmarksTs predictions --labels labelsTs",
        parts,
    )
    evaluate.add_argument("references", metavar="REFERENCES", help="folder, or a table of all cases")
    evaluate.add_argument("predictions", metavar="PREDICTIONS", help="folder, or a table of all cases")
    evaluate.add_argument(
        "--labels",
        metavar="FOLDER",
        help="label maps, of the references or predicted: how far from organs is it there?",
    )
    evaluate.add_argument("--dataset-json", metavar="FILE", help="default: near references or predictions")
    evaluate.add_argument("--common", action="store_true", help="score only the cases that are in both")
    evaluate.add_argument("--processes", type=int, metavar="N", help="cases at a time (default: number of cores)")
    evaluate.add_argument("-o", "--out", metavar="FOLDER", help="default: PREDICTIONS/evaluation")
    pseudo = add(
        "pseudo-label",
        _landmarks_pseudo_label,
        "write a data set in which cases with only landmarks have masks of organs, where these pass filters",
        "nnunet-ext landmarks pseudo-label 204 --out 304\n"
        "  nnunet-ext landmarks pseudo-label 204 --out 305 --engine nninteractive --model nnInteractive_v1.0",
        parts,
    )
    pseudo.add_argument("dataset", metavar="DATASET", help="number or name in nnUNet_raw, or a folder")
    pseudo.add_argument("--out", required=True, metavar="NEW_ID", help="number or whole name of the new data set")
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
    pseudo.add_argument("--processes", type=int, metavar="N", help="cases at a time (default: number of cores)")
    s2v = commands.add_parser(
        "s2v",
        help="predict with models of S2VNet through whole volumes, and correct segmentations with prompts",
        description="Predict with models of S2VNet through whole volumes, and correct segmentations with prompts.",
    )
    parts = s2v.add_subparsers(title="commands", required=True, metavar="COMMAND")
    predict = add(
        "predict",
        _s2v_predict,
        "segmentations of a folder of images, with the flags of nnUNetv2_predict; centres propagate through the whole "
        "volume",
        "nnunet-ext s2v predict -i imagesTs -o predictions -d 4 -f 0\n"
        "  nnunet-ext s2v predict -i imagesTs -o predictions -d 4 --direction forward --disable_tta",
        parts,
    )
    _add_prediction_flags(predict, "nnUNetTrainerS2VNet")
    predict.add_argument("-c", dest="configuration", default="2d", metavar="CONFIGURATION", help="%(default)s")
    predict.add_argument(
        "--direction", choices=["forward", "backward", "both"], default="both", help="of the slices (%(default)s)"
    )
    interact = add(
        "interact",
        _s2v_interact,
        "segment one image with prompts from a file; the same prompts give the same result",
        "nnunet-ext s2v interact -i case_0000.nii.gz -m MODEL --prompts prompts.json -o case.nii.gz",
        parts,
    )
    interact.add_argument("-i", dest="images", required=True, nargs="+", metavar="FILE", help="one per channel")
    interact.add_argument("-o", dest="out", required=True, metavar="FILE", help="the segmentation")
    interact.add_argument("--prompts", required=True, metavar="FILE", help="JSON, see docs/s2vnet.md")
    interact.add_argument("--log", metavar="FILE", help="JSON, what every prompt changed")
    interact.add_argument(
        "--propagation", choices=["on", "off"], default="on", help="off: prompts change their slice only (%(default)s)"
    )
    _add_session_flags(interact)
    clicks = add(
        "evaluate-clicks",
        _s2v_evaluate_clicks,
        "click where segmentations are wrong most, and report how they get better: Dice, surface Dice, seconds",
        "nnunet-ext s2v evaluate-clicks -i imagesTs -r labelsTs -m MODEL -o clicks --propagation both",
        parts,
    )
    clicks.add_argument("-i", dest="images", required=True, metavar="FOLDER", help="images, as for nnUNetv2_predict")
    clicks.add_argument("-r", dest="references", required=True, metavar="FOLDER", help="their label maps")
    clicks.add_argument("-o", dest="out", required=True, metavar="FOLDER", help="for clicks.csv, .json and .png")
    clicks.add_argument("--cases", nargs="+", metavar="CASE", help="default: all that have a reference")
    clicks.add_argument("--clicks", type=int, default=10, metavar="N", help="per case at most (%(default)s)")
    clicks.add_argument(
        "--propagation",
        choices=["on", "off", "both"],
        default="on",
        help="off: a click changes its slice only; both: compare (%(default)s)",
    )
    clicks.add_argument("--nsd-tolerance", type=float, default=1.0, metavar="MM", help="(%(default)s)")
    _add_session_flags(clicks)
    serve = add(
        "serve",
        _s2v_serve,
        "correct one image by clicking, in a web page that this machine serves; needs nnunet-ext[viewer]",
        "nnunet-ext s2v serve -i case_0000.nii.gz -m MODEL -o case.nii.gz --prompts-out prompts.json\n"
        "  nnunet-ext s2v serve -m MODEL --nninteractive",
        parts,
    )
    serve.add_argument("-i", "--image", dest="images", nargs="+", metavar="FILE", help="one per channel")
    serve.add_argument("-o", "--out", metavar="FILE", help="where Save writes the segmentation; default: download only")
    serve.add_argument("--prompts-out", metavar="FILE", help="JSON of all prompts, for s2v interact")
    serve.add_argument("--host", default="127.0.0.1", help="address of this machine to listen on (%(default)s)")
    serve.add_argument("--port", type=int, help="0: any that is free (8000; with --nninteractive 1527)")
    serve.add_argument(
        "--nninteractive",
        action="store_true",
        help="instead of a page, nnInteractive's remote protocol, for its plug-ins in napari and 3D Slicer",
    )
    serve.add_argument(
        "--upload", type=int, default=2048, metavar="MIB", help="of an image with --nninteractive (%(default)s)"
    )
    _add_session_flags(serve)
    splits = add(
        "splits",
        _splits,
        "write splits_final.json with folds by subject or nested few-shot subsets, or look for leaks in one",
        "nnunet-ext splits 27 --by 'patient\\d+'\n  nnunet-ext splits 4 --by pairs --few-shot 4 8 all --seeds 0 1 2\n"
        "  nnunet-ext splits 4 --check",
    )
    splits.add_argument("dataset", metavar="DATASET", help="number or name")
    splits.add_argument(
        "--by",
        metavar="SUBJECTS",
        help="which cases are one subject: a regular expression, a table FILE.csv (case,subject) or FILE.json, pairs "
        "(001 and 002, ...), pairs-from-0, subject (guess from the names), or case (each is its own)",
    )
    splits.add_argument("--folds", type=int, default=5, metavar="K", help="of the cross-validation (%(default)s)")
    splits.add_argument(
        "--few-shot",
        nargs="+",
        type=_number_or_all,
        default=[],
        metavar="N",
        help="numbers of training subjects, or all; each with every seed is a fold, all with one validation set",
    )
    splits.add_argument("--seeds", nargs="+", type=int, metavar="S", help="of the few-shot subsets (0)")
    splits.add_argument(
        "--validation-fold", type=int, default=0, metavar="F", help="fold that few-shot subsets come from (%(default)s)"
    )
    splits.add_argument("--validation-from", metavar="FILE", help="existing folds to take it from")
    splits.add_argument("-o", "--out", metavar="FILE", help="default: splits_final.json in the preprocessed data set")
    splits.add_argument("--force", action="store_true", help="replace different folds")
    splits.add_argument(
        "--check",
        nargs="?",
        const="",
        metavar="FILE",
        help="look for mistakes and leaks in FILE (default: splits_final.json, or what nnU-Net would do without); exit "
        "code 1 if there are any",
    )
    splits.add_argument("--no-images", action="store_true", help="with --check: do not compare images")
    splits.add_argument("--processes", type=int, metavar="N", help="images at a time (default: number of cores)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (2 for bad input, 130 for Ctrl-C)."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.function(arguments)
    except InputError as error:
        print(f"nnunet-ext: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nnunet-ext: interrupted", file=sys.stderr)
        return 130
