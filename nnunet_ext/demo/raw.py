"""What the demo needs of a data set in nnU-Net's raw format, of which it only reads."""

from __future__ import annotations

from pathlib import Path

from nnunet_ext.data.folders import visible_files
from nnunet_ext.data.raw import RawDataset, open_dataset
from nnunet_ext.errors import InputError


def number(dataset: RawDataset) -> str:
    """As nnU-Net's commands take it."""
    return str(int(dataset.name[7:10]))


def held_out(dataset: RawDataset) -> list[str]:
    """Names of the cases that have an image in ``imagesTs`` and a reference in ``labelsTs``."""
    labels = visible_files(dataset.folder / "labelsTs", dataset.ending)
    names = [path.name.removesuffix(dataset.ending) for path in labels]
    return [name for name in names if (dataset.folder / "imagesTs" / f"{name}_0000{dataset.ending}").is_file()]


def find_dataset(raw: str | Path, dataset: str | int) -> RawDataset:
    """The data set with this number or name in the user's raw folder."""
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
