"""Dice and HD95 over the values of an option, subject by subject, from the reports of a benchmark.

::

    python benchmarks/sweep.py REPORT... --panel "share hidden" "ratio 0.2=0.2" "MedContext=0.4" \\
        --line "Reference in the time of MedContext" --figure FILE

Every ``--panel`` names an option and its arms, each with its value. Thin lines are subjects, thick ones their mean.
``--line`` draws the mean of another arm on the same folds and seeds. An arm may be in any of the reports.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnunet_ext.benchmark.package import read

METRICS = {"dice": "Dice", "hd95_mm": "HD95 (mm)"}


def by_subject(cases: pd.DataFrame, arm: str, folds: set[int]) -> pd.DataFrame:
    """Means over labels, cases and trainings of an arm on these folds, by subject.

    Raises:
        SystemExit: there is no such arm, or it was not trained on all of these folds.
    """
    own = cases[(cases["arm"] == arm) & cases["fold"].isin(folds)]
    if set(own["fold"]) != folds:
        raise SystemExit(f"{arm!r} is not in these reports on all folds {sorted(folds)}")
    return own.groupby(["fold", "seed", "case", "subject"])[list(METRICS)].mean().groupby("subject").mean()


def drawn(cases: pd.DataFrame, panels: Mapping[str, Mapping[str, float]], line: str | None) -> Figure:
    """One column per option, one row per metric.

    Args:
        cases: scores, as in :class:`nnunet_ext.benchmark.results.Results`.
        panels: by option, the value of each of its arms.
        line: an arm to compare with.
    """
    figure = Figure(figsize=(4.2 * len(panels), 5.6), layout="constrained")
    axes = figure.subplots(len(METRICS), len(panels), squeeze=False, sharex="col", sharey="row")
    folds = set.intersection(*(set(cases.loc[cases["arm"] == arm, "fold"]) for arms in panels.values() for arm in arms))
    for column, (option, arms) in enumerate(panels.items()):
        ordered = sorted(arms, key=lambda arm: arms[arm])
        values: NDArray[np.float64] = np.array([arms[arm] for arm in ordered])
        tables = [by_subject(cases, arm, folds) for arm in ordered]
        compared = None if line is None else by_subject(cases, line, folds).mean()
        for row, (metric, title) in enumerate(METRICS.items()):
            place = axes[row, column]
            scores = pd.concat([table[metric] for table in tables], axis=1).to_numpy()
            place.plot(values, scores.T, color="0.8", linewidth=0.7)
            place.plot(values, np.nanmean(scores, 0), "o-", color="C0", linewidth=1.8)
            if compared is not None:
                place.axhline(compared[metric], color="C1", linestyle="--", label=line)
            place.grid(alpha=0.3)
            if column == 0:
                place.set_ylabel(title)
        axes[-1, column].set_xlabel(option)
        axes[-1, column].set_xticks(values)
    if line is not None:
        axes[0, 0].legend(fontsize=7, frameon=False)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="REPORT")
    parser.add_argument("--panel", action="append", nargs="+", required=True, metavar="OPTION ARM=VALUE")
    parser.add_argument("--line", metavar="ARM")
    parser.add_argument("--figure", type=Path, required=True)
    arguments = parser.parse_args(argv)
    panels = {
        option: {arm: float(value) for arm, _, value in (one.rpartition("=") for one in arms)}
        for option, *arms in arguments.panel
    }
    cases = pd.concat([read(folder).cases for folder in arguments.folders], ignore_index=True)
    drawn(cases, panels, arguments.line).savefig(arguments.figure, dpi=110)


if __name__ == "__main__":
    main()
