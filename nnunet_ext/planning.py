"""Writes plans: presets, a schedule, options of methods and another resolution on top of nnU-Net's plans.

Presets are files in ``plans/``, described in ``plans/README.md``. ``nnunet/plans.py`` says where a plans file holds our
settings.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_ext.catalogue import OPTIONS, default_options
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.discovery import shipped_folder
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, replacing
from nnunet_ext.nnunet.options import with_overrides
from nnunet_ext.nnunet.plans import KEY, NOTED, names_by_data, plans_in, preprocess_command, require_unet, resolved
from nnunet_ext.nnunet.precision import SECTION as PRECISION
from nnunet_ext.nnunet.precision import Precision
from nnunet_ext.nnunet.resolution import at_spacing, median_spacing, turn
from nnunet_ext.nnunet.schedule import Schedule

_PRESET_KEYS = {"description", "trainer", "device", "schedule", "batch_size", "width", "options"}


def load_presets() -> dict[str, dict[str, Any]]:
    """All presets of ``plans/`` by name; each is a JSON object, described in ``plans/README.md``."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(shipped_folder("plans").glob("*.json"))}


@dataclass(frozen=True)
class WrittenPlans:
    """Result of :func:`write_plans`. ``missing``: configurations whose data is not preprocessed yet."""

    path: Path
    name: str
    dataset: str
    configurations: tuple[str, ...]
    trainer: str
    unchanged: bool
    device: str | None = None
    missing: tuple[str, ...] = ()

    def summary(self) -> str:
        """The sentence to print, and the commands to type next."""
        state = "was already there, unchanged" if self.unchanged else "written"
        device = f" -device {self.device}" if self.device else ""
        training = "\n".join(
            f"  nnUNetv2_train {self.dataset} {configuration} 0 -tr {self.trainer} -p {shlex.quote(self.name)}{device}"
            for configuration in self.configurations
        )
        if not self.missing:
            return f"{self.path}: {state}. Nothing needs to be preprocessed again. Train with\n{training}"
        preprocessing = preprocess_command(self.dataset, self.name, self.missing)
        return f"{self.path}: {state}. Preprocess with\n  {preprocessing}\nand train with\n{training}"


