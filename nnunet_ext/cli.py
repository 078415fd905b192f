"""The command ``nnunet-ext``. Thin: every command parses its arguments and calls one public function."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from nnunet_ext.errors import InputError
from nnunet_ext.version import __version__

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
        out=arguments.out,
        force=arguments.force,
    )
    print(written.summary())
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from nnunet_ext.demo.run import run_demo

    return run_demo(folder=arguments.folder, raw=arguments.raw, dataset=arguments.dataset, device=arguments.device)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet-ext", description="Trainers that plug into stock nnU-Net v2, and the tools around them."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, function: Command, help_: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
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
