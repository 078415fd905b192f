"""``nnunet-ext landmarks check``: quality control of a data set with landmarks, before it costs a training.

The prior "this landmark lies on the surface of that organ" is measured in the cases that have both. Without such cases
it is estimated across the set: the position of a landmark relative to the centre of its image, in the images of cases
with the organ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_ext.data.finite import not_finite, read_as_zero
from nnunet_ext.data.geometry import Floats, Geometry, to_lps
from nnunet_ext.data.raw import RawCase, require_labels
from nnunet_ext.data.reading import Reader, Volume
from nnunet_ext.errors import InputError
from nnunet_ext.findings import by_severity, some
from nnunet_ext.landmarks.check_report import CheckReport, Distance
from nnunet_ext.landmarks.dataset import FOLDER, LandmarkDataset, Organs, as_3d, open_landmarks
from nnunet_ext.landmarks.declaration import Declaration
from nnunet_ext.landmarks.findings import (
    Finding,
    Position,
    annotated,
    flipped_fits,
    names_of,
    pairs,
    places,
    prior,
    strays,
    unusual_places,
)
from nnunet_ext.landmarks.formats import Cases, read_file
from nnunet_ext.landmarks.points import Landmarks, State
from nnunet_ext.processes.parallel import for_every_case

ACROSS = 20
"""Cases with an organ in which the landmarks of others are placed, to estimate the prior across the set."""


@dataclass(frozen=True, eq=False)
class CheckedCase:
    """One case; ``position`` is None without landmarks, ``organs`` are those with a surface in its label map."""

    name: str
    position: Position | None
    organs: frozenset[str]
    segmented: bool
    voxel_mm: float
    distances: tuple[Distance, ...]
    findings: tuple[Finding, ...]


def check_dataset(
    dataset: str | int | Path, *, labels: str | Path | None = None, processes: int | None = None
) -> CheckReport:
    """Look at every training case of a data set with landmarks.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw``, or a folder.
        labels: folder of label maps to measure the distances in, instead of ``labelsTr``; cases without a file there
            keep theirs.
        processes: how many cases at a time; as many as there are cores by default.

    Raises:
        InputError: there is no such data set, its declarations contradict each other, or an image cannot be read.
    """
    found = open_landmarks(dataset)
    if labels is not None and not Path(labels).is_dir():
        raise InputError(f"There is no folder {labels}; correct --labels.")
    landmarks, findings = _read(found)
    reader = found.raw.reader().name
    files = {case.name: _label_file(case, labels) for case in found.raw.cases}
    calls = [
        (case, files[case.name], landmarks.get(case.name), found.declaration, found.organs, reader)
        for case in found.raw.cases
    ]
    cases = tuple(for_every_case(check_case, calls, processes, "check"))
    distances = [distance for case in cases for distance in case.distances]
    distances += _across(found, cases, files, reader, processes, {(d.landmark, d.organ) for d in distances})
    findings += _of_all(found, cases, distances)
    findings += [finding for case in cases for finding in case.findings]
    positions = {case.name: case.position for case in cases if case.position is not None}
    segmented = [case.name for case in cases if case.segmented]
    return CheckReport(found, positions, tuple(segmented), tuple(distances), tuple(by_severity(findings)))


def check_case(
    case: RawCase,
    label_file: Path,
    landmarks: Landmarks | None,
    declaration: Declaration,
    organs: Organs,
    reader_name: str,
) -> CheckedCase:
    """Look at one case.

    Args:
        case: files.
        label_file: where its organs are.
        landmarks: of its file; None without a file.
        declaration: of the landmarks.
        organs: the labels of the data set.
        reader_name: of nnU-Net's reader.

    Raises:
        InputError: a file cannot be read.
    """
    reader = Reader(reader_name)
    channels, labels = reader.channels(case.images), reader.labels(label_file)
    image = channels.first()
    require_labels(labels.array, organs.known, label_file)
    geometry, shape = Geometry.from_volume(image), as_3d(image.array).shape
    findings = list(_same_grid(case.name, image, labels, label_file))
    if text := not_finite(channels.array):
        findings.append(Finding("fatal", "not finite", text, case.name))
    elif text := read_as_zero(case.images, reader_name):
        findings.append(Finding("warning", "not finite", text, case.name))
    segmented = bool(np.any(labels.array != organs.ignore)) and organs.annotated.get(case.name) != frozenset()
    surfaces = {organ: organs.surface(case.name, organ, labels) for organ in organs.values}
    visible = {organ: surface for organ, surface in surfaces.items() if surface is not None}
    position, distances = None, []
    if landmarks is not None:
        position = Position.of(landmarks, declaration.names, geometry, shape)
        findings += names_of(case.name, landmarks, declaration.names)
        findings += places(case.name, position, declaration.names)
        flipped = []
        for k, name in enumerate(declaration.names):
            for organ in declaration.surface_of.get(name, ()):
                if organ in visible and position.states[k] == State.PRESENT:
                    point = position.points_mm[k]
                    both = geometry.to_index([point, to_lps(point, "RAS")])
                    here, there = visible[organ].signed_distances_mm(both)
                    distances.append(Distance(case.name, name, organ, float(here)))
                    flipped.append(there)
        if distances and not any(finding.kind == "RAS/LPS" for finding in findings):
            ours = np.array([distance.mm for distance in distances])
            findings += flipped_fits(case.name, ours, np.array(flipped), float(min(image.spacing_mm)))
        findings += _empty_mask(case.name, position, labels, declaration, organs)
    if not segmented and (position is None or not (position.states != State.UNKNOWN).any()):
        text = "neither landmarks nor labels: it teaches nothing; is the file of landmarks called like the case?"
        findings.append(Finding("warning", "neither", text, case.name))
    return CheckedCase(
        case.name,
        position,
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
    """Distances of landmarks of other cases from the organs of this case, images laid centre on centre.

    Args:
        name: of the case.
        label_file: its label map.
        organs: the labels of the data set.
        reader_name: of nnU-Net's reader.
        offsets_mm: by landmark and organ, ``(N, 3)``, from the centres of the images of the other cases.
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


