"""How a command is added to its parser, and what several of them take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Commands = Any
"""What ``add_subparsers`` of argparse returns, whose class has no public name."""

Command = Callable[[argparse.Namespace], int | None]
"""Runs with the parsed arguments; returns the exit code, None for 0."""

SEVERAL: dict[str, Any] = {"nargs": "+", "action": "extend"}
"""For ``add_argument``: one value or more. A flag that is given twice adds up; by itself argparse forgets the first."""


def add_group(commands: Commands, name: str, help_: str) -> Commands:
    """A command that has commands."""
    group = commands.add_parser(name, help=help_, description=_sentence(help_))
    return group.add_subparsers(title="commands", required=True, metavar="COMMAND")


def add_command(
    commands: Commands, name: str, function: Command, help_: str, *examples: str
) -> argparse.ArgumentParser:
    """A command with its help, and lines that can be typed."""
    command = commands.add_parser(
        name,
        help=help_,
        description=_sentence(help_),
        epilog="\n  ".join(["example:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(function=function)
    return command


def add_raw_dataset(command: argparse.ArgumentParser) -> None:
    """The data set that a command reads."""
    command.add_argument("dataset", metavar="DATASET", help="number or name in nnUNet_raw, or a folder")


def add_processes(command: argparse.ArgumentParser, what: str = "cases") -> None:
    """On how many cores."""
    command.add_argument("--processes", type=int, metavar="N", help=f"{what} at a time (default: number of cores)")


def add_trust(command: argparse.ArgumentParser) -> None:
    """A flag that opens checkpoints that can run code."""
    function: Command = command.get_default("function")

    def run(arguments: argparse.Namespace) -> int | None:
        from nnunet_ext.nnunet.untrusted import trusting

        with trusting(arguments.trust):
            return function(arguments)

    command.set_defaults(function=run)
    command.add_argument("--trust", action="store_true", help="open checkpoints that can run code; they are refused")


def write_and_print(found: Any, out: Path, files: str) -> None:
    """What a command found: into a folder and onto the screen, with what lies in the folder."""
    found.write(out)
    print(f"{found.report()}\n\n{out / files}")


def _sentence(help_: str) -> str:
    return f"{help_[0].upper()}{help_[1:]}."
