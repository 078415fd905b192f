"""Checks images without labels before a training, and compares them with the labelled images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.data.channels import require_channels, require_numbered
from nnunet_ext.data.finite import not_finite, read_as_zero
from nnunet_ext.data.folders import visible_files
from nnunet_ext.data.raw import RawDataset
from nnunet_ext.data.reading import Reader
from nnunet_ext.data.spacing_files import spacing_file
from nnunet_ext.errors import InputError
from nnunet_ext.findings import Finding, Severity
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.unlabelled.found import UnlabelledImages

FAR = 2.0
"""Factor by which a spacing may lie outside the range of the labelled images' spacings."""


@dataclass(frozen=True)
class Look:
    """Measurements of one image.

    Attributes:
        spacing_mm: spacing of the axes of the array.
        grey: 0.5th and 99.5th percentile of every channel.
        digest: digest of the voxels; equal for equal voxels, whatever the format.
        fault: kind and sentence; empty if the image can be preprocessed.
    """

    spacing_mm: tuple[float, ...] = ()
    grey: tuple[tuple[float, float], ...] = ()
    digest: str = ""
    fault: tuple[str, str] | tuple[()] = ()


def look_at(files: Sequence[Path], reader: str) -> Look:
    """Read and measure one image.

    Args:
        files: its channels.
        reader: name of nnU-Net's reader.
    """
    try:
        volume = Reader(reader).channels(files)
    except InputError as error:
        return Look(fault=("unreadable", str(error)))
    if wrong := not_finite(volume.array) or read_as_zero(files, reader):
        return Look(fault=("not finite", wrong))
    if flat := [number for number, channel in enumerate(volume.array) if channel.min() == channel.max()]:
        return Look(fault=("constant", f"all voxels of channel {flat[0]} are {volume.array[flat[0]].min():g}"))
    voxels = np.ascontiguousarray(volume.array, np.float32)
    digest = sha256(str(voxels.shape).encode() + voxels.tobytes()).hexdigest()
    low, high = np.percentile(voxels.reshape(len(voxels), -1), (0.5, 99.5), axis=1)
    return Look(volume.spacing_mm, tuple(zip(low.tolist(), high.tolist(), strict=True)), digest)


@dataclass(frozen=True)
class Checked:
    """Findings in images without labels, and which of these are copies.

    Attributes:
        findings: findings in these images.
        same_as: for every one that can be read, the labelled cases with the same voxels.
        labelled: labelled cases by the digest of their voxels.
    """

    findings: tuple[Finding, ...]
    same_as: Mapping[str, tuple[str, ...]]
    labelled: Mapping[str, tuple[str, ...]]


def check_images(
    images: UnlabelledImages,
    raw: RawDataset,
    fingerprint: Mapping[str, Any],
    schemes: Sequence[str],
    validates: Mapping[str, Sequence[int]],
    processes: int | None = None,
) -> Checked:
    """Check images without labels.

    Args:
        images: images to check.
        raw: the data set with its labelled cases.
        fingerprint: content of ``dataset_fingerprint.json``; entries that it lacks are not compared.
        schemes: normalisation of every channel, as in the plans.
        validates: for each labelled case, the folds in which it validates.
        processes: images read in parallel; by default one per core.
    """
    findings, whole = list(_misnumbered(images, raw)), dict(images.cases)
    for found in findings:
        whole.pop(found.case or "", None)
    findings += _left_out(images, raw)
    reader = raw.reader().name
    calls = [(files, reader) for files in whole.values()]
    looks = dict(zip(whole, for_every_case(look_at, calls, processes, "unlabelled images"), strict=True))
    for name, look in looks.items():
        if look.fault:
            findings.append(Finding("fatal", *look.fault, case=name))
    sound = {name: look for name, look in looks.items() if not look.fault}
    findings += [*_spacings(sound, fingerprint), *_grey_values(sound, fingerprint, schemes)]
    labelled = [(case.images, reader) for case in raw.cases]
    digests = [look.digest for look in for_every_case(look_at, labelled, processes, "labelled images")]
    names: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for case, digest in zip(raw.cases, digests, strict=True):
        if digest:
            names[digest] += (case.name,)
    same_as = {name: names.get(look.digest, ()) for name, look in sound.items()}
    findings += [*_copies(same_as, validates), *_twice(sound)]
    return Checked(tuple(findings), same_as, dict(names))


