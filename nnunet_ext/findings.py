"""What the quality controls have in common: how bad a finding is, their order, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, TypeVar

Severity = Literal["fatal", "warning", "note"]
"""``fatal``: a training would fail or learn the wrong thing; ``warning``: probably a mistake; ``note``."""

SEVERITIES: tuple[Severity, ...] = ("fatal", "warning", "note")

PRINTED = 20
"""Findings that are printed; the files hold all."""


class AnyFinding(Protocol):
    """One thing to look at; ``case``: None for the whole data set."""

    @property
    def severity(self) -> Severity: ...
    @property
    def case(self) -> str | None: ...


Found = TypeVar("Found", bound=AnyFinding)


def by_severity(findings: Iterable[Found]) -> list[Found]:
    """The worst first, those of the data set before those of cases."""
    return sorted(findings, key=lambda found: (SEVERITIES.index(found.severity), found.case or ""))


def verdict(findings: Iterable[AnyFinding]) -> str:
    """``findings: 0 fatal, 2 warning, 1 note``."""
    severities = [found.severity for found in findings]
    return "findings: " + ", ".join(f"{severities.count(severity)} {severity}" for severity in SEVERITIES)


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
