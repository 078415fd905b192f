"""Findings of the quality controls (doctor, scribbles, landmarks, splits), reports of them, and text tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from nnunet_ext.files import write_rows

Severity = Literal["fatal", "error", "problem", "warning", "note", "ok"]
"""``fatal``, ``error`` and ``problem`` mean the same, in the word of each command: a training would fail or learn the
wrong thing. ``warning``: probably a mistake; ``note``: good to know; ``ok``: checked, nothing wrong."""

PRINTED = 20
"""Number of findings that are printed; the files hold all."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes:
        severity: how bad it is.
        kind: one word or two, to sort by.
        text: one sentence.
        case: name; None for the whole data set.
        about: name of the label or landmark, if it is about one.
        index: slice to look at, from 0.
        fix: command or advice that mends it.
        box: first and last row, first and last column of the suspicious place in that slice.
    """

    severity: Severity
    kind: str
    text: str
    case: str | None = None
    about: str | None = None
    index: int | None = None
    fix: str = ""
    box: tuple[int, int, int, int] | None = None

    @property
    def place(self) -> str:
        """Case and slice, for people: ``case_007, slice 3``."""
        return (self.case or "all cases") + ("" if self.index is None else f", slice {self.index + 1}")


@dataclass(frozen=True)
class CheckReport:
    """Findings of one command; a subclass adds what else the command measured.

    Attributes:
        findings: in the order in which they are printed.
    """

    severities: ClassVar[tuple[Severity, ...]] = ("fatal", "warning", "note")
    """Severities that the command knows, the worst first."""
    failing: ClassVar[tuple[Severity, ...]] = ("fatal",)
    """Severities that make the exit code 1."""
    columns: ClassVar[Mapping[str, str]] = {name: name for name in ("severity", "kind", "text", "case")}
    """Columns of ``findings.csv`` and the attributes of :class:`Finding` in them."""

    findings: tuple[Finding, ...]

    @classmethod
    def by_severity(cls, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """The worst first, those of the data set before those of cases."""
        return tuple(sorted(findings, key=lambda found: (cls.severities.index(found.severity), found.case or "")))

    @property
    def exit_code(self) -> int:
        """1 if a finding is of a severity in :attr:`failing`, otherwise 0."""
        return int(any(found.severity in self.failing for found in self.findings))

    def counts(self) -> dict[Severity, int]:
        """Number of findings of each severity."""
        found = [finding.severity for finding in self.findings]
        return {severity: found.count(severity) for severity in self.severities}

    def verdict(self) -> str:
        """``findings: 0 fatal, 2 warning, 1 note``."""
        return "findings: " + ", ".join(f"{count} {severity}" for severity, count in self.counts().items())

    def listed(self) -> list[str]:
        """A line for each finding."""
        return [f"{found.severity:<8} {found.place}: {found.text}" for found in self.findings]

    def first_listed(self) -> list[str]:
        """A line for each of the first findings, for a command that writes all of them."""
        lines = self.listed()
        more = len(lines) - PRINTED
        return [*lines[:PRINTED], f"… and {more} more in findings.csv"] if more > 0 else lines

    def rows(self) -> list[dict[str, Any]]:
        """The findings by :attr:`columns`."""
        return [{column: getattr(found, name) for column, name in self.columns.items()} for found in self.findings]

    def write_findings(self, folder: Path) -> None:
        """Write ``findings.csv``."""
        write_rows(folder / "findings.csv", self.columns, self.rows())


def few(names: Sequence[str]) -> str:
    """The first three names: ``a, b, c, …``."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def some(names: Sequence[str]) -> str:
    """``2 cases (a, b)``; at most three of them by name."""
    return f"case {names[0]}" if len(names) == 1 else f"{len(names)} cases ({few(names)})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
