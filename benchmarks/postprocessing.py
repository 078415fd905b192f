"""Differences between trainers that nnU-Net's own postprocessing leaves.

::

    python benchmarks/postprocessing.py BENCHMARK_FOLDER --file cases.csv

nnU-Net can keep the largest component of a label, which takes out whatever a network has found far from an organ. So a
trainer that only avoids such places gains nothing over a user who postprocesses. For every arm and seed of a benchmark
whose predictions exist, all validation cases are scored as they were predicted, after what
``nnUNetv2_determine_postprocessing`` chooses, and with the largest component of every label. nnU-Net chooses on the
labels that the training saw, for example scribbles; the scores are against the references of the benchmark.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import load_pickle
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing_to_folder,
    determine_postprocessing,
)
from nnunetv2.postprocessing.remove_connected_components import (
    remove_all_but_largest_component_from_segmentation as keep_largest,
)

from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.score import truth_of
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.folders import evaluate_folders
from nnunet_ext.files import read_json, write_rows

WAYS = ("as predicted", "nnU-Net's choice", "largest component")
COLUMNS = ("arm", "seed", "case", "way", "dice", "hd95_mm")
PROCESSES = 1

Row = dict[str, Any]
"""One case; the means are over its labels."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of a benchmark, with its predictions")
    parser.add_argument("--file", type=Path, help="CSV with every case")
    arguments = parser.parse_args(argv)
    benchmark = BenchmarkFolder(arguments.folder)
    try:
        rows = measured(benchmark)
    except InputError as error:
        parser.exit(1, f"{error}\n")
    if arguments.file:
        write_rows(arguments.file, COLUMNS, rows)
    print(table(rows))
    return 0


def measured(benchmark: BenchmarkFolder) -> list[Row]:
    """Mean Dice and HD95 over the labels, for every arm, seed, way and case.

    Raises:
        InputError: no training has predictions of validation cases, or they are of several data sets or configurations.
    """
    spec, jobs, _ = benchmark.load()
    benchmark.use_data(spec)
    # a training that was taken from another benchmark has a record, but no predictions
    done = [job for job in jobs if benchmark.record(job) is not None and benchmark.predictions(job).is_dir()]
    if not done or spec.scored != "validation":
        raise InputError(
            f"{benchmark.folder}: no training has predicted validation cases; run it with nnunet-ext benchmark run."
        )
    if len(groups := {f"{job.compared} {job.configuration}" for job in done}) > 1:
        raise InputError(
            f"{benchmark.folder} has {', '.join(sorted(groups))}; expected one data set and configuration."
        )
    together: dict[tuple[str, int], list[Job]] = defaultdict(list)
    for job in done:
        together[job.arm, job.seed].append(job)
    return [row for folds in together.values() for row in of_trainings(benchmark, folds)]


def of_trainings(benchmark: BenchmarkFolder, folds: Sequence[Job]) -> Iterator[Row]:
    """Scores of the folds of one arm and seed, which are postprocessed together, as nnU-Net does."""
    own, scored = dataset_folder(folds[0].dataset), truth_of(folds[0])
    plans, description = own / f"{folds[0].plans}.json", own / "dataset.json"
    content = read_json(description)
    labels, ending = ScoredLabels.from_dataset_json(content).values, content["file_ending"]
    with TemporaryDirectory() as folder:
        predicted, learned, truth = (Path(folder, name) for name in ("predicted", "learned", "truth"))
        for place in (predicted, learned, truth):
            place.mkdir()
        for job in folds:
            for file in (f"{case}{ending}" for case in truth_of(job).cases):
                (predicted / file).symlink_to(benchmark.predictions(job) / file)
                (learned / file).symlink_to(own / "gt_segmentations" / file)
                (truth / file).symlink_to(scored.references / file)
        determine_postprocessing(str(predicted), str(learned), str(plans), str(description), PROCESSES)
        chosen = load_pickle(str(predicted / "postprocessing.pkl"))
        every = [keep_largest] * len(labels), [{"labels_or_regions": value} for value in labels.values()]
        for way, (functions, arguments) in zip(WAYS, (([], []), chosen, every), strict=True):
            output = Path(folder, way)
            apply_postprocessing_to_folder(
                str(predicted), str(output), functions, arguments, str(plans), str(description), PROCESSES
            )
            cases = evaluate_folders(
                truth, output, dataset_json=scored.dataset_json, plans=plans, processes=PROCESSES
            ).cases
            for case in cases:
                hd95 = mean(metrics.hd95_mm for metrics in case.metrics.values())
                first = {"arm": folds[0].arm, "seed": folds[0].seed, "case": case.name, "way": way}
                yield {**first, "dice": round(case.mean_dice(), 6), "hd95_mm": round(hd95, 4)}


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of means over cases and seeds, one line per arm."""
    lines = ["| | trainings |", "|---|---:|"]
    for number in ("Dice", "HD95 (mm)"):
        lines[0] += "".join(f" {number}: {WAYS[0]} |" if way == WAYS[0] else f" {way} |" for way in WAYS)
        lines[1] += "---:|" * len(WAYS)
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        cells = [
            f"{mean(row[column] for row in own if row['way'] == way):.{digits}f}"
            for column, digits in (("dice", 3), ("hd95_mm", 1))
            for way in WAYS
        ]
        lines.append(f"| {arm} | {len({row['seed'] for row in own})} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
