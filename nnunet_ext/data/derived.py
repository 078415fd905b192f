"""A data set derived from another one: new labels for the same images, in nnU-Net's raw format."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from nnunet_ext.data.folders import root_folder
from nnunet_ext.data.raw import RawDataset
from nnunet_ext.errors import InputError
from nnunet_ext.files import require_folder


def new_dataset_folder(source: RawDataset, out: str, suffix: str, *, replace: bool | None = None) -> Path:
    """The folder of the new data set. Its number must be free, because nnU-Net finds data sets by number.

    Args:
        source: data set to derive from.
        out: number of the new data set, or its whole name ``Dataset138_Name``.
        suffix: appended to the name of the source if ``out`` is a number.
        replace: allow a data set with the same number and name; None: the command has no ``--force``.

    Raises:
        InputError: the number is taken, or ``out`` is neither a number nor a name.
    """
    name = out
    if out.isdigit():
        own = re.sub(r"^Dataset\d{3}_", "", source.name)
        name = f"Dataset{int(out):03d}_{own}{suffix}"
    if not re.fullmatch(r"Dataset(?!000)\d{3}_\w[\w.+-]*", name):
        raise InputError(
            f"--new-dataset {out!r} is no number from 1 to 999 and no name such as Dataset138_Liver{suffix}."
        )
    root = root_folder("nnUNet_raw")
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        found = sorted(Path(os.environ.get(variable) or root).glob(f"{name[:10]}_*"))
        taken = [path for path in found if not (replace and path.name == name)]
        if taken:
            force = ", or replace it with --force" if replace is False and taken[0].name == name else ""
            raise InputError(f"Number {name[7:10]} is taken: {taken[0]} exists; choose another one{force}.")
    require_folder(root)
    return Path(os.path.abspath(root / name))


def derived_description(source: RawDataset, target: Path, text: str) -> dict[str, Any]:
    """Content of ``dataset.json``: the source's, with its images and with label maps in the new ``labelsTr``.

    Args:
        source: data set to derive from.
        target: folder of the new data set.
        text: description of the new data set.
    """

    def place(image: Path) -> str:
        # a relative path survives a move of nnUNet_raw; images elsewhere do not move with it and need an absolute one
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
