"""``nnunet-ext trainers``."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from nnunet_ext.cli.flags import Commands, add_command

HEAD = ("trainer", "problem", "needs", "network", "measured")


def _trainers(arguments: argparse.Namespace) -> None:
    from nnunet_ext.catalogue import TIERS, in_tier

    for tier in TIERS if arguments.all else TIERS[:1]:
        rows = [
            (name, entry.description, entry.needs, entry.network, f"{entry.measured}, {entry.page}")
            for name, entry in in_tier(tier).items()
        ]
        print(f"{tier.capitalize()}\n{_table(rows)}\n")
    print("Measured: against nnUNetTrainerReference. Network: what predicts; stock nnU-Net can use one that is stock.")
    print("Each also with a number of epochs: -tr nnUNetTrainerPnPNet_50epochs")
    if not arguments.all:
        print("Controls, parts of methods, published formulations and combinations: nnunet-ext trainers --all")


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table as wide as the terminal; long cells are wrapped."""
    names = max(len(row[0]) for row in rows)
    needs, network, gap = 16, 7, 2
    shared = max(110, shutil.get_terminal_size((120, 24)).columns) - names - needs - network - 4 * gap
    widths = (names, shared // 2, needs, network, shared // 2)
    lines = []
    for row in (HEAD, *rows):
        parts = [
            textwrap.wrap(cell, width, break_on_hyphens=False, break_long_words=False)
            for cell, width in zip(row, widths, strict=True)
        ]
        for cells in zip_longest(*parts, fillvalue=""):
            lines.append((" " * gap).join(map(str.ljust, cells, widths)).rstrip())
    return "\n".join(lines)


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    trainers = add_command(
        commands,
        "trainers",
        _trainers,
        "list the trainers, with the problem that each solves, its needs and its measured effect",
        "nnunet-ext trainers",
    )
    trainers.add_argument(
        "--all", action="store_true", help="also list controls, parts, published formulations and combinations"
    )
