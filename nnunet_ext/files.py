"""Files that are written as a whole or not at all: a reader finds the old one or the new one."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_ext.beside import beside, swap_in
from nnunet_ext.errors import InputError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
"""Numbers of the errors of a full disk."""

NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Numbers of the errors of a place that this user may not read or write."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write; it replaces ``path`` at the end, and is removed after an error.

    It has the same name, because many writers look at the ending. It lies in its own folder, because others may list
    the files of that ending at any time. See :mod:`nnunet_ext.beside` for what a kill leaves. Files that the writer
    adds beside it, such as the spacing of a 3D tif, come along.
    """
    with beside(path) as temporary:
        yield temporary
        for file in [file for file in temporary.parent.iterdir() if file != temporary]:
            file.replace(path.with_name(file.name))
        temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, with the line ends that it has."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON that people can read, too."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV file with a header; NaN is an empty cell."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)


@contextmanager
def written_as_a_whole(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to write into; it becomes ``target`` at the end, and is removed after an error.

    A reader of ``target`` finds the old folder, none, or the whole new one; see :func:`nnunet_ext.beside.swap_in`.

    Args:
        target: must not exist, unless ``replace``; its parent must.
        replace: a folder ``target`` that is there is kept until the new one is complete, then removed.

    Raises:
        InputError: it exists.
    """
    with beside(target) as temporary:
        if target.exists() and not replace:
            raise InputError(f"{target} is there already; choose another name, or move it away.")
        temporary.mkdir()
        yield temporary
        if replace and target.exists():
            swap_in(temporary, target)
        else:
            temporary.rename(target)


def file_name(text: str) -> str:
    """``text`` as a file name: every other character than letters and digits becomes ``_``."""
    return "".join(letter if letter.isalnum() else "_" for letter in text)


def require_folder_of(file: str | Path) -> None:
    """Raise InputError if the folder that a file is to be written to is missing, or must not be written to."""
    if not (folder := Path(file).parent).is_dir():
        raise InputError(f"The folder {folder} does not exist; make it first.")
    require_folder(folder)


def require_other_file(file: str | Path, flag: str, taken: Iterable[str | Path], what: str) -> None:
    """Raise InputError unless a file can be written to, and is none of those that it would replace.

    Args:
        file: to write to.
        flag: that names it, such as ``--log``.
        taken: files that must stay.
        what: these files in words.
    """
    require_folder_of(file)
    if Path(file).resolve() in {Path(other).resolve() for other in taken}:
        raise InputError(f"{flag} {file} is {what}; choose another name for it.")


def require_folder(folder: str | Path) -> None:
    """Raise InputError if nobody can write into a folder: it is a file, or lies in one, or this user must not.

    A missing folder is fine if it can be made. Commands call this before their work; a drive may still refuse later.
    """
    place = Path(folder).absolute()
    if place.is_file():
        raise InputError(f"{folder} is a file, but a folder to write to is expected; choose another with -o.")
    there = next(path for path in (place, *place.parents) if path.exists())
    if there.is_file():
        raise InputError(f"{folder} cannot be a folder, because {there} is a file; choose another with -o.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"You must not write in {there}; choose another folder, or let its owner allow it.")


def refusal_of(error: OSError) -> str | None:
    """One sentence about a full disk, or a file that this user must not use; None for other errors."""
    if error.errno in NO_ROOM:
        return f"There is no room left on the disk{_of(error)}; free some, and run the same command again."
    if error.errno in NOT_ALLOWED and error.filename is not None:
        return f"{error.filename} is refused by the system ({error.strerror}); choose another place, or allow it."
    return None


def _of(error: OSError) -> str:
    return f" of {error.filename}" if error.filename is not None else ""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        InputError: it is not there, or something else.
    """
    content = read_json_value(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object.")
    return content


def read_json_value(path: Path) -> Any:
    """Content of a JSON file; a byte order mark, which editors of Windows write, is skipped.

    Raises:
        InputError: it is not there, is no JSON, or has a key twice, of which Python would keep the last.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{twice!r} is there twice; keep one")
        return content

    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from None
