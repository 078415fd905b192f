"""Finds the user's own data set for the demo."""

from __future__ import annotations

from pathlib import Path

from nnunet_ext.data.raw import RawDataset, open_dataset
from nnunet_ext.errors import InputError


def find_dataset(raw: str | Path, dataset: str | int) -> RawDataset:
    """The data set with this number or name in the user's raw folder.

    Raises:
        InputError: there is no such folder or data set, or it has fewer than five cases.
    """
    root = Path(raw).expanduser().resolve()
    if not root.is_dir():
        raise InputError(f"--raw {root} is no folder; give the folder that holds Dataset…_… folders.")
    text = str(dataset)
    there = sorted(path for path in root.glob("Dataset[0-9][0-9][0-9]_*") if (path / "dataset.json").is_file())
    found = [path for path in there if path.name == text or (text.isdigit() and int(path.name[7:10]) == int(text))]
    if len(found) != 1:
        names = ", ".join(path.name for path in found or there) or "no data set with a dataset.json"
        raise InputError(
            f"--dataset {text} is {'ambiguous' if found else 'not'} in {root}; there {'match' if found else 'is'}: "
            f"{names}."
        )
    result = open_dataset(found[0])
    if (cases := len(result.cases)) < 5:
        raise InputError(f"{result.name} has {cases} training cases, but nnU-Net's five folds need at least 5.")
    return result