def write_plans(
    dataset: str | int,
    presets: Sequence[str] = (),
    *,
    base: str = "nnUNetPlans",
    configurations: Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
    slice_axis: int | None = None,
    batch_size: int | None = None,
    patch_size: Sequence[int] | None = None,
    features: Sequence[int] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | None = None,
    force: bool = False,
    **schedule: float | None,
) -> WrittenPlans:
    """Write a plans file beside ``<nnUNet_preprocessed>/<dataset>/<base>.json``.

    Configurations keep their names. Without ``spacing`` and ``slice_axis`` they also keep their ``data_identifier``:
    the preprocessed data is used unchanged, and the user only adds ``-p NAME``. Explicit arguments win over presets.

    Args:
        dataset: number or full name (``Dataset004_Hippocampus``) of a preprocessed data set.
        presets: names of files in ``plans/``, applied in this order.
        base: plans to start from.
        configurations: configurations to change, all by default; only these are kept in the new file.
        spacing: target spacing in mm, in the order of ``spacing`` in the plans. Stages, kernel sizes, patch and batch
            size follow from it by the rules of :mod:`nnunet_ext.nnunet.resolution`. Data of this spacing is stored
            beside the data of other spacings.
        slice_axis: axis of the images across which the slices of ``2d`` lie, 0, 1 or 2 for z, y or x, instead of the
            one with the coarsest resolution. Without ``spacing`` pixels are as large as in the median image. Such data
            is stored on its own, too.
        batch_size: in samples.
        patch_size: in voxels.
        features: channels of every stage, finest first; with ``spacing`` its length is the number of stages.
        options: options of methods, by the name of their package: ``{"attenscribble": {"crf_weight": 1.0}}``.
        out: name of the new plans; by default ``base`` and the presets, joined by ``_``.
        force: replace an existing file that has other content.
        schedule: ``epochs``, ``iterations`` (per epoch), or another key of ``nnunet.schedule.Schedule``.

    Raises:
        InputError: something does not exist or does not fit.
    """
    folder = dataset_folder(dataset)
    source = folder / f"{base}.json"
    plans = _read_plans(source)
    available = load_presets()
    for preset in presets:
        if preset not in available:
            raise InputError(f"There is no preset {preset!r}; there are: {', '.join(available)}.")
    chosen = tuple(configurations) if configurations else tuple(plans["configurations"])
    for name in chosen:
        if name not in plans["configurations"]:
            raise InputError(f"{source} has no configuration {name!r}; it has: {', '.join(plans['configurations'])}.")
    chosen_schedule = {key: value for key, value in schedule.items() if value is not None}
    for key, value in {**chosen_schedule, "batch_size": batch_size}.items():
        if isinstance(value, int) and value < 1 and key != "warmup_steps":
            raise InputError(f"--{key.replace('_', '-')} is {value}, but must be at least 1.")
    name = out or "_".join([base, *presets])
    _require_name(name, base)

    changed = {configuration: resolved(plans, configuration) for configuration in chosen}
    fingerprint = _fingerprint(folder) if spacing is not None or slice_axis is not None else {}
    if slice_axis is not None:
        _require_slices(changed)
        turn(plans, slice_axis)
        spacing = spacing or median_spacing(plans, fingerprint)[1:]
    for configuration, settings in changed.items():
        settings.get(KEY, {}).pop(NOTED, None)  # a model's; these plans have none yet
        require_unet(settings, f"{source}, configuration {configuration}")
        if slice_axis is not None:
            settings["data_identifier"] += f"_across{slice_axis}"
        if spacing is not None:
            stages = None if features is None else len(features)
            at_spacing(settings, spacing, plans, fingerprint, configuration, patch_size=patch_size, stages=stages)
        for preset in presets:
            _apply_preset(settings, preset, available[preset])
        _apply_options(settings, options or {})
        _apply_arguments(settings, configuration, chosen_schedule, batch_size, patch_size, features)
    _keep_stages(changed, plans["configurations"])
    plans["plans_name"] = name
    plans["configurations"] = changed
    trainer = next((available[p]["trainer"] for p in presets if "trainer" in available[p]), "TRAINER")
    device = next((available[p]["device"] for p in presets if "device" in available[p]), None)

    path = folder / f"{name}.json"
    text = json.dumps(plans, indent=4)
    unchanged = path.is_file() and path.read_text() == text
    if path.exists() and not unchanged:
        if "configurations" not in read_json(path):
            raise InputError(f"{path} is no plans file, so it is not replaced; choose another --name.")
        if not force:
            raise InputError(f"{path} exists and differs; choose another --name, or replace it with --force.")
    if not unchanged:
        with replacing(path) as temporary:
            temporary.write_text(text)
    # data of the base plans may be of fewer cases than the fingerprint, by the user's choice; then some are enough
    cases = len(fingerprint["spacings"]) if fingerprint else 1
    missing = tuple(c for data, c in names_by_data(changed).items() if _cases_in(folder / data) < cases)
    return WrittenPlans(path, name, folder.name, chosen, trainer, unchanged, device, missing)


