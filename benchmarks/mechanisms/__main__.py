"""Runs toys: ``python -m benchmarks.mechanisms [TOY …]``; the exit code is 1 if an answer is wrong."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch

from benchmarks.mechanisms.toy import table


def toys() -> dict[str, ModuleType]:
    """Every module of this folder that has ``run()``, by its name."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = {name: importlib.import_module(f"benchmarks.mechanisms.{name}") for name in names if name != "__main__"}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def main(argv: Sequence[str]) -> int:
    """Run the toys that are named, or all, and print a table."""
    found = toys()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mechanisms", description=__doc__)
    parser.add_argument("toy", nargs="*", metavar="TOY", help=f"of {', '.join(found)} (default: all)")
    chosen = parser.parse_args(argv).toy or list(found)
    if unknown := [name for name in chosen if name not in found]:
        parser.error(f"there is no toy {', '.join(unknown)}; there are {', '.join(found)}")
    torch.set_num_threads(1)
    answers = {name: found[name].run() for name in chosen}
    print(table(answers))
    return int(not all(answer.right for rows in answers.values() for answer in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
