"""The command ``nnunet-ext``. Thin: every command parses its arguments and calls one public function.

One file per command, or per group of commands such as ``landmarks``. What a command calls is imported when it runs, so
that the help appears at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from nnunet_ext.cli import (
    benchmark,
    demo,
    evaluate,
    export,
    install,
    landmarks,
    plans,
    s2v,
    scribbles,
    splits,
    trainers,
    unlabelled,
)
from nnunet_ext.cli.flags import Parser
from nnunet_ext.errors import InputError
from nnunet_ext.processes import signals
from nnunet_ext.version import __version__

FILES = (install, trainers, plans, demo, evaluate, export, benchmark, scribbles, landmarks, s2v, splits, unlabelled)
"""Files of the commands, in the order of the help."""


def _parser() -> Parser:
    parser = Parser(
        prog="nnunet-ext", description="Trainers that plug into stock nnU-Net v2, and the tools around them."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_commands()
    for file in FILES:
        file.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code.

    2 for bad input, 130 for Ctrl-C, 143 for SIGTERM, 141 if nobody reads its output.
    """
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return CLOSED_PIPE


CLOSED_PIPE = 141
"""Exit code that a shell reports of a program that SIGPIPE ended, as most programs in ``… | head`` are."""


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        with signals.like_ctrl_c():
            return arguments.function(arguments) or 0
    except InputError as error:
        print(f"nnunet-ext: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print("nnunet-ext: interrupted", file=sys.stderr)
        return signals.exit_code(error)


def _nobody_reads() -> bool:
    """Find out by an empty line whether it was our output that was closed: pipes to other processes break, too."""
    closed = False
    for stream in (sys.stdout, sys.stderr):
        try:
            print(end="" if closed else "\n", file=stream, flush=True)
        except BrokenPipeError:
            # what is left in the buffer goes nowhere, or Python complains at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            closed = True
    return closed
