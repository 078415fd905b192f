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
    )


def _report(arguments: argparse.Namespace) -> None:
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


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    parts = add_group(
        commands,
        "benchmark",
        "train trainers against baselines on the same splits and plans, and report what can be said",
    )
    add_command(parts, "list", _list, "list the benchmarks that come with the package", "nnunet-ext benchmark list")
    run = add_command(
        parts,
        "run",
        _run,
        "train, predict and evaluate everything a benchmark names; what is done already is kept",
        "nnunet-ext benchmark run cpu-smoke",
        "nnunet-ext benchmark run mine.yaml --executor slurm --parameter slurm_partition=gpu slurm_gres=gpu:1",
    )
    run.add_argument("benchmark", metavar="BENCHMARK", help="a YAML file, or the name of a ready benchmark")
    run.add_argument("-o", "--folder", help="where everything is written (nnunet_ext_benchmark_NAME)")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time on this machine (1)")
    run.add_argument("--only", **SEVERAL, default=[], metavar="ARM", help="train these arms now (default: all)")
    run.add_argument("--executor", choices=["local", "slurm"], default="local", help="(%(default)s)")
    run.add_argument("--parameter", **SEVERAL, default=[], metavar="NAME=VALUE", help="for submitit")
    report = add_command(
        parts,
        "report",
        _report,
        "write report.html, report.md, CSV files and figures for a benchmark, or for models you already have",
        "nnunet-ext benchmark report nnunet_ext_benchmark_low-acdc",
        "nnunet-ext benchmark report --from-results "
        "$nnUNet_results/Dataset004_Hippocampus/* --baseline nnUNetTrainer__nnUNetPlans__3d_fullres",
    )
    report.add_argument("folder", nargs="?", metavar="FOLDER", help="of the benchmark")
    report.add_argument("--from-results", **SEVERAL, metavar="MODEL", help="folders TRAINER__PLANS__CONFIGURATION")
    report.add_argument("--baseline", help="what the others are compared with (default: that of the benchmark)")
    report.add_argument("--reference", metavar="FOLDER", help="with --from-results: references (default: nnU-Net's)")
    report.add_argument("-f", "--folds", **SEVERAL, type=int, metavar="F", help="with --from-results (default: all)")
    report.add_argument("-o", "--out", metavar="FOLDER", help="default: FOLDER/report")
    add_trust(report)
