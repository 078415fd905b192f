"""Subjects of cases: given by the user as a pattern, a table or a rule, or read from the names of the cases."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.findings import few

WAYS = (
    r"a regular expression such as 'patient\d+', a table FILE.csv (columns case,subject) or FILE.json, pairs (001 and "
    "002, 003 and 004, … are one subject), pairs-from-0, subject (from the names), or case (each is its own subject)"
)

Rule = Callable[[Sequence[str]], dict[str, str]]
"""Gives every case its subject, or raises InputError."""

_TIME = "frame|fr|phase|time|timepoint|tp|t|session|ses|visit|v|scan|run|echo|acq|rep|day|week|month|year|slice|sl"
_STATE = "ed|es|pre|post|baseline|followup"
_SIDE = "left|right|lh|rh|l|r"

RULES = (
    ("sub-…, as in BIDS", r"(?<![A-Za-z0-9])(sub-[A-Za-z0-9]+)", 0.0),
    ("the word patient or subject with its number", r"(?i)(?<![a-z])((?:patient|subject|subj|pat|pt)[-_]?\d+)", 0.0),
    (
        "the part before the frame, time point, session or side",
        rf"(?i)^(.+?)(?:[-_. ](?:(?:{_TIME})[-_]?\d+|{_STATE}|{_SIDE}))+$",
        0.1,
    ),
    ("the part before the second number", r"^(.*\d)[-_. ]\d+$", 0.1),
)
"""Rules for subjects in names: description, pattern whose group is the subject, smallest ratio of subjects to cases.

Below that ratio the groups are sites or studies rather than subjects (``site1_001``, ``BraTS2021_00012``). The first
rule that fits is used."""


@dataclass(frozen=True)
class Grouping:
    """Assignment of cases to subjects.

    Attributes:
        by: the user's value of ``--by``, such as ``pairs``; or where the subjects were found.
        subject_of: exactly one subject for every case.
    """

    by: str
    subject_of: Mapping[str, str]

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subjects in alphabetical order."""
        return tuple(sorted(set(self.subject_of.values())))


@dataclass(frozen=True)
class NamedSubjects:
    """Subjects read from names by one rule.

    Attributes:
        rule: the rule in words.
        subject_of: the subject of every case; the case itself if its name does not tell.
    """

    rule: str
    subject_of: Mapping[str, str]


def subjects_from_names(cases: Sequence[str], *, one: bool = False) -> NamedSubjects | None:
    """The subjects, if the names have a usual form and at least two cases share a subject; otherwise None.

    Args:
        cases: names.
        one: accept also that all are one subject, if a rule says so that never takes sites or studies for subjects.
    """
    for rule, expression, share in RULES:
        subject_of = {case: match[1] if (match := re.search(expression, case)) else case for case in cases}
        subjects = len(set(subject_of.values()))
        if (1 if one and not share else 2) <= subjects < len(cases) and subjects >= share * len(cases):
            return NamedSubjects(rule, subject_of)
    return None


def group(cases: Sequence[str], by: str | None) -> Grouping:
    """The subject of every case.

    Args:
        cases: names.
        by: one of

            - ``case``: every case is its own subject;
            - ``subject``: from names with a usual form, see :func:`subjects_from_names`;
            - ``pairs``: cases whose last numbers are 2k−1 and 2k are one subject, as in MSD hippocampus;
            - ``pairs-from-0``: the same for 2k and 2k+1;
            - a file ``….csv`` with columns ``case,subject``, or ``….json`` with ``{case: subject}``; it may hold more
              cases than there are;
            - a regular expression, searched in the name: the subject is what its groups match, joined by ``_``, or the
              whole match if it has no groups.

    Raises:
        InputError: ``by`` is missing, the table or expression is wrong, or a case gets no subject.
    """
    if not by:
        raise InputError(f"Say with --by which cases are one subject{_suggestion(cases)}; it takes {WAYS}.")
    subject_of = _rule(by)(cases)
    if len(cases) > 1 and len(set(subject_of.values())) == 1:
        raise InputError(
            f"--by {by!r} makes all {len(cases)} cases one subject ({next(iter(subject_of.values()))!r}), but two "
            "are needed; let it match what differs between subjects."
        )
    return Grouping(by, subject_of)


def told(cases: Iterable[str], by: str) -> dict[str, str]:
    """The subjects of those cases to which a rule gives one by itself; without the others, and without complaint.

    Args:
        cases: names.
        by: see :func:`group`; ``case`` gives none, because it means that the subjects are unknown.
    """
    subject_of: dict[str, str] = {}
    with suppress(InputError):  # a table may be gone
        rule = _rule(by)
        for case in cases if by != "case" else ():
            with suppress(InputError):
                subject_of |= rule([case])
    return subject_of


def is_table(by: str) -> bool:
    """Whether a value of ``--by`` is a file."""
    return by.endswith((".csv", ".json"))


# --- ways -------------------------------------------------------------------------------------------------------------


def _rule(by: str) -> Rule:
    rules: dict[str, Rule] = {
        "case": lambda names: {name: name for name in names},
        "subject": _from_names,
        "pairs": lambda names: in_pairs(names, 1),
        "pairs-from-0": lambda names: in_pairs(names, 0),
    }
    if by in rules:
        return rules[by]
    return _from_table(Path(by)) if is_table(by) else partial(_matched, pattern=by)


