"""What the quality controls have in common: how bad a finding is, their order, and how they are printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Severity = Literal["fatal", "warning", "note"]
"""``fatal``: a training would fail or learn the wrong thing; ``warning``: probably a mistake; ``note``."""

SEVERITIES: tuple[Severity, ...] = ("fatal", "warning", "note")

PRINTED = 20
"""Findings that are printed; the files hold all."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes:
        severity: how bad it is.
        kind: one word or two, to sort by.
        text: one sentence.
        case: name; None for the whole data set.
    """

    severity: Severity
    kind: str
    text: str
    case: str | None = None


Found = TypeVar("Found", bound=Finding)


def by_severity(findings: Iterable[Found]) -> list[Found]:
    """The worst first, those of the data set before those of cases."""
    return sorted(findings, key=lambda found: (SEVERITIES.index(found.severity), found.case or ""))


def verdict(findings: Iterable[Finding]) -> str:
    """``findings: 0 fatal, 2 warning, 1 note``."""
    severities = [found.severity for found in findings]
    return "findings: " + ", ".join(f"{severities.count(severity)} {severity}" for severity in SEVERITIES)


def listed(findings: Sequence[Found], place: Callable[[Found], str] = lambda found: "") -> list[str]:
    """A line each, for the first of them; ``place``: where in the case, to follow its name."""
    lines = [f"{f.severity:<8} {f.case or 'all cases'}{place(f)}: {f.text}" for f in findings[:PRINTED]]
    more = len(findings) - PRINTED
    return [*lines, f"… and {more} more in findings.csv"] if more > 0 else lines


def some(names: Sequence[str]) -> str:
    """``2 cases (a, b)``; at most three of them by name."""
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"case {shown}" if len(names) == 1 else f"{len(names)} cases ({shown})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
