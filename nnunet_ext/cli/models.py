"""Flags for a trained model and for its prediction."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.cli.flags import SEVERAL, OneOf, add_trust
from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunet_ext.nnunet.models import Prediction


def model_folder(arguments: argparse.Namespace, instead: str = "-m MODEL_FOLDER") -> Path:
    """The folder that is given, or nnU-Net's folder for the data set, trainer, plans and configuration.

    Args:
        arguments: those of :func:`add_model_flags`, or of :func:`add_model_names` and ``model``.
        instead: how the command takes the folder.
    """
    from nnunet_ext.nnunet import models

    if arguments.model is not None:
        return Path(arguments.model)
    if arguments.dataset is None or arguments.configuration is None:
        raise InputError(f"Which model? Give -d DATASET -c CONFIGURATION -tr TRAINER -p PLANS, or {instead}.")
    return models.model_folder(arguments.dataset, arguments.trainer, arguments.plans, arguments.configuration)


def prediction(arguments: argparse.Namespace) -> Prediction:
    """Read the flags of :func:`add_prediction_flags`."""
    from nnunet_ext.nnunet.models import Prediction

    return Prediction(
        folds=arguments.folds,
        checkpoint=arguments.checkpoint,
        device=arguments.device,
        tta=not arguments.disable_tta,
        step_size=arguments.step_size,
        save_probabilities=arguments.save_probabilities,
        continue_prediction=arguments.continue_prediction,
        previous_stage=getattr(arguments, "previous_stage", None),
        on_device=not arguments.not_on_device,
        progress=not arguments.disable_progress_bar,
        processes=(arguments.npp, arguments.nps),
    )


def add_model_flags(command: argparse.ArgumentParser, trainer: str, configuration: str | None = None) -> None:
    """Add the flags for a model; ``trainer`` and ``configuration`` are the defaults."""
    command.add_argument("-m", "--model", metavar="FOLDER", help="model folder, instead of -d -c -tr -p")
    add_model_names(command, trainer, configuration)
    command.add_argument(
        "-chk", dest="checkpoint", default="checkpoint_final.pth", metavar="FILE", help="checkpoint (%(default)s)"
    )
    add_trust(command)


def add_model_names(
    command: argparse.ArgumentParser,
    trainer: str,
    configuration: str | None = None,
    *,
    instead_of: argparse.Action | None = None,
) -> None:
    """Add nnU-Net's flags for a model in nnUNet_results; ``instead_of`` is the positional folder that they replace."""
    command.add_argument(
        "-d", dest="dataset", action=OneOf, instead_of=instead_of, metavar="DATASET", help="data set, number or name"
    )
    command.add_argument(
        "-c",
        dest="configuration",
        default=configuration,
        metavar="CONFIGURATION",
        help="configuration (%(default)s)" if configuration else "configuration",
    )
    command.add_argument("-tr", dest="trainer", default=trainer, metavar="TRAINER", help="trainer (%(default)s)")
    command.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="plans (%(default)s)")


def add_prediction_flags(command: argparse.ArgumentParser, trainer: str, configuration: str | None = None) -> None:
    """Add the flags of ``nnUNetv2_predict``; see :func:`add_model_flags`."""
    command.add_argument("-i", dest="images", required=True, metavar="FOLDER", help="images, as for nnUNetv2_predict")
    command.add_argument("-o", dest="out", required=True, metavar="FOLDER", help="folder to write to")
    add_model_flags(command, trainer, configuration)
    command.add_argument("-f", dest="folds", **SEVERAL, metavar="FOLD", help="folds (default: all trained ones)")
    command.add_argument("-device", default="cuda", choices=["cuda", "cpu", "mps"], help="device (%(default)s)")
    command.add_argument("-step_size", type=float, default=0.5, help="step of the sliding window (%(default)s)")
    command.add_argument("--disable_tta", action="store_true", help="do not mirror")
    command.add_argument("--save_probabilities", action="store_true", help="also save the segmentation's probabilities")
    command.add_argument("--continue_prediction", action="store_true", help="skip cases that are already predicted")
    command.add_argument("--not_on_device", action="store_true", help="keep results in main memory")
    command.add_argument("--disable_progress_bar", action="store_true", help="show no progress bar")
    command.add_argument("-npp", type=int, default=3, help="processes for preprocessing (%(default)s)")
    command.add_argument("-nps", type=int, default=3, help="processes for export (%(default)s)")
