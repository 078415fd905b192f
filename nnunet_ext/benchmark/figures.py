"""The figures of a report. Every function draws one and returns it; nothing here computes a statistic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_ext.benchmark.analysis import Finding, Metric
from nnunet_ext.benchmark.results import Training

BASELINE_COLOUR = "#555555"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
"""Okabe and Ito's, by arm."""


def palette(arms: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for every arm; grey for the baseline."""
    others = [arm for arm in arms if arm != baseline]
    return {baseline: BASELINE_COLOUR, **{arm: COLOURS[i % len(COLOURS)] for i, arm in enumerate(others)}}


def differences(by_metric: Mapping[Metric, Sequence[Finding]], colours: Mapping[str, str]) -> Figure:
    """Mean paired differences to the baseline with their intervals; right of zero is better."""
    rows = list(next(iter(by_metric.values())))
    figure = _figure(4.6 * len(by_metric) + 1.2, 0.34 * len(rows) + 1.4)
    panels = figure.subplots(1, len(by_metric), sharey=True, squeeze=False)[0]
    for axes, (metric, found) in zip(panels, by_metric.items(), strict=True):
        for y, finding in enumerate(found):
            c = finding.comparison
            colour = colours[c.arm]
            if not np.isnan(c.ci_low):
                axes.plot([c.ci_low, c.ci_high], [y, y], color=colour, linewidth=2)
            face = colour if c.verdict in ("better", "worse") else "white"
            axes.plot(c.mean_difference, y, "o", color=colour, markerfacecolor=face, markersize=7)
            for seed in c.per_seed.values():
                axes.plot(seed, y, "|", color=colour, markersize=9, alpha=0.6)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(
            f"{metric.title}: difference to the baseline{metric.unit and f' ({metric.unit.strip()})'}", fontsize=10
        )
        axes.set_xlabel("→ better" if metric.higher_is_better else "← better")
        axes.grid(axis="x", alpha=0.3)
        axes.margins(x=0.08)
        axes.tick_params(labelsize=8)
        axes.set_ylim(-0.6, len(rows) - 0.4)
    panels[0].set_yticks(range(len(rows)), [f"{f.comparison.arm}  {f.label}" for f in rows], fontsize=8)
    panels[0].invert_yaxis()
    figure.supxlabel(
        "dot: mean, filled where a difference is shown; line: 95 % CI over seeds and subjects; ticks: seeds",
        fontsize=8,
    )
    return figure


def distributions(by_metric: Mapping[Metric, pd.DataFrame], colours: Mapping[str, str]) -> Figure:
    """Every case, averaged over labels and seeds, as a dot; boxes: quartiles; diamond: mean.

    Args:
        by_metric: tables ``arm, case, seed, value``.
        colours: by arm, which also gives the order.
    """
    figure = _figure(4.6 * len(by_metric) + 1, 0.5 * len(colours) + 1.6)
    panels = figure.subplots(1, len(by_metric), sharey=True, squeeze=False)[0]
    jitter = np.random.default_rng(0)
    for axes, (metric, table) in zip(panels, by_metric.items(), strict=True):
        case_means = table.groupby(["arm", "case"])["value"].mean()
        arms = [arm for arm in colours if arm in case_means.index.get_level_values("arm")]
        for y, arm in enumerate(arms):
            numbers = case_means[arm].dropna().to_numpy()
            axes.boxplot(
                numbers,
                positions=[y],
                orientation="horizontal",
                widths=0.6,
                showfliers=False,
                medianprops={"color": "black"},
            )
            axes.plot(numbers, y + jitter.uniform(-0.22, 0.22, len(numbers)), ".", color=colours[arm], alpha=0.6)
            axes.plot(numbers.mean(), y, "D", color=colours[arm], markeredgecolor="black", markersize=6)
        axes.set_yticks(range(len(arms)), arms, fontsize=8)
        axes.set_title(f"{metric.heading} per case", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    return figure


def rank_bars(by_metric: Mapping[Metric, pd.DataFrame], colours: Mapping[str, str]) -> Figure:
    """How often each arm has each rank in bootstrap samples of the seeds and subjects."""
    figure = _figure(4.6 * len(by_metric) + 1, 0.42 * len(colours) + 1.8)
    panels = figure.subplots(1, len(by_metric), sharey=True, squeeze=False)[0]
    for axes, (metric, table) in zip(panels, by_metric.items(), strict=True):
        arms = [arm for arm in colours if arm in table.index]
        places = [column for column in table.columns if isinstance(column, int)]
        left = np.zeros(len(arms))
        for place in places:
            share = table.loc[arms, place].to_numpy(float)
            shade = str(0.25 + 0.65 * (place - 1) / max(1, len(places) - 1))
            axes.barh(range(len(arms)), share, left=left, color=shade, edgecolor="white", label=f"rank {place}")
            left += share
        axes.set_yticks(range(len(arms)), arms, fontsize=8)
        axes.set_title(f"ranks by {metric.title}", fontsize=10)
        axes.set_xlabel("share of bootstrap samples of seeds and subjects")
    panels[0].invert_yaxis()
    panels[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def curves(trainings: Sequence[Training], colours: Mapping[str, str]) -> Figure:
    """Losses and nnU-Net's pseudo Dice over the epochs; one line per training."""
    panels = {
        "train_losses": "training loss",
        "val_losses": "validation loss",
        "ema_fg_dice": "pseudo Dice (moving average)",
    }
    figure = _figure(12, 3.4)
    for axes, (key, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        labelled: set[str] = set()
        for training in trainings:
            line = training.about.get("curves", {}).get(key, [])
            label = training.arm if training.arm not in labelled else None
            labelled.add(training.arm)
            axes.plot(range(1, len(line) + 1), line, color=colours[training.arm], label=label, linewidth=1.2, alpha=0.8)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.axes[-1].legend(fontsize=7)
    figure.supxlabel("losses hold a method's own terms, so their level is comparable within an arm only", fontsize=8)
    return figure


def _figure(width: float, height: float) -> Any:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen and leaves the user's matplotlib backend alone
    return figure
