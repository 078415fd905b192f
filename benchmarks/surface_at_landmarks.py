"""How far predicted surfaces are from landmarks that lie on them, in mm.

::

    python benchmarks/surface_at_landmarks.py DATASET LANDMARKS Landmark=FOLDER BaBLoss=FOLDER --by 'patient\\d+'

``DATASET`` says on which organs a landmark lies (``surface_of``), ``LANDMARKS`` holds the true landmarks, and each
further folder predictions of one training. Direction A of BaBLoss promises that the boundary passes through a landmark,
so this distance must become smaller. Measured is the absolute distance to the nearest face of the organ, as
``nnunet-ext landmarks check`` does. A landmark whose organ is not predicted has no distance and is counted.

The table has means over subjects of means over the cases and landmarks of a subject, the difference to the first folder
with its 95 % interval, and how many subjects are nearer. With one training of each the interval says how the difference
varies with the subjects, not with the training.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunet_ext.data.folders import visible_files
from nnunet_ext.data.geometry import Geometry
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.statistics import compare
from nnunet_ext.files import write_rows
from nnunet_ext.landmarks.dataset import Organs, RawLandmarkDataset, open_landmarks
from nnunet_ext.landmarks.formats import Cases, read
from nnunet_ext.landmarks.points import State
from nnunet_ext.splits.subjects import group

COLUMNS = ("arm", "subject", "case", "landmark", "organ", "mm")

Row = dict[str, Any]
"""One landmark and organ of one case."""


def measured(data: RawLandmarkDataset, landmarks: Cases, arm: str, predictions: Path) -> Iterator[Row]:
    """Distances at all landmarks of all predicted cases; nan where the organ is not predicted.

    Raises:
        InputError: there is no prediction, or one of a case without landmarks.
    """
    files, reader = visible_files(predictions, data.raw.ending), data.raw.reader()
    if not files:
        raise InputError(f"{predictions} holds no {data.raw.ending} files; give a folder of predictions.")
    # which labels people annotated does not matter here: predictions hold all labels
    organs = Organs(data.organs.values, data.organs.ignore, {})
    for file in files:
        case = file.name.removesuffix(data.raw.ending)
        if case not in landmarks:
            raise InputError(f"{file} has no landmarks; expected the landmarks of {case}.")
        labels = reader.labels(file)
        geometry = Geometry.from_volume(labels)
        for name, lies_on in data.declaration.surface_of.items():
            landmark = landmarks[case].get(name)
            if landmark is None or landmark.state != State.PRESENT:
                continue
            for organ in lies_on:
                surface = organs.surface(case, organ, labels)
                index = geometry.to_index([landmark.position_mm])
                mm = np.nan if surface is None else abs(float(surface.signed_distances_mm(index)[0]))
                yield {"arm": arm, "case": case, "landmark": name, "organ": organ, "mm": round(mm, 4)}


def table(rows: pd.DataFrame, baseline: str) -> str:
    """Return a Markdown table, one line per training."""
    by_case = rows.groupby(["arm", "subject", "case"], sort=False)["mm"].mean().rename("value").reset_index()
    several = by_case["arm"].nunique() > 1
    how = {"higher_is_better": False, "point": 1, "few_subjects": "describe"}
    differences = {each.arm: each for each in compare(by_case.assign(seed=0), baseline, **how)} if several else {}
    lines = [
        "| | subjects | mean mm | median of landmarks | no organ | difference [95 % interval] | nearer |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for arm, own in rows.groupby("arm", sort=False):
        of_subjects = by_case[by_case["arm"] == arm].groupby("subject")["value"].mean()
        cells = [str(len(of_subjects)), f"{of_subjects.mean():.2f}", f"{own['mm'].median():.2f}"]
        cells.append(str(own["mm"].isna().sum()))
        if other := differences.get(str(arm)):
            interval = f"[{other.ci_low:+.2f}, {other.ci_high:+.2f}]"
            cells += [f"{other.mean_difference:+.2f} {interval}", f"{other.better} of {other.n}"]
        else:
            cells += ["–", "–"]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="number or name in nnUNet_raw, or a folder")
    parser.add_argument("landmarks", type=Path, help="folder of the true landmarks")
    parser.add_argument("arms", nargs="+", metavar="NAME=PREDICTIONS", help="the first is the baseline")
    parser.add_argument("--by", default="case", help="what cases of one subject share, as in nnunet-ext splits")
    parser.add_argument("--file", type=Path, help="CSV with every landmark")
    arguments = parser.parse_args(argv)
    folders = dict(each.partition("=")[::2] for each in arguments.arms)
    try:
        data, landmarks = open_landmarks(arguments.dataset), read(arguments.landmarks)
        rows = [row for arm, folder in folders.items() for row in measured(data, landmarks, arm, Path(folder))]
        subject_of = group(sorted({row["case"] for row in rows}), arguments.by).subject_of
        rows = [{**row, "subject": subject_of[row["case"]]} for row in rows]
        if arguments.file:
            write_rows(arguments.file, COLUMNS, rows)
        print(table(pd.DataFrame(rows), next(iter(folders))))
    except InputError as error:
        parser.exit(1, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
