"""Learning curves over the minutes that a training took: what a trainer reaches with as much compute as another.

::

    python benchmarks/over_time.py docs/results/low-acdc-fewshot docs/results/low-hippocampus-fewshot --figure FILE

Each folder is the report of a benchmark (``nnunet-ext benchmark report``), from which nothing else is needed. A line is
the mean over the trainings of an arm, up to the time that all of them took.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nnunet_ext.benchmark.package import read
from nnunet_ext.benchmark.results import Results, Training

POINTS = 200
"""Places in time at which trainings are averaged."""

SMOOTH = 0.05
"""Standard deviation of the smoothing, as a share of the training. nnU-Net's own moving average would lag behind, and
the more so the fewer epochs an arm has."""


def smoothed(times: np.ndarray, at: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """Values at ``at``, averaged with a Gaussian of ``width`` around each of ``times``."""
    weights = np.exp(-(((times[:, None] - at) / width) ** 2) / 2)
    return weights @ values / weights.sum(axis=1)


def mean_curve(trainings: Sequence[Training]) -> tuple[np.ndarray, np.ndarray]:
    """Mean pseudo Dice of some trainings over time.

    Returns:
        Minutes from the first epoch that all have finished to the last time that all have reached, and the means there.
    """
    minutes = [np.cumsum(training.about["epoch_seconds"]) / 60 for training in trainings]
    times = np.linspace(max(own[0] for own in minutes), min(own[-1] for own in minutes), POINTS)
    lines = [
        smoothed(times, own, np.asarray(training.about["curves"]["mean_fg_dice"]), SMOOTH * own[-1])
        for own, training in zip(minutes, trainings, strict=True)
    ]
    return times, np.mean(lines, axis=0)


def drawn(packages: Sequence[Results], without: Sequence[str] = ()) -> Figure:
    """One panel per report, one line per arm that is not named in ``without``."""
    figure = Figure(figsize=(5.4 * len(packages), 3.8), layout="constrained")
    styles: dict[str, str] = {}
    for axes, results in zip(figure.subplots(1, len(packages), squeeze=False)[0], packages, strict=True):
        early = []
        for arm in results.arms:
            own = [training for training in results.trainings if training.arm == arm]
            if own and arm not in without:
                styles.setdefault(arm, f"C{len(styles)}")
                times, line = mean_curve(own)
                axes.plot(times, line, styles[arm], label=f"{arm} ({len(own)})", linewidth=1.4)
                early.append(line[POINTS // 8])
        axes.set_ylim(bottom=min(early))  # the first minutes are alike, and would flatten the rest
        axes.set_title(results.name, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, frameon=False, loc="lower right", title="arm (trainings)", title_fontsize=7)
    figure.supxlabel("minutes of training", fontsize=10)
    figure.supylabel("pseudo Dice, smoothed", fontsize=10)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="REPORT")
    parser.add_argument("--without", nargs="*", default=[], metavar="ARM")
    parser.add_argument("--figure", type=Path, required=True)
    arguments = parser.parse_args(argv)
    drawn([read(folder) for folder in arguments.folders], arguments.without).savefig(arguments.figure, dpi=110)


if __name__ == "__main__":
    main()