def _misnumbered(images: UnlabelledImages, raw: RawDataset) -> Iterator[Finding]:
    for name, files in images.cases.items():
        try:
            require_numbered(images.folder, raw.ending, name, files)
            require_channels({name: files}, raw.description)
        except InputError as error:
            yield Finding("fatal", "channels", str(error), name)


def _left_out(images: UnlabelledImages, raw: RawDataset) -> Iterator[Finding]:
    known = {file.name for files in images.cases.values() for file in files}
    known |= {file.name for files in images.cases.values() if (file := spacing_file(files[0], image=True))}
    others = [file.name for file in visible_files(images.folder, "") if file.is_file() and file.name not in known]
    if others:
        text = f"{len(others)} other files are" if len(others) > 1 else "another file is"
        example = f"such as {others[0]}" if len(others) > 1 else others[0]
        yield Finding("warning", "name", f"{text} left out, {example}: images are named CASE_0000{raw.ending}")


def _spacings(looks: Mapping[str, Look], fingerprint: Mapping[str, Any]) -> Iterator[Finding]:
    known = np.asarray(fingerprint.get("spacings") or np.empty((0, 3)))
    if not len(known):
        yield Finding("note", "spacing", "the fingerprint of the data set has no spacings to compare with")
        return
    low, high = known.min(0), known.max(0)
    for name, look in looks.items():
        spacing = np.asarray(look.spacing_mm)
        if (spacing < low / FAR).any() or (spacing > high * FAR).any():
            ranges = " × ".join(f"{a:.3g} to {b:.3g}" if a < b else f"{a:.3g}" for a, b in zip(low, high, strict=True))
            yield Finding(
                "warning",
                "spacing",
                f"a spacing of {' × '.join(f'{mm:.3g}' for mm in spacing)} mm is far from that of the labelled images, "
                f"{ranges} mm; is it the same kind of scan?",
                name,
            )


def _grey_values(
    looks: Mapping[str, Look], fingerprint: Mapping[str, Any], schemes: Sequence[str]
) -> Iterator[Finding]:
    known = fingerprint.get("foreground_intensity_properties_per_channel") or {}
    for name, look in looks.items():
        for channel, (low, high) in enumerate(look.grey):
            own = known.get(str(channel), {})
            first, last = own.get("percentile_00_5"), own.get("percentile_99_5")
            if first is None or (high >= first and low <= last):
                continue
            severity: Severity = "warning"
            fix = "; is the unit another one?"
            if schemes[channel] == "CTNormalization":
                fix = "; they are normalised by the labelled images, so is the unit another one?"
            elif schemes[channel] in ("ZScoreNormalization", "RescaleTo01Normalization"):
                severity, fix = "note", ""  # normalised by the image's own grey values, so any scale is fine
            yield Finding(
                severity,
                "grey values",
                f"channel {channel} has grey values of {low:.4g} to {high:.4g}, the labelled structures have "
                f"{first:.4g} to {last:.4g}{fix}",
                name,
            )


def _copies(same_as: Mapping[str, Sequence[str]], validates: Mapping[str, Sequence[int]]) -> Iterator[Finding]:
    for name, cases in same_as.items():
        if cases:
            folds = sorted({fold for case in cases for fold in validates.get(case, ())})
            where = f"; it is left out of fold {', '.join(map(str, folds))}, which it validates" if folds else ""
            yield Finding("warning", "copy", f"it has the voxels of the labelled case {', '.join(cases)}{where}", name)


def _twice(looks: Mapping[str, Look]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for name, look in looks.items():
        if (other := first.setdefault(look.digest, name)) != name:
            yield Finding("warning", "copy", f"it has the voxels of {other}; remove one of them", name)
