"""Tables and a figure of clicks on several models of a data set: what ten clicks are worth, and what they break.

::

    python benchmarks/click_summary.py docs/results/s2vnet/acdc --by 'patient\\d+' --figure clicks.png

Each folder holds one folder per trained model, and each of these the cases of the ways to correct, ``WAY.csv``: the
``clicks.csv`` of ``benchmarks/click_baselines.py`` (or of ``nnunet-ext s2v evaluate-clicks``, with one way of
propagation). Compared are the ways that every model has, on the cases that all files have. A case that was right before
its last click stays as it is. Intervals are over subjects and models (:mod:`nnunet_ext.evaluation.intervals`).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.intervals import interval
from nnunet_ext.splits.subjects import group

CLICKS = (0, 1, 3, 10)
"""Numbers of clicks in the tables."""

HEADER = [
    "way",
    *(f"Dice, {CLICKS[0]} clicks" if n == CLICKS[0] else str(n) for n in CLICKS),
    "gain",
    "gain − that of the first way",
    "obeyed",
    "harmful clicks",
    "broken by fixed",
    "slices",
    "seconds",
]


@dataclass(frozen=True)
class Way:
    """One way to correct, on all models of a data set.

    Attributes:
        dice: mean over labels, ``(models, cases, clicks)``.
        gains: Dice after the last click minus that before the first, ``(models, subjects)``.
        clicks: a line per click, with what it did.
    """

    dice: np.ndarray
    gains: np.ndarray
    clicks: pd.DataFrame

    @classmethod
    def of(cls, tables: Sequence[pd.DataFrame], subject_of: Mapping[str, str]) -> Way:
        """Return the way of one table per model, of the same cases."""
        dice, gains, clicks = [], [], []
        for table in tables:
            known = table.groupby(["case", "clicks"])["dice"].mean().unstack()
            curve = known.reindex(columns=range(max(*CLICKS, *known.columns) + 1)).ffill(axis=1)
            dice.append(curve.to_numpy())
            gains.append((curve[curve.columns[-1]] - curve[0]).groupby(subject_of).mean().to_numpy())
            clicks.append(table.dropna(subset=["fixed"]).drop_duplicates(["case", "clicks"]))
        return cls(np.stack(dice), np.stack(gains), pd.concat(clicks))

    def row(self, name: str, first: Way) -> list[str]:
        """One line of the table."""
        clicks, curve = self.clicks, self.dice.mean((0, 1))
        against = "" if self is first else with_interval(self.gains - first.gains)
        return [
            name,
            *(f"{curve[number]:.3f}" for number in CLICKS),
            with_interval(self.gains),
            against,
            f"{100 * clicks['obeyed'].astype(float).mean():.0f} %",
            f"{100 * (clicks['broken'] > clicks['fixed']).mean():.1f} %",
            f"{100 * clicks['broken'].sum() / max(1, clicks['fixed'].sum()):.0f} %",
            f"{clicks['slices'].mean():.1f}",
            f"{clicks['seconds'].median():.2f}",
        ]


def with_interval(differences: np.ndarray) -> str:
    """Mean and 95 % interval of ``(models, subjects)``."""
    found = interval(differences)
    return f"{differences.mean():+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def read(folder: Path, by: str = "case") -> dict[str, Way]:
    """Ways that all models of a data set have, the first one being ``session`` if it is there.

    Args:
        folder: of one folder per model.
        by: which cases are one subject, see :func:`nnunet_ext.splits.subjects.group`.

    Raises:
        InputError: a case gets no subject.
    """
    models = sorted(path for path in folder.iterdir() if path.is_dir())
    names = set.intersection(*({file.stem for file in model.glob("*.csv")} for model in models))
    tables = {name: [pd.read_csv(model / f"{name}.csv") for model in models] for name in names}
    cases = set.intersection(*(set(table["case"]) for own in tables.values() for table in own))
    subject_of = group(sorted(cases), by).subject_of
    return {
        name: Way.of([table[table["case"].isin(cases)] for table in tables[name]], subject_of)
        for name in sorted(names, key=lambda name: (name != "session", name))
    }


def drawn(found: dict[str, dict[str, Way]]) -> Figure:
    """Dice over the clicks, a panel per data set."""
    figure = Figure(figsize=(4.4 * len(found), 3.6), layout="constrained")
    for axes, (title, ways) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for name, way in ways.items():
            axes.plot(way.dice.mean((0, 1)), label=name.replace("_", " "), linewidth=1.8)
        models, cases, _ = way.dice.shape
        axes.set_title(f"{title}: {models} models, {cases} images", fontsize=10)
        axes.set_xlabel("clicks")
        axes.set_ylabel("Dice")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--by", default="case", help="which cases are one subject, as in nnunet-ext splits")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args(argv)
    try:
        found = {folder.name: read(folder, arguments.by) for folder in arguments.folders}
    except InputError as error:
        parser.exit(1, f"{error}\n")
    for title, ways in found.items():
        first = next(iter(ways.values()))
        print(f"{title}: {len(first.gains)} models, {first.gains.shape[1]} subjects, {len(first.clicks)} clicks\n")
        print(f"| {' | '.join(HEADER)} |\n|---|{'---:|' * (len(HEADER) - 1)}")
        for name, way in ways.items():
            print(f"| {' | '.join(way.row(name.replace('_', ' '), first))} |")
        print()
    if arguments.figure:
        drawn(found).savefig(arguments.figure, dpi=110)


if __name__ == "__main__":
    main()
