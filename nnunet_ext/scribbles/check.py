"""``nnunet-ext scribbles check``: quality control of a data set with scribbles, before a training is spent on it.

::

    overview.html   pictures of the suspicious cases, all findings, all cases; one file that needs no network
    findings.csv    one row per finding
    check.json      the findings and the numbers of every case
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.channels import images_by_case
from nnunet_ext.data.finite import not_finite_findings
from nnunet_ext.data.geometry import apart_mm, slice_axis
from nnunet_ext.data.raw import DENSE_FRACTION, RawCase, RawDataset, open_dataset, require_labels, require_no_scribbles
from nnunet_ext.data.reading import Reader, Volume
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json, write_text
from nnunet_ext.findings import CheckReport, Finding, aligned, few, some
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.scribbles.check_rules import CheckedScribbles, against_dense, coverage, of_all
from nnunet_ext.scribbles.check_strokes import across_edges, misplaced, only_rare, touching
from nnunet_ext.scribbles.crf import RelabelTest, measure_windows, unplanned, worst_slice
from nnunet_ext.scribbles.label_map import slices_with
from nnunet_ext.scribbles.overview import Panels, draw_panels, most_annotated_slice
from nnunet_ext.scribbles.resampling import DEFAULT_PLANS, Grid, median_grid, planned, planned_grids, resampled
from nnunet_ext.version import __version__

PICTURES, SLICES = 12, 3
"""Largest number of cases in the overview, and of pictures per case."""


@dataclass(frozen=True)
class ScribbleReport(CheckReport):
    """Findings in scribbles, with the numbers of every case.

    Attributes:
        dataset: the data set that was checked.
        cases: numbers and findings by case; empty if the data set has no ignore label.
        dense: dense label maps by case, for the cases that have one.
        plans: content of the plans, if the data set is planned.
        relabel_tests: tests of the CRF losses of the plans, if there are dense labels.
    """

    columns: ClassVar[Mapping[str, str]] = {**CheckReport.columns, "label": "about", "index": "index"}

    dataset: RawDataset
    cases: tuple[CheckedScribbles, ...]
    dense: Mapping[str, Path]
    plans: Mapping[str, Any] = field(default_factory=dict)
    relabel_tests: tuple[RelabelTest, ...] = ()

    def table(self) -> list[list[str]]:
        """Table with a header, one row per class: annotated voxels, share of all annotated voxels, annotated cases."""
        total = sum(sum(case.voxels.values()) for case in self.cases)
        rows = [["class", "voxels", "share", "cases"]]
        for value, name in self.dataset.classes.items():
            count = sum(case.voxels[value] for case in self.cases)
            drawn = sum(case.voxels[value] > 0 for case in self.cases)
            rows.append([name, str(count), f"{100 * count / max(total, 1):.1f} %", f"{drawn}/{len(self.cases)}"])
        return rows

    def relabel_table(self) -> list[list[str]]:
        """Table with a header, one row per class: share of correct voxels that each planned CRF loss would change."""
        rows = [
            ["correct voxels that the CRF loss changes", *(test.planned.configuration for test in self.relabel_tests)]
        ]
        for name in self.relabel_tests[0].shares[0]:
            shares = [test.shares[0][name] for test in self.relabel_tests]
            rows.append([name, *("–" if np.isnan(share) else f"{100 * share:.1f} %" for share in shares)])
        return rows

    def summary(self) -> str:
        """One line: the annotated share of voxels and slices, and the verdict."""
        found = self.verdict()
        if not self.cases:
            return f"{self.dataset.name}: {found}"
        annotated = sum(sum(case.voxels.values()) for case in self.cases) / sum(case.size for case in self.cases)
        slices = f"{sum(case.annotated_slices for case in self.cases)}/{sum(case.slices for case in self.cases)} slices"
        return f"{self.dataset.name}: {len(self.cases)} cases, {100 * annotated:.2f} % annotated, {slices}; {found}"

    def report(self) -> str:
        """The text to print."""
        lines = [self.summary()]
        if self.cases:
            lines += ["", *aligned(self.table())]
        if self.relabel_tests:
            lines += ["", *aligned(self.relabel_table())]
        if self.findings:
            lines += ["", *self.first_listed()]
        return "\n".join(lines)

    def write(self, folder: str | Path) -> None:
        """Write ``overview.html``, ``findings.csv`` and ``check.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.write_findings(folder)
        content = {
            "nnunet_ext": __version__,
            "dataset": str(self.dataset.folder),
            "summary": self.summary(),
            "findings": self.rows(),
            "cases": {
                case.name: {
                    "annotated_fraction": case.fraction,
                    "annotated_slices": case.annotated_slices,
                    "slices": case.slices,
                    "annotated_voxels": {self.dataset.classes[value]: n for value, n in case.voxels.items()},
                }
                for case in self.cases
            },
            "crf": {
                test.planned.configuration: [
                    {**asdict(test.planned.window(place)), "cases": test.cases, "changed": _without_nan(shares)}
                    for place, shares in enumerate(test.shares)
                ]
                for test in self.relabel_tests
            },
        }
        write_json(folder / "check.json", content)
        write_text(folder / "overview.html", self._page())

    def suspicious(self) -> list[CheckedScribbles]:
        """The cases with warnings or fatal findings, most findings first."""

        def count(case: CheckedScribbles) -> int:
            return sum(found.severity != "note" for found in case.findings)

        return sorted((case for case in self.cases if count(case)), key=count, reverse=True)

    def _page(self) -> str:
        import jinja2

        templates = jinja2.Environment(
            loader=jinja2.PackageLoader("nnunet_ext.scribbles"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        return templates.get_template("check.html.j2").render(
            report=self, version=__version__, cases=list(self._pictures()), crf=list(self._crf_pictures())
        )

    def _pictures(self) -> Iterator[dict[str, Any]]:
        """Cases of the overview, each with its pictures: see :meth:`_drawn`."""
        files = {case.name: case for case in self.dataset.cases}
        # without suspicious cases show two others, so that a reader sees what was checked
        others = sorted(self.cases, key=lambda case: len(case.findings), reverse=True)[:2]
        for case in self.suspicious()[:PICTURES] or others:
            yield {"case": case, "pictures": list(self._drawn(files[case.name], case))}

    def _crf_pictures(self) -> Iterator[dict[str, Any]]:
        """For each tested CRF loss, its finding and a picture of the slice that it changes most."""
        files = {case.name: case for case in self.dataset.cases}
        for test in self.relabel_tests:
            case = files[test.worst[0]]
            panels, names = worst_slice(test, self.plans, self.dataset.description, case, self.dense[case.name])
            found = test.finding(self.dataset.name, self.plans["plans_name"])
            yield {"found": found, "source": self._picture(panels, names)}

    def _drawn(self, files: RawCase, case: CheckedScribbles) -> Iterator[dict[str, Any]]:
        """Pictures of a case, each with its findings: one per place that a finding names.

        Findings without a place are listed below a picture of the most annotated slice. Notes are drawn only if the
        case has no warning.
        """
        draw = partial(self._picture, classes=self.dataset.classes)
        reader = self.dataset.reader()
        volume = reader.labels(files.label)
        scribbles = volume.array
        # as in the findings: spacings that differ by rounding must not give another axis
        image = replace(reader.image(files.images[0]), spacing_mm=volume.spacing_mm)
        maps = {"scribbles": scribbles}
        if case.name in self.dense:
            maps["dense labels"] = reader.labels(self.dense[case.name]).array
        enlarged = {"enlarged": np.full(scribbles.shape, -1), **maps}
        shown = [found for found in case.findings if found.severity != "note"] or list(case.findings)
        named = [(found, found.index) for found in shown if found.index is not None][:SLICES]
        for found, index in named:
            yield {"about": [found], "source": draw(Panels.cut(case.name, image, enlarged, index, found.box))}
        rest = [found for found in shown if found.index is None]
        if rest or not named:
            index = most_annotated_slice(scribbles, image.spacing_mm, self.dataset.ignore)
            yield {"about": rest, "source": draw(Panels.cut(case.name, image, maps, index))}

    def _picture(self, panels: Panels, classes: Mapping[int, str]) -> str:
        """A PNG as a data URL."""
        file = io.BytesIO()
        draw_panels(file, [panels], classes)
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def check_scribbles(
    dataset: str | int | Path,
    *,
    dense: str | Path | None = None,
    plans: str = DEFAULT_PLANS,
    processes: int | None = None,
) -> ScribbleReport:
    """Check every training case of a data set with an ignore label.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw``, or a folder.
        dense: folder of dense label maps with the same file names, for all cases or some. They reveal leaks and missed
            components, and the CRF losses of the plans are tested on them.
        plans: name of the plans in ``nnUNet_preprocessed``. Their CRF losses are tested, and scribbles are resampled
            to their spacings to see which classes vanish; if the data set is not planned yet, to the median spacing of
            the cases.
        processes: cases checked in parallel; by default one per core.

    Raises:
        InputError: a file cannot be read, files do not fit together, or the data set has other plans only.
    """
    raw = open_dataset(dataset)
    dense_files = _dense_files(raw, dense)
    declared = list(_declared(raw))
    findings = [*declared]
    if raw.ignore is None:
        return ScribbleReport(tuple(findings), raw, (), dense_files)
    reader = raw.reader()
    grids = planned_grids(raw.name, plans)
    if not grids:
        label_files = [(case.label, reader.name) for case in raw.cases]
        grids = [median_grid(list(for_every_case(_spacing, label_files, processes, "spacing")))]
    titles = " and ".join(grid.title for grid in grids)
    calls = [
        (case, dense_files.get(case.name), dict(raw.classes), raw.ignore, reader.name, tuple(grids))
        for case in raw.cases
    ]
    checked, usual = only_rare(list(for_every_case(check_case, calls, processes, "check")))
    cases = tuple(checked)
    findings += usual
    findings += of_all(cases, raw.classes, len(dense_files) == len(cases))
    content = planned(raw.name, plans)
    tests: list[RelabelTest] = []
    if dense_files and content is None:
        findings.append(unplanned(raw.name))
    elif dense_files and content is not None and not any(found.severity == "fatal" for found in declared):
        tests, notes = measure_windows(content, raw, dense_files, processes)
        findings += [*(test.finding(raw.name, plans) for test in tests), *notes]
    findings.append(Finding("note", "resampling", f"resampled with nnU-Net's function to {titles}"))
    findings += [found for case in cases for found in case.findings]
    return ScribbleReport(ScribbleReport.by_severity(findings), raw, cases, dense_files, content or {}, tuple(tests))


def check_case(
    case: RawCase,
    dense_file: Path | None,
    classes: Mapping[int, str],
    ignore: int,
    reader_name: str,
    grids: Sequence[Grid],
) -> CheckedScribbles:
    """Check one case.

    Args:
        case: its files.
        dense_file: its dense label map, if there is one.
        classes: names by label value.
        ignore: the ignore label.
        reader_name: name of nnU-Net's reader.
        grids: grids that nnU-Net would resample to.

    Raises:
        InputError: a file cannot be read, or does not fit the others.
    """
    reader = Reader(reader_name)
    scribbles = reader.labels(case.label)
    require_labels(scribbles.array, {*classes, ignore}, case.label)
    channels = reader.channels(case.images)
    image = channels.first()
    _require_same_grid(case, scribbles, image, case.images[0])
    findings = list(_elsewhere(case.name, scribbles, image, f"the image {case.images[0].name}"))
    annotated = slices_with(scribbles.array != ignore, slice_axis(scribbles.spacing_mm, scribbles.array.shape))
    voxels = {value: int((scribbles.array == value).sum()) for value in classes}
    findings += coverage(case.name, voxels, scribbles.array.size)
    findings += not_finite_findings(case.name, channels.array, case.images, reader_name)
    if dense_file is not None:
        dense = reader.labels(dense_file)
        require_labels(dense.array, {*classes, ignore}, dense_file)
        _require_same_grid(case, scribbles, dense, dense_file)
        require_no_scribbles(dense.array, ignore, dense_file)
        findings += _elsewhere(case.name, scribbles, dense, "their dense labels")
        findings += against_dense(case.name, scribbles.array, dense.array, scribbles.spacing_mm, classes, ignore)
    looked: Counter[tuple[str, str]] = Counter()
    if np.isin(scribbles.array, list(classes)).mean() <= DENSE_FRACTION:  # dense labels touch everywhere
        here = (case.name, scribbles.array)
        grey = np.nan_to_num(image.array, nan=0.0, posinf=0.0, neginf=0.0)  # already reported above
        for places, found in (
            touching(*here, scribbles.spacing_mm, classes),
            misplaced(*here, grey, scribbles.spacing_mm, classes),
        ):
            looked += places
            findings += found
        findings += across_edges(*here, grey, scribbles.spacing_mm, classes)
    findings += vanished(case.name, scribbles.array, scribbles.spacing_mm, classes, grids)
    return CheckedScribbles(
        case.name,
        voxels,
        scribbles.array.size,
        int(annotated.sum()),
        len(annotated),
        looked,
        ScribbleReport.by_severity(findings),
    )


def vanished(
    case: str, scribbles: NDArray, spacing_mm: Sequence[float], classes: Mapping[int, str], grids: Sequence[Grid]
) -> Iterator[Finding]:
    """Find classes whose scribbles vanish in nnU-Net's resampling."""
    before = set(np.unique(scribbles).tolist()) & set(classes)
    for grid in grids:
        try:
            after = set(np.unique(resampled(scribbles, spacing_mm, grid)).tolist())
        except RuntimeError as error:  # plans can name functions that this nnU-Net does not have
            reason = " ".join(str(error).split())
            yield Finding("note", "resampling", f"not resampled to {grid.title}: {reason}", case)
            continue
        for value in sorted(before - after):
            text = f"the scribble of {classes[value]} vanishes when nnU-Net resamples to {grid.title}"
            yield Finding("warning", "vanishes", text, case, classes[value])


# --- parts ------------------------------------------------------------------------------------------------------------


def _without_nan(shares: Mapping[str, float]) -> dict[str, float | None]:
    """Shares as JSON can hold them; None for a class that no tested case has."""
    return {name: None if np.isnan(share) else share for name, share in shares.items()}


def _declared(raw: RawDataset) -> Iterator[Finding]:
    """Find mistakes of ``dataset.json``, and images that nobody labelled."""
    highest = max(raw.classes)
    if raw.ignore is None:
        text = "dataset.json declares no ignore label: nnU-Net would train on every voxel as if it were annotated"
        yield Finding("fatal", "no ignore label", f'{text}; add "ignore": {highest + 1} to its labels')
    elif raw.ignore != highest + 1:
        text = f"the ignore label is {raw.ignore}, but nnU-Net needs the highest label plus one, {highest + 1}"
        yield Finding("fatal", "ignore label", text)
    regions = [name for name, value in raw.description["labels"].items() if isinstance(value, list) and len(value) > 1]
    if regions and not raw.description.get("regions_class_order"):
        text = f"dataset.json has regions ({few(regions)}) but no regions_class_order, which nnU-Net needs"
        yield Finding("fatal", "regions_class_order", text)
    if (stated := raw.description.get("numTraining")) != len(raw.cases):
        text = f"dataset.json has numTraining {stated}, but {len(raw.cases)} cases have a label: correct it"
        yield Finding("warning", "numTraining", f"{text}, or --verify_dataset_integrity of nnU-Net fails")
    cases = {case.name for case in raw.cases}
    if without := sorted(set(images_by_case(raw.folder / "imagesTr", raw.ending)) - cases):
        yield Finding("warning", "no label", f"{some(without)} in imagesTr without a label: nnU-Net trains without")


def _dense_files(raw: RawDataset, dense: str | Path | None) -> dict[str, Path]:
    if dense is None:
        return {}
    folder = Path(dense)
    if not folder.is_dir():
        raise InputError(f"The folder of dense labels {folder} does not exist; correct --dense.")
    files = {case.name: folder / case.label.name for case in raw.cases}
    found = {name: file for name, file in files.items() if file.is_file()}
    if not found:
        raise InputError(
            f"{folder} has dense labels of none of the {len(files)} cases: there is no {raw.cases[0].label.name}; "
            "correct --dense, or check without it."
        )
    return found


def _spacing(label: Path, reader_name: str) -> tuple[float, ...]:
    return Reader(reader_name).labels(label).spacing_mm


def _elsewhere(case: str, scribbles: Volume, other: Volume, what: str) -> Iterator[Finding]:
    """Find scribbles that lie elsewhere than the other volume by their headers."""
    if (apart := apart_mm(scribbles, other)) > 0.5 * min(other.spacing_mm):
        text = (
            f"by their headers the scribbles lie up to {apart:.1f} mm from {what}, and nnU-Net pairs voxels by index: "
            "if they fit so, copy origin and direction; if not, export the scribbles on its voxels"
        )
        yield Finding("warning", "geometry", text, case)


def _require_same_grid(case: RawCase, scribbles: Volume, other: Volume, file: Path) -> None:
    """Raise InputError unless shape and spacing agree.

    Origin and direction may differ, see :func:`_elsewhere`.
    """
    for what, ours, theirs in (
        ("shape", scribbles.array.shape, other.array.shape),
        ("spacing (mm)", scribbles.spacing_mm, other.spacing_mm),
    ):
        if len(ours) != len(theirs) or not np.allclose(ours, theirs, rtol=1e-3, atol=0):
            raise InputError(
                f"Case {case.name}: the {what} of the scribbles is {np.round(ours, 4).tolist()}, of {file} "
                f"{np.round(theirs, 4).tolist()}; both must lie on the same voxels."
            )
