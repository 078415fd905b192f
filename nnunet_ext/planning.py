"""Writes plans: presets, a schedule and options of methods on top of what nnU-Net planned.

Presets are files in ``plans/``, described in ``plans/README.md``. Where our settings lie in a plans file is said in
``nnunet/plans.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_ext.catalogue import OPTIONS, default_options
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.discovery import shipped_folder
from nnunet_ext.errors import InputError
from nnunet_ext.files import replacing
from nnunet_ext.nnunet.plans import KEY, require_unet, resolved, with_overrides
from nnunet_ext.nnunet.precision import SECTION as PRECISION
from nnunet_ext.nnunet.precision import Precision

_PRESET_KEYS = {"description", "trainer", "schedule", "batch_size", "width", "options"}


def load_presets() -> dict[str, dict[str, Any]]:
    """All presets of ``plans/`` by name; each is a JSON object, described in ``plans/README.md``."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(shipped_folder("plans").glob("*.json"))}


@dataclass(frozen=True)
class WrittenPlans:
    """What :func:`write_plans` did."""

    path: Path
    name: str
    dataset: str
    configurations: tuple[str, ...]
    trainer: str
    unchanged: bool

    def summary(self) -> str:
        """The sentence to print, and the command to type next."""
        state = "was already there, unchanged" if self.unchanged else "written"
        commands = "\n".join(
            f"  nnUNetv2_train {self.dataset} {configuration} 0 -tr {self.trainer} -p {self.name}"
            for configuration in self.configurations
        )
        return f"{self.path}: {state}. Nothing needs to be preprocessed again. Train with\n{commands}"


def write_plans(
    dataset: str | int,
    presets: Sequence[str] = (),
    *,
    base: str = "nnUNetPlans",
    configurations: Sequence[str] | None = None,
    epochs: int | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
    patch_size: Sequence[int] | None = None,
    features: Sequence[int] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | None = None,
    force: bool = False,
) -> WrittenPlans:
    """Write a plans file beside ``<nnUNet_preprocessed>/<dataset>/<base>.json``.

    Configuration names and ``data_identifier`` stay, so the preprocessed data is used as it is and the user only adds
    ``-p NAME``. Explicit arguments win over presets.

    Args:
        dataset: number or full name (``Dataset004_Hippocampus``) of a preprocessed data set.
        presets: names of files in ``plans/``, applied in this order.
        base: plans to start from.
        configurations: which to change; all by default. Only these are kept in the new file.
        epochs, iterations: schedule; iterations are per epoch.
        batch_size, patch_size: in samples and voxels.
        features: channels of every stage, finest first.
        options: of methods, by the name of their package: ``{"attenscribble": {"crf_weight": 1.0}}``.
        out: name of the new plans; ``base`` and the presets joined by ``_`` by default.
        force: replace an existing file with other content.

    Raises:
        InputError: anything that does not exist or does not fit, in one sentence.
    """
    folder = dataset_folder(dataset)
    source = folder / f"{base}.json"
    if not source.is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*Plans*.json"))) or "none"
        raise InputError(f"There is no plans file {source}; found: {there}. Choose one of them with --plans.")
    try:
        plans = json.loads(source.read_text())
    except ValueError as error:
        raise InputError(
            f"{source} is no JSON file ({error}); restore it, or plan again with nnUNetv2_plan_experiment."
        ) from None
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        raise InputError(
            f"{source} holds no plans of nnU-Net: it has no configurations; restore it, or plan again with "
            "nnUNetv2_plan_experiment."
        )
    available = load_presets()
    for preset in presets:
        if preset not in available:
            raise InputError(f"There is no preset {preset!r}; there are: {', '.join(available)}.")
    chosen = tuple(configurations) if configurations else tuple(plans["configurations"])
    for name in chosen:
        if name not in plans["configurations"]:
            raise InputError(f"{source} has no configuration {name!r}; it has: {', '.join(plans['configurations'])}.")
    given = {"--epochs": epochs, "--iterations": iterations, "--batch-size": batch_size}
    for argument, value in given.items():
        if value is not None and value < 1:
            raise InputError(f"{argument} is {value}, but must be at least 1.")
    name = out or "_".join([base, *presets])
    if name == base:
        raise InputError(
            f"The new plans would be called {name} and replace the plans they come from; "
            "give a --preset or another --name."
        )
    if "__" in name or Path(name).name != name:
        raise InputError(f"--name {name!r} is no plans name: nnU-Net allows neither '/' nor '__' in it.")

    changed = {configuration: resolved(plans, configuration) for configuration in chosen}
    for configuration, settings in changed.items():
        require_unet(settings, f"{source}, configuration {configuration}")
        for preset in presets:
            _apply_preset(settings, preset, available[preset])
        _apply_options(settings, options or {})
        _apply_arguments(settings, configuration, epochs, iterations, batch_size, patch_size, features)
    plans["plans_name"] = name
    plans["configurations"] = changed
    trainer = next((available[p]["trainer"] for p in presets if "trainer" in available[p]), "TRAINER")

    path = folder / f"{name}.json"
    text = json.dumps(plans, indent=4)
    unchanged = path.is_file() and path.read_text() == text
    if path.exists() and not unchanged and not force:
        raise InputError(f"{path} exists and differs; choose another --name, or replace it with --force.")
    if not unchanged:
        with replacing(path) as temporary:
            temporary.write_text(text)
    return WrittenPlans(path, name, folder.name, chosen, trainer, unchanged)