def _read(found: LandmarkDataset) -> tuple[Cases, list[Finding]]:
    """All files that can be read; a finding for each that cannot, or that belongs to no case."""
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


def _same_grid(case: str, image: Volume, labels: Volume, label_file: Path) -> Iterator[Finding]:
    """nnU-Net only prints a warning when image and label map lie elsewhere, but landmarks are placed in the image."""
    one, other = Geometry.from_volume(image), Geometry.from_volume(labels)
    if image.array.shape != labels.array.shape:
        found = f"{labels.array.shape}, of the image {image.array.shape}"
        raise InputError(f"{label_file}: the shape is {found}; both must lie on the same voxels.")
    corners = np.array([(0, 0, 0), as_3d(image.array).shape])
    apart = np.linalg.norm(one.to_mm(corners) - other.to_mm(corners), axis=1).max()
    if apart > 0.5 * min(image.spacing_mm):
        text = f"the label map lies up to {apart:.1f} mm from the image: copy origin and direction of the image to it"
        yield Finding("fatal", "geometry", text, case)


def _empty_mask(
    case: str, position: Position, labels: Volume, declaration: Declaration, organs: Organs
) -> Iterator[Finding]:
    """A label map of zeros for a case with only landmarks teaches that there are no organs."""
    if labels.array.any() or organs.annotated.get(case) == frozenset():
        return
    on_organs = [
        name
        for k, name in enumerate(declaration.names)
        if position.states[k] == State.PRESENT and name in declaration.surface_of
    ]
    text = "the label map is all background"
    if on_organs:
        text += f", but {on_organs[0]} lies on an organ: nnU-Net would learn that there is none; fill it with ignore"
        yield Finding("fatal", "empty mask", text, case, on_organs[0])
    else:
        text += "; if nobody labelled the case, fill it with the ignore label"
        yield Finding("warning", "empty mask", text, case)


def _of_all(found: LandmarkDataset, cases: Sequence[CheckedCase], distances: Sequence[Distance]) -> Iterator[Finding]:
    """What only the whole data set shows."""
    positions = {case.name: case.position for case in cases if case.position is not None}
    names = found.declaration.names
    if found.files:
        yield from annotated(positions, names)
    mixed = {f.case for case in cases for f in case.findings if f.kind == "RAS/LPS"}
    fitting = {case: position for case, position in positions.items() if case not in mixed}
    yield from pairs(fitting, found.declaration)
    yield from unusual_places(fitting)
    voxel_mm = float(np.median([case.voxel_mm for case in cases]))
    for name in names:
        organs = found.declaration.surface_of.get(name, ())
        if not organs:
            text = f"{name} has no surface_of: it is learned, but ties no organ to it"
            yield Finding("note", "no prior", text, landmark=name)
        for organ in organs:
            own = [d for d in distances if (d.landmark, d.organ) == (name, organ)]
            if own:
                mm = np.array([d.mm for d in own])
                yield from prior(name, organ, mm, voxel_mm, measured=not own[0].across)
                if not own[0].across:
                    here = {d.case: d.mm for d in own if d.case not in mixed}
                    yield from strays(name, organ, here, voxel_mm)
            else:
                text = f"no case to measure how far {name} is from {organ}"
                yield Finding("note", "prior", text, landmark=name)
    only = [case.name for case in cases if not case.segmented]
    if only and any("CT" in str(channel).upper() for channel in found.raw.description["channel_names"].values()):
        text = (
            f"in {some(only)} nothing is segmented, and nnU-Net takes the grey values for CT from the whole image there"
        )
        yield Finding("warning", "CT", f"{text}; extract the fingerprint without them")


def _across(
    found: LandmarkDataset,
    cases: Sequence[CheckedCase],
    files: Mapping[str, Path],
    reader: str,
    processes: int | None,
    measured: set[tuple[str, str]],
) -> list[Distance]:
    """Distances for every landmark and organ that no case has both of."""
    offsets: dict[tuple[str, str], Floats] = {}
    for k, name in enumerate(found.declaration.names):
        own = [case.position.offsets_mm()[k] for case in cases if case.position is not None]
        own = [offset for offset in own if np.isfinite(offset).all()]
        for organ in found.declaration.surface_of.get(name, ()):
            if own and (name, organ) not in measured:
                offsets[name, organ] = np.stack(own)
    organs = {organ for _, organ in offsets}
    hosts = [case.name for case in cases if case.organs & organs]
    chosen = [hosts[i] for i in np.unique(np.linspace(0, len(hosts) - 1, ACROSS).astype(int))] if hosts else []
    calls = [(name, files[name], found.organs, reader, offsets) for name in chosen]
    return [d for distances in for_every_case(distances_elsewhere, calls, processes, "across") for d in distances]
