"""A trained model: the folder ``TRAINER__PLANS__CONFIGURATION`` that nnU-Net writes, with its folds and checkpoints."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.nnunet.models import folds_with, usual_folds
from nnunet_ext.nnunet.precision import infer_in_float32
from nnunet_ext.nnunet.untrusted import load_untrusted

NEEDED = ("network_weights", "trainer_name", "init_args")
"""Entries of a checkpoint that prediction needs."""


@dataclass(frozen=True)
class Model:
    """Folder of a trained model, with the descriptions that nnU-Net's predictor reads.

    Attributes:
        folder: folder with ``plans.json``, ``dataset.json`` and the folds.
        plans: content of ``plans.json``.
        dataset_json: content of ``dataset.json``.
    """

    folder: Path
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]

    @classmethod
    def from_folder(cls, folder: str | Path) -> Model:
        """Read the descriptions in a folder.

        Raises:
            InputError: it is no folder of a trained model.
        """
        path = Path(folder)
        if not (path / "plans.json").is_file() or not (path / "dataset.json").is_file():
            raise InputError(
                f"{path} is no trained model: a folder of nnU-Net's results such as "
                "Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres, with plans.json, dataset.json and "
                "folds in it, is expected."
            )
        plans, dataset_json = read_json(path / "plans.json"), read_json(path / "dataset.json")
        for content, file, keys in (
            (plans, "plans.json", ("dataset_name", "plans_name", "configurations")),
            (dataset_json, "dataset.json", ("labels", "file_ending")),
        ):
            if missing := [key for key in keys if key not in content]:
                raise InputError(f"{path / file} has no {' and '.join(missing)}; it is none of nnU-Net's.")
        # they become parts of paths, and the folder may be a stranger's
        if not re.fullmatch(r"Dataset\d{3,}_[^/\\]+", dataset := str(plans["dataset_name"])):
            raise InputError(
                f"{path / 'plans.json'}: dataset_name is {dataset!r}, but a name such as Dataset004_Hippocampus is "
                "expected; correct it."
            )
        for name in (plans["plans_name"], *plans["configurations"]):
            if re.search(r"[/\\]", str(name)):
                raise InputError(
                    f"{path / 'plans.json'}: a name must hold no slash, but there is {name!r}; correct it."
                )
        return cls(path, plans, dataset_json)

    def checkpoints(self, folds: Sequence[str] | None, names: Sequence[str]) -> list[Path]:
        """The checkpoint files of some folds.

        Args:
            folds: ``"0"``, …, ``"all"``; by default the folds of the cross-validation that have all files, or the fold
                ``all`` if there is no other.
            names: names of the files in every fold.

        Raises:
            InputError: a file is missing.
        """
        there = folds_with(self.folder, names)
        chosen = list(folds) if folds else usual_folds(there)
        missing = [fold for fold in chosen if fold not in there]
        if missing or not chosen:
            where = ", ".join(f"fold_{fold}" for fold in missing) or "any fold"
            raise InputError(
                f"{self.folder} has no {' and '.join(names)} in {where}; folds that have: "
                f"{', '.join(there) or 'none'}. Choose with --folds, or another file with -chk."
            )
        return [there[fold] / name for fold in chosen for name in names]

    def require(self, configuration: str) -> None:
        """Raise InputError unless the plans have this configuration."""
        if configuration not in self.plans["configurations"]:
            raise InputError(
                f"{self.folder / 'plans.json'} has no configuration {configuration!r}, which the checkpoint "
                f"was trained with; it has: {', '.join(self.plans['configurations'])}. Are both of the same training?"
            )

    def managers(self, configuration: str) -> tuple[PlansManager, ConfigurationManager]:
        """nnU-Net's managers of the plans and of the configuration."""
        manager = PlansManager(dict(self.plans))
        return manager, manager.get_configuration(configuration)

    def channels(self, configuration: str) -> tuple[int, int]:
        """Numbers of input and output channels of the network."""
        manager, settings = self.managers(configuration)
        dataset_json = dict(self.dataset_json)
        heads = manager.get_label_manager(dataset_json).num_segmentation_heads
        return determine_num_input_channels(manager, settings, dataset_json), heads

    def inference_network(self, trainer: type[nnUNetTrainer], configuration: str) -> nn.Module:
        """The network that nnU-Net's predictor would build, without trained weights, in evaluation mode.

        Raises:
            InputError: the trainer's ``build_network_architecture`` has the signature of nnU-Net before 2.8.
        """
        if "plans_manager" not in inspect.signature(trainer.build_network_architecture).parameters:
            raise InputError(
                f"{trainer.__name__}.build_network_architecture has the signature of nnU-Net before 2.8; give it "
                "(plans_manager, configuration_manager, num_input_channels, num_output_channels, "
                "enable_deep_supervision)."
            )
        network = trainer.build_network_architecture(
            *self.managers(configuration), *self.channels(configuration), enable_deep_supervision=False
        )
        return infer_in_float32(network).eval()


def read_model_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint that nnU-Net can predict with.

    Raises:
        InputError: the file is damaged, or is no checkpoint of nnU-Net.
    """
    checkpoint = load_untrusted(file)
    missing = [key for key in NEEDED if key not in checkpoint]
    if missing:
        raise InputError(f"{file} has no {' and '.join(missing)}; it is no checkpoint of an nnU-Net training.")
    arguments = checkpoint["init_args"]
    if not isinstance(arguments, dict) or "configuration" not in arguments:
        raise InputError(f"{file} does not name its configuration; it is no checkpoint of nnU-Net v2.")
    return checkpoint


def load_weights(network: nn.Module, checkpoint: Mapping[str, Any], where: Path) -> None:
    """Load weights strictly, as nnU-Net's predictor does.

    Raises:
        InputError: the weights belong to another network.
    """
    try:
        network.load_state_dict(checkpoint["network_weights"])
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"{where} does not fit the network of its plans and trainer {checkpoint['trainer_name']} "
            f"({' '.join(lines[1:2])[:300]}); are plans.json and the checkpoint of the same training?"
        ) from None
