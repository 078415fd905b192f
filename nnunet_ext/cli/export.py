"""``nnunet-ext export``."""

from __future__ import annotations

import argparse

from nnunet_ext.cli.flags import SEVERAL, Commands, OneOf, add_command, add_trust
from nnunet_ext.cli.models import add_model_names, model_folder
from nnunet_ext.errors import InputError


def _export(arguments: argparse.Namespace) -> None:
    from nnunet_ext.export.write import export_model

    if arguments.model is not None and arguments.dataset is not None:
        raise InputError(
            "Which model? Give RESULT_FOLDER, or -d DATASET -c CONFIGURATION -tr TRAINER -p PLANS, not both."
        )
    exported = export_model(
        model_folder(arguments, "RESULT_FOLDER"),
        arguments.out,
        folds=arguments.folds,
        checkpoints=arguments.checkpoints or ["checkpoint_final.pth"],
        name=arguments.name,
        keep_trainer=arguments.keep_trainer,
        safetensors=arguments.safetensors,
        onnx=arguments.onnx,
        force=arguments.force,
    )
    print(exported.report())


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    export = add_command(
        commands,
        "export",
        _export,
        "write a trained model for others: a model of stock nnU-Net if its network is the planned one, otherwise a "
        "model that states its requirements",
        "nnunet-ext export $nnUNet_results/Dataset004_Hippocampus/nnUNetTrainerMedContext__nnUNetPlans__3d_fullres "
        "--out medcontext.zip",
        "nnunet-ext export -d 4 -c 3d_fullres -tr nnUNetTrainerMedContext -f 0 -o medcontext.zip",
    )
    model = export.add_argument(
        "model",
        action=OneOf,
        metavar="RESULT_FOLDER",
        help="folder TRAINER__PLANS__CONFIGURATION in nnUNet_results; or give -d and -c",
    )
    add_model_names(export, "nnUNetTrainer", instead_of=model)
    export.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="FOLDER|ZIP",
        help="NAME.zip for nnUNetv2_install_pretrained_model_from_zip, or a folder for "
        "nnUNetv2_predict_from_modelfolder",
    )
    export.add_argument("-f", "--folds", **SEVERAL, metavar="FOLD", help="folds (default: all trained ones)")
    export.add_argument(
        "-chk", dest="checkpoints", **SEVERAL, metavar="FILE", help="checkpoints (checkpoint_final.pth)"
    )
    export.add_argument(
        "--as", dest="name", metavar="NAME", help="name that others give after -tr (default: the trainer's name)"
    )
    export.add_argument(
        "--keep-trainer", action="store_true", help="keep it a model of its trainer, for example with its landmarks"
    )
    export.add_argument("--safetensors", action="store_true", help="also write weights without pickle, and a JSON file")
    export.add_argument("--onnx", action="store_true", help="also write the network as ONNX; needs nnunet-ext[onnx]")
    export.add_argument("--force", action="store_true", help="replace an earlier export")
    add_trust(export)
