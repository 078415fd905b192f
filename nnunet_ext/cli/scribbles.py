"""``nnunet-ext scribbles …``."""

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


def _generate(arguments: argparse.Namespace) -> None:
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
    print(generate_dataset(arguments.dataset, arguments.new_dataset, options, processes=arguments.processes).report())


def _check(arguments: argparse.Namespace) -> int:
    from nnunet_ext.files import require_folder
    from nnunet_ext.scribbles.check import check_scribbles

    require_folder(arguments.out or ".")
    report = check_scribbles(
        arguments.dataset, dense=arguments.dense, plans=arguments.plans, processes=arguments.processes
    )
    out = Path(arguments.out or f"nnunet_ext_scribbles_{report.dataset.name}")
    write_and_print(report, out, "overview.html  pictures of the suspicious cases")
    return report.exit_code


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    parts = add_group(commands, "scribbles", "draw scribbles from dense labels, and check a data set with scribbles")
    generate = add_command(
        parts,
        "generate",
        _generate,
        "from a data set with dense labels, write one with scribbles; images are not copied",
        "nnunet-ext scribbles generate 38 --new-dataset 138",
        "nnunet-ext scribbles generate 38 --new-dataset Dataset139_Lines --mode line --slice-fraction 0.3",
    )
    add_raw_dataset(generate)
    add_new_dataset(generate)
    generate.add_argument(
        "--mode",
        choices=["interior+border", "skeleton", "line"],
        default="interior+border",
        help="kind of strokes (%(default)s)",
    )
    generate.add_argument(
        "--slice-fraction",
        type=float,
        default=1.0,
        metavar="F",
        help="share of the slices to annotate, for images of several slices (%(default)s)",
    )
    generate.add_argument(
        "--thickness", type=int, default=3, metavar="N", help="width of strokes in voxels (%(default)s)"
    )
    generate.add_argument(
        "--min-area", type=int, default=1, metavar="N", help="smallest area of a class in a slice, voxels (%(default)s)"
    )
    generate.add_argument(
        "--components", choices=["one", "all"], default="one", help="components per class and slice (%(default)s)"
    )
    generate.add_argument("--no-background", action="store_true", help="draw foreground classes only")
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the strokes (%(default)s)")
    add_processes(generate)
    check = add_command(
        parts,
        "check",
        _check,
        "look for mistakes in scribbles before a training; exit code 1 if a mistake is fatal",
        "nnunet-ext scribbles check 138",
        "nnunet-ext scribbles check 138 --dense $nnUNet_raw/Dataset138_LiverScribble/labelsTr_dense",
    )
    add_raw_dataset(check)
    check.add_argument(
        "--dense",
        metavar="FOLDER",
        help="dense label maps of some or all cases, to find leaks and missed components and to test the CRF window",
    )
    check.add_argument(
        "-p",
        "--plans",
        default="nnUNetPlans",
        metavar="NAME",
        help="plans whose spacings and CRF losses are tested (%(default)s)",
    )
    add_processes(check)
    check.add_argument("-o", "--out", metavar="FOLDER", help="folder to write to (nnunet_ext_scribbles_DATASET)")
