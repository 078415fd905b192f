"""CSV files with the same bytes on every platform: numbers have a fixed number of digits and are read back exactly."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_ext.errors import InputError
from nnunet_ext.files import write_text

SCORE_DIGITS, TABLE_DIGITS = 8, 6
"""Significant digits. Sums of numbers with eight digits differ between platforms only in the sixteenth digit."""

IDENTITY = ["arm", "group", "fold", "seed", "case"]
"""Columns that identify the training and the case of a score."""

TEXTS = ("arm", "group", "case", "label", "labels", "status", "subject")
"""Text columns in tables of scores; fold and seed are integers, all others floats."""


def as_csv(table: pd.DataFrame, digits: int) -> str:
    """The text of a CSV file with this number of significant digits; integers keep all their digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([_cell(value, digits) for value in row] for row in table.itertuples(index=False, name=None))
    return file.getvalue()


def write_scores(path: Path, table: pd.DataFrame) -> None:
    """Write a table of scores: names first, then metrics; the column ``subject`` is left out if all are unknown."""
    names = [name for name in [*IDENTITY, "subject", "label"] if name in table.columns]
    if "subject" in names and table["subject"].isna().all():
        names.remove("subject")
    metrics = [name for name in table.columns if name not in (*names, "subject")]
    write_text(path, as_csv(table[[*names, *metrics]], SCORE_DIGITS))


def read_scores(path: Path) -> pd.DataFrame:
    """Read a table that :func:`write_scores` wrote.

    Raises:
        InputError: it is missing, lacks a column, or a cell is no number.
    """
    table = read_table(path)
    if absent := [name for name in (*IDENTITY, "label") if name not in table.columns]:
        raise InputError(f"{path} has no column {absent[0]!r}; restore the file.")
    return table


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file of scores. Names are read as text, whatever they look like, and numbers exactly as written.

    Raises:
        InputError: it is missing, or a cell is no number.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a CSV table ({error}).") from None
    columns = {}
    for name in table.columns:
        if name in TEXTS:
            known = [cell or None for cell in table[name]] if name == "subject" else table[name]
            columns[name] = pd.Series(known, index=table.index, dtype=object)
            continue
        kind = int if name in ("fold", "seed") else _number
        try:
            columns[name] = pd.Series([kind(cell) for cell in table[name]], index=table.index, dtype=_dtype(name))
        except ValueError as error:
            raise InputError(f"{path}, column {name!r}: {error}; restore the file.") from None
    return pd.DataFrame(columns, index=table.index)


# --- parts ------------------------------------------------------------------------------------------------------------


def _cell(value: Any, digits: int) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.{digits}g}"
    return str(value)


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _dtype(name: str) -> type:
    return int if name in ("fold", "seed") else float
