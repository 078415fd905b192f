"""What ``nnunet-ext landmarks check`` found: as text and as files.

::

    findings.csv    severity, kind, text, case, landmark
    distances.csv   case, landmark, organ, mm (negative inside), across
    check.json      both, the table, and what is annotated in every case
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.files import write_json, write_rows
from nnunet_ext.findings import aligned, listed, verdict
from nnunet_ext.landmarks.dataset import LandmarkDataset
from nnunet_ext.landmarks.findings import Finding, Position
from nnunet_ext.landmarks.points import State
from nnunet_ext.version import __version__


@dataclass(frozen=True)
class Distance:
    """Of a landmark from the surface of an organ.

    Attributes:
        case: in whose label map it was measured.
        landmark, organ: names.
        mm: negative inside.
        across: the median, without sign, of the landmarks of other cases, whose images were laid centre on centre.
    """

    case: str
    landmark: str
    organ: str
    mm: float
    across: bool = False


@dataclass(frozen=True, eq=False)
class CheckReport:
    """Attributes:
    dataset: what was checked.
    positions: of the landmarks, by case with landmarks.
    segmented: cases with labels.
    distances: in the order of the cases.
    findings: the worst first.
    """

    dataset: LandmarkDataset
    positions: Mapping[str, Position]
    segmented: tuple[str, ...]
    distances: tuple[Distance, ...]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """1 if a finding is fatal, otherwise 0."""
        return int(any(found.severity == "fatal" for found in self.findings))

    def table(self) -> list[list[str]]:
        """Per landmark: in how many cases present, absent, unknown; per organ the distances. Texts with header."""
        header = [
            "landmark",
            "present",
            "absent",
            "unknown",
            "on the surface of",
            "n",
            "median mm",
            "95 % mm",
            "max mm",
        ]
        rows = [[*header, "inside"]]
        for k, name in enumerate(self.dataset.declaration.names):
            states = [position.states[k] for position in self.positions.values()]
            counts = [str(sum(s == state for s in states)) for state in (State.PRESENT, State.ABSENT, State.UNKNOWN)]
            for organ in self.dataset.declaration.surface_of.get(name, ()) or (None,):
                rows.append([name, *counts, *self._cells(name, organ)])
        return rows

    def _cells(self, landmark: str, organ: str | None) -> list[str]:
        own = [d for d in self.distances if (d.landmark, d.organ) == (landmark, organ)]
        if not own:
            return [organ or "–", "0", *["–"] * 4]
        signed = np.array([d.mm for d in own])
        mm = np.abs(signed)
        mark = "≈ " if own[0].across else ""
        numbers = [f"{mark}{value:.2f}" for value in (np.median(mm), np.percentile(mm, 95), mm.max())]
        share = "–" if own[0].across else f"{100 * (signed < 0).mean():.0f} %"
        return [str(organ), str(len(own)), *numbers, share]

    def summary(self) -> str:
        """One sentence: how much is annotated, and the verdict."""
        both = len(set(self.positions) & set(self.segmented))
        counts = f"{len(self.positions)} with landmarks, {len(self.segmented)} with labels, {both} with both"
        return f"{self.dataset.raw.name}: {len(self.dataset.raw.cases)} cases, {counts}; {verdict(self.findings)}"

    def report(self) -> str:
        """What to print."""
        lines = [self.summary(), "", *aligned(self.table())]
        if any(distance.across for distance in self.distances):
            lines.append(
                "≈: across cases, with images laid centre on centre, because no case has both; a rough estimate"
            )
        if self.findings:
            lines += ["", *listed(self.findings)]
        return "\n".join(lines)

    def write(self, folder: str | Path) -> None:
        """Write ``findings.csv``, ``distances.csv`` and ``check.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        findings = [asdict(found) for found in self.findings]
        distances = [{**asdict(distance), "mm": round(distance.mm, 4)} for distance in self.distances]
        write_rows(folder / "findings.csv", [field.name for field in fields(Finding)], findings)
        write_rows(folder / "distances.csv", [field.name for field in fields(Distance)], distances)
        header, *rows = self.table()
        content = {
            "nnunet_ext": __version__,
            "dataset": str(self.dataset.raw.folder),
            "summary": self.summary(),
            "table": [dict(zip(header, row, strict=True)) for row in rows],
            "findings": findings,
            "distances": distances,
            "cases": {case.name: self._case(case.name) for case in self.dataset.raw.cases},
        }
        write_json(folder / "check.json", content)

    def _case(self, name: str) -> dict[str, Any]:
        states: dict[str, str] = {}
        if name in self.positions:
            both = zip(self.dataset.declaration.names, self.positions[name].states, strict=True)
            states = {landmark: State(int(state)).name.lower() for landmark, state in both}
        return {"segmented": name in self.segmented, "landmarks": states}
