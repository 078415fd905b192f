"""``nnunet-ext landmarks convert``: files of landmarks from one format into another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nnunet_ext.data.geometry import CoordinateSystem
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.formats import MARKUPS, Cases, landmark_files, read_files, write_markups, write_table

Format = Literal["mrk.json", "csv"]
TABLE = "landmarks.csv"


def convert(
    sources: Sequence[str | Path],
    to: Format,
    *,
    out: str | Path,
    coordinates: CoordinateSystem | None = None,
    force: bool = False,
) -> list[Path]:
    """Write landmarks as one ``.mrk.json`` per case, or as one table of all cases, ``landmarks.csv``.

    Args:
        sources: files, or folders of them.
        to: the format to write.
        out: folder to write to.
        coordinates: of the sources, whatever they say; so a file that was saved under the wrong name is repaired.
        force: replace files that are there.

    Returns:
        The files that were written.

    Raises:
        InputError: a file cannot be read, a case is in two of them, or a file to write is there already.
    """
    files = [
        file for source in map(Path, sources) for file in (landmark_files(source) if source.is_dir() else [source])
    ]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise InputError(f"There is no file of landmarks {[*missing, *sources][0]}; correct the path.")
    cases: Cases = read_files(files, coordinates)
    out = Path(out)
    targets = [out / TABLE] if to == "csv" else [out / f"{case}{MARKUPS}" for case in cases]
    existing = [target for target in targets if target.exists()]
    if existing and not force:
        raise InputError(f"{existing[0]} is there already; choose another folder with -o, or replace it with --force.")
    if to == "csv":
        write_table(targets[0], cases)
    else:
        for target, landmarks in zip(targets, cases.values(), strict=True):
            write_markups(target, landmarks)
    return targets
