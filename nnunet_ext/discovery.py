"""The folder in which nnU-Net finds our trainers.

nnU-Net (>= 2.8) searches the folders named in the environment variable ``nnUNet_extTrainer`` for a trainer that it does
not ship (``nnunetv2/utilities/find_objects.py``). After each search it removes every module that came from such a
folder from ``sys.modules``, so the folder must contain only a door: classes that lived in it could not be pickled to
data-loader workers. Our door is ``trainers/``; the classes behind it live in :mod:`nnunet_ext`.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "nnUNet_extTrainer"


def shipped_folder(name: str) -> Path:
    """Folder ``trainers`` or ``plans`` of this package, wherever it was installed.

    Both lie at the top of the repository and inside the package once installed (see ``pyproject.toml``). In a checkout
    that is only on ``PYTHONPATH`` they are still at the top.
    """
    spec = find_spec(f"nnunet_ext.{name}")
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(__file__).resolve().parent.parent / name


def discovery_folder() -> Path:
    """The folder to put into ``nnUNet_extTrainer``."""
    return shipped_folder("trainers")


def extended_value(current: str | None) -> str:
    """``current`` with our folder appended, unless it is already there; existing folders stay first."""
    folder = str(discovery_folder())
    entries = [entry for entry in (current or "").split(os.pathsep) if entry.strip()]
    return os.pathsep.join(entries if folder in entries else [*entries, folder])


def register() -> None:
    """Make our trainers known to nnU-Net in this process and in the processes it starts."""
    os.environ[VARIABLE] = extended_value(os.environ.get(VARIABLE))
