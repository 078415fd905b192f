"""A data set whose annotators disagree about one border: the border is moved at random in every case.

::

    Dataset304_HippocampusMovedBorder/
        dataset.json       refers to the images of the source, which are not copied
        labelsTr/          the labels, with the border moved
        borders.json       options, and the number of changed voxels of each case

The source holds the true labels. So a benchmark shows how a trainer copes with labels that are right on average and
wrong in every case.
"""

from __future__ import annotations

import zlib
from math import pi, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from nnunet_ext.benchmark.spec import MovedBorders
from nnunet_ext.data.derived import derived_description, new_dataset_folder
from nnunet_ext.data.raw import RawCase, open_dataset, require_labels, write_label_map
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json, written_as_a_whole
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.version import __version__

ABOUT = "borders.json"


def move_border(
    labels: NDArray,
    spacing: tuple[float, ...],
    between: tuple[int, int],
    options: MovedBorders,
    rng: np.random.Generator,
) -> NDArray:
    """Move the border between two labels at random; their union and all other labels stay as they are.

    A smooth random field is added to the signed distance to the border, in mm and negative in the first label. The sign
    of the sum then gives the label.

    Args:
        labels: label map, 2D or 3D.
        spacing: mm, by axis.
        between: values of the two labels.
        options: how far and how smoothly to move.
        rng: source of random numbers.
    """
    first, second = (labels == value for value in between)
    if not (first.any() and second.any()):
        return labels.copy()
    # the transform measures to the centre of a voxel across the border; the border lies half a voxel before it
    half = min(spacing) / 2
    to_first = distance_transform_edt(~first, spacing) - half
    to_second = distance_transform_edt(~second, spacing) - half
    distance = np.where(first, -to_second, to_first)
    # an axis of one voxel is not smoothed
    sigma = [options.smooth_mm / size if n > 1 else 0.0 for size, n in zip(spacing, labels.shape, strict=True)]
    field = gaussian_filter(rng.standard_normal(labels.shape), sigma)
    field *= options.sd_mm * np.prod([sqrt(2 * sqrt(pi) * s) for s in sigma if s > 0])  # undoes the smoothing's loss
    moved = labels.copy()
    both = first | second
    moved[both] = np.where(distance + field < 0, *between)[both]
    return moved


def move_borders(dataset: str | int, out: str | int, options: MovedBorders, *, processes: int | None = None) -> Path:
    """Write a data set with moved borders into ``nnUNet_raw`` and return its folder; after an error nothing is left.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw``.
        out: number of the new data set, or its whole name.
        options: which border to move, how far, and how smoothly.
        processes: cases in parallel; by default one per core. The result does not depend on it.

    Raises:
        InputError: the source cannot be read or has no such label, or the number is taken.
    """
    source = open_dataset(dataset)
    values = {name: value for value, name in source.classes.items()}
    if unknown := [name for name in options.between if name not in values]:
        raise InputError(
            f"drawn, {out}: borders between {' and '.join(options.between)}, but {source.name} has no label "
            f"{unknown[0]!r}; it has {', '.join(values)}."
        )
    between = (values[options.between[0]], values[options.between[1]])
    target = new_dataset_folder(source, str(out), "MovedBorder")
    with written_as_a_whole(target) as folder:
        (folder / "labelsTr").mkdir()
        calls = [(case, source.reader().name, source.known, between, options, folder) for case in source.cases]
        changed = list(for_every_case(_move_case, calls, processes, "borders"))
        text = f"{source.name} with a border moved at random in every case, by nnunet-ext {__version__}"
        write_json(folder / "dataset.json", derived_description(source, target, text))
        counts = {case.name: count for case, count in zip(source.cases, changed, strict=True)}
        write_json(
            folder / ABOUT, {"nnunet_ext": __version__, "options": options.model_dump(), "changed_voxels": counts}
        )
    return target


# --- parts ------------------------------------------------------------------------------------------------------------


def _move_case(
    case: RawCase, reader_name: str, known: set[int], between: tuple[int, int], options: MovedBorders, folder: Path
) -> int:
    reader = Reader(reader_name)
    dense = reader.labels(case.label)
    require_labels(dense.array, known, case.label)
    rng = np.random.default_rng([options.seed, zlib.crc32(case.name.encode())])
    moved = move_border(dense.array, dense.spacing_mm, between, options, rng)
    write_label_map(reader, moved, case.label, folder / "labelsTr" / case.label.name)
    return int((moved != dense.array).sum())
