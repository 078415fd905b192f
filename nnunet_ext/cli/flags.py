"""Parser to which commands are added, and the flags that several of them take."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Commands = Any
"""Return value of argparse's ``add_subparsers``, whose class has no public name."""

Command = Callable[[argparse.Namespace], int | None]
"""Runs with the parsed arguments; returns the exit code, None for 0."""

SEVERAL: dict[str, Any] = {"nargs": "+", "action": "extend"}
"""For ``add_argument``: one value or more. A flag that is given twice adds up; by itself argparse forgets the first."""


class Parser(argparse.ArgumentParser):
    """A parser whose commands answer for themselves; parsers of its commands are of this class, too."""

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse like argparse, but refuse what a command does not know with its own usage, not that of the program."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def add_commands(self) -> Commands:
        """Return the object to which its commands are added; the help is printed if none is given."""
        self.set_defaults(function=lambda _: self.print_help())
        return self.add_subparsers(title="commands", metavar="COMMAND")


class OneOf(argparse.Action):
    """A required word of a command, or a flag instead of it.

    Where words and flags are mixed, argparse ends an optional word (``nargs="?"``) before it comes.
    """

    def __init__(self, *arguments: Any, instead_of: argparse.Action | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.instead_of = instead_of

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        for action in filter(None, (self, self.instead_of)):
            if (given := getattr(namespace, action.dest)) is not None:
                raise argparse.ArgumentError(self, f"{values!r} comes after {given!r}; give one of them")
        setattr(namespace, self.dest, values)
        if self.instead_of is not None:
            self.instead_of.required = False


def add_group(commands: Commands, name: str, help_: str) -> Commands:
    """A command that has commands."""
    return commands.add_parser(name, help=help_, description=_sentence(help_)).add_commands()


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


def add_word(command: argparse.ArgumentParser, flag: str, name: str, metavar: str, help_: str) -> None:
    """A word that must be given, as the command's argument or after nnU-Net's flag for it."""
    word = command.add_argument(name, action=OneOf, metavar=metavar, help=help_)
    command.add_argument(flag, dest=name, action=OneOf, instead_of=word, metavar=metavar, help=f"instead of {metavar}")


def add_raw_dataset(command: argparse.ArgumentParser) -> None:
    """The data set that a command reads."""
    add_word(command, "-d", "dataset", "DATASET", "number or name in nnUNet_raw, or a folder")


def add_new_dataset(command: argparse.ArgumentParser) -> None:
    """The data set that a command makes; ``-o`` is a path everywhere, so it has a name of its own."""
    command.add_argument(
        "--new-dataset", required=True, metavar="ID", help="number or whole name (Dataset138_Liver) of what is written"
    )


def add_processes(command: argparse.ArgumentParser, what: str = "cases") -> None:
    """Add the flag that says on how many cores a command runs."""
    command.add_argument(
        "-np", "--processes", type=int, metavar="N", help=f"{what} at a time (default: number of cores)"
    )


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
    """Write what a command found into a folder, and print it with what lies in the folder."""
    found.write(out)
    print(f"{found.report()}\n\n{out / files}")


def _sentence(help_: str) -> str:
    return f"{help_[0].upper()}{help_[1:]}."
