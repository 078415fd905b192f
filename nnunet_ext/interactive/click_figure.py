"""The figure of ``nnunet-ext s2v evaluate-clicks``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of labels, by Okabe and Ito; the mean is black."""


def clicks_figure(panels: Mapping[str, Mapping[tuple[str, str], Sequence[float]]], across: str = "clicks") -> Figure:
    """Draw metrics over the number of clicks; solid lines with propagation, dashed lines without.

    Args:
        panels: for each title, curves by name of the label (or ``"mean"``) and ``"on"`` or ``"off"``.
        across: label of the horizontal axis.
    """
    figure = Figure(figsize=(4.4 * len(panels) + 1.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)  # needs no screen and leaves the user's matplotlib backend alone
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, curves) in zip(row, panels.items(), strict=True):
        names = list(dict.fromkeys(name for name, _ in curves if name != "mean"))
        for (name, way), line in curves.items():
            mean = name == "mean"
            axes.plot(
                range(len(line)),
                line,
                color="black" if mean else COLOURS[names.index(name) % len(COLOURS)],
                linestyle="-" if way == "on" else "--",
                linewidth=2.2 if mean else 1.1,
                label=name if way == "on" else f"{name}, clicked slice only",
            )
        axes.set_title(f"{title}, mean over cases", fontsize=10)
        axes.set_xlabel(across)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    row[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
