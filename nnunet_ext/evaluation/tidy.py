"""The table for comparisons: one metric of one label, one row per arm, seed and case."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunet_ext.errors import InputError

Array = NDArray[np.floating[Any]]


class Table(NamedTuple):
    """A balanced table. Names are sorted, so the order of rows does not matter."""

    arms: list[str]
    seeds: list[Hashable]
    values: Array
    """``(arms, cases, seeds)``."""
    subjects: NDArray[np.intp]
    """Number of each case's subject, ``(cases,)``: 0, 1, …; every case has its own if subjects are unknown."""
    unit: str
    """``subject``, or ``case`` if subjects are unknown."""


def read(rows: pd.DataFrame) -> Table:
    """Read and check tidy rows.

    Args:
        rows: columns ``arm``, ``case``, ``seed``, ``value`` and, if known, ``subject``; in any order.

    Raises:
        InputError: a column is missing, a row has no name or no number, or an arm lacks a case or seed.
    """
    keys = ["arm", "case", "seed"]
    if absent := [name for name in (*keys, "value") if name not in rows.columns]:
        raise InputError(
            f"The table of values has no column {listed(absent)}, but needs 'arm', 'case', 'seed' and 'value': rename "
            "the columns, and with one training per arm write 0 as seed."
        )
    if rows[keys].isna().any(axis=None):
        raise InputError("The table has a row without arm, case or seed, but needs all three: fill them in.")
    index = pd.MultiIndex.from_frame(rows[keys])
    if index.has_duplicates:
        raise InputError(
            f"The table has several values for {_row(index[index.duplicated()][0])}, but needs exactly one: select one "
            "metric and one class, and check that every case is validated in one fold only."
        )
    try:
        flat = rows["value"].to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Column 'value' must hold numbers ({error}): write NaN where a value is undefined."
        ) from error
    if np.isinf(flat).any():
        raise InputError(
            f"The value for {_row(index[np.isinf(flat)][0])} is infinite, so that no mean exists: replace it by a "
            "finite penalty, such as the diagonal of the image for a distance to a missed structure."
        )
    full = pd.MultiIndex.from_product([sorted(index.unique(key)) for key in keys], names=keys)
    if len(lacking := full.difference(index)):
        raise InputError(
            f"There is no value for {_row(lacking[0])} ({len(lacking)} missing in all), but every arm needs the same "
            "cases and seeds: run or evaluate that training, or leave the case or seed out of all arms."
        )
    arms, cases, seeds = (level.tolist() for level in full.levels)
    cube = pd.Series(flat, index=index).reindex(full).to_numpy().reshape(full.levshape)
    return Table(arms, seeds, cube, _subjects(rows, cases), "subject" if "subject" in rows.columns else "case")


def subject_means(values: Array, subjects: NDArray[np.intp]) -> Array:
    """Average the cases of every subject.

    Args:
        values: ``(cases, …)``.
        subjects: ``(cases,)``, number of each case's subject.

    Returns:
        Means ``(subjects, …)``, in the order of the subjects' numbers.
    """
    _, place, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, place, values)
    return sums / counts.reshape(-1, *[1] * (values.ndim - 1))


def listed(names: Iterable[Hashable]) -> str:
    """The names as ``'a', 'b'``; ``no arm`` if there are none."""
    return ", ".join(f"'{name}'" for name in names) or "no arm"


def _subjects(rows: pd.DataFrame, cases: list[Hashable]) -> NDArray[np.intp]:
    if "subject" not in rows.columns:
        return np.arange(len(cases))
    if rows["subject"].isna().any():
        raise InputError(
            f"The table has no subject for case '{rows.loc[rows['subject'].isna(), 'case'].iloc[0]}': fill the column "
            "in for every case, or leave it out if no subject is known."
        )
    known = rows[["case", "subject"]].drop_duplicates()
    if len(twice := known[known["case"].duplicated(keep=False)]):
        case = twice["case"].iloc[0]
        raise InputError(
            f"Case '{case}' has the subjects {listed(twice.loc[twice['case'] == case, 'subject'])}, but a case is of "
            "one subject: correct the table."
        )
    of_case = known.set_index("case")["subject"].reindex(cases)
    return np.unique(of_case.astype(str).to_numpy(dtype=str), return_inverse=True)[1]


def _row(key: tuple[Hashable, ...]) -> str:
    arm, case, seed = key
    return f"arm '{arm}', case '{case}', seed '{seed}'"
