"""What ``nnunet-ext scribbles check`` found: as text, as files, and as a page with pictures.

::

    overview.html   pictures of the suspicious cases, all findings, all cases; one file, readable without a network
    findings.csv    one row per finding
    check.json      the same and the numbers of every case
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunet_ext.data.raw import RawCase, RawDataset
from nnunet_ext.files import write_json, write_rows, write_text
from nnunet_ext.findings import aligned, by_severity, listed, verdict
from nnunet_ext.scribbles.findings import CheckedCase, Finding
from nnunet_ext.scribbles.overview import Panels, draw_panels, most_annotated_slice
from nnunet_ext.version import __version__

PICTURES, SLICES = 12, 3
"""Cases that are drawn, and slices of each."""


@dataclass(frozen=True)
class CheckReport:
    """Attributes:
    dataset: what was checked.
    cases: empty if there is no ignore label.
    general: findings about the whole data set.
    dense: dense label maps by case, if they were given.
    """

    dataset: RawDataset
    cases: tuple[CheckedCase, ...]
    general: tuple[Finding, ...]
    dense: Mapping[str, Path]

    @property
    def findings(self) -> list[Finding]:
        """All of them, the worst first."""
        return by_severity([*self.general, *(found for case in self.cases for found in case.findings)])

    @property
    def exit_code(self) -> int:
        """1 if a finding is fatal, otherwise 0."""
        return int(any(found.severity == "fatal" for found in self.findings))

    def table(self) -> list[list[str]]:
        """Per class: annotated voxels, their share of the annotated ones, cases with a scribble. Texts with header."""
        total = sum(sum(case.voxels.values()) for case in self.cases)
        rows = [["class", "voxels", "share", "cases"]]
        for value, name in self.dataset.classes.items():
            count = sum(case.voxels[value] for case in self.cases)
            drawn = sum(case.voxels[value] > 0 for case in self.cases)
            rows.append([name, str(count), f"{100 * count / max(total, 1):.1f} %", f"{drawn}/{len(self.cases)}"])
        return rows

    def summary(self) -> str:
        """One sentence: how much is annotated, and the verdict."""
        found = verdict(self.findings)
        if not self.cases:
            return f"{self.dataset.name}: {found}"
        annotated = sum(sum(case.voxels.values()) for case in self.cases) / sum(case.size for case in self.cases)
        slices = f"{sum(case.annotated_slices for case in self.cases)}/{sum(case.slices for case in self.cases)} slices"
        return f"{self.dataset.name}: {len(self.cases)} cases, {100 * annotated:.2f} % annotated, {slices}; {found}"

    def report(self) -> str:
        """What to print."""
        lines = [self.summary()]
        if self.cases:
            lines += ["", *aligned(self.table())]
        if findings := self.findings:
            lines += ["", *listed(findings, _place)]
        return "\n".join(lines)

    def write(self, folder: str | Path) -> None:
        """Write ``overview.html``, ``findings.csv`` and ``check.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        findings = [asdict(found) for found in self.findings]
        write_rows(folder / "findings.csv", [entry.name for entry in fields(Finding)], findings)
        content = {
            "nnunet_ext": __version__,
            "dataset": str(self.dataset.folder),
            "summary": self.summary(),
            "findings": findings,
            "cases": {
                case.name: {
                    "annotated_fraction": case.fraction,
                    "annotated_slices": case.annotated_slices,
                    "slices": case.slices,
                    "annotated_voxels": {self.dataset.classes[value]: n for value, n in case.voxels.items()},
                }
                for case in self.cases
            },
        }
        write_json(folder / "check.json", content)
        write_text(folder / "overview.html", self._page())

    def suspicious(self) -> list[CheckedCase]:
        """The cases with warnings or fatal findings, those with most first."""

        def count(case: CheckedCase) -> int:
            return sum(found.severity != "note" for found in case.findings)

        return sorted((case for case in self.cases if count(case)), key=count, reverse=True)

    def _page(self) -> str:
        import jinja2

        templates = jinja2.Environment(
            loader=jinja2.PackageLoader("nnunet_ext.scribbles"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        return templates.get_template("check.html.j2").render(
            report=self, version=__version__, pictures=list(self._pictures()), place=_place
        )

    def _pictures(self) -> Iterator[dict[str, Any]]:
        files = {case.name: case for case in self.dataset.cases}
        suspicious = self.suspicious()
        # without suspicious cases two others, so that a reader sees what was looked at
        for case in suspicious[:PICTURES] or self.cases[:2]:
            yield {"case": case, "source": self._picture(files[case.name], case)}

    def _picture(self, files: RawCase, case: CheckedCase) -> str:
        """Of the slices that the findings name, or of the one with most scribbles; as a data URL."""
        reader = self.dataset.reader()
        image = reader.image(files.images[0])
        scribbles = reader.labels(files.label).array
        maps = {"scribbles": scribbles}
        if case.name in self.dense:
            maps["dense"] = reader.labels(self.dense[case.name]).array
        named = [found.index for found in case.findings if found.index is not None]
        indices = list(dict.fromkeys(named))[:SLICES]
        indices = indices or [most_annotated_slice(scribbles, image.spacing_mm, self.dataset.ignore)]
        file = io.BytesIO()
        draw_panels(file, [Panels.cut(case.name, image, maps, index) for index in indices], self.dataset.classes)
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _place(found: Finding) -> str:
    return "" if found.index is None else f", slice {found.index + 1}"
