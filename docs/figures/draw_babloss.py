"""Draws the figure of the results of BaBLoss from the cases in docs/results/babloss; needs no images.

python docs/figures/draw_babloss.py
"""

from pathlib import Path

import pandas as pd

from nnunet_ext.benchmark.analysis import Metric
from nnunet_ext.benchmark.figures import distributions, styles

FOLDER = Path(__file__).parents[1] / "results" / "babloss"

ARMS = {
    "nnUNetTrainerSegmentedOnly": "stock nnU-Net on the 8 patients",
    "nnUNetTrainerSegmentedOnly, 5000 steps": "stock, twice as long",
    "nnUNetTrainerLandmark": "Landmark (no bridge)",
    "nnUNetTrainerLandmark, 5000 steps": "Landmark, twice as long",
    "nnUNetTrainerBaBLoss": "BaBLoss",
    "nnUNetTrainerBaBLoss, 5000 steps": "BaBLoss, twice as long",
}
"""Arms of the CSV files, and their names in the figure."""

SUBSET = 1
"""The only subset with all arms and with surfaces of all of them."""

SURFACE = Metric("mm", "surface at the landmarks", higher_is_better=False, unit=" mm")
DICE = Metric("dice", "Dice", higher_is_better=True)


def values(file: str, metric: Metric) -> pd.DataFrame:
    """A table ``arm, case, value`` of the arms of the figure."""
    rows = pd.read_csv(FOLDER / file).query("subset == @SUBSET and arm in @ARMS")
    missing = set(ARMS) - set(rows["arm"])
    assert not missing, f"{file} has no {', '.join(sorted(missing))}"
    return rows.assign(arm=rows["arm"].map(ARMS)).rename(columns={metric.column: "value"})


def main() -> None:
    by_metric = {
        DICE: values("batches_of_4.csv", DICE),
        SURFACE: values("surface_at_landmarks.csv", SURFACE),
    }
    names = list(ARMS.values())
    figure = distributions(by_metric, styles(names, baseline=names[0]))
    figure.savefig(FOLDER / "first_subset.png", dpi=110)


if __name__ == "__main__":
    main()
