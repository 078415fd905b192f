"""``nnunet-ext benchmark …``."""

from __future__ import annotations

import argparse

from nnunet_ext.cli.flags import SEVERAL, Commands, add_command, add_group, add_trust
from nnunet_ext.errors import InputError


def _list(_: argparse.Namespace) -> None:
    from nnunet_ext.benchmark.spec import load, ready_specs

    for name, path in ready_specs().items():
        print(f"{name:<10} {load(name).description}\n{'':<10} {path}")


def _run(arguments: argparse.Namespace) -> int:
    from nnunet_ext.benchmark.run import run_benchmark

    return run_benchmark(
        arguments.benchmark,
        arguments.folder,
        executor=arguments.executor,
        at_once=arguments.jobs,
        parameters=arguments.parameter,
        only=arguments.only,
        reuse=arguments.reuse,
        device=arguments.device,
    )


def _report(arguments: argparse.Namespace) -> None:
    from nnunet_ext.benchmark.report import report_benchmark, report_results

    if bool(arguments.folder) == bool(arguments.from_results):
        raise InputError("Give either the FOLDER of a benchmark or --from-results with folders of trained models.")
    if arguments.folder:
        if arguments.reference or arguments.folds:
            raise InputError(
                "--reference and --folds are for --from-results; the FOLDER of a benchmark says both itself."
            )
        print(
            report_benchmark(
                arguments.folder,
                arguments.out,
                baseline=arguments.baseline,
                html=not arguments.no_html,
                drawn=not arguments.no_figures,
            )
        )
    else:
        print(
            report_results(
                arguments.from_results,
                arguments.out,
                baseline=arguments.baseline,
                reference=arguments.reference,
                folds=arguments.folds,
                html=not arguments.no_html,
                drawn=not arguments.no_figures,
            )
        )


def _verify(arguments: argparse.Namespace) -> int:
    from nnunet_ext.benchmark.verify import verify

    packages = [package for folder in arguments.folders for package in verify(folder)]
    print("\n".join(map(str, packages)))
    return 1 if any(package.problems for package in packages) else 0


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    parts = add_group(
        commands,
        "benchmark",
        "train trainers and baselines on the same splits and plans, and report the differences with their uncertainty",
    )
    add_command(parts, "list", _list, "list the benchmarks that come with the package", "nnunet-ext benchmark list")
    run = add_command(
        parts,
        "run",
        _run,
        "train, predict and evaluate everything in a benchmark; finished parts are kept",
        "nnunet-ext benchmark run cpu-smoke",
        "nnunet-ext benchmark run mine.yaml --executor slurm --parameter slurm_partition=gpu slurm_gres=gpu:1",
    )
    run.add_argument("benchmark", metavar="BENCHMARK", help="a YAML file, or the name of a ready benchmark")
    run.add_argument("-o", "--folder", help="folder for all output (nnunet_ext_benchmark_NAME)")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="parallel trainings on this machine (1)")
    run.add_argument("--device", choices=["cpu", "cuda", "mps"], help="of all trainings (default: the benchmark's)")
    run.add_argument("--only", **SEVERAL, default=[], metavar="ARM", help="train only these arms now (default: all)")
    run.add_argument("--reuse", metavar="REPORT", help="take over the trainings of this report that are the same here")
    run.add_argument(
        "--executor", choices=["local", "slurm"], default="local", help="where trainings run (%(default)s)"
    )
    run.add_argument("--parameter", **SEVERAL, default=[], metavar="NAME=VALUE", help="parameter of submitit")
    report = add_command(
        parts,
        "report",
        _report,
        "write report.html, report.md, CSV files and figures for a benchmark, or for models that you already have",
        "nnunet-ext benchmark report nnunet_ext_benchmark_low-acdc",
        "nnunet-ext benchmark report --from-results "
        "$nnUNet_results/Dataset004_Hippocampus/* --baseline nnUNetTrainer__nnUNetPlans__3d_fullres",
    )
    report.add_argument(
        "folder", nargs="?", metavar="FOLDER", help="folder of a benchmark, or of a report to recompute its tables"
    )
    report.add_argument("--from-results", **SEVERAL, metavar="MODEL", help="folders TRAINER__PLANS__CONFIGURATION")
    report.add_argument("--baseline", help="arm to compare the others with (default: the benchmark's)")
    report.add_argument("--reference", metavar="FOLDER", help="with --from-results: references (default: nnU-Net's)")
    report.add_argument("-f", "--folds", **SEVERAL, type=int, metavar="F", help="with --from-results: folds (all)")
    report.add_argument("-o", "--out", metavar="FOLDER", help="folder to write to (FOLDER/report)")
    report.add_argument("--no-html", action="store_true", help="skip report.html, which embeds all figures")
    report.add_argument("--no-figures", action="store_true", help="write only pages and tables")
    add_trust(report)
    verify = add_command(
        parts,
        "verify",
        _verify,
        "check that reports are unchanged and that their scores reproduce their tables; exit code 1 if not",
        "nnunet-ext benchmark verify nnunet_ext_benchmark_cpu",
        "nnunet-ext benchmark verify docs/results",
    )
    verify.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="folder of a report, of a benchmark, or of several reports"
    )
