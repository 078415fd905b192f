"""Report of the demo: a table, two files with all numbers, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.pictures import overlay_case
from nnunet_ext.benchmark.results import Results
from nnunet_ext.data.reading import Reader
from nnunet_ext.evaluation.overlay import draw_overlay
from nnunet_ext.files import write_json, write_rows
from nnunet_ext.version import __version__

Means = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Means by trainer, label (and ``mean``) and metric."""

PICTURED = 3
"""Number of cases in the picture."""


def table(means: Means) -> str:
    """The means as text: one line per class, Dice and HD95 per trainer."""
    labels = list(next(iter(means.values())))
    first = max(map(len, ["class", *labels]))
    width = max(18, *map(len, means))
    lines = [
        " ".join([" " * first, *(f"{trainer:>{width}}" for trainer in means)]),
        " ".join([f"{'class':<{first}}", *(f"{'Dice   HD95 (mm)':>{width}}" for _ in means)]),
    ]
    for label in labels:
        cells = [f"{rows[label]['dice']:.3f}   {rows[label]['hd95_mm']:9.2f}" for rows in means.values()]
        lines.append(" ".join([f"{label:<{first}}", *(f"{cell:>{width}}" for cell in cells)]))
    return "\n".join(lines)


def write_results(folder: Path, results: Results, means: Means, **about: Any) -> None:
    """Write ``results.json`` (means, every score, definitions, ``about``) and ``results.csv`` (every score)."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        return None if value != value else value

    scores = results.cases.drop(columns=["group", "fold", "seed"])
    scores.insert(0, "trainer", scores.pop("arm"))
    rows = scores.to_dict("records")
    content = {
        **about,
        "nnunet_ext": __version__,
        "definitions": list(results.definitions),
        "means": plain(means),
        "scores": [plain(row) for row in rows],
    }
    write_json(folder / "results.json", content)
    write_rows(folder / "results.csv", scores.columns, rows)


def draw(path: Path, results: Results, title: str) -> None:
    """Draw the first cases with all predictions, on the slice with the longest border between structures."""
    [group] = results.groups
    cases = [
        overlay_case(results, group, results.arms, case, lambda _arm, dice, _seed: f"Dice {dice:.3f} (whole case)")
        for case in results.cases["case"].unique()[:PICTURED]
    ]
    draw_overlay(path, [case for case in cases if case], group.labels, Reader(group.reader), title, "interface")
