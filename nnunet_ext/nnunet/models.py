"""Trained models: their folders in nnU-Net's results, and prediction as with ``nnUNetv2_predict``.

nnU-Net answers a wrong folder, fold, device or data set with a traceback; here each of them is one sentence, before
anything is loaded or written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.file_path_utilities import convert_trainer_plans_config_to_identifier

from nnunet_ext.data.channels import images_by_case, require_channels, require_numbered
from nnunet_ext.data.folders import case_names, dataset_folder
from nnunet_ext.data.headers import require_whole
from nnunet_ext.devices import require_device
from nnunet_ext.discovery import register
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.findings import few
from nnunet_ext.nnunet.checkpoints import FINAL
from nnunet_ext.nnunet.untrusted import load_untrusted


def model_folder(dataset: str | int, trainer: str, plans: str, configuration: str) -> Path:
    """Return the folder in which nnU-Net keeps the folds of a model.

    Args:
        dataset: number or name of a data set in ``nnUNet_results``.
        trainer: name of its class.
        plans: name without ``.json``.
        configuration: such as ``3d_fullres``.

    Raises:
        InputError: ``nnUNet_results`` is not set, or holds no such model.
    """
    folder = dataset_folder(dataset, "nnUNet_results")
    model = folder / convert_trainer_plans_config_to_identifier(trainer, plans, configuration)
    if not model.is_dir():
        there = sorted(path.name for path in folder.glob("*__*__*") if path.is_dir())
        raise InputError(
            f"{folder} holds no model {model.name} (TRAINER__PLANS__CONFIGURATION), but "
            f"{', '.join(there) or 'none at all'}; give -tr, -p and -c of one that was trained."
        )
    return model


def folds_with(model: Path, names: Sequence[str]) -> dict[str, Path]:
    """``"0"``, …, ``"all"`` → folder: the folds that hold all these files."""
    return {
        match[1]: path
        for path in sorted(model.glob("fold_*"))
        if (match := re.fullmatch(r"fold_(\d+|all)", path.name)) and all((path / name).is_file() for name in names)
    }


def usual_folds(there: Iterable[str]) -> list[str]:
    """Return the folds of the cross-validation, or ``all`` if there is no other, as nnU-Net's predictor does."""
    return [fold for fold in there if fold != "all"] or list(there)


def trained_folds(model: Path, folds: Sequence[int | str] | None = None, checkpoint: str = FINAL) -> list[int | str]:
    """Folds of a model that hold a checkpoint: numbers, or ``"all"``.

    Args:
        model: folder with ``plans.json`` and ``fold_…``.
        folds: those that are wanted, also as text; all that there are by default, ``fold_all`` only if it is alone.
        checkpoint: file name in the folders of the folds.

    Raises:
        InputError: it is no trained model, or a fold has no such checkpoint.
    """
    for name in ("plans.json", "dataset.json"):
        if not (model / name).is_file():
            raise InputError(
                f"{model} is no trained model: it has no {name}; give the folder that holds fold_0 and others."
            )
    for name, entry in {"plans.json": "configurations", "dataset.json": "labels"}.items():
        if not isinstance(read_json(model / name).get(entry), dict):
            raise InputError(f"{model / name} has no {entry}; restore it from a copy of the model.")
    there = folds_with(model, [checkpoint])
    wanted = [str(fold) for fold in folds] if folds else usual_folds(there)
    if missing := [fold for fold in wanted if fold not in there]:
        raise InputError(
            f"{model} has no {checkpoint} of fold {', '.join(missing)}; it has that of "
            f"{', '.join(there) or 'no fold'}; choose with -f, or name another file, such as checkpoint_best.pth, with "
            "-chk."
        )
    if not wanted:
        raise InputError(
            f"{model} holds no fold_…/{checkpoint}; finish the training, or name another file, such as "
            "checkpoint_best.pth, with -chk."
        )
    return [fold if fold == "all" else int(fold) for fold in wanted]


def require_openable(model: Path, folds: Sequence[int | str], checkpoint: str) -> None:
    """Raise InputError unless these checkpoints are whole and run no code; nnU-Net's predictor opens them unchecked.

    Args:
        model: as for :func:`trained_folds`, which returned ``folds``.
        folds: see there.
        checkpoint: the same.
    """
    for fold in folds:
        load_untrusted(model / f"fold_{fold}" / checkpoint)


