"""``nnunet-ext unlabelled``."""

from __future__ import annotations

import argparse

from nnunet_ext.cli.flags import SEVERAL, Commands, add_command, add_processes, add_word


def _unlabelled(arguments: argparse.Namespace) -> int:
    from nnunet_ext.unlabelled.preprocess import prepare_unlabelled

    prepared = prepare_unlabelled(
        arguments.dataset,
        arguments.plans,
        arguments.configuration or None,
        images=arguments.images,
        check_only=arguments.check,
        processes=arguments.processes,
    )
    print(prepared.report())
    return prepared.exit_code


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    command = add_command(
        commands,
        "unlabelled",
        _unlabelled,
        "check images without labels (imagesUn), and preprocess them beside the labelled data; exit code 1 if an image "
        "cannot be used",
        "nnunet-ext unlabelled 27",
        "nnunet-ext unlabelled 27 -p nnUNetPlans -c 2d --images more_patients",
    )
    add_word(command, "-d", "dataset", "DATASET", "data set, number or name")
    command.add_argument("-p", "--plans", default="nnUNetPlans", metavar="NAME", help="plans (%(default)s)")
    command.add_argument(
        "-c",
        "--configuration",
        **SEVERAL,
        default=[],
        metavar="NAME",
        help="configurations (default: all whose labelled data is preprocessed)",
    )
    command.add_argument("--images", metavar="FOLDER", help="folder of images (imagesUn in the raw data set)")
    command.add_argument("--check", action="store_true", help="check only, preprocess nothing")
    add_processes(command, "images")
