"""A lock on a file that the operating system gives back when whoever holds it has ended, be it by kill -9."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, *, inherited: bool = True) -> Iterator[bool]:
    """Try to hold ``path``; yields whether it worked.

    Args:
        path: of the file, which is made and stays there.
        inherited: child processes started inside hold the lock, too (where the system has fork). So a training whose
            parent was killed still holds the lock of its job, and nobody starts a second one beside it. False: this
            process alone does, so that its workers, which may outlive it for a while, keep nobody waiting; it may hold
            the lock several times. On Windows a lock is never inherited.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.set_inheritable(descriptor, inherited)
        yield _lock(descriptor, inherited)
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Say whether some process holds ``path``."""
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

            # flock belongs to the open file, which a fork has, too; lockf to the process
            (fcntl.flock if inherited else fcntl.lockf)(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # some network drives know no locks; there nobody can be kept out
        return error.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
    return True
