"""The command ``nnunet-ext``: every command parses its arguments and calls one public function.

There is one file per command, or per group of commands such as ``landmarks``. A command imports its function only when
it runs, so that the help appears at once.
"""

from __future__ import annotations

import io
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
"""Modules of the commands, in the order of the help."""


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
    """Run one command and return its exit code.

    The code is 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM, 141 if the reader of its output has gone.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A result may hold what the terminal's encoding lacks, such as a folder name or "≤". In a file, lines have
            # to stand in the order of those that other processes write there.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
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
"""Exit code that a shell reports for a program ended by SIGPIPE, as most programs are in ``… | head``."""


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        with signals.like_ctrl_c():
            return arguments.function(arguments) or 0
    except InputError as error:
        print(f"nnunet-ext: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        from nnunet_ext.files import refusal_of

        if (said := refusal_of(error)) is None:
            raise
        print(f"nnunet-ext: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print("nnunet-ext: interrupted", file=sys.stderr)
        return signals.exit_code(error)


def _nobody_reads() -> bool:
    """Whether our own output was closed; an empty line tells. A BrokenPipeError may also come from another process."""
    closed = False
    for stream in (sys.stdout, sys.stderr):
        try:
            print(end="" if closed else "\n", file=stream, flush=True)
        except BrokenPipeError:
            # send the rest of the buffer nowhere, because Python complains at exit otherwise
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            closed = True
    return closed
