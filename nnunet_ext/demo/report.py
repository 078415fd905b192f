"""What the demo writes about its trainers: one table, and every number in two files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_ext.evaluation.folders import Evaluation
from nnunet_ext.files import write_json, write_rows
from nnunet_ext.version import __version__


def table(evaluations: Mapping[str, Evaluation]) -> str:
    """The means as text: one line per class, Dice and HD95 per trainer."""
    means = {trainer: evaluation.means() for trainer, evaluation in evaluations.items()}
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


def write_results(folder: Path, evaluations: Mapping[str, Evaluation], **about: Any) -> None:
    """``results.json`` (means, every score, definitions, ``about``) and ``results.csv`` (every score)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    rows = [{"trainer": name, **row} for name, evaluation in evaluations.items() for row in evaluation.rows()]
    content = {
        **about,
        "nnunet_ext": __version__,
        "definitions": next(iter(evaluations.values())).definitions,
        "means": {name: plain(evaluation.means()) for name, evaluation in evaluations.items()},
        "scores": [plain(row) for row in rows],
    }
    write_json(folder / "results.json", content)
    write_rows(folder / "results.csv", rows[0], rows)
