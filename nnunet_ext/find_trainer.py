"""Finds trainers by name, those of this package and those of nnU-Net."""

from __future__ import annotations

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ext.catalogue import advice, resolve
from nnunet_ext.errors import InputError


def find_trainer(name: str) -> type[nnUNetTrainer]:
    """The class of a trainer of this package, or of any other trainer that nnU-Net finds.

    Raises:
        InputError: there is no such trainer, or something that it needs is not installed.
    """
    if name == "nnUNetTrainer":
        return nnUNetTrainer
    try:
        return resolve(name)
    except ImportError as error:
        raise InputError(f"The trainer {name} cannot be imported: {error}.") from None
    except LookupError:
        pass  # not one of ours
    try:
        return recursive_find_trainer_class_by_name(name)
    except RuntimeError:  # nnU-Net's message advises to copy a trainer into its installation
        raise InputError(
            advice(name)
            or f"There is no trainer {name!r}, neither here (nnunet-ext trainers) nor in nnU-Net; set "
            "nnUNet_extTrainer to the folder that holds it."
        ) from None