def require_options(options: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError unless these options exist and have values that a trainer takes.

    They are tried on the sound defaults; what a trainer sees also depends on its own defaults and on the plans, so it
    looks again.

    Args:
        options: by the name of a method's package, or ``precision``.
    """
    for method, chosen in options.items():
        if method == PRECISION:
            Precision(torch.device("cpu"), chosen)
        elif method in OPTIONS:
            with_overrides(default_options(method), chosen, method)
        else:
            raise InputError(
                f"There are no options of {method!r}; there are those of {', '.join([*OPTIONS, PRECISION])}."
            )


# --- parts ------------------------------------------------------------------------------------------------------------


def _apply_preset(settings: dict[str, Any], name: str, preset: Mapping[str, Any]) -> None:
    unknown = set(preset) - _PRESET_KEYS
    if unknown:
        raise InputError(f"Preset {name} has unknown keys {sorted(unknown)}; known are {sorted(_PRESET_KEYS)}.")
    own = settings.setdefault(KEY, {})
    own["presets"] = [*own.get("presets", []), name]
    own.setdefault("schedule", {}).update(preset.get("schedule", {}))
    _apply_options(settings, preset.get("options", {}))
    if "batch_size" in preset:
        settings["batch_size"] = min(settings["batch_size"], preset["batch_size"])
    if "width" in preset:
        kwargs = settings["architecture"]["arch_kwargs"]
        kwargs["features_per_stage"] = [max(4, round(f * preset["width"])) for f in kwargs["features_per_stage"]]


def _apply_options(settings: dict[str, Any], options: Mapping[str, Mapping[str, Any]]) -> None:
    own = settings.setdefault(KEY, {})
    for method, chosen in options.items():
        own.setdefault(method, {}).update(chosen)
        require_options({method: own[method]})


def _apply_arguments(
    settings: dict[str, Any],
    configuration: str,
    epochs: int | None,
    iterations: int | None,
    batch_size: int | None,
    patch_size: Sequence[int] | None,
    features: Sequence[int] | None,
) -> None:
    schedule = settings.setdefault(KEY, {}).setdefault("schedule", {})
    if epochs is not None:
        schedule["epochs"] = epochs
    if iterations is not None:
        schedule["iterations"] = iterations
        # nnU-Net's own proportion: 50 validation iterations to 250 training iterations
        schedule["validation_iterations"] = max(1, iterations // 5)
    if batch_size is not None:
        settings["batch_size"] = batch_size
    kwargs = settings["architecture"]["arch_kwargs"]
    if patch_size is not None:
        _check_patch_size(patch_size, kwargs["strides"], configuration)
        settings["patch_size"] = list(patch_size)
    if features is not None:
        if len(features) != kwargs["n_stages"] or min(features) < 1:
            raise InputError(
                f"--features gives {len(features)} numbers ({' '.join(map(str, features))}), but configuration "
                f"{configuration} has {kwargs['n_stages']} stages and needs one positive number for each."
            )
        kwargs["features_per_stage"] = list(features)


def _check_patch_size(patch_size: Sequence[int], strides: Sequence[Sequence[int]], configuration: str) -> None:
    if len(patch_size) != len(strides[0]):
        raise InputError(
            f"--patch-size gives {len(patch_size)} numbers, but configuration {configuration} has "
            f"{len(strides[0])} axes."
        )
    divisors = [math.prod(stride[axis] for stride in strides) for axis in range(len(patch_size))]
    if any(size < 1 or size % divisor for size, divisor in zip(patch_size, divisors, strict=True)):
        nearest = [max(1, round(size / divisor)) * divisor for size, divisor in zip(patch_size, divisors, strict=True)]
        raise InputError(
            f"--patch-size {' '.join(map(str, patch_size))} is not divisible by the strides of configuration "
            f"{configuration} ({' '.join(map(str, divisors))}); the nearest that is: {' '.join(map(str, nearest))}."
        )
