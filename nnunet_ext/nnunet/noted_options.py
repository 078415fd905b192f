"""The options of its network, which a training notes in the plans of its model.

A default may change from version to version. A model must stay what it is, so a training writes the values of
:attr:`nnunet_ext.nnunet.options.MethodOptions.OF_NETWORK` under a key of their own beside the options that the user
chose; whoever reads the plans of the model takes them where the user chose nothing. Plans of which nobody trained a
model have none, and a training from them has the defaults of its version. Here are also the checks that a training that
goes on, and the folds of one model, have one network, and the sentence for weights that do not fit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.nnunet.checkpoints import FINAL
from nnunet_ext.nnunet.options import MethodOptions
from nnunet_ext.nnunet.plans import KEY, NOTED, extension_settings

Values = dict[str, dict[str, Any]]
"""Section of a method → option → value."""


def to_note(options: SimpleNamespace) -> Values:
    """Return the options that a training notes."""
    return {section: used.of_network for section, used in vars(options).items() if used.OF_NETWORK}


def noted_for(method: type[MethodOptions], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that plans noted for a method; those that it does not have any more are left out.

    Args:
        method: class of the options.
        settings: one configuration of the plans.
    """
    noted = extension_settings(settings, NOTED).get(method.SECTION, {})
    return {name: value for name, value in noted.items() if name in method.OF_NETWORK}


def differing(settings: Mapping[str, Any], options: SimpleNamespace) -> Values:
    """Return what a training noted, as far as these options have other values that matter.

    Args:
        settings: one configuration of the plans of its model; older ones have no notes, and so no difference.
        options: by section.
    """
    found: Values = {}
    for section, used in vars(options).items():
        here = used.of_network
        for name, value in noted_for(type(used), settings).items():
            if here[name] != value and name not in used.without_effect:
                found.setdefault(section, {})[name] = value
    return found


def refuse_other_options(
    checkpoint: Mapping[str, Any], configuration: str, settings: Mapping[str, Any], options: SimpleNamespace
) -> None:
    """Raise InputError if a training began with options of its network that it would lose, because nobody chose others.

    Args:
        checkpoint: of the training; one from before trainings noted these options passes.
        configuration: its name.
        settings: the resolved configuration today, in which a user may have chosen other values.
        options: those of today, by section.
    """
    plans = checkpoint.get("init_args", {}).get("plans", {})
    began = plans.get("configurations", {}).get(configuration, {})
    lost = {
        section: {name: value for name, value in values.items() if name not in extension_settings(settings, section)}
        for section, values in differing(began, options).items()
    }
    if lost := {section: values for section, values in lost.items() if values}:
        raise InputError(
            f"The training began with the options {json.dumps(lost)} of its network, which are neither in the plans "
            f'nor the defaults of this version; to go on, add them to "{KEY}" of configuration {configuration} of its '
            "plans in nnUNet_preprocessed."
        )


@contextmanager
def refusing_other_weights(
    path: Path, configuration: str, began: Values, now: Values, methods: Set[str]
) -> Iterator[None]:
    """Context in which PyTorch's refusal of weights, or of the state of an optimizer, is one sentence.

    Args:
        path: the checkpoint.
        configuration: its name.
        began: our settings of the configuration in the plans of the checkpoint.
        now: the same today.
        methods: sections that hold options of the trainer's methods.

    Raises:
        InputError: the weights are of another network; it names the options that were changed.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if "state_dict" not in str(error) and "state dict" not in str(error):
            raise
        changed = [
            f"{section}.{name} was {json.dumps(before)} and is {json.dumps(after)}"
            for section in sorted({*began, *now} & methods)
            for name in sorted({*began.get(section, {}), *now.get(section, {})})
            if (before := began.get(section, {}).get(name, "default"))
            != (after := now.get(section, {}).get(name, "default"))
        ]
        why = f" In configuration {configuration}, {'; '.join(changed)}." if changed else ""
        raise InputError(
            f"{path} holds the weights of another network than the one that its trainer builds from these plans now."
            f"{why} Restore the plans that the training began with, or train anew."
        ) from error


def refuse_other_fold(model: Path, own: Path, configuration: str, options: SimpleNamespace) -> None:
    """Raise InputError if other folds of a model have other options; nnU-Net keeps one plans file for all of them.

    Args:
        model: folder of the folds.
        own: the fold that is about to be trained.
        configuration: its name.
        options: by section.
    """
    others = [file.parent.name for file in sorted(model.glob(f"fold_*/{FINAL}")) if file.parent != own]
    plans = model / "plans.json"
    if not others or not plans.is_file():
        return
    if there := differing(read_json(plans)["configurations"].get(configuration, {}), options):
        raise InputError(
            f"{model}: {others[0]} was trained with the options {json.dumps(there)} of its network, and this fold "
            f'would have others, but nnU-Net keeps one plans file for all folds; add them to "{KEY}" of configuration '
            f"{configuration} of the plans in nnUNet_preprocessed, train with plans of another name, or remove the "
            "folds that are there."
        )