def require_options(options: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError unless these options exist and have values that a trainer accepts.

    The options are checked on top of the sound defaults. A trainer checks them again on top of its own defaults and the
    plans.

    Args:
        options: options by the name of a method's package, or ``precision``.
    """
    for method, chosen in options.items():
        if method == PRECISION:
            Precision(torch.device("cpu"), chosen)
        elif method in OPTIONS:
            with_overrides(default_options(method), chosen)
        else:
            raise InputError(
                f"There are no options of {method!r}; there are those of {', '.join([*OPTIONS, PRECISION])}."
            )


# --- parts ------------------------------------------------------------------------------------------------------------


def _read_plans(source: Path) -> dict[str, Any]:
    """Read a plans file.

    Raises:
        InputError: the file does not exist, or holds no plans.
    """
    if not source.is_file():
        there = ", ".join(plans_in(source.parent)) or "none"
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
    return plans


def _require_name(name: str, base: str) -> None:
    """Raise InputError unless new plans made from ``base`` may have this name."""
    if name == base:
        raise InputError(
            f"The new plans would be called {name} and replace the plans they come from; "
            "give a --preset or another --name."
        )
    if "__" in name or Path(name).name != name:
        raise InputError(f"--name {name!r} is no plans name: nnU-Net allows neither '/' nor '__' in it.")


def _keep_stages(chosen: Mapping[str, dict[str, Any]], there: Collection[str]) -> None:
    """Remove the next stages that are not chosen: nnU-Net's validation would predict for each.

    Args:
        chosen: resolved configurations by name; changed.
        there: names of all configurations.

    Raises:
        InputError: a configuration needs the prediction of one that is not chosen.
    """
    for name, settings in chosen.items():
        previous = settings.get("previous_stage")
        if previous is not None and previous in there and previous not in chosen:
            raise InputError(
                f"--configuration {name} needs the predictions of {previous}, which is not chosen; add it: "
                f"--configuration {' '.join([previous, *chosen])}."
            )
        stages = settings.get("next_stage") or []
        stages = [stages] if isinstance(stages, str) else stages
        kept = [stage for stage in stages if stage in chosen]
        if not kept:
            settings.pop("next_stage", None)
        elif len(kept) < len(stages):
            settings["next_stage"] = kept


def _require_slices(configurations: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError unless the patches of all configurations are slices."""
    volumes = [name for name, settings in configurations.items() if len(settings["patch_size"]) != 2]
    if volumes:
        raise InputError(
            f"--slice-axis is for configurations of slices, but {', '.join(volumes)} has patches of volumes; add "
            "--configuration 2d."
        )


def _apply_preset(settings: dict[str, Any], name: str, preset: Mapping[str, Any]) -> None:
    unknown = set(preset) - _PRESET_KEYS
    if unknown:
        raise InputError(f"Preset {name} has unknown keys {sorted(unknown)}; known are {sorted(_PRESET_KEYS)}.")
    own = settings.setdefault(KEY, {})
    own["presets"] = [*own.get("presets", []), name]
    _apply_schedule(settings, preset.get("schedule", {}))
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


def _apply_schedule(settings: dict[str, Any], schedule: Mapping[str, float]) -> None:
    Schedule.from_plans(schedule)
    settings.setdefault(KEY, {}).setdefault("schedule", {}).update(schedule)


def _fingerprint(folder: Path) -> dict[str, Any]:
    """Read nnU-Net's fingerprint: spacing and shape of every image.

    Raises:
        InputError: there is no fingerprint, or it lacks them.
    """
    file = folder / "dataset_fingerprint.json"
    content = read_json(file) if file.is_file() else {}
    if not (content.get("spacings") and content.get("shapes_after_crop")):
        raise InputError(
            f"{file} does not say how large the images are, which --spacing needs; run: nnUNetv2_extract_fingerprint "
            f"-d {folder.name.removeprefix('Dataset').partition('_')[0]}."
        )
    return content


def _cases_in(data: Path) -> int:
    """Number of preprocessed cases; nnU-Net writes one ``.pkl`` for each."""
    return sum(1 for _ in data.glob("*.pkl"))


def _apply_arguments(
    settings: dict[str, Any],
    configuration: str,
    schedule: Mapping[str, float],
    batch_size: int | None,
    patch_size: Sequence[int] | None,
    features: Sequence[int] | None,
) -> None:
    if "iterations" in schedule:
        # nnU-Net's own proportion: 50 validation iterations to 250 training iterations
        own = schedule.get("validation_iterations", max(1, int(schedule["iterations"]) // 5))
        schedule = {**schedule, "validation_iterations": own}
    _apply_schedule(settings, schedule)
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
