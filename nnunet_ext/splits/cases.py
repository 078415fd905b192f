"""The training cases of a data set, as nnU-Net counts them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.data.folders import case_names, dataset_folder
from nnunet_ext.data.raw import open_dataset
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json


@dataclass(frozen=True)
class Cases:
    """Training cases of a data set.

    Attributes:
        dataset: full name, such as ``Dataset004_Hippocampus``.
        names: names of the training cases, in alphabetical order.
        folder: the preprocessed data set, where nnU-Net looks for ``splits_final.json``; None if there is none yet.
    """

    dataset: str
    names: tuple[str, ...]
    folder: Path | None


def find_cases(dataset: str | int) -> Cases:
    """List the preprocessed cases of ``gt_segmentations``; without that folder, the cases of ``nnUNet_raw``.

    Args:
        dataset: number or full name.

    Raises:
        InputError: the data set is in neither place, or has no cases.
    """
    text = str(dataset)
    if Path(text).name != text:
        raise InputError(f"{text!r} is no data set; give its number or full name, such as 4 or Dataset004_Hippocampus.")
    folder, reason = None, None
    try:
        folder = dataset_folder(text)
    except InputError as error:
        reason = error
    if folder is not None and (folder / "gt_segmentations").is_dir():
        description = folder / "dataset.json"
        ending = read_json(description).get("file_ending")
        if not ending:
            raise InputError(f"{description} has no 'file_ending', which nnU-Net's format requires; add it.")
        names = case_names(folder / "gt_segmentations", ending)
        if not names:
            raise InputError(f"{folder / 'gt_segmentations'} holds no {ending} files; run nnUNetv2_preprocess again.")
        # nnU-Net never removes files from gt_segmentations; it trains on what is preprocessed, a .pkl for each case
        preprocessed = {file.stem for file in folder.glob("*/*.pkl")}
        names = [name for name in names if name in preprocessed] or names
        return Cases(folder.name, tuple(sorted(names)), folder)
    if os.environ.get("nnUNet_raw"):
        raw = open_dataset(text)
        return Cases(raw.name, tuple(sorted(case.name for case in raw.cases)), folder)
    if reason is not None:
        raise reason
    raise InputError(
        f"{folder} has no gt_segmentations yet and nnUNet_raw is not set, so the cases are not known; run "
        f"nnUNetv2_preprocess -d {text}, or export nnUNet_raw."
    )
