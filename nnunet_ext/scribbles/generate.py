"""``nnunet-ext scribbles generate``: a data set with scribbles from one with dense labels.

::

    Dataset138_CHAOST2Scribble/
        dataset.json       with the ignore label; refers to the images of the dense data set, which are not copied
        labelsTr/          scribbles
        labelsTr_dense/    the dense labels, for evaluation; nnU-Net does not read this folder
        scribbles.json     options, version, annotated fractions
        scribbles.png      image, dense labels and scribbles of a few cases
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.data.derived import derived_description, new_dataset_folder
from nnunet_ext.data.geometry import slice_axis
from nnunet_ext.data.raw import (
    RawCase,
    a_few,
    copy_label_map,
    open_dataset,
    require_dense,
    require_labels,
    write_label_map,
)
from nnunet_ext.data.reading import Reader
from nnunet_ext.files import write_json, written_as_a_whole
from nnunet_ext.processes.parallel import for_every_case
from nnunet_ext.scribbles.label_map import Options, scribble_label_map, slices_with
from nnunet_ext.scribbles.overview import Panels, draw_panels, most_annotated_slice
from nnunet_ext.version import __version__

DENSE = "labelsTr_dense"
SHOWN_CASES = 3


@dataclass(frozen=True)
class CaseCounts:
    """Counts of one case: annotated and all voxels by label value, annotated and all slices."""

    name: str
    annotated: Mapping[int, int]
    dense: Mapping[int, int]
    annotated_slices: int
    slices: int


@dataclass(frozen=True)
class Generated:
    """The data set that :func:`generate_dataset` wrote."""

    folder: Path
    options: Options
    classes: Mapping[int, str]
    cases: tuple[CaseCounts, ...]

    def statistics(self) -> dict[str, Any]:
        """The content of ``scribbles.json``. Each fraction is relative to the voxels of its class, ``all`` to all."""
        return {
            "nnunet_ext": __version__,
            "options": asdict(self.options),
            "annotated_fraction": self._fractions(self.cases),
            "cases": {
                case.name: {
                    "annotated_slices": case.annotated_slices,
                    "slices": case.slices,
                    "annotated_voxels": {self.classes[value]: n for value, n in case.annotated.items()},
                    "annotated_fraction": self._fractions([case]),
                }
                for case in self.cases
            },
        }

    def _fractions(self, cases: Sequence[CaseCounts]) -> dict[str, float | None]:
        """Annotated fraction by class; None for a class that is in none of the cases."""

        def share(values: Sequence[int]) -> float | None:
            annotated = sum(case.annotated[value] for case in cases for value in values)
            dense = sum(case.dense[value] for case in cases for value in values)
            return annotated / dense if dense else None

        return {"all": share(list(self.classes)), **{name: share([value]) for value, name in self.classes.items()}}

    def report(self) -> str:
        """The text to print: annotated fractions, and the commands to type next."""
        fractions = self.statistics()["annotated_fraction"]
        width = max(map(len, fractions))
        lines = ["annotated voxels"]
        lines += [
            f"{name:<{width}}  {'not in these cases' if share is None else f'{100 * share:6.2f} %'}"
            for name, share in fractions.items()
        ]
        if not self.options.background:
            lines.append("The background has no scribbles: a network has no reason to predict it anywhere.")
        number = int(self.folder.name[7:10])
        return "\n".join(
            [
                *lines,
                f"\n{self.folder}: {len(self.cases)} cases. Look at scribbles.png, then",
                f"  nnunet-ext scribbles check {number} --dense {shlex.quote(str(self.folder / DENSE))}",
                f"  nnUNetv2_plan_and_preprocess -d {number}",
            ]
        )


def generate_dataset(
    dataset: str | int | Path,
    out: str | int,
    options: Options | None = None,
    *,
    processes: int | None = None,
) -> Generated:
    """Write a data set with scribbles into ``nnUNet_raw``; after an error nothing is left behind.

    Images stay where they are: ``dataset.json`` refers to them, by relative paths if they lie in ``nnUNet_raw`` too.
    Regions are kept; scribbles are drawn for the label values that form them.

    Args:
        dataset: number or name of a data set in ``nnUNet_raw`` with dense labels, or a folder.
        out: number of the new data set, or its whole name ``Dataset138_Name``.
        options: how to draw.
        processes: cases drawn in parallel; by default one per core. The result does not depend on it.

    Raises:
        InputError: the source cannot be read, or the number of the new data set is taken.
    """
    options = options or Options()
    source = open_dataset(dataset)
    require_dense(source)
    target = new_dataset_folder(source, str(out), "Scribble")
    ignore = max(source.classes) + 1 if source.ignore is None else source.ignore
    reader = source.reader()
    with written_as_a_whole(target) as folder:
        (folder / "labelsTr").mkdir()
        (folder / DENSE).mkdir()
        calls = [(case, reader.name, tuple(source.classes), ignore, options, folder) for case in source.cases]
        counts = tuple(for_every_case(_generate_case, calls, processes, "scribbles"))
        result = Generated(target, options, source.classes, counts)
        text = f"Scribbles drawn from the dense labels of {source.name} by nnunet-ext {__version__}"
        labels = {**source.description["labels"], "ignore": ignore}
        write_json(folder / "dataset.json", {**derived_description(source, target, text), "labels": labels})
        write_json(folder / "scribbles.json", result.statistics())
        draw_panels(
            folder / "scribbles.png",
            [_panels(case, reader, folder, ignore) for case in a_few(source.cases, SHOWN_CASES)],
            source.classes,
        )
    return result


# --- parts ------------------------------------------------------------------------------------------------------------


def _generate_case(
    case: RawCase, reader_name: str, classes: tuple[int, ...], ignore: int, options: Options, folder: Path
) -> CaseCounts:
    reader = Reader(reader_name)
    dense = reader.labels(case.label)
    require_labels(dense.array, {*classes, ignore}, case.label)
    scribbles = scribble_label_map(dense.array, dense.spacing_mm, classes, ignore, case.name, options)
    write_label_map(reader, scribbles, case.label, folder / "labelsTr" / case.label.name)
    copy_label_map(case.label, folder / DENSE)
    slices = slices_with(scribbles != ignore, slice_axis(dense.spacing_mm, dense.array.shape))
    return CaseCounts(
        case.name,
        {value: int((scribbles == value).sum()) for value in classes},
        {value: int((dense.array == value).sum()) for value in classes},
        int(slices.sum()),
        len(slices),
    )


def _panels(case: RawCase, reader: Reader, folder: Path, ignore: int) -> Panels:
    image = reader.image(case.images[0])
    dense = reader.labels(case.label).array
    scribbles = reader.labels(folder / "labelsTr" / case.label.name).array
    index = most_annotated_slice(scribbles, image.spacing_mm, ignore)
    return Panels.cut(case.name, image, {"dense": dense, "scribbles": scribbles}, index)
