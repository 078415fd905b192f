"""Differences between trainers that nnU-Net's own postprocessing leaves.

::

    python benchmarks/postprocessing.py BENCHMARK_FOLDER --baseline ARM --file cases.csv

nnU-Net can keep the largest component of a label, which takes out whatever a network has found far from an organ. So a
trainer that only avoids such places gains nothing over a user who postprocesses. For every arm and seed of a benchmark
whose predictions exist, all validation cases are scored as they were predicted, after what
``nnUNetv2_determine_postprocessing`` chooses, and with the largest component of every label. nnU-Net chooses on the
labels that the training saw, for example scribbles; the scores are against the references of the benchmark.

Means are over subjects. Differences come with the 95 % interval of :mod:`nnunet_ext.evaluation.intervals`.
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

import pandas as pd
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
from nnunet_ext.benchmark.subjects import subjects_of
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.folders import evaluate_folders
from nnunet_ext.evaluation.statistics import compare
from nnunet_ext.files import read_json, write_rows

WAYS = ("as predicted", "nnU-Net's choice", "largest component")
COLUMNS = ("dataset", "arm", "seed", "subject", "case", "way", "dice", "hd95_mm")
METRICS = (("dice", "Dice", 3, True), ("hd95_mm", "HD95 (mm)", 1, False))
"""Column, name, decimals, and whether more is better."""

PROCESSES = 1

Row = dict[str, Any]
"""One case; the means are over its labels."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of a benchmark, with its predictions")
    parser.add_argument("--baseline", help="arm to compare with (the baseline of the benchmark)")
    parser.add_argument("--file", type=Path, help="CSV with every case")
    arguments = parser.parse_args(argv)
    benchmark = BenchmarkFolder(arguments.folder)
    try:
        rows = measured(benchmark)
        if arguments.file:
            write_rows(arguments.file, COLUMNS, rows)
        scores = pd.DataFrame(rows)
        print(f"{rows[0]['dataset']}\n\n{means(scores)}\n")
        if scores["arm"].nunique() > 1:
            print(differences(scores, arguments.baseline or benchmark.load()[0].baseline))
    except InputError as error:
        parser.exit(1, f"{error}\n")
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
    subject = subjects_of(folds[0].dataset)
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
                own_subject = subject.get(case.name, case.name)
                first = {"dataset": folds[0].compared, "arm": folds[0].arm, "seed": folds[0].seed}
                then = {"subject": own_subject, "case": case.name, "way": way}
                yield {**first, **then, "dice": round(case.mean_dice(), 6), "hd95_mm": round(hd95, 4)}


def means(scores: pd.DataFrame) -> str:
    """Return a Markdown table of means over subjects and seeds, one line per arm."""
    lines = ["| | trainings |", "|---|---:|"]
    for _, metric, _, _ in METRICS:
        lines[0] += "".join(f" {metric}: {WAYS[0]} |" if way == WAYS[0] else f" {way} |" for way in WAYS)
        lines[1] += "---:|" * len(WAYS)
    for arm, own in scores.groupby("arm", sort=False):
        by_subject = own.groupby(["way", "subject"])[[column for column, *_ in METRICS]].mean().groupby("way").mean()
        cells = [f"{by_subject.loc[way, column]:.{digits}f}" for column, _, digits, _ in METRICS for way in WAYS]
        lines.append(f"| {arm} | {own['seed'].nunique()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(scores: pd.DataFrame, baseline: str) -> str:
    """Return a Markdown table: every other arm minus the baseline, for every way, on their common seeds and cases.

    Raises:
        InputError: the baseline has no predictions.
    """
    others = [arm for arm in scores["arm"].unique() if arm != baseline]
    if len(others) == scores["arm"].nunique():
        raise InputError(
            f"--baseline: {baseline} has no predictions of validation cases; name one of {', '.join(others)}."
        )
    lines = [f"| minus {baseline} | trainings | metric | {' | '.join(WAYS)} |", "|---|---:|---|" + "---:|" * len(WAYS)]
    for arm in others:
        both = scores[scores["arm"].isin([arm, baseline])]
        both = both[both.groupby(["seed", "case"])["arm"].transform("nunique") == 2]  # an arm may lack seeds or folds
        trainings = both["seed"].nunique()
        for column, metric, digits, more in METRICS:
            cells = []
            for way in WAYS if trainings else ():
                own = both[both["way"] == way].rename(columns={column: "value"})
                own = own[["subject", "arm", "case", "seed", "value"]]
                [found] = compare(own, baseline, higher_is_better=more, few_subjects="describe")
                low, high = found.ci_low, found.ci_high
                cells.append(f"{found.mean_difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]")
            lines.append(f"| {arm} | {trainings} | {metric} | {' | '.join(cells or ['–'] * len(WAYS))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
