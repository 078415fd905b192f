"""A data set that is made from another one: its own labels, the images of the other, in nnU-Net's raw format."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from nnunet_ext.data.folders import root_folder
from nnunet_ext.data.raw import RawDataset
from nnunet_ext.errors import InputError


def new_dataset_folder(source: RawDataset, out: str, suffix: str, *, replace: bool = False) -> Path:
    """The folder to write; no data set with this number may exist, because nnU-Net asks for the number.

    Args:
        source: that the data set is made from.
        out: number of the new data set, or its whole name ``Dataset138_Name``.
        suffix: of the name, if only a number is given.
        replace: a data set of the same name may be there.

    Raises:
        InputError: the number is taken, or ``out`` is neither.
    """
    name = out
    if out.isdigit():
        own = re.sub(r"^Dataset\d{3}_", "", source.name)
        name = f"Dataset{int(out):03d}_{own}{suffix}"
    if not re.fullmatch(r"Dataset\d{3}_\w[\w.+-]*", name):
        raise InputError(
            f"--new-dataset {out!r} is no number from 1 to 999 and no name such as Dataset138_Liver{suffix}."
        )
    root = root_folder("nnUNet_raw")
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        found = sorted(Path(os.environ.get(variable) or root).glob(f"{name[:10]}_*"))
        taken = [path for path in found if not (replace and path.name == name)]
        if taken:
            raise InputError(f"Number {name[7:10]} is taken: {taken[0]} exists; choose another one.")
    return Path(os.path.abspath(root / name))


def derived_description(source: RawDataset, target: Path, text: str) -> dict[str, Any]:
    """Content of ``dataset.json``: that of the source, with its images and with label maps in ``labelsTr``.

    Args:
        source: that the data set is made from.
        target: folder of the new data set.
        text: what it is.
    """

    def place(image: Path) -> str:
        # relative paths survive when nnUNet_raw is moved; what lies elsewhere does not move with it
        inside = image.is_relative_to(target.parent)
        return Path(os.path.relpath(image, target)).as_posix() if inside else str(image)

    return {
        **source.description,
        "name": target.name[11:],
        "description": text,
        "numTraining": len(source.cases),
        "dataset": {
            case.name: {"images": [place(image) for image in case.images], "label": f"labelsTr/{case.label.name}"}
            for case in source.cases
        },
    }
