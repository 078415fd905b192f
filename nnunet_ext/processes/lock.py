"""A lock on a file that the operating system releases when its holder ends, even by kill -9."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, *, inherited: bool = True) -> Iterator[bool]:
    """Try to lock ``path``; yields whether this process holds the lock.

    Args:
        path: file to lock; it is created if necessary and stays.
        inherited: child processes started inside the context hold the lock, too (where the system has fork). So a
            training whose parent was killed still holds the lock of its job, and nobody starts a second one beside it.
            If False, only this process holds it, so workers that outlive it for a while block nobody; the process may
            take the lock several times. On Windows a lock is never inherited.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.set_inheritable(descriptor, inherited)
        yield _lock(descriptor, inherited)
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on ``path``."""
    if not path.exists():
        return False
    with held(path) as free:
        return not free


def _lock(descriptor: int, inherited: bool) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            # flock belongs to the open file, which a fork shares; lockf belongs to the process
            (fcntl.flock if inherited else fcntl.lockf)(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # some network drives have no locks; there every process may go on
        return error.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
    return True
