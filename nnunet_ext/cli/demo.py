"""``nnunet-ext demo``."""

from __future__ import annotations

import argparse

from nnunet_ext.cli.flags import Commands, add_command


def _demo(arguments: argparse.Namespace) -> int:
    from nnunet_ext.demo.run import run_demo

    return run_demo(folder=arguments.folder, raw=arguments.raw, dataset=arguments.dataset, device=arguments.device)


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    demo = add_command(
        commands,
        "demo",
        _demo,
        "train, predict and compare nnUNetTrainerReference and nnUNetTrainerPnPNet on a small synthetic data set",
        "nnunet-ext demo",
        "nnunet-ext demo --raw /data/nnUNet_raw --dataset 4",
    )
    demo.add_argument("-o", "--folder", default="nnunet_ext_demo", help="folder for all output (%(default)s)")
    demo.add_argument("--raw", metavar="FOLDER", help="your own nnUNet_raw folder instead of the synthetic data")
    demo.add_argument("-d", "--dataset", metavar="ID", help="number or name of the data set in --raw")
    demo.add_argument(
        "-device", "--device", choices=["cpu", "cuda", "mps"], default="cpu", help="device to train on (%(default)s)"
    )
