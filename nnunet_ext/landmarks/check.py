"""``nnunet-ext landmarks check``: quality control of a data set with landmarks, before a training is spent on it.

The check measures the prior "this landmark lies on the surface of that organ" in the cases that have both. Without such
cases it estimates the prior across cases: a landmark keeps its offset from the centre of its image and is placed in the
images of cases with the organ. The command writes::

    findings.csv    severity, kind, text, case, landmark
    distances.csv   case, landmark, organ, mm (negative inside), across
    check.json      both, the table, and the annotation of every case
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nnunet_ext.data.channels import channel_names
from nnunet_ext.data.finite import not_finite_findings
from nnunet_ext.data.geometry import Floats, Geometry, to_lps
from nnunet_ext.data.raw import RawCase, a_few, require_labels
from nnunet_ext.data.reading import Reader, Volume
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json, write_rows
from nnunet_ext.findings import CheckReport, Finding, aligned, some
from nnunet_ext.landmarks.check_rules import (
    PlacedLandmarks,
    annotated,
    empty_mask,
    far_from_organ,
    flipped_everywhere,
    flipped_fits,
    names_of,
    pairs,
    places,
    prior,
    same_grid,
    unusual_places,
)
from nnunet_ext.landmarks.dataset import FOLDER, Declaration, Organs, RawLandmarkDataset, as_3d, open_landmarks
from nnunet_ext.landmarks.formats import Cases, read_file
from nnunet_ext.landmarks.points import Landmarks, State
from nnunet_ext.partial_labels.declaration import keys_like_ours
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.version import __version__

ACROSS = 20
"""Largest number of cases with an organ to place other cases' landmarks in, to estimate the prior across cases."""


@dataclass(frozen=True)
class Distance:
    """Distance of a landmark from the surface of an organ.

    Attributes:
        case: case whose label map it was measured in.
        landmark: name of the landmark.
        organ: name of the organ.
        mm: signed distance, negative inside.
        across: ``mm`` is instead the median unsigned distance of other cases' landmarks, with image centres aligned.
    """

    case: str
    landmark: str
    organ: str
    mm: float
    across: bool = False


@dataclass(frozen=True, eq=False)
class CheckedLandmarks:
    """One case; ``placed`` is None without landmarks, ``organs`` have a surface in the label map to measure in."""

    name: str
    placed: PlacedLandmarks | None
    organs: frozenset[str]
    segmented: bool
    voxel_mm: float
    distances: tuple[Distance, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, eq=False)
