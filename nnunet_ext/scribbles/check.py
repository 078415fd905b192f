"""``nnunet-ext scribbles check``: quality control of a data set with scribbles, before it costs a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.finite import not_finite, read_as_zero
from nnunet_ext.data.raw import RawCase, RawDataset, open_dataset, require_labels
from nnunet_ext.data.reading import Reader, Volume
from nnunet_ext.errors import InputError
from nnunet_ext.findings import by_severity
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.scribbles.check_report import CheckReport
from nnunet_ext.scribbles.findings import (
    CheckedCase,
    Finding,
    across_edges,
    against_dense,
    coverage,
    of_all,
)
from nnunet_ext.scribbles.label_map import slice_axis, slices_with
from nnunet_ext.scribbles.resampling import Grid, median_grid, planned_grids, resampled


def check_dataset(
    dataset: str | int | Path,
    *,
    dense: str | Path | None = None,
    plans: str = "nnUNetPlans",
    processes: int | None = None,
) -> CheckReport:
    """Look at every training case of a data set with an ignore label.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw``, or a folder.
        dense: folder of dense label maps with the same file names, to find leaks and missed components.
        plans: name of the plans in ``nnUNet_preprocessed`` whose spacings are used to see what resampling removes;
            without such plans it is the median spacing of the cases.
        processes: how many cases at a time; as many as there are cores by default.

    Raises:
        InputError: a file cannot be read, or files do not fit together.
    """
    raw = open_dataset(dataset)
    dense_files = _dense_files(raw, dense)
    findings = list(_declared(raw))
    if raw.ignore is None:
        return CheckReport(raw, (), tuple(findings), dense_files)
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
    cases = tuple(for_every_case(check_case, calls, processes, "check"))
    findings += of_all(cases, raw.classes, bool(dense_files))
    findings.append(Finding("note", "resampling", f"resampled with nnU-Net's function to {titles}"))
    return CheckReport(raw, cases, tuple(by_severity(findings)), dense_files)


def check_case(
    case: RawCase,
    dense_file: Path | None,
    classes: Mapping[int, str],
    ignore: int,
    reader_name: str,
    grids: Sequence[Grid],
) -> CheckedCase:
    """Look at one case.

    Args:
        case: files.
        dense_file: its dense label map, if there is one.
        classes: names by label value.
        ignore: the ignore label.
        reader_name: of nnU-Net's reader.
        grids: to which nnU-Net would resample.

    Raises:
        InputError: a file cannot be read, or does not fit the others.
    """
    reader = Reader(reader_name)
    scribbles = reader.labels(case.label)
    require_labels(scribbles.array, {*classes, ignore}, case.label)
    channels = reader.channels(case.images)
    image = channels.first()
    _require_same_grid(case, scribbles, image, case.images[0])
    annotated = slices_with(scribbles.array != ignore, slice_axis(scribbles.spacing_mm))
    voxels = {value: int((scribbles.array == value).sum()) for value in classes}
    findings = list(coverage(case.name, voxels, scribbles.array.size))
    if text := not_finite(channels.array):
        findings.append(Finding("fatal", "not finite", text, case.name))
    elif text := read_as_zero(case.images, reader_name):
        findings.append(Finding("warning", "not finite", text, case.name))
    if dense_file is not None:
        dense = reader.labels(dense_file)
        require_labels(dense.array, {*classes, ignore}, dense_file)
        _require_same_grid(case, scribbles, dense, dense_file)
        findings += against_dense(case.name, scribbles.array, dense.array, scribbles.spacing_mm, classes, ignore)
    findings += across_edges(case.name, scribbles.array, image.array, scribbles.spacing_mm, classes)
    findings += vanished(case.name, scribbles.array, scribbles.spacing_mm, classes, grids)
    return CheckedCase(
        case.name, voxels, scribbles.array.size, int(annotated.sum()), len(annotated), tuple(by_severity(findings))
    )


def vanished(
    case: str, scribbles: NDArray, spacing_mm: Sequence[float], classes: Mapping[int, str], grids: Sequence[Grid]
) -> Iterator[Finding]:
    """Classes without any voxel after nnU-Net's resampling."""
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


def _declared(raw: RawDataset) -> Iterator[Finding]:
    """What ``dataset.json`` says about the ignore label."""
    highest = max(raw.classes)
    if raw.ignore is None:
        text = "dataset.json declares no ignore label: nnU-Net would train on every voxel as if it were annotated"
        yield Finding("fatal", "no ignore label", f'{text}; add "ignore": {highest + 1} to its labels')
    elif raw.ignore != highest + 1:
        text = f"the ignore label is {raw.ignore}, but nnU-Net needs the highest label plus one, {highest + 1}"
        yield Finding("fatal", "ignore label", text)


def _dense_files(raw: RawDataset, dense: str | Path | None) -> dict[str, Path]:
    if dense is None:
        return {}
    folder = Path(dense)
    if not folder.is_dir():
        raise InputError(f"The folder of dense labels {folder} does not exist; correct --dense.")
    files = {case.name: folder / case.label.name for case in raw.cases}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise InputError(
            f"{folder} has no dense labels for {len(missing)} of {len(files)} cases, such as {files[missing[0]].name}; "
            "add them, or check without --dense."
        )
    return files


def _spacing(label: Path, reader_name: str) -> tuple[float, ...]:
    return Reader(reader_name).labels(label).spacing_mm


def _require_same_grid(case: RawCase, scribbles: Volume, other: Volume, file: Path) -> None:
    """Shape and spacing, not the whole geometry: nnU-Net only warns when origin or direction differ, and trains."""
    for what, ours, theirs in (
        ("shape", scribbles.array.shape, other.array.shape),
        ("spacing (mm)", scribbles.spacing_mm, other.spacing_mm),
    ):
        if len(ours) != len(theirs) or not np.allclose(ours, theirs, rtol=1e-3, atol=0):
            raise InputError(
                f"Case {case.name}: the {what} of the scribbles is {np.round(ours, 4).tolist()}, of {file} "
                f"{np.round(theirs, 4).tolist()}; both must lie on the same voxels."
            )
