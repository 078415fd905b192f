"""The options of its network, which a training notes in the plans of its model.

A default may change from version to version. A model must stay what it is, so a training writes the values of
:attr:`nnunet_ext.nnunet.options.MethodOptions.OF_NETWORK` under a key of their own beside the options that the user
chose; whoever reads the plans of the model takes them where the user chose nothing. Plans of which nobody trained a
model have none, and a training from them has the defaults of its version. Here are also the checks that a training that
goes on, and the folds of one model, have one network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.checkpoints import FINAL
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.plans import KEY, NOTED, extension_settings
from nnunet_ext.nnunet.untrusted import load_untrusted


def to_note(options: SimpleNamespace) -> dict[str, dict[str, Any]]:
    """Return the options that a training notes, by section."""
    return {section: used.of_network for section, used in vars(options).items() if used.OF_NETWORK}


def noted_for(method: type[MethodOptions], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that plans noted for a method; those that it does not have any more are left out.

    Args:
        method: class of the options.
        settings: resolved configuration of the plans.
    """
    noted = extension_settings(settings, NOTED).get(method.SECTION, {})
    return {name: value for name, value in noted.items() if name in method.OF_NETWORK}


def refuse_other_defaults(
    checkpoint: Mapping[str, Any], configuration: str, settings: Mapping[str, Any], options: SimpleNamespace
) -> None:
    """Raise InputError if a training began with other defaults for its network than it would go on with.

    Args:
        checkpoint: of the training; one from before trainings noted these options passes.
        configuration: its name.
        settings: resolved configuration of the plans of today, in which a user may have chosen other values.
        options: those of today, by section.
    """
    plans = checkpoint.get("init_args", {}).get("plans", {})
    began = plans.get("configurations", {}).get(configuration, {})
    other: dict[str, dict[str, Any]] = {}
    for section, used in vars(options).items():
        chosen, today = extension_settings(settings, section), used.of_network
        for name, value in noted_for(type(used), began).items():
            if name not in chosen and today[name] != value:
                other.setdefault(section, {})[name] = value
    if other:
        raise InputError(
            f"The training began with another version of nnunet-ext, whose defaults for the network were "
            f'{json.dumps(other)}; to go on with them, add them to "{KEY}" of configuration {configuration} of its '
            "plans in nnUNet_preprocessed."
        )


def refuse_other_fold(model: Path, own: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise InputError if another fold of a model has another network; nnU-Net keeps one plans file for all of them.

    Args:
        model: folder of the folds.
        own: the fold that is about to be trained.
        weights: of its network.
    """
    for file in sorted(model.glob(f"fold_*/{FINAL}")):
        if file.parent == own:
            continue
        there = load_untrusted(file).get("network_weights", {})
        shapes = {name: tensor.shape for name, tensor in there.items()}
        here = {name: tensor.shape for name, tensor in weights.items()}
        if shapes != here:
            differs = sorted(name for name in {*shapes, *here} if shapes.get(name) != here.get(name))
            more = f" and {len(differs) - 1} more weights" if differs[1:] else ""
            raise InputError(
                f"{file} is of another network than this training has (they differ in {differs[0]}{more}), and nnU-Net "
                "keeps one plans file for all folds of a model; restore the plans and options of that fold, or train "
                "with plans of another name."
            )
        return  # the others were compared with this one when they began
