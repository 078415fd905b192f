"""The plans of an arm, written from its recipe, and its number of epochs."""

from __future__ import annotations

import re

from nnunet_ext import catalogue
from nnunet_ext.benchmark.preprocessed import digest, plans_of
from nnunet_ext.benchmark.spec import PlansRecipe
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.plans import extension_settings, preprocess_command
from nnunet_ext.planning import WrittenPlans, write_plans

NUMBER_OF_EPOCHS = re.compile(r"_(\d+)epochs?$")


def write(recipe: PlansRecipe, dataset: str, configurations: tuple[str, ...]) -> WrittenPlans:
    """Write the plans of this recipe, unless they exist already."""
    arguments = {key: value for key, value in recipe.model_dump().items() if key not in ("base", "presets")}
    name = "_".join([recipe.base, *recipe.presets, f"bench{digest(recipe.identity, configurations)[:6]}"])
    return write_plans(
        dataset, recipe.presets, base=recipe.base, configurations=configurations, out=name, force=True, **arguments
    )


def written_plans(recipe: PlansRecipe, dataset: str, configurations: tuple[str, ...]) -> str:
    """The name of the plans of this recipe, which are written unless they exist already.

    Raises:
        InputError: their data is not preprocessed.
    """
    if recipe.unchanged:
        return recipe.base
    written = write(recipe, dataset, configurations)
    if written.missing:
        raise InputError(
            f"{dataset} is not preprocessed for {written.name}; run: "
            f"{preprocess_command(dataset, written.name, written.missing)}."
        )
    return written.name


def expected_epochs(trainer: str, dataset: str, plans: str, configuration: str) -> int | None:
    """Number of epochs of a training; None if it cannot be known beforehand."""
    if match := NUMBER_OF_EPOCHS.search(trainer):
        return int(match[1])
    try:
        catalogue.resolve(trainer)
    except LookupError:
        return None
    settings = plans_of(dataset, plans)["configurations"][configuration]
    return extension_settings(settings, "schedule").get("epochs", 1000)