class LandmarkReport(CheckReport):
    """Findings in landmarks, with the annotation of every case and the distances from organs.

    Attributes:
        dataset: the data set that was checked.
        placed: landmarks in their image, by case with landmarks.
        segmented: cases with labels.
        distances: distances from organs, in the order of the cases.
    """

    columns: ClassVar[Mapping[str, str]] = {**CheckReport.columns, "landmark": "about"}

    dataset: RawLandmarkDataset
    placed: Mapping[str, PlacedLandmarks]
    segmented: tuple[str, ...]
    distances: tuple[Distance, ...]

    def table(self) -> list[list[str]]:
        """Table with a header, one row per landmark and organ: number of cases by state, and distances."""
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
            states = [placed.states[k] for placed in self.placed.values()]
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
        """One line: numbers of annotated cases, and the verdict."""
        both = len(set(self.placed) & set(self.segmented))
        counts = f"{len(self.placed)} with landmarks, {len(self.segmented)} with labels, {both} with both"
        return f"{self.dataset.raw.name}: {len(self.dataset.raw.cases)} cases, {counts}; {self.verdict()}"

    def report(self) -> str:
        """The text to print."""
        lines = [self.summary(), "", *aligned(self.table())]
        if any(distance.across for distance in self.distances):
            lines.append(
                "≈: across cases, with images laid centre on centre, because no case has both; a rough estimate"
            )
        if self.findings:
            lines += ["", *self.first_listed()]
        return "\n".join(lines)

    def write(self, folder: str | Path) -> None:
        """Write ``findings.csv``, ``distances.csv`` and ``check.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.write_findings(folder)
        distances = [{**asdict(distance), "mm": round(distance.mm, 4)} for distance in self.distances]
        write_rows(folder / "distances.csv", [field.name for field in fields(Distance)], distances)
        header, *rows = self.table()
        content = {
            "nnunet_ext": __version__,
            "dataset": str(self.dataset.raw.folder),
            "summary": self.summary(),
            "table": [dict(zip(header, row, strict=True)) for row in rows],
            "findings": self.rows(),
            "distances": distances,
            "cases": {case.name: self._case(case.name) for case in self.dataset.raw.cases},
        }
        write_json(folder / "check.json", content)

    def _case(self, name: str) -> dict[str, Any]:
        states: dict[str, str] = {}
        if name in self.placed:
            both = zip(self.dataset.declaration.names, self.placed[name].states, strict=True)
            states = {landmark: State(int(state)).name.lower() for landmark, state in both}
        return {"segmented": name in self.segmented, "landmarks": states}


def check_landmarks(
    dataset: str | int | Path, *, labels: str | Path | None = None, processes: int | None = None
) -> LandmarkReport:
    """Check every training case of a data set with landmarks.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw``, or a folder.
        labels: folder of label maps to measure the distances in, instead of ``labelsTr``; a case without a file there
            uses its own label map. All else is checked in ``labelsTr``, which a training learns from.
        processes: cases checked in parallel; by default one per core.

    Raises:
        InputError: there is no such data set, its declarations contradict each other, an image cannot be read, or
            ``labels`` holds no label map of a case.
    """
    found = open_landmarks(dataset)
    files = {case.name: _label_file(case, labels) for case in found.raw.cases}
    missing = [name for name, file in files.items() if labels is not None and file.parent != Path(labels)]
    if missing and len(missing) == len(files):
        raise InputError(f"{labels} holds no {found.raw.cases[0].label.name}, nor another case's; correct --labels.")
    landmarks, findings = _read(found)
    if missing:
        text = f"{some(missing)} not in {labels}: distances are measured in the own label map"
        findings.append(Finding("note", "labels", text))
    reader = found.raw.reader().name
    calls = [
        (case, files[case.name], landmarks.get(case.name), found.declaration, found.organs, reader)
        for case in found.raw.cases
    ]
    cases = tuple(for_every_case(check_case, calls, processes, "check"))
    distances = [distance for case in cases for distance in case.distances]
    organs = {case.name: found.organs.at(files[case.name], case.label) for case in found.raw.cases}
    distances += _across(found, cases, files, organs, reader, processes, {(d.landmark, d.organ) for d in distances})
    if unread := keys_like_ours(found.raw.description):
        findings.append(Finding("warning", "key", f"dataset.json: {unread}"))
    findings += _of_all(found, cases, distances)
    findings += [finding for case in cases for finding in case.findings]
    all_placed = {case.name: case.placed for case in cases if case.placed is not None}
    segmented = [case.name for case in cases if case.segmented]
    ordered = LandmarkReport.by_severity(flipped_everywhere(findings, len(all_placed)))
    return LandmarkReport(ordered, found, all_placed, tuple(segmented), tuple(distances))


def check_case(
    case: RawCase,
    label_file: Path,
    landmarks: Landmarks | None,
    declaration: Declaration,
    organs: Organs,
    reader_name: str,
) -> CheckedLandmarks:
    """Check one case.

    Args:
        case: its files.
        label_file: label map to measure distances in, usually that of the case.
        landmarks: landmarks of its file; None without a file.
        declaration: declaration of the landmarks.
        organs: the labels of the data set.
        reader_name: name of nnU-Net's reader.

    Raises:
        InputError: a file cannot be read.
    """
    reader = Reader(reader_name)
    channels = reader.channels(case.images)
    image = channels.first()
    geometry, shape = Geometry.from_volume(image), as_3d(image.array).shape
    findings = not_finite_findings(case.name, channels.array, case.images, reader_name)
    maps: dict[Path, Volume] = {}
    for file in (case.label, label_file):
        if file.resolve() not in maps:
            maps[file.resolve()] = labels = reader.labels(file)
            require_labels(labels.array, organs.known, file)
            findings += same_grid(case.name, image, labels, file)
    # a training learns from the case's own label map; the other one only says where the organs are
    own, measured = maps[case.label.resolve()], maps[label_file.resolve()]
    segmented = bool(np.any(own.array != organs.ignore)) and organs.annotated.get(case.name) != frozenset()
    there = organs.at(label_file, case.label)
    surfaces = {organ: there.surface(case.name, organ, measured) for organ in organs.values}
    visible = {organ: surface for organ, surface in surfaces.items() if surface is not None}
    placed, distances = None, []
    if landmarks is not None:
        placed = PlacedLandmarks.of(landmarks, declaration.names, geometry, shape)
        findings += names_of(case.name, landmarks, declaration.names)
        findings += places(case.name, placed, declaration.names)
        flipped = []
        for k, name in enumerate(declaration.names):
            for organ in declaration.surface_of.get(name, ()):
                if organ in visible and placed.states[k] == State.PRESENT:
                    point = placed.points_mm[k]
                    both = geometry.to_index([point, to_lps(point, "RAS")])
                    given, exchanged = visible[organ].signed_distances_mm(both)
                    distances.append(Distance(case.name, name, organ, float(given)))
                    flipped.append(exchanged)
        if distances and not any(finding.kind == "RAS/LPS" for finding in findings):
            ours = np.array([distance.mm for distance in distances])
            findings += flipped_fits(case.name, ours, np.array(flipped), float(min(image.spacing_mm)))
        findings += empty_mask(case.name, placed, own, declaration, organs)
    if not segmented and (placed is None or not (placed.states != State.UNKNOWN).any()):
        text = "neither landmarks nor labels: it teaches nothing; is the file of landmarks called like the case?"
        findings.append(Finding("warning", "neither", text, case.name))
    return CheckedLandmarks(
        case.name,
        placed,
        frozenset(visible),
        segmented,
        float(min(image.spacing_mm)),
        tuple(distances),
        tuple(findings),
    )


def distances_elsewhere(
    name: str,
    label_file: Path,
    organs: Organs,
    reader_name: str,
    offsets_mm: Mapping[tuple[str, str], Floats],
) -> list[Distance]:
    """Distances of other cases' landmarks from the organs of this case, with image centres aligned.

    Args:
        name: name of the case.
        label_file: its label map.
        organs: the labels of the data set.
        reader_name: name of nnU-Net's reader.
        offsets_mm: by landmark and organ, ``(N, 3)`` offsets of the landmark from the image centres of other cases.
    """
    labels = Reader(reader_name).labels(label_file)
    geometry = Geometry.from_volume(labels)
    centre = geometry.to_mm((np.asarray(as_3d(labels.array).shape) - 1) / 2)
    distances = []
    for (landmark, organ), offsets in offsets_mm.items():
        surface = organs.surface(name, organ, labels)
        if surface is not None:
            signed = surface.signed_distances_mm(geometry.to_index(centre + offsets))
            distances.append(Distance(name, landmark, organ, float(np.median(np.abs(signed))), across=True))
    return distances


# --- parts ------------------------------------------------------------------------------------------------------------


def _read(found: RawLandmarkDataset) -> tuple[Cases, list[Finding]]:
    """Read the landmarks of all cases, with a finding for each file that is unreadable or belongs to no case."""
    cases: Cases = {}
    findings: list[Finding] = []
    if not found.files:
        findings.append(Finding("fatal", "no landmarks", f"{found.raw.folder / FOLDER} holds no files of landmarks"))
    for file in found.files:
        try:
            read = read_file(file)
        except InputError as error:
            findings.append(Finding("fatal", "unreadable", str(error)))
            continue
        for case in set(read) & set(cases):
            findings.append(Finding("fatal", "twice", f"{file.name} and another file have landmarks of it", case))
        cases |= read
    if orphans := sorted(set(cases) - {case.name for case in found.raw.cases}):
        text = f"landmarks of {some(orphans)}, but there is no training case of that name; rename the files"
        findings.append(Finding("warning", "no image", text))
    if strangers := sorted(set(found.organs.annotated) - {case.name for case in found.raw.cases}):
        text = f"annotated_labels of {some(strangers)}, but there is no training case of that name"
        findings.append(Finding("warning", "no image", text))
    return cases, findings


def _label_file(case: RawCase, folder: str | Path | None) -> Path:
    other = Path(folder) / case.label.name if folder is not None else case.label
    return other if other.is_file() else case.label


def _of_all(
    found: RawLandmarkDataset, cases: Sequence[CheckedLandmarks], distances: Sequence[Distance]
) -> Iterator[Finding]:
    """Find mistakes that only the whole data set shows."""
    all_placed = {case.name: case.placed for case in cases if case.placed is not None}
    names = found.declaration.names
    if found.files:
        yield from annotated(all_placed, names)
    mixed = {f.case for case in cases for f in case.findings if f.kind == "RAS/LPS"}
    fitting = {case: placed for case, placed in all_placed.items() if case not in mixed}
    yield from pairs(fitting, found.declaration)
    yield from unusual_places(fitting)
    voxel_mm = float(np.median([case.voxel_mm for case in cases]))
    for name in names:
        organs = found.declaration.surface_of.get(name, ())
        if not organs:
            text = f"{name} has no surface_of: it is learned, but ties no organ to it"
            yield Finding("note", "no prior", text, about=name)
        for organ in organs:
            own = [d for d in distances if (d.landmark, d.organ) == (name, organ)]
            if own:
                mm = np.array([d.mm for d in own])
                yield from prior(name, organ, mm, voxel_mm, measured=not own[0].across)
                if not own[0].across:
                    here = {d.case: d.mm for d in own if d.case not in mixed}
                    yield from far_from_organ(name, organ, here, voxel_mm)
            else:
                text = f"no case to measure how far {name} is from {organ}"
                yield Finding("note", "prior", text, about=name)
    only = [case.name for case in cases if not case.segmented]
    if only and any("CT" in name.upper() for name in channel_names(found.raw.description)):
        text = (
            f"in {some(only)} nothing is segmented, and nnU-Net takes the grey values for CT from the whole image there"
        )
        yield Finding("warning", "CT", f"{text}; extract the fingerprint without them")


def _across(
    found: RawLandmarkDataset,
    cases: Sequence[CheckedLandmarks],
    files: Mapping[str, Path],
    labels: Mapping[str, Organs],
    reader: str,
    processes: int | None,
    measured: set[tuple[str, str]],
) -> list[Distance]:
    """Distances across cases, for every landmark and organ that are never annotated in the same case."""
    offsets: dict[tuple[str, str], Floats] = {}
    for k, name in enumerate(found.declaration.names):
        own = [case.placed.offsets_mm()[k] for case in cases if case.placed is not None]
        own = [offset for offset in own if np.isfinite(offset).all()]
        for organ in found.declaration.surface_of.get(name, ()):
            if own and (name, organ) not in measured:
                offsets[name, organ] = np.stack(own)
    organs = {organ for _, organ in offsets}
    hosts = [case.name for case in cases if case.organs & organs]
    calls = [(name, files[name], labels[name], reader, offsets) for name in a_few(hosts, ACROSS)]
    return [d for distances in for_every_case(distances_elsewhere, calls, processes, "across") for d in distances]
