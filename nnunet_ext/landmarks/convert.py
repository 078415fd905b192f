"""``nnunet-ext landmarks convert``: files of landmarks from one format into another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from nnunet_ext.data.geometry import CoordinateSystem
from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing
from nnunet_ext.landmarks.formats import MARKUPS, Cases, landmark_files, read_files, write_markups, write_table
from nnunet_ext.landmarks.leftover import leftover

Format = Literal["mrk.json", "csv"]
TABLE = "landmarks.csv"


def convert(
    sources: Sequence[str | Path],
    to: Format,
    *,
    out: str | Path,
    coordinates: CoordinateSystem | None = None,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write landmarks as one ``.mrk.json`` per case, or as one table of all cases, ``landmarks.csv``.

    Args:
        sources: files, or folders of them.
        to: the format to write.
        out: folder to write to.
        coordinates: of the sources, whatever they say; so a file that was saved under the wrong name is repaired.
        force: replace files that are there, all of them at the end.
        say: is told what a source says and the files that are written do not.

    Returns:
        The files that were written.

    Raises:
        InputError: a file cannot be read, a case is in two of them, or a file to write is there already, or would
            replace a source that says more.
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
    for file in files:
        if lost := leftover(file):
            if file.resolve() in {target.resolve() for target in targets}:
                raise InputError(
                    f"{file} would be replaced, and that loses {'; '.join(lost)}; convert into another folder."
                )
            say(f"{file}: not kept: {'; '.join(lost)}")
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as all_of_them:
        written = [all_of_them.enter_context(replacing(target)) for target in targets]
        if to == "csv":
            write_table(written[0], cases)
        else:
            for file, landmarks in zip(written, cases.values(), strict=True):
                write_markups(file, landmarks)
    return targets
