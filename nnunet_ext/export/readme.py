"""README of an exported model: its place in nnU-Net's results, its requirements, and how to predict."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from nnunet_ext.version import __version__

NAME = "README.txt"


def requirements(trainer: type) -> list[str]:
    """The packages that a model of this trainer needs, in pip's format; see :func:`is_elsewhere`."""
    ours = any(_package_of(parent) == "nnunet_ext" for parent in trainer.__mro__)
    return [*([f"nnunet-ext~={__version__}"] if ours else []), f"nnunetv2>={metadata.version('nnunetv2')},<3"]


def is_elsewhere(trainer: type) -> bool:
    """Whether a trainer is neither of this package nor of nnU-Net, so that packages alone do not bring it."""
    return _package_of(trainer) not in ("nnunet_ext", "nnunetv2")


def _package_of(trainer: type) -> str:
    return trainer.__module__.partition(".")[0]


def place_in_results(record: Mapping[str, Any], name: str) -> PurePosixPath:
    """Place of the model, relative to ``nnUNet_results``."""
    return PurePosixPath(record["dataset"]) / f"{name}__{record['plans']}__{record['configuration']}"


def commands(record: Mapping[str, Any], name: str, path: Path | None = None) -> str:
    """Return the commands to install the model and predict.

    Args:
        record: content of ``export.json``.
        name: name that users give after ``-tr``.
        path: the exported folder or zip file; None for the README inside, which cannot know its own path.
    """
    folds = list(dict.fromkeys(entry.partition("/")[0].removeprefix("fold_") for entry in record["checkpoints"]))
    files = list(dict.fromkeys(entry.partition("/")[2] for entry in record["checkpoints"]))
    tail = f"-f {' '.join(folds)}" + (f" -chk {files[0]}" if "checkpoint_final.pth" not in files else "")
    if record["previous_stage"]:
        tail += " -prev_stage_predictions PREVIOUS"
    place = None if path is None else shlex.quote(str(path))
    dataset, plans, configuration = (shlex.quote(str(record[key])) for key in ("dataset", "plans", "configuration"))
    lines = []
    if record["requires"]:
        packages = " ".join(f'"{package}"' for package in record["requires"])
        lines.append(f"pip install {packages}")
        if record["is_elsewhere"]:
            lines.append(f"export nnUNet_extTrainer=FOLDER_OF_{record['trainer']}")
        elif any(package.startswith("nnunet-ext") for package in record["requires"]):
            lines.append('export nnUNet_extTrainer="$(nnunet-ext path)"')
    if path is None or path.suffix == ".zip":
        lines += [
            f"nnUNetv2_install_pretrained_model_from_zip {place or 'FILE.zip'}",
            f"nnUNetv2_predict -i IMAGES -o PREDICTIONS -d {dataset} -c {configuration} -tr {name} -p {plans} {tail}",
        ]
    if path is None or path.suffix != ".zip":
        lines.append(f"nnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m {place or 'THIS_FOLDER'} {tail}")
    is_folder = path is not None and path.suffix != ".zip"
    model = place if is_folder else f"$nnUNet_results/{place_in_results(record, name)}"
    lines += [
        f"nnUNetv2_apply_postprocessing -i PREDICTIONS -o POSTPROCESSED -pp_pkl_file {model}/{file} "
        f"-plans_json {model}/plans.json -dataset_json {model}/dataset.json"
        for file in record.get("postprocessing", [])[:1]
    ]
    return "\n".join(f"  {line}" for line in lines)


def needs(record: Mapping[str, Any]) -> str:
    """One sentence, or two for a cascade: what prediction needs."""
    if not record["requires"]:
        found = "Stock nnU-Net v2 predicts with it; no other package is needed."
    else:
        packages = " and ".join(record["requires"])
        of_others = (
            f", and the file with the class {record['trainer']}, which is no part of these" * record["is_elsewhere"]
        )
        found = f"It needs {packages}{of_others}" + (f": {record['reason']}." if record["reason"] else ".")
    if record["previous_stage"]:
        found += (
            "\nIt is the second stage of a cascade: PREVIOUS is a folder with predictions of "
            f"{record['previous_stage']} for the same\nimages, whose model is not in here."
        )
    return found


def text(record: Mapping[str, Any], name: str) -> str:
    """Content of the README."""
    return f"""\
A model of nnU-Net v2 for {record["dataset"]}, configuration {record["configuration"]}, trained with
{record["trained_with"]}, exported by {record["exported_by"]}.

{needs(record)}

How to predict (the first way from a zip file, the second from this folder):

{commands(record, name)}

Installing a zip file replaces a model of the same name in nnUNet_results without asking.
"""
