"""Small data sets for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

DATASET = "Dataset038_Small"
CASES = [f"patient{number:03d}_frame{frame:02d}" for number in range(1, 21) for frame in (1, 12)]
MakeDataset = Callable[..., Path]


@pytest.fixture
def preprocessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeDataset:
    """``preprocessed(cases)`` → the folder of a preprocessed data set without images; the variable points there."""

    def make(cases: Sequence[str] = CASES) -> Path:
        folder = tmp_path / "preprocessed" / DATASET
        (folder / "gt_segmentations").mkdir(parents=True)
        for case in cases:
            (folder / "gt_segmentations" / f"{case}.nii.gz").touch()
        (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
        monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
        return folder

    return make
