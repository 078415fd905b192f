"""The folder in which a training leaves its results: one training at a time, and what stands in the way is said.

nnU-Net starts a second training of the same fold beside the first one without a word, and each overwrites the other's
checkpoints.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.processes.lock import held

LOCK = ".training.lock"
"""Held by a training as long as it runs; the file itself stays and means nothing."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def written_or_said_why(folder: Path) -> Iterator[None]:
    """Inside, a disk that is full or must not be written to is an InputError that names ``folder``."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise InputError(
                f"There is no room left on the disk of {folder} ({error.strerror}); free some and go on with --c: the "
                "last checkpoint is whole."
            ) from error
        at = Path(error.filename) if isinstance(error.filename, str) else folder
        if error.errno in _NOT_ALLOWED and at.is_relative_to(folder):
            raise InputError(
                f"{at} cannot be written ({error.strerror}); let nnUNet_results name a folder in which you may write."
            ) from error
        raise


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, this process alone trains in ``folder``, from which what a killed training left half-written is removed.

    After a kill -9 the folder is free at once, even if workers that load data are still there.

    Raises:
        InputError: another process does, or the folder cannot be written.
    """
    with written_or_said_why(folder), held(folder / LOCK, inherited=False) as free:
        if not free:
            raise InputError(
                f"Another training is at work in {folder}, and two would overwrite each other's checkpoints; wait for "
                "it to end, or end it and go on with --c."
            )
        for half in folder.glob(".checkpoint_*.tmp"):  # see nnunet_ext.files.replacing
            shutil.rmtree(half, ignore_errors=True)
        yield
