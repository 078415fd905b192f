"""nnU-Net's three folders, and the data sets in them."""

from __future__ import annotations

import os
from pathlib import Path

from nnunet_ext.errors import InputError

HOLDS = {
    "nnUNet_raw": "your Dataset…_… folders",
    "nnUNet_preprocessed": "your preprocessed data",
    "nnUNet_results": "your trained models",
}

NEXT = {
    "nnUNet_raw": "give the number or name of one that is",
    "nnUNet_preprocessed": "run: nnUNetv2_plan_and_preprocess -d {dataset}",
    "nnUNet_results": "give the number or name of one that is, or the model's folder",
}


def root_folder(variable: str) -> Path:
    """The folder that ``nnUNet_raw``, ``nnUNet_preprocessed`` or ``nnUNet_results`` names.

    Raises:
        InputError: the variable is not set, or names no folder.
    """
    root = os.environ.get(variable)
    if not root or not Path(root).is_dir():
        state = f"is {root}, which is no folder" if root else "is not set"
        raise InputError(f"{variable} {state}; export it to the folder that holds {HOLDS[variable]}.")
    return Path(root)


def dataset_folder(dataset: str | int, variable: str = "nnUNet_preprocessed") -> Path:
    """The folder of a data set, by number or full name.

    Raises:
        InputError: the variable is not set, or there is not exactly one such folder.
    """
    root = root_folder(variable)
    text = str(dataset)
    candidates = root.glob(f"Dataset{int(text):03d}_*") if text.isdigit() else [root / text]
    found = sorted(path for path in candidates if path.is_dir())
    if len(found) != 1:
        several = ", ".join(path.name for path in found)
        raise InputError(
            f"Data set {text!r} is {'ambiguous (' + several + ')' if found else 'not'} in {variable}={root}; "
            f"{'give its full name' if found else NEXT[variable].format(dataset=text)}."
        )
    return found[0]


def visible_files(folder: Path, ending: str) -> list[Path]:
    """The files of a folder with an ending, in alphabetical order; none if there is no such folder.

    Hidden files are left out: macOS writes ``._case_001.nii.gz`` beside ``case_001.nii.gz``, and it holds no image.
    """
    return sorted(path for path in folder.glob(f"*{ending}") if not path.name.startswith("."))


def case_names(folder: Path, ending: str) -> list[str]:
    """The names of the cases with a file in a folder: those of :func:`visible_files` without their ending."""
    return [path.name.removesuffix(ending) for path in visible_files(folder, ending)]
