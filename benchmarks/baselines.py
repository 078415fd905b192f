"""Learning curves of stock nnU-Net in the benchmarks at low resolution, and a table of what it reaches.

::

    python benchmarks/baselines.py docs/results/low-* --figure docs/results/baselines.png

Each folder is the report of a benchmark (``nnunet-ext benchmark report``), from which nothing else is needed. Means are
over subjects, their 95 % intervals over trainings and subjects (:mod:`nnunet_ext.evaluation.intervals`). Late gains
have their standard error over trainings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nnunet_ext.benchmark import analysis
from nnunet_ext.benchmark.analysis import MEAN
from nnunet_ext.benchmark.package import read
from nnunet_ext.benchmark.results import Results
from nnunet_ext.evaluation.intervals import interval

COLUMNS = {"dice": ("Dice", 3), "hd95_mm": ("HD95 (mm)", 1), "nsd_1mm": ("NSD at 1 mm", 3)}
ACROSS = 5
"""Panels of the figure in a row."""

HEADER = ["benchmark", *(title for title, _ in COLUMNS.values()), "trainings", "late gain", "minutes"]


def mean_and_interval(table: pd.DataFrame) -> tuple[float, float, float]:
    """Mean over subjects and trainings, and its 95 % interval.

    Args:
        table: ``case, seed, value`` of one arm; with ``subject`` where that is known.
    """
    unit = "subject" if "subject" in table.columns else "case"
    by_case = table.groupby(["seed", *dict.fromkeys([unit, "case"])])["value"].mean()
    grid = by_case.groupby(["seed", unit]).mean().unstack(unit).dropna(axis=1).to_numpy()
    found = interval(grid)
    return float(grid.mean()), found.low, found.high


def row(results: Results, group: str, arm: str) -> list[str]:
    """One line of the table."""
    cells = []
    for column, (_, digits) in COLUMNS.items():
        mean, low, high = mean_and_interval(analysis.values(results, group, [arm], column)[MEAN])
        cells.append(f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
    own = [training for training in results.trainings if (training.arm, training.group) == (arm, group)]
    gain = analysis.late_gain(results, group, arm)
    minutes = np.median([sum(training.about["epoch_seconds"]) for training in own]) / 60
    name = results.name if arm == results.baseline else f"{results.name}: {arm}"
    late = "–" if gain is None else f"{100 * gain:+.2f}"
    gains = [training.about["late_gain"] for training in own]
    if gain is not None and len(gains) > 1:
        late += f" ± {100 * np.std(gains, ddof=1) / len(gains) ** 0.5:.2f}"
    data = f", {group}" if len(results.groups) > 1 else ""
    return [f"`{name}`{data}", *cells, str(len(own)), late, f"{minutes:.0f}"]


def curves(packages: Sequence[Results]) -> Figure:
    """Pseudo Dice of every training of the baselines over the iterations."""
    columns = min(len(packages), ACROSS)
    rows = -(-len(packages) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
    places = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in places[len(packages) :]:
        axes.set_axis_off()
    for axes, results in zip(places, packages, strict=False):
        for training in results.trainings:
            if training.arm == results.baseline:
                dice = training.about["curves"]["mean_fg_dice"]
                schedule = training.about["settings"]["nnunet_ext"]["schedule"]
                iterations = np.arange(1, len(dice) + 1) * schedule.get("iterations", 250)
                data = f"{training.group}, " if len(results.groups) > 1 else ""
                label = f"{data}fold {training.fold}, seed {training.seed}"
                axes.plot(iterations, dice, label=label, linewidth=1.2)
        axes.axvspan(0.75 * iterations[-1], iterations[-1], color="0.92", zorder=0)
        axes.set_title(results.name, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, frameon=False, loc="lower right")
    figure.supxlabel("iterations; grey: the last quarter", fontsize=10)
    figure.supylabel("pseudo Dice of nnU-Net's log", fontsize=10)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="REPORT")
    parser.add_argument("--arms", nargs="*", default=[], metavar="ARM", help="beside the baseline")
    parser.add_argument("--figure", type=Path, help="file of the learning curves")
    arguments = parser.parse_args(argv)
    packages = [read(folder) for folder in arguments.folders]
    print(f"| {' | '.join(HEADER)} |\n|---|{'---:|' * (len(HEADER) - 1)}")
    for results in packages:
        for group in results.groups:
            for arm in analysis.present(results, group.name):
                if arm == results.baseline or arm in arguments.arms:
                    print(f"| {' | '.join(row(results, group.name, arm))} |")
    if arguments.figure:
        curves(packages).savefig(arguments.figure, dpi=110)


if __name__ == "__main__":
    main()
