"""Files that are written as a whole or not at all: a reader finds the old one or the new one."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_ext.beside import beside, swap_in
from nnunet_ext.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write; it replaces ``path`` at the end, and is removed after an error.

    It has the same name, because many writers look at the ending. It lies in its own folder, because others may list
    the files of that ending at any time. See :mod:`nnunet_ext.beside` for what a kill leaves.
    """
    with beside(path) as temporary:
        yield temporary
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
    """Raise InputError if the folder that a file is to be written to is missing."""
    if not (folder := Path(file).parent).is_dir():
        raise InputError(f"The folder {folder} does not exist; make it first.")


def require_no_file(folder: str | Path) -> None:
    """Raise InputError if a folder that is to be written to is a file."""
    if Path(folder).is_file():
        raise InputError(f"{folder} is a file, but a folder to write to is expected; choose another with -o.")


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
