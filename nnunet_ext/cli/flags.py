"""The parser of all commands, and the flags that several of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Commands = Any
"""Return value of argparse's ``add_subparsers``, whose class has no public name."""

Command = Callable[[argparse.Namespace], int | None]
"""Function of a command: takes the parsed arguments and returns the exit code, None for 0."""

SEVERAL: dict[str, Any] = {"nargs": "+", "action": "extend"}
"""Arguments of ``add_argument`` for one value or more. Repeated flags add up; argparse alone would keep the last."""


class Parser(argparse.ArgumentParser):
    """A parser whose commands report errors with their own usage; parsers of commands are of this class, too."""

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse like argparse, but refuse unknown arguments of a command with the command's usage."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def add_commands(self) -> Commands:
        """Return the object to add commands to; without a command the help is printed."""
        self.set_defaults(function=lambda _: self.print_help())
        return self.add_subparsers(title="commands", metavar="COMMAND")


class OneOf(argparse.Action):
    """A required positional argument that a flag may replace.

    An optional positional argument (``nargs="?"``) does not work: argparse closes it too early if flags precede it.
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
    """Add a command that has commands of its own."""
    return commands.add_parser(name, help=help_, description=_sentence(help_)).add_commands()


def add_command(
    commands: Commands, name: str, function: Command, help_: str, *examples: str
) -> argparse.ArgumentParser:
    """Add a command with its help and with examples that can be typed."""
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
    """Add a required argument, given by position or after nnU-Net's flag for it."""
    word = command.add_argument(name, action=OneOf, metavar=metavar, help=help_)
    command.add_argument(flag, dest=name, action=OneOf, instead_of=word, metavar=metavar, help=f"instead of {metavar}")


def add_raw_dataset(command: argparse.ArgumentParser) -> None:
    """Add the argument for the data set that a command reads."""
    add_word(command, "-d", "dataset", "DATASET", "number or name in nnUNet_raw, or a folder")


def add_new_dataset(command: argparse.ArgumentParser) -> None:
    """Add the flag for the data set that a command writes; it is not ``-o``, which is a path everywhere."""
    command.add_argument(
        "--new-dataset", required=True, metavar="ID", help="number or whole name (Dataset138_Liver) of the new data set"
    )


def add_processes(command: argparse.ArgumentParser, what: str = "cases") -> None:
    """Add the flag for the number of processes of a command."""
    command.add_argument(
        "-np", "--processes", type=int, metavar="N", help=f"{what} in parallel (default: number of cores)"
    )


def add_trust(command: argparse.ArgumentParser) -> None:
    """Add the flag that allows checkpoints that can run code."""
    function: Command = command.get_default("function")

    def run(arguments: argparse.Namespace) -> int | None:
        from nnunet_ext.nnunet.untrusted import trusting

        with trusting(arguments.trust):
            return function(arguments)

    command.set_defaults(function=run)
    command.add_argument("--trust", action="store_true", help="open even checkpoints that can run code")


def write_and_print(found: Any, out: Path, files: str) -> None:
    """Write the result of a command into a folder, and print its report and the files."""
    from nnunet_ext.files import require_folder

    require_folder(out)
    found.write(out)
    print(f"{found.report()}\n\n{out / files}")


def _sentence(help_: str) -> str:
    return f"{help_[0].upper()}{help_[1:]}."