@dataclass(frozen=True)
class Prediction:
    """Settings of a prediction, as the flags of ``nnUNetv2_predict``.

    Attributes:
        folds: all that were trained by default; several are averaged.
        checkpoint: file name in the folders of the folds.
        device: ``cuda``, ``cpu`` or ``mps``.
        tta: mirror as in training.
        step_size: of the sliding window, in patches.
        save_probabilities: also of the segmentation, for nnU-Net's ensembling.
        continue_prediction: leave out cases that are there.
        previous_stage: of a cascade, folder of its predictions.
        on_device: keep results on a GPU; needs memory for all channels of a whole image.
        progress: show a bar per case.
        processes: of preprocessing and of export.
    """

    folds: Sequence[int | str] | None = None
    checkpoint: str = FINAL
    device: str = "cuda"
    tta: bool = True
    step_size: float = 0.5
    save_probabilities: bool = False
    continue_prediction: bool = False
    previous_stage: str | Path | None = None
    on_device: bool = True
    progress: bool = True
    processes: tuple[int, int] = (3, 3)

    def predictor(self, kind: type[nnUNetPredictor], model: Path, settings: dict[str, Any], **loading: Any) -> Any:
        """A predictor with the weights of the model.

        Args:
            kind: its class.
            model: folder with ``plans.json`` and ``fold_…``.
            settings: further arguments of the class.
            loading: further arguments of its ``initialize_from_trained_model_folder``.

        Raises:
            InputError: there is no such model, fold, device or trainer, or a setting is out of its range.
        """
        if not 0 < self.step_size <= 1:
            raise InputError(
                f"-step_size {self.step_size:g} is no part of a tile; give a number above 0, up to 1, such as 0.5."
            )
        if min(self.processes) < 1:
            raise InputError(
                f"-npp {self.processes[0]} -nps {self.processes[1]}: preprocessing and export need at least 1 process "
                "each."
            )
        folds = trained_folds(model, self.folds, self.checkpoint)
        require_device(self.device, "-device")
        register()
        made = kind(
            tile_step_size=self.step_size,
            use_mirroring=self.tta,
            perform_everything_on_device=self.on_device,
            device=torch.device(self.device),
            allow_tqdm=self.progress,
            **settings,
        )
        require_openable(model, folds, self.checkpoint)
        made.initialize_from_trained_model_folder(str(model), folds, self.checkpoint, **loading)
        return made

    def run(self, predictor: Any, images: Path, out: Path) -> None:
        """Predict all cases of a folder, with nnU-Net's processes; writes nnU-Net's files.

        Raises:
            InputError: there is no such folder, a channel or the first stage of a case is missing, or a file is cut
                off.
        """
        cases = require_images(images, predictor.dataset_json)
        stage = predictor.configuration_manager.previous_stage_name
        firsts = self._first_stage(stage, [f"{case}{predictor.dataset_json['file_ending']}" for case in cases])
        for file in (file for files in (*cases.values(), firsts) for file in files):
            require_whole(file)
        predictor.predict_from_files(
            str(images),
            str(out),
            save_probabilities=self.save_probabilities,
            overwrite=not self.continue_prediction,
            num_processes_preprocessing=self.processes[0],
            num_processes_segmentation_export=self.processes[1],
            folder_with_segs_from_prev_stage=None if self.previous_stage is None else str(self.previous_stage),
        )

    def _first_stage(self, stage: str | None, names: Sequence[str]) -> list[Path]:
        """The predictions of a cascade's first stage; none if ``stage`` is None.

        Raises:
            InputError: one is missing, or the model has no first stage.
        """
        if stage is None:
            if self.previous_stage is not None:
                raise InputError(
                    "-prev_stage_predictions is for the second stage of a cascade, unlike this model; omit it."
                )
            return []
        if self.previous_stage is None:
            raise InputError(
                f"The model is the second stage of a cascade; predict {stage} first and give its folder with "
                "-prev_stage_predictions."
            )
        found = [Path(self.previous_stage, name) for name in names]
        if missing := [file.name for file in found if not file.is_file()]:
            raise InputError(
                f"-prev_stage_predictions {self.previous_stage} has no {few(missing)}; predict {stage} for all images "
                "of -i first, and give its folder."
            )
        return found


def require_images(
    images: Path, description: Mapping[str, Any], cases: Sequence[str] | None = None
) -> dict[str, list[Path]]:
    """Images of a folder by case, in the order of their channels.

    Args:
        images: folder.
        description: content of the model's ``dataset.json``.
        cases: those that are needed; all that there are by default, as ``nnUNetv2_predict`` takes them.

    Raises:
        InputError: there is no case at all, a channel is missing, or a file is no image of a case.
    """
    ending = description["file_ending"]
    if not images.is_dir():
        raise InputError(f"-i {images} is no folder; give one that holds images named CASE_0000{ending}.")
    found = images_by_case(images, ending)
    if not found:
        raise InputError(f"-i {images} holds no images named CASE_0000{ending}, as the model expects; rename them.")
    needed = {
        case: require_numbered(images, ending, case, found.get(case, ()))
        for case in (found if cases is None else cases)
    }
    require_channels(needed, description)
    known = {file for files in found.values() for file in files}
    if cases is None and (strangers := sorted({*images.glob(f"*{ending}")} - known)):
        raise InputError(
            f"-i {images} holds {strangers[0].name}, which nnU-Net takes for an image, but images are named "
            f"CASE_0000{ending}; remove or rename it."
        )
    return found


def validation_cases(model: Path, fold: int) -> list[str]:
    """Names of the cases that a fold has predicted for its validation.

    Args:
        model: folder with ``dataset.json`` and ``fold_…``.
        fold: the fold.

    Raises:
        InputError: there are none.
    """
    ending = read_json(model / "dataset.json")["file_ending"]
    names = case_names(model / f"fold_{fold}" / "validation", ending)
    if not names:
        raise InputError(f"{model} has no predictions in fold_{fold}/validation, so nobody knows its cases; run --val.")
    return names
