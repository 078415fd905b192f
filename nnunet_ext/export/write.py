"""``nnunet-ext export``: a trained model that predicts elsewhere, with stock nnU-Net alone if possible.

If the trainer's inference network is the planned one (:mod:`nnunet_ext.export.planned`), the checkpoints are rewritten
as those of the trainer of nnU-Net under it, mostly ``nnUNetTrainer``: only the tensors of the planned network, and
plans and ``dataset.json`` without our entries. Otherwise the folder states which packages it needs.

Either way the export holds nothing of the training: no optimiser, no teacher, no log, no case names. The written files
are read again as nnU-Net's predictor would, and their logits must equal those of the original, bit for bit.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_ext.beside import beside
from nnunet_ext.errors import InputError
from nnunet_ext.export import formats, readme
from nnunet_ext.export.model import Model, load_weights, read_model_checkpoint
from nnunet_ext.export.planned import Verdict, judge, logits, random_image, stock_trainer
from nnunet_ext.files import replacing, require_folder, write_json, written_as_a_whole
from nnunet_ext.find_trainer import find_trainer
from nnunet_ext.nnunet.checkpoints import FINAL, write_checkpoint
from nnunet_ext.nnunet.plans import without_extension
from nnunet_ext.nnunet.precision import SECTION as PRECISION
from nnunet_ext.version import __version__

RECORD = "export.json"
"""File in an exported model that states its origin and requirements. Only folders with this file are replaced."""

STOCK_DESCRIPTION = (
    "channel_names",
    "modality",
    "labels",
    "regions_class_order",
    "numTraining",
    "file_ending",
    "overwrite_image_reader_writer",
    "name",
    "description",
    "reference",
    "citation",
    "release",
    "license",
    "licence",
    "converted_by",
)
"""Keys of ``dataset.json`` that nnU-Net itself writes or reads, except those that name cases."""

OF_CASES = ("dataset", "annotated_labels", "pseudo_labels")
"""Keys of ``dataset.json`` that name cases or their files; inference needs none of them."""

BESIDE = "landmark_thresholds.json"
"""File in a fold whose network predicts landmarks, with the thresholds of their confidence."""


@dataclass(frozen=True)
class Exported:
    """Result of :func:`export_model`.

    Attributes:
        path: the exported folder or zip file.
        name: name that users give after ``-tr``.
        record: content of ``export.json``.
        verdict: whether the trainer's inference network is the planned one.
        onnx: largest difference from the original logits, by file.
    """

    path: Path
    name: str
    record: Mapping[str, Any]
    verdict: Verdict
    onnx: Mapping[str, float]

    def report(self) -> str:
        """The text to print: the model, its requirements, and the commands to type next."""
        record = self.record
        lines = [f"{self.path}: {record['trained_with']}, {len(record['checkpoints'])} checkpoint(s)."]
        if record["requires"] and self.verdict.planned:
            lines.append("As --keep-trainer asks, it stays a model of its trainer.")
        lines.append(readme.needs(record))
        if record["left_out"]:
            lines.append(f"Left out, because the segmentation does not need it: {', '.join(record['left_out'])}.")
        lines.append("The logits of the exported model equal those of the original bit for bit.")
        lines += [f"{name}: ONNX, logits differ by at most {gap:.2g}" for name, gap in self.onnx.items()]
        return "\n".join([*lines, "", readme.commands(record, self.name, self.path)])


def export_model(
    folder: str | Path,
    out: str | Path,
    *,
    folds: Sequence[str] | None = None,
    checkpoints: Sequence[str] = ("checkpoint_final.pth",),
    name: str | None = None,
    keep_trainer: bool = False,
    safetensors: bool = False,
    onnx: bool = False,
    force: bool = False,
) -> Exported:
    """Write a trained model for others.

    Args:
        folder: folder of nnU-Net's results, ``TRAINER__PLANS__CONFIGURATION``.
        out: a zip file for ``nnUNetv2_install_pretrained_model_from_zip``, or a folder, which becomes the model folder.
        folds: folds to export, by default all trained ones; ``"all"`` is a fold.
        checkpoints: file names in every fold.
        name: name of the model in a zip file, which users give after ``-tr``; by default the trainer's name.
        keep_trainer: write a model of its trainer even if stock nnU-Net could predict with it.
        safetensors: write the weights as safetensors, and a description of the network as JSON, beside each checkpoint.
        onnx: write the network as ONNX beside each checkpoint; needs the extra ``onnx``.
        force: replace an earlier export.

    Raises:
        InputError: something does not exist or does not fit, or the logits differ. Nothing is written then.
    """
    model = Model.from_folder(folder)
    files = model.checkpoints(folds, checkpoints)
    target = _target(Path(out), model.folder, force)
    if onnx:
        formats.require_onnx()

    first = read_model_checkpoint(files[0])
    trainer = find_trainer(first["trainer_name"])
    configuration = first["init_args"]["configuration"]
    model.require(configuration)
    verdict = judge(trainer, model, configuration)
    stock = stock_trainer(trainer) if verdict.planned and not keep_trainer else None
    name = name or first["trainer_name"]
    if not re.fullmatch(r"\w+", name) or "__" in name:
        raise InputError(f"--as {name!r} is no name of a trainer: letters, digits and single '_' are expected.")
    record = _record(model, trainer, configuration, files, stock, verdict)
    del first

    def write_into(root: Path) -> dict[str, float]:
        exported = replace(model, folder=root, **_descriptions(model, stock is not None))
        _write_descriptions(exported, record, name)
        for found in record["postprocessing"]:
            (root / found).parent.mkdir()
            shutil.copyfile(model.folder / found, root / found)
        differences: dict[str, float] = {}
        for file in files:
            network = _write_checkpoint(model, exported, file, record, trainer, stock or trainer)
            written = root / file.parent.name / file.name
            if safetensors:
                weights = written.with_suffix(formats.SAFETENSORS)
                formats.write_weights(network, weights)
                shutil.copymode(written, weights)  # safetensors lets only its owner read it
                formats.write_description(exported, record, written.with_suffix(".json"))
            if onnx:
                path = written.with_suffix(".onnx")
                image = random_image(exported, configuration)
                differences[path.relative_to(root).as_posix()] = formats.write_onnx(network, image, path)
        return differences

    if target.suffix == ".zip":
        with beside(target) as content, replacing(target) as file:
            root = content / readme.place_in_results(record, name)
            root.mkdir(parents=True)
            differences = write_into(root)
            _zip(content, file)
    else:
        with written_as_a_whole(target, replace=force) as root:
            differences = write_into(root)
    return Exported(target, name, record, verdict, differences)


def _target(out: Path, source: Path, force: bool) -> Path:
    """The absolute path to write.

    Raises:
        InputError: the path may not be written.
    """
    target = out.absolute()
    if not target.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {target.parent}; create it first.")
    require_folder(target.parent)
    resolved, original = target.resolve(), source.resolve()
    if resolved.is_relative_to(original) or original.is_relative_to(resolved):
        raise InputError(f"--out {out} and the trained model {source} lie in each other; choose another place.")
    if not target.exists():
        return target
    if target.is_dir() and any(target.iterdir()) and not (target / RECORD).is_file():
        raise InputError(f"--out {out} is a folder that no export wrote; choose another name, or delete it.")
    if target.is_dir() == (target.suffix == ".zip"):
        raise InputError(f"--out {out} exists and is {'a folder' if target.is_dir() else 'a file'}; delete it first.")
    if not force:
        raise InputError(f"--out {out} exists; choose another name, or replace it with --force.")
    return target


def _record(
    model: Model,
    trainer: type[nnUNetTrainer],
    configuration: str,
    files: Sequence[Path],
    stock: type[nnUNetTrainer] | None,
    verdict: Verdict,
) -> dict[str, Any]:
    return {
        "exported_by": f"nnunet-ext {__version__}",
        "dataset": model.plans["dataset_name"],
        "plans": model.plans["plans_name"],
        "configuration": configuration,
        "previous_stage": model.managers(configuration)[1].previous_stage_name or "",
        "trained_with": trainer.__name__,
        "trainer": (stock or trainer).__name__,
        "requires": [] if stock else readme.requirements(trainer),
        "is_elsewhere": not stock and readme.is_elsewhere(trainer),
        "reason": "" if stock else verdict.reason,
        "left_out": list(verdict.left_out) if stock else [],
        "checkpoints": [f"{file.parent.name}/{file.name}" for file in files],
        "postprocessing": [file.relative_to(model.folder).as_posix() for file in _postprocessing(model.folder, files)],
    }


def _descriptions(model: Model, stock: bool) -> dict[str, Any]:
    """``plans`` and ``dataset_json`` of the exported model."""
    description = model.dataset_json
    if stock:
        kept = {key: value for key, value in description.items() if key in STOCK_DESCRIPTION}
        return {"plans": without_extension(model.plans), "dataset_json": kept}
    return {
        # recipients decide for themselves whether to compute in bfloat16; what was compared here is in float32
        "plans": without_extension(model.plans, PRECISION),
        "dataset_json": {key: value for key, value in description.items() if key not in OF_CASES},
    }


def _write_descriptions(exported: Model, record: Mapping[str, Any], name: str) -> None:
    root = exported.folder
    contents = {"plans.json": exported.plans, "dataset.json": exported.dataset_json, RECORD: record}
    for file, content in contents.items():
        write_json(root / file, content)
    (root / readme.NAME).write_text(readme.text(record, name), encoding="utf-8")


def _postprocessing(source: Path, files: Sequence[Path]) -> list[Path]:
    """Files of the postprocessing that nnU-Net found for exactly these folds; it judges by their final checkpoints.

    The metrics beside them stay, because they name cases.
    """
    folds = {file.parent.name.removeprefix("fold_") for file in files if file.name == FINAL}
    # nnU-Net names the folder by the folds in the order in which they were given
    return [
        found
        for found in sorted(source.glob("crossval_results_folds_*/postprocessing.pkl"))
        if set(found.parent.name.removeprefix("crossval_results_folds_").split("_")) == folds
    ]


def _write_checkpoint(
    model: Model,
    exported: Model,
    file: Path,
    record: Mapping[str, Any],
    trainer: type[nnUNetTrainer],
    written_with: type[nnUNetTrainer],
) -> nn.Module:
    """Write one checkpoint and its thresholds, read it again, compare logits, and return the exported network.

    Raises:
        InputError: it belongs to another trainer or configuration than the first one, or the logits differ.
    """
    configuration = record["configuration"]
    checkpoint = read_model_checkpoint(file)
    arguments = checkpoint["init_args"]
    if (checkpoint["trainer_name"], arguments["configuration"]) != (record["trained_with"], configuration):
        raise InputError(
            f"{file} is of {checkpoint['trainer_name']}, configuration {arguments['configuration']}, but the first "
            f"checkpoint is of {record['trained_with']}, {configuration}; one folder can hold models of one trainer."
        )
    original = model.inference_network(trainer, configuration)
    load_weights(original, checkpoint, file)
    network = exported.inference_network(written_with, configuration)
    weights = checkpoint["network_weights"]
    folder = exported.folder / file.parent.name
    folder.mkdir(exist_ok=True)
    write_checkpoint(
        {
            "network_weights": {key: weights[key] for key in network.state_dict()},
            "trainer_name": record["trainer"],
            "init_args": {**arguments, "plans": dict(exported.plans), "dataset_json": dict(exported.dataset_json)},
            "inference_allowed_mirroring_axes": checkpoint.get("inference_allowed_mirroring_axes"),
            "current_epoch": checkpoint.get("current_epoch"),
        },
        folder / file.name,
    )
    if record["requires"] and (file.parent / BESIDE).is_file():
        shutil.copyfile(file.parent / BESIDE, folder / BESIDE)

    again = torch.load(folder / file.name, map_location="cpu", weights_only=True)
    load_weights(network, again, folder / file.name)
    image = random_image(model, configuration, trainer)
    expected = logits(original, image)
    if not (torch.isfinite(expected).all() and torch.equal(expected, logits(network, image))):
        raise InputError(
            f"{file}: the logits of the exported network are not those of the original one, or not finite; nothing "
            "was written. With --keep-trainer the network stays what it is."
        )
    return network


def _zip(folder: Path, file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
