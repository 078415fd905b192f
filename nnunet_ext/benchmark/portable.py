"""Texts for publication with a report: without the folders of this machine, and with shortened logs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NNUNET = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")

LOG_BYTES = 8_000
"""Longer logs are shortened, so that a report of fifty trainings fits into a repository."""

LONGEST_LINE = 300
"""Longer lines are cut: nnU-Net prints whole plans on one line, and the package has them in a file."""

_POSIX = r"(?<![\w.$~…/>-])/(?:[^\s/'\"`:;,|<>()\[\]{}]+/)+"
_WINDOWS = r"(?<!\w)[A-Za-z]:[\\/](?:[^\s\\/'\"`:;,|<>()\[\]{}]+[\\/])+"
_FOLDERS = re.compile(f"{_POSIX}|{_WINDOWS}")
_BAR = re.compile(r"\d+%\|.*\|")
_EPOCH = re.compile(r"(?:^|: )Epoch (\d+)\s*$")
_END_OF_EPOCH = re.compile(r"(?:^|: )Epoch time: ")
_LEFT_OUT = re.compile(r"\(\d+ of \d+ epochs were left out\)|\(lines were left out here\)")


class Folders:
    """Names for folders of this machine; any other absolute path keeps only its last part."""

    def __init__(self, named: Mapping[str, Path] | None = None) -> None:
        """``named`` gives folders by their names, such as ``$BENCHMARK``; nnU-Net's three variables are known."""
        known = {f"${name}": Path(os.environ[name]) for name in NNUNET if os.environ.get(name)}
        known |= {"$PYTHON": Path(sys.prefix), **(named or {})}
        names = {str(place): name for name, path in known.items() for place in (path, path.absolute(), path.resolve())}
        # longest first, because one folder may lie in another
        self.names = dict(sorted(names.items(), key=lambda item: -len(item[0])))

    def without(self, text: str) -> str:
        """The same text without folders."""
        for folder, name in self.names.items():
            if len(Path(folder).parts) > 1:  # every path begins with the root
                text = re.sub(rf"{re.escape(folder)}(?![\w.-])", name, text)
        return _FOLDERS.sub("…/", text)

    def everywhere(self, value: Any) -> Any:
        """The same JSON value with all its texts without folders."""
        if isinstance(value, str):
            return self.without(value)
        if isinstance(value, Mapping):
            return {key: self.everywhere(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.everywhere(entry) for entry in value]
        return value


def shortened(log: str, limit: int = LOG_BYTES) -> str:
    """Return a log without progress bars and blank lines, with long lines cut and, above ``limit`` bytes, fewer epochs.

    The lines before the first epoch and after the last one get a quarter of the limit each. Of the epochs every second,
    third, … stays, and the last one. A line gives the number of epochs left out; the curves of a report have them all.
    A log that lost epochs already, as in a report that is taken over, keeps the others.
    """
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in log.replace("\r\n", "\n").split("\n")]
    lines = [_cut(line) for line in lines if line and not _BAR.search(line) and not re.fullmatch(r"[\d :.-]+:", line)]
    if _size(lines) <= limit or any(map(_LEFT_OUT.fullmatch, lines)):
        return _text(lines)
    begins = [place for place, line in enumerate(lines) if _EPOCH.search(line)]
    if not begins:
        return _text([*_first(lines, limit // 2), "(lines were left out here)", *_last(lines, limit // 2)])
    ends = [place for place, line in enumerate(lines) if _END_OF_EPOCH.search(line)]
    end = ends[-1] + 1 if ends and ends[-1] > begins[-1] else len(lines)
    before, after = _first(lines[: begins[0]], limit // 4), _last(lines[end:], limit // 4)
    blocks = [lines[a:b] for a, b in zip(begins, [*begins[1:], end], strict=True)]
    left = limit - _size(before) - _size(after)
    step = next(step for step in range(1, len(blocks) + 1) if step == len(blocks) or _thinned(blocks, step, left))
    kept = [*blocks[:-1:step], blocks[-1]]
    note = f"({len(blocks) - len(kept)} of {len(blocks)} epochs were left out)"
    return _text([*before, *([note] if len(kept) < len(blocks) else []), *(x for block in kept for x in block), *after])


def last_line(log: str) -> str:
    """The last line that is neither blank nor a progress bar; empty if there is none."""
    lines = shortened(log).splitlines()
    return lines[-1] if lines else ""


# --- parts ------------------------------------------------------------------------------------------------------------


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + " …"


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _size(lines: list[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _thinned(blocks: list[list[str]], step: int, limit: int) -> bool:
    return sum(map(_size, [*blocks[:-1:step], blocks[-1]])) <= limit


def _first(lines: list[str], limit: int) -> list[str]:
    kept: list[str] = []
    for line in lines:
        if _size([*kept, line]) > limit:
            break
        kept.append(line)
    return kept


def _last(lines: list[str], limit: int) -> list[str]:
    return _first(lines[::-1], limit)[::-1]
