"""The figures of a report. Every function draws and returns one figure; none computes statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_ext.benchmark.analysis import Finding, Metric
from nnunet_ext.benchmark.results import Training

BASELINE_COLOUR = "#555555"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
"""Colours of arms, by Okabe and Ito."""

LINES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "v"))
"""Line styles and markers; each round through the colours uses another pair."""

NAMED_SHARE = 0.06
"""Smallest width of a bar of ranks with a number in it; narrower bars have no room."""


@dataclass(frozen=True)
class Style:
    """Look of an arm, the same in every figure."""

    colour: str
    line: str = "-"
    marker: str = "o"


def styles(arms: Sequence[str], baseline: str) -> dict[str, Style]:
    """A style for every arm, different for the first 29; the baseline is grey."""
    others = [arm for arm in arms if arm != baseline]
    chosen = {
        arm: Style(COLOURS[i % len(COLOURS)], *LINES[i // len(COLOURS) % len(LINES)]) for i, arm in enumerate(others)
    }
    return {baseline: Style(BASELINE_COLOUR), **chosen}


def differences(by_metric: Mapping[Metric, Sequence[Finding]], by_arm: Mapping[str, Style]) -> Figure:
    """Mean paired differences to the baseline with their intervals; each axis says which side is better."""
    rows = list(next(iter(by_metric.values())))
    figure = _figure(4.6 * len(by_metric) + 1.2, 0.34 * len(rows) + 1.4)
    panels = figure.subplots(1, len(by_metric), sharey=True, squeeze=False)[0]
    for axes, (metric, found) in zip(panels, by_metric.items(), strict=True):
        for y, finding in enumerate(found):
            c = finding.comparison
            style = by_arm[c.arm]
            if not np.isnan(c.ci_low):
                axes.plot([c.ci_low, c.ci_high], [y, y], style.line, color=style.colour, linewidth=2)
            face = style.colour if finding.verdict in ("better", "worse") else "white"
            axes.plot(
                c.mean_difference, y, style.marker, color=style.colour, markerfacecolor=face, markersize=7, zorder=3
            )
            for seed in c.per_seed.values():
                axes.plot(seed, y, "|", color=style.colour, markersize=9, alpha=0.6)
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


def distributions(by_metric: Mapping[Metric, pd.DataFrame], by_arm: Mapping[str, Style]) -> Figure:
    """Dots for all cases, averaged over labels and seeds, with boxes for quartiles and diamonds for means.

    Args:
        by_metric: tables ``arm, case, seed, value``.
        by_arm: styles, in the order of the arms.
    """
    figure = _figure(4.6 * len(by_metric) + 1, 0.5 * len(by_arm) + 1.6)
    panels = figure.subplots(1, len(by_metric), sharey=True, squeeze=False)[0]
    jitter = np.random.default_rng(0)
    for axes, (metric, table) in zip(panels, by_metric.items(), strict=True):
        case_means = table.groupby(["arm", "case"])["value"].mean()
        arms = [arm for arm in by_arm if arm in case_means.index.get_level_values("arm")]
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
            axes.plot(numbers, y + jitter.uniform(-0.22, 0.22, len(numbers)), ".", color=by_arm[arm].colour, alpha=0.6)
            axes.plot(numbers.mean(), y, "D", color=by_arm[arm].colour, markeredgecolor="black", markersize=6)
        axes.set_yticks(range(len(arms)), arms, fontsize=8)
        axes.set_title(f"{metric.heading} per case", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    return figure


def rank_bars(by_metric: Mapping[Metric, pd.DataFrame], by_arm: Mapping[str, Style]) -> Figure:
    """Bars for how often each arm has each rank in bootstrap samples of seeds and subjects, numbered by rank."""
    figure = _figure(4.6 * len(by_metric) + 1.2, 0.42 * len(by_arm) + 1.8)
    panels = figure.subplots(1, len(by_metric), sharey=True, squeeze=False)[0]
    for axes, (metric, table) in zip(panels, by_metric.items(), strict=True):
        arms = [arm for arm in by_arm if arm in table.index]
        places = [column for column in table.columns if isinstance(column, int)]
        left = np.zeros(len(arms))
        for place in places:
            share = table.loc[arms, place].to_numpy(float)
            along = (place - 1) / max(1, len(places) - 1)
            colour = colormaps["viridis"](along)
            axes.barh(range(len(arms)), share, left=left, color=colour, edgecolor="white", label=f"rank {place}")
            for y in np.flatnonzero(share >= NAMED_SHARE):
                ink = "white" if along < 0.6 else "black"
                axes.text(left[y] + share[y] / 2, y, str(place), ha="center", va="center", fontsize=8, color=ink)
            left += share
        axes.set_yticks(range(len(arms)), arms, fontsize=8)
        axes.set_title(f"ranks by {metric.title}", fontsize=10)
        axes.set_xlabel("share of bootstrap samples of seeds and subjects")
        axes.set_xlim(0, 1)
    panels[0].invert_yaxis()
    _legend(figure)
    return figure


def curves(trainings: Sequence[Training], by_arm: Mapping[str, Style]) -> Figure:
    """Losses and nnU-Net's pseudo Dice over the epochs, one line per training."""
    panels = {
        "train_losses": "training loss",
        "val_losses": "validation loss",
        "ema_fg_dice": "pseudo Dice (moving average)",
    }
    figure = _figure(13.5, max(3.4, 0.22 * len(by_arm) + 1))
    for axes, (key, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for arm, style in by_arm.items():
            own = [training.about.get("curves", {}).get(key, []) for training in trainings if training.arm == arm]
            for number, line in enumerate(own):
                axes.plot(
                    range(1, len(line) + 1),
                    line,
                    style.line,
                    color=style.colour,
                    label=None if number else arm,
                    linewidth=1.4,
                    alpha=0.8,
                )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    _legend(figure)
    figure.supxlabel("losses hold a method's own terms, so their level is comparable within an arm only", fontsize=8)
    return figure


def _legend(figure: Figure) -> None:
    """Draw one legend beside the panels, where it covers nothing; all panels have the same entries."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)


def _figure(width: float, height: float) -> Any:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # needs no screen and leaves the user's matplotlib backend alone
    return figure
