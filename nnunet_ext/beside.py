"""Temporary folders beside the files that they will replace; nobody has to clear them away.

``.nnunet-ext-<random>.tmp/`` holds ``lock``, ``new/<name>`` and, while a folder is replaced on a system that cannot
swap two names, ``old/<name>``. Whoever writes holds the lock, which the operating system gives back even after kill -9;
so the next one who writes into the same parent knows which folders are left over. Names are random: in containers every
process may have the same number.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from nnunet_ext.processes.lock import held

PREFIX, SUFFIX = ".nnunet-ext-", ".tmp"
_LOCK, _NEW, _OLD = "lock", "new", "old"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of linux/fcntl.h and linux/fs.h

_swept: set[Path] = set()


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder beside ``path``; the folder is removed at the end.

    The name is the same because many writers look at its ending. The first call in a folder removes what killed
    processes left there.
    """
    parent = path.parent.absolute()
    if parent not in _swept:
        sweep(parent)
        _swept.add(parent)
    with _temporary_folder(path.parent) as folder:
        yield folder / _NEW / path.name


def swap_in(new: Path, target: Path) -> None:
    """Let ``new``, a path of :func:`beside`, take the place of the folder ``target``.

    One step where the system and the drive can swap two names (Linux). Elsewhere the old folder is put aside first, and
    comes back if the second step is never made: at once after an error, in the next :func:`sweep` after kill -9.
    """
    if _exchange(new, target):
        return
    aside = new.parent.with_name(_OLD)
    aside.mkdir()
    target.rename(aside / target.name)
    new.rename(target)


def sweep(parent: Path) -> None:
    """Remove the temporary folders in ``parent`` whose writers have ended.

    On a drive without locks this cannot be known, and they stay.
    """
    for folder in parent.glob(f"{PREFIX}*{SUFFIX}"):
        with suppress(OSError):  # of another user, or somebody else is removing it
            with held(folder / _LOCK) as ended, held(folder / _LOCK) as again:
                if not ended or again:  # a lock that can be held twice is none
                    continue
                _remove(folder)
            if sys.platform == "win32":  # which removes no open file
                _remove(folder)


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    while True:
        folder = Path(mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=parent))
        try:
            with held(folder / _LOCK) as free:
                # somebody may have swept it before it was locked
                if free and (folder / _LOCK).exists():
                    (folder / _NEW).mkdir()
                    yield folder
                    return
        finally:
            _remove(folder)


def _remove(folder: Path) -> None:
    for old in (folder / _OLD).glob("*"):
        if not (place := folder.parent / old.name).exists():  # nothing took its place
            old.rename(place)
    shutil.rmtree(folder, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where that cannot be done."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    names = os.fsencode(one), os.fsencode(other)
    return renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