def _from_names(cases: Sequence[str]) -> dict[str, str]:
    found = subjects_from_names(cases)
    if found is None:
        raise InputError(
            f"--by subject: the names of the cases ({few(cases)}) do not tell which of them are one subject; use --by "
            "with a pattern, a table, pairs, or case."
        )
    return dict(found.subject_of)


def numbered(case: str) -> tuple[str, str, str] | None:
    """Split a name at its last number: ``("case_", "001", "")``; None if it has no number."""
    match = re.fullmatch(r"(.*?)(\d+)(\D*)", case)
    return (match[1], match[2], match[3]) if match else None


def in_pairs(cases: Sequence[str], first: int = 1) -> dict[str, str]:
    """Subjects by case, two consecutive numbers each: ``first`` and ``first`` + 1, then the next two, and so on.

    Args:
        cases: names; the last number in a name counts.
        first: 1 or 0.

    Raises:
        InputError: a name has no number, or one below ``first``.
    """
    parts = {case: numbered(case) for case in cases}
    if without := [case for case, found in parts.items() if found is None]:
        raise InputError(f"--by pairs: there is no number in {_counted(without, cases)}; use a table instead.")
    subject_of = {}
    for case, found in parts.items():
        assert found is not None
        before, digits, after = found
        number = int(digits)
        if number < first:
            raise InputError(
                f"--by pairs counts from 1 (001 and 002 are one subject), but there is a case {case}; use pairs-from-0 "
                "(000 and 001), or a table."
            )
        lower = number - (number - first) % 2
        # without leading zeros, because case_9 and case_10 may be a pair
        subject_of[case] = f"{before}{lower}+{lower + 1}{after}"
    return subject_of


def _from_table(file: Path) -> Rule:
    table = _json_table(file) if file.suffix == ".json" else _csv_table(file)

    def looked_up(cases: Sequence[str]) -> dict[str, str]:
        if without := [case for case in cases if not table.get(case)]:
            raise InputError(
                f"--by {file} has no subject for {_counted(without, cases)}; add them (it has {few(list(table))})."
            )
        return {case: table[case] for case in cases}

    return looked_up


def _json_table(file: Path) -> dict[str, str]:
    content = read_json(file)
    if wrong := [case for case, subject in content.items() if not isinstance(subject, str | int)]:
        raise InputError(f"--by {file}: the subject of {wrong[0]!r} is no text; write {{case: subject, …}}.")
    return {case: str(subject) for case, subject in content.items()}


def _csv_table(file: Path) -> dict[str, str]:
    """Subject of every case in a CSV file. Header in any case, common separators and empty columns are accepted."""
    table: dict[str, str] = {}
    try:
        # spreadsheets write a byte order mark
        with file.open(newline="", encoding="utf-8-sig") as opened:
            first = opened.readline()
            delimiter = next((mark for mark in ",;\t" if mark in first), ",")
            opened.seek(0)
            rows = [[cell.strip() for cell in row] for row in csv.reader(opened, delimiter=delimiter)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--by {file} cannot be read as a CSV table ({error}).") from None
    header = [name.lower() for name in rows[0]] if rows else []
    if header.count("case") != 1 or header.count("subject") != 1:
        found = ",".join(header)
        raise InputError(
            f"--by {file}: its first line is {found!r}, but must have the columns case,subject, each once."
        )
    for number, row in enumerate(rows[1:], start=2):
        if any("\n" in cell or "\r" in cell for cell in row):
            raise InputError(f"--by {file}: line {number} has a quotation mark that does not end; correct it.")
        if any(row[len(header) :]):
            raise InputError(f"--by {file}: line {number} has more cells than the header has columns; correct it.")
        if not any(row):
            continue
        cells = dict(zip(header, row, strict=False))
        case, subject = cells.get("case", ""), cells.get("subject", "")
        if table.setdefault(case, subject) != subject:
            raise InputError(f"--by {file}: {case} has two subjects, {table[case]} and {subject}; keep one.")
    return table


def _matched(cases: Sequence[str], pattern: str) -> dict[str, str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--by {pattern!r} is no regular expression ({error}); --by takes {WAYS}.") from None
    subject_of = {}
    for case in cases:
        match = expression.search(case)
        groups = match.groups() if match else ()
        subject_of[case] = "_".join(filter(None, groups)) if groups else match[0] if match else ""
    if without := [case for case in cases if not subject_of[case]]:
        raise InputError(
            f"--by {pattern!r} matches nothing in {_counted(without, cases)}; it must match the subject in every name."
        )
    return subject_of


def _counted(some_cases: Sequence[str], cases: Sequence[str]) -> str:
    return f"{len(some_cases)} of {len(cases)} cases ({few(some_cases)})"


def _suggestion(cases: Sequence[str]) -> str:
    found = subjects_from_names(cases)
    if found is None:
        return f", which their names ({few(cases)}) do not tell"
    count = len(set(found.subject_of.values()))
    return f" (their names look like {count} subjects, which --by subject takes: {found.rule})"
