"""One case of a benchmark's folder as a picture: image, reference, what was annotated, and what some arms predict.

::

    python benchmarks/case_picture.py FOLDER --case hippocampus_001 --arm nnUNetTrainerReference \\
        --arm "nnUNetTrainerMaskedCRF=with the masked CRF loss" --annotated --file docs/figures/scribbles.png

The folder is that of ``nnunet-ext benchmark run``, with its predictions. Without ``--case`` it is the one in which the
gain of the last arm over the first is the median of all, so nobody can choose a good one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_ext.benchmark import analysis
from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.pictures import overlay_case
from nnunet_ext.benchmark.results import from_benchmark
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.data.reading import Reader
from nnunet_ext.evaluation.overlay import draw_overlay


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the benchmark")
    parser.add_argument("--case")
    parser.add_argument("--arm", action="append", required=True, help="one column each; NAME=HEADING")
    parser.add_argument("--annotated", action="store_true", help="a column with the labels that were trained with")
    parser.add_argument("--axis", type=int, choices=(0, 1, 2), help="of the array, across which the volume is cut")
    parser.add_argument("--title", default="")
    parser.add_argument("--file", type=Path, required=True)
    arguments = parser.parse_args(argv)
    headings = {name: heading or name for name, _, heading in (arm.partition("=") for arm in arguments.arm)}
    arms = list(headings)
    results = from_benchmark(BenchmarkFolder(arguments.folder), arms[0])
    [group] = results.groups
    gains = analysis.per_case(results, group.name, arms[-1], "dice")["difference"].dropna().sort_values()
    name = arguments.case or str(gains.index[len(gains) // 2])
    case = overlay_case(results, group, arms, name, lambda arm, dice, seed: f"Dice {dice:.3f} (seed {seed})")
    if case is None:
        parser.error(f"{arguments.folder}: image, reference or predictions of {name} are not there")
    predictions = {headings[arm]: file for arm, file in case.predictions.items()}
    if arguments.annotated:
        labels = dataset_folder(group.dataset, "nnUNet_raw") / "labelsTr" / f"{name}{group.description['file_ending']}"
        predictions = {"annotated": labels, **predictions}
    case = replace(case, predictions=predictions, notes={headings[arm]: note for arm, note in case.notes.items()})
    title, reader = arguments.title or name, Reader(group.reader)
    draw_overlay(arguments.file, [case], group.labels, reader, title, "interface", arguments.axis)


if __name__ == "__main__":
    main()
