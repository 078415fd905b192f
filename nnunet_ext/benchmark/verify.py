"""``nnunet-ext benchmark verify``: is a report unchanged, and do its scores reproduce its tables?

Every file is compared with the manifest. Then page and tables are computed again in a temporary folder, from a copy of
the scores and records alone, and compared byte for byte. Only the manifest covers ``report.html`` and the figures.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nnunet_ext.benchmark.folder import PREPARED
from nnunet_ext.benchmark.manifest import MANIFEST, files_in, fingerprint, manifest_of
from nnunet_ext.benchmark.package import CASES, RECORDS, SOURCES, read
from nnunet_ext.benchmark.page import RENDERED, page_of, render
from nnunet_ext.errors import InputError

SHOWN = 60
"""Number of characters to show of a line that differs."""


@dataclass(frozen=True)
class Verified:
    """One package; ``problems`` has a sentence for every file that is not as it was written."""

    folder: Path
    files: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        """The text to print: one line, or one more per problem."""
        if not self.problems:
            return f"{self.folder}: {self.files} files are what was written, and the scores give the same tables"
        return "\n".join([f"{self.folder}: {len(self.problems)} problems", *(f"  {each}" for each in self.problems)])


def verify(folder: str | Path) -> list[Verified]:
    """Verify a report, the report of a benchmark, or all reports below a folder.

    Raises:
        InputError: there is none.
    """
    return [verify_package(package) for package in packages_in(Path(folder))]


def packages_in(folder: Path) -> list[Path]:
    """The folders of reports: this folder, the report of the benchmark in it, or all reports below it.

    Raises:
        InputError: there are none.
    """
    if (folder / MANIFEST).is_file() or (folder / RECORDS).is_file():
        return [folder]
    if (folder / PREPARED).is_file():
        folder = folder / "report"
    # a report without its manifest counts, too
    found = {path.parent for name in (MANIFEST, RECORDS, CASES) for path in folder.rglob(name)}
    if not found:
        raise InputError(f"{folder} holds no report; write one with: nnunet-ext benchmark report.")
    return sorted(found)


def verify_package(folder: Path) -> Verified:
    """Compare one report with its manifest, and its tables with its scores."""
    try:
        listed = manifest_of(folder)
    except InputError as error:
        return Verified(folder, 0, (str(error),))
    there = files_in(folder)
    problems = [f"{name}: is missing" for name in sorted({*listed, *SOURCES[::2], *RENDERED} - {*there})]
    problems += [f"{name}: is not in {MANIFEST}; it was added later" for name in there if name not in listed]
    for name in sorted({*there} & {*listed}):
        found, expected = fingerprint(folder / name), listed[name]
        if found["bytes"] != expected["bytes"]:
            problems.append(f"{name}: has {found['bytes']} bytes instead of {expected['bytes']}; it was changed later")
        elif found != expected:
            problems.append(f"{name}: has another SHA-256 than in {MANIFEST}; it was changed later")
    problems += _other_tables(folder, [name for name in listed if name.endswith(".png")])
    return Verified(folder, len(listed) + 1, tuple(problems))


# --- parts ------------------------------------------------------------------------------------------------------------


def _other_tables(folder: Path, figures: list[str]) -> list[str]:
    with TemporaryDirectory() as temporary:
        for name in SOURCES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(temporary) / name)
        try:
            texts = render(page_of(read(Path(temporary))), figures)
        except InputError as error:
            why = str(error).replace(f"{temporary}{os.sep}", "")
            return [f"the tables cannot be computed again: {why}"]
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # changed numbers may raise any of these
            return [
                f"the tables cannot be computed again ({type(error).__name__}: {error}); restore {CASES} and {RECORDS}"
            ]
    found = []
    for name, text in texts.items():
        if (folder / name).is_file() and (difference := _difference((folder / name).read_bytes(), text.encode())):
            found.append(f"{name}: {difference}")
    return found


def _difference(there: bytes, expected: bytes) -> str:
    """The first line that differs, in words; empty if none does."""
    if there == expected:
        return ""
    lines = [each.decode(errors="replace").split("\n") for each in (there, expected)]
    number = next((place for place, (a, b) in enumerate(zip(*lines, strict=False)) if a != b), min(map(len, lines)))
    one, other = (each[number] if number < len(each) else "nothing" for each in lines)
    same = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    begin = max(0, same - SHOWN // 3)
    parts = [
        ("…" if begin else "") + each[begin : begin + SHOWN] + ("…" if len(each) > begin + SHOWN else "")
        for each in (one, other)
    ]
    return f"line {number + 1} is {parts[0]!r}, but the scores give {parts[1]!r}"
