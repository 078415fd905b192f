"""``nnunet-ext splits``."""

from __future__ import annotations

import argparse
from typing import Literal

from nnunet_ext.cli.flags import SEVERAL, Commands, add_command, add_processes, add_word
from nnunet_ext.errors import InputError

WRITING = {
    "folds": "--folds",
    "shots": "--few-shot",
    "seeds": "--seeds",
    "validation_from": "--validation-from",
    "validation_fold": "--validation-fold",
    "out": "--out",
    "force": "--force",
}
"""Arguments of ``write_splits`` and their flags, which are None if they are not given."""


def _splits(arguments: argparse.Namespace) -> int:
    given = {name: value for name in WRITING if (value := getattr(arguments, name)) is not None}
    if arguments.check is not None:
        from nnunet_ext.splits.check import check_splits

        if given:
            raise InputError(f"--check writes nothing; leave out {', '.join(WRITING[name] for name in given)}.")
        checked = check_splits(
            arguments.dataset,
            arguments.check or None,
            by=arguments.by,
            images=not arguments.no_images,
            processes=arguments.processes,
        )
        print(checked.report())
        return checked.exit_code
    from nnunet_ext.splits.write import write_splits

    if arguments.no_images:
        raise InputError("--no-images is for --check; leave it out.")
    print(write_splits(arguments.dataset, arguments.by, **given).report())
    return 0


def _number_or_all(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of subjects nor 'all'") from None


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    splits = add_command(
        commands,
        "splits",
        _splits,
        "write splits_final.json with folds by subject or nested few-shot subsets, or check one for leaks",
        "nnunet-ext splits 27 --by 'patient\\d+'",
        "nnunet-ext splits 4 --by pairs --few-shot 4 8 all --seeds 0 1 2",
        "nnunet-ext splits 4 --check",
    )
    add_word(splits, "-d", "dataset", "DATASET", "data set, number or name")
    splits.add_argument(
        "--by",
        metavar="SUBJECTS",
        help="which cases are one subject: a regular expression, a table FILE.csv (case,subject) or FILE.json, pairs "
        "(001 and 002, ...), pairs-from-0, subject (read from the names), or case (each is its own)",
    )
    splits.add_argument("--folds", type=int, metavar="K", help="folds of the cross-validation (5)")
    splits.add_argument(
        "--few-shot",
        dest="shots",
        **SEVERAL,
        type=_number_or_all,
        metavar="N",
        help="numbers of training subjects, or all; every number with every seed is a fold, and all folds share one "
        "validation set",
    )
    splits.add_argument("--seeds", **SEVERAL, type=int, metavar="S", help="seeds of the few-shot subsets (0)")
    splits.add_argument("--validation-fold", type=int, metavar="F", help="fold that few-shot subsets come from (0)")
    splits.add_argument("--validation-from", metavar="FILE", help="existing folds to take that fold from")
    splits.add_argument(
        "-o", "--out", metavar="FILE", help="file to write (splits_final.json in the preprocessed data set)"
    )
    splits.add_argument("--force", action="store_true", default=None, help="replace different folds")
    splits.add_argument(
        "--check",
        nargs="?",
        const="",
        metavar="FILE",
        help="look for mistakes and leaks in FILE (default: splits_final.json, or without it nnU-Net's default folds); "
        "exit code 1 if there are any",
    )
    splits.add_argument("--no-images", action="store_true", help="with --check: do not compare images")
    add_processes(splits, "images")
