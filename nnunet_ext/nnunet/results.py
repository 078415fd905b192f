"""The folder in which a training leaves its results: one process at a time works there, and obstacles are reported.

nnU-Net silently starts a second training or validation of the same fold beside the first one, and each overwrites the
files of the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_ext.beside import sweep
from nnunet_ext.errors import InputError
from nnunet_ext.files import NO_ROOM, NOT_ALLOWED
from nnunet_ext.processes.lock import held

LOCK = ".training.lock"
"""Lock of a running training, validation or scoring; the file itself stays and means nothing."""


@contextmanager
def written_or_said_why(folder: Path) -> Iterator[None]:
    """Context in which a disk that is full or must not be written to is an InputError that names ``folder``."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise InputError(
                f"There is no room left on the disk of {folder} ({error.strerror}); free some and go on with --c: the "
                "last checkpoint is whole."
            ) from error
        at = Path(error.filename) if isinstance(error.filename, str) else folder
        if error.errno in NOT_ALLOWED and at.is_relative_to(folder):
            raise InputError(
                f"{at} cannot be written ({error.strerror}); let nnUNet_results name a folder in which you may write."
            ) from error
        raise


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Context in which only this process trains, validates or scores in ``folder``.

    It removes half-written files of killed processes there. Do not nest it: a process that leaves it gives up the
    folder.

    After a kill -9 the folder is free at once, even if workers that load data are still there.

    Raises:
        InputError: another process does, or the folder cannot be written.
    """
    with written_or_said_why(folder), held(folder / LOCK, inherited=False) as free:
        if not free:
            raise InputError(
                f"Another training is at work in {folder}, or its validation, and two would overwrite each other's "
                "files; wait for it to end, or end it and go on with --c."
            )
        sweep(folder)
        yield
