"""Our settings in the plans of nnU-Net, and what trainers read from the plans; ``planning.py`` writes them.

All our settings of a configuration lie under one key of that configuration, ``"nnunet_ext"``::

    "3d_fullres": {
        "data_identifier": "nnUNetPlans_3d_fullres",      # unchanged: nothing is preprocessed again
        ...
        "nnunet_ext": {
            "presets": ["pnpnet", "cpu"],
            "schedule": {"epochs": 12, "iterations": 50, "validation_iterations": 10},
            "pnpnet": {"levels": [2, 3, 4]},               # options of a method, by the name of its package
            "labels": {"has_regions": false},              # written by the trainer, needed to rebuild the network
            "options_of_network": {"pnpnet": {"push": false, …}}     # the same
        }
    }

nnU-Net keeps unknown keys and copies the plans into the model folder, so the settings for inference travel with the
model.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json

KEY = "nnunet_ext"
NOTED = "options_of_network"
"""Section of our settings in the plans of a model, see :mod:`.noted_options`: section of a method → option → value."""


def plans_in(folder: Path) -> list[str]:
    """The names of the plans in a preprocessed data set, in alphabetical order; a user may call plans anything."""

    def is_plans(file: Path) -> bool:
        with suppress(InputError):
            return isinstance(read_json(file).get("configurations"), dict)
        return False

    return sorted(file.stem for file in folder.glob("*.json") if is_plans(file))


def extension_settings(configuration: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Our settings of one resolved configuration; ``section`` is ``schedule``, ``labels`` or a method's package."""
    return dict(configuration.get(KEY, {}).get(section, {}))


def remember(plans: dict[str, Any], configuration: str, section: str, content: Mapping[str, Any]) -> None:
    """Note in ``plans`` what inference needs to know; nnU-Net copies them into the model folder when training starts.

    Args:
        plans: content of the plans file; changed.
        configuration: name.
        section: of our settings of that configuration.
        content: replaces what that section holds.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    own = dict(PlansManager(plans).get_configuration(configuration).configuration.get(KEY, {}))
    own[section] = dict(content)
    plans["configurations"][configuration][KEY] = own


def without_extension(plans: Mapping[str, Any], section: str | None = None) -> dict[str, Any]:
    """A copy of ``plans`` without our settings, or one section of them, in any configuration."""
    copy = deepcopy(dict(plans))
    for settings in copy["configurations"].values():
        ours = settings.pop(KEY, {})
        if section is not None and (kept := {name: content for name, content in ours.items() if name != section}):
            settings[KEY] = kept
    return copy


def resolved(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """A copy of one configuration with what it inherits written out, so that changing its parent leaves it as it is."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    settings = deepcopy(PlansManager(plans).get_configuration(configuration).configuration)
    settings.pop("inherits_from", None)
    return settings


def names_by_data(configurations: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """``data_identifier`` → first of the resolved configurations with this data, which cascades share."""
    found: dict[str, str] = {}
    for name, settings in configurations.items():
        found.setdefault(settings["data_identifier"], name)
    return found


def preprocess_command(dataset: str, plans: str, configurations: Iterable[str]) -> str:
    """The command that preprocesses these configurations of a data set for plans, by their names."""
    return f"nnUNetv2_preprocess -d {int(dataset[7:10])} -plans_name {shlex.quote(plans)} -c {' '.join(configurations)}"


def require_unet(configuration: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless the plans describe a U-Net by stages, which presets and trainers can work with."""
    architecture = configuration["architecture"]
    if "features_per_stage" not in architecture["arch_kwargs"]:
        raise InputError(
            f"{where}: the network {architecture['network_class_name'].rsplit('.', 1)[-1]} has no U-Net stages, but "
            "presets and trainers of this package need PlainConvUNet or ResidualEncoderUNet; use nnUNetPlans or "
            "nnUNetResEncUNet(M/L/XL)Plans."
        )
