"""A data set in nnU-Net's raw format, of which the demo only reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError


@dataclass(frozen=True)
class RawDataset:
    """A data set in nnU-Net's raw format."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def number(self) -> str:
        return str(int(self.name[7:10]))

    @property
    def description(self) -> dict[str, Any]:
        return json.loads((self.folder / "dataset.json").read_text(encoding="utf-8"))

    @property
    def ending(self) -> str:
        return self.description["file_ending"]

    def held_out(self) -> list[str]:
        """Names of the cases that have an image in ``imagesTs`` and a reference in ``labelsTs``."""
        names = sorted(path.name.removesuffix(self.ending) for path in (self.folder / "labelsTs").glob("*"))
        return [name for name in names if (self.folder / "imagesTs" / f"{name}_0000{self.ending}").is_file()]

    def training_image(self, case: str) -> Path:
        """The first channel; ``dataset.json`` may list files that lie elsewhere."""
        listed = self.description.get("dataset", {}).get(case)
        if listed is None:
            return self.folder / "imagesTr" / f"{case}_0000{self.ending}"
        return self.folder / listed["images"][0]


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
    result = RawDataset(found[0])
    if (cases := result.description["numTraining"]) < 5:
        raise InputError(f"{result.name} has {cases} training cases, but nnU-Net's five folds need at least 5.")
    return result
