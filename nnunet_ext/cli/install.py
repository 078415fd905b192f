"""``nnunet-ext path``, ``doctor``, ``enable``, ``disable``: let nnU-Net find these trainers, and check that it does."""

from __future__ import annotations

import argparse
import os

from nnunet_ext.cli.flags import Commands, add_command


def _path(_: argparse.Namespace) -> None:
    from nnunet_ext.discovery import VARIABLE, extended_value

    print(extended_value(os.environ.get(VARIABLE)))


def _doctor(_: argparse.Namespace) -> int:
    from nnunet_ext.doctor import run

    return run()


def _enable(_: argparse.Namespace) -> None:
    from nnunet_ext.permanent import enable

    print(enable())


def _disable(_: argparse.Namespace) -> None:
    from nnunet_ext.permanent import disable

    print(disable())


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    add_command(
        commands,
        "path",
        _path,
        "print the value of the environment variable that tells nnU-Net where these trainers are; folders that it "
        "already names are kept",
        'export nnUNet_extTrainer="$(nnunet-ext path)"',
    )
    add_command(commands, "doctor", _doctor, "check this installation and say how to fix problems", "nnunet-ext doctor")
    add_command(
        commands,
        "enable",
        _enable,
        "let nnU-Net find these trainers in this Python environment without an export; undo with disable",
        "nnunet-ext enable",
    )
    add_command(commands, "disable", _disable, "undo enable", "nnunet-ext disable")
