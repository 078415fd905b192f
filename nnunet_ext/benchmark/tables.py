"""The tables of a report as text cells, and the table of all comparisons for ``comparisons.csv``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nnunet_ext.benchmark import analysis
from nnunet_ext.benchmark.analysis import MEAN, Finding, Metric
from nnunet_ext.benchmark.results import Results

DIFFERENCE_COLUMNS = (
    *("trainer", "label", "mean", "baseline", "difference", "95 % CI", "by seed", "p (Holm)", "effect"),
    *("better / worse / equal", "n", "verdict"),
)

COMPARISON_COLUMNS = (
    *("arm", "baseline", "unit", "n", "dropped", "seeds", "mean_candidate", "mean_baseline", "mean_difference"),
    *("ci_low", "ci_high", "smallest_difference", "p_value", "p_interval", "p_corrected", "effect_size"),
    *("better", "worse", "equal"),
    *("cases", "point", "cases_better", "cases_worse", "sd_between_subjects", "sd_between_seeds"),
)
"""Columns of ``comparisons.csv`` besides group, metric, label and verdict; they are attributes of ``Comparison``."""


@dataclass
class Table:
    """A table of texts; the first column holds names, the others hold numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def summary_table(results: Results, group: str, found: Mapping[Metric, Sequence[Finding]]) -> Table:
    """One row per arm: the mean over cases and labels of every metric, and the verdicts."""
    arms = analysis.present(results, group)
    header = ["trainer", "trainings", *(metric.heading for metric in found)]
    shown = [metric for metric in found if metric.is_main]
    header += [f"{metric.title}: verdict" for metric in shown]
    rows = []
    for arm in arms:
        trainings = sum((training.arm, training.group) == (arm, group) for training in results.trainings)
        cells = [arm + (" (baseline)" if arm == results.baseline else ""), str(trainings)]
        for metric in found:
            table = analysis.values(results, group, [arm], metric.column)[MEAN]
            means = table.groupby("case")["value"].mean()
            if "subject" in table.columns:
                means = means.groupby(table.drop_duplicates("case").set_index("case")["subject"]).mean()
            cells.append(f"{means.mean():.{metric.digits}f}" if means.notna().any() else "–")
        for metric in shown:
            verdicts = [f.verdict for f in found[metric] if f.comparison.arm == arm and f.label == MEAN]
            cells.append(verdicts[0] if verdicts else "–")
        rows.append(cells)
    return Table(
        "Means",
        header,
        rows,
        "Mean over subjects (cases, where subjects are unknown) of the mean over labels, over all trainings of a "
        "trainer; seeds are averaged per case, and the cases of a subject first. The verdicts come from the tables "
        "below, which compare only folds and seeds that both have.",
    )


def comparison_rows(results: Results, group: str, metric: Metric, found: Sequence[Finding]) -> Table:
    """Differences to the baseline for one metric: the mean over labels and every label."""
    rows = []
    for finding in found:
        c = finding.comparison
        interval = "–" if math.isnan(c.ci_low) else f"{signed(c.ci_low, metric)} to {signed(c.ci_high, metric)}"
        rows.append(
            [
                c.arm,
                finding.label,
                f"{c.mean_candidate:.{metric.digits}f}",
                f"{c.mean_baseline:.{metric.digits}f}",
                signed(c.mean_difference, metric),
                interval,
                " ".join(signed(value, metric) for value in c.per_seed.values()),
                "–" if math.isnan(c.p_corrected) else f"{c.p_corrected:.2g}",
                f"{c.effect_size:+.2f}",
                f"{c.better} / {c.worse} / {c.equal}",
                f"{c.n}" + (f" (−{c.dropped})" if c.dropped else ""),
                finding.verdict,
            ]
        )
    seeds = sorted({finding.comparison.seeds for finding in found})
    direction = "higher is better" if metric.higher_is_better else "lower is better"
    return Table(
        f"{metric.heading}: differences to {results.baseline}",
        [*DIFFERENCE_COLUMNS],
        rows,
        f"{direction}. n: {' or '.join(sorted({f'{finding.comparison.unit}s' for finding in found}))} that count for "
        "both (in brackets the cases that do not); cases of one subject averaged. CI: over seeds "
        f"({' or '.join(map(str, seeds))} per trainer) and {'subjects' if seeds != [1] else 'subjects only'}. p: "
        "the larger of Wilcoxon's signed-rank test on the means over seeds and the interval's, two-sided, corrected by "
        f"Holm over the {len(rows)} rows of this table. effect: matched-pairs rank-biserial correlation.",
    )


def per_training_table(results: Results, group: str) -> Table:
    """Mean Dice of every training, which shows how much folds and seeds differ."""
    table = analysis.per_training(results, group, "dice")
    rows = [
        [f"fold {fold}, seed {seed}", *("–" if math.isnan(value) else f"{value:.4f}" for value in row)]
        for (fold, seed), row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return Table("Dice of every training", ["", *table.columns], rows, "Mean over the cases of the fold.")


def cost_table(results: Results, group: str) -> Table:
    """Weights, time per epoch and memory, with their ratios to the baseline."""

    def cell(row: Mapping[str, Any], key: str, shown: Callable[[float], str]) -> str:
        if math.isnan(row[key]):
            return "–"
        return shown(row[key]) + ("" if math.isnan(row[f"{key}_ratio"]) else f" ({row[f'{key}_ratio']:.2f}×)")

    def gain(late: float | None) -> str:
        return "–" if late is None else f"{100 * late:+.2f}"

    rows = [
        [
            row["arm"],
            cell(row, "weights", lambda n: f"{n / 1e6:.2f}"),
            cell(row, "epoch_seconds", lambda s: f"{s:.1f}"),
            cell(row, "training_hours", lambda h: f"{h:.2f}"),
            cell(row, "host_mib", lambda m: f"{m / 1024:.2f}"),
            cell(row, "gpu_mib", lambda m: f"{m / 1024:.2f}"),
            gain(analysis.late_gain(results, group, row["arm"])),
        ]
        for row in analysis.costs(results, group)
    ]
    header = ["trainer", "weights (M)", "seconds per epoch", "training (h)", "peak host memory (GiB)"]
    return Table(
        "Cost",
        [*header, "peak GPU memory (GiB)", "late gain (points)"],
        rows,
        "In brackets: ratio to the baseline. Seconds per epoch: median over epochs and trainings, as they ran, so "
        "whatever else the machine did is part of it. Host memory: of the training process, without its workers. "
        "Late gain: pseudo Dice gained over the last quarter of the schedule, mean over trainings.",
    )


def comparison_table(found: Sequence[Finding]) -> pd.DataFrame:
    """Every comparison as a row."""
    return pd.DataFrame(
        [
            {
                "group": finding.group,
                "metric": finding.metric.column,
                "label": finding.label,
                **{key: getattr(finding.comparison, key) for key in COMPARISON_COLUMNS},
                "verdict": finding.verdict,
            }
            for finding in found
        ]
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def signed(value: float, metric: Metric) -> str:
    return "–" if math.isnan(value) else f"{value:+.{metric.digits}f}"
