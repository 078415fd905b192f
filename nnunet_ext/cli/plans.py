"""``nnunet-ext plans``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from nnunet_ext.cli.flags import SEVERAL, Commands, add_command, add_word
from nnunet_ext.errors import InputError

SCHEDULE_FLAGS: dict[str, dict[str, Any]] = {
    "epochs": {"type": int, "metavar": "E", "help": "number of epochs"},
    "iterations": {"type": int, "metavar": "I", "help": "training iterations per epoch"},
    "learning_rate": {"type": float, "metavar": "LR", "help": "initial learning rate (nnU-Net: 0.01)"},
    "momentum": {"type": float, "metavar": "M", "help": "Nesterov momentum of SGD (nnU-Net: 0.99)"},
    "warmup_steps": {"type": int, "metavar": "S", "help": "steps in which the learning rate grows from 0"},
}
"""Arguments of argparse for each key of the schedule in the plans."""


def _plans(arguments: argparse.Namespace) -> None:
    from nnunet_ext.planning import write_plans

    written = write_plans(
        arguments.dataset,
        arguments.preset,
        base=arguments.plans,
        configurations=arguments.configuration,
        spacing=arguments.spacing,
        slice_axis=arguments.slice_axis,
        batch_size=arguments.batch_size,
        patch_size=arguments.patch_size,
        features=arguments.features,
        options=_options(arguments.option),
        out=arguments.name,
        force=arguments.force,
        **{key: getattr(arguments, key) for key in SCHEDULE_FLAGS},
    )
    print(written.summary())


def _options(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``["attenscribble.crf_weight=1.0"]`` → ``{"attenscribble": {"crf_weight": 1.0}}``; values are read as YAML."""
    import yaml

    options: dict[str, dict[str, Any]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        method, dot, option = name.partition(".")
        if not (equals and dot and method and option and value):
            raise InputError(f"--option {text!r} is not METHOD.NAME=VALUE, such as attenscribble.crf_weight=1.0.")
        if option in options.setdefault(method, {}):
            raise InputError(f"--option {text!r}: {name} is given twice; give it once.")
        try:
            options[method][option] = _with_numbers(yaml.safe_load(value))
        except yaml.YAMLError:
            raise InputError(f"--option {text!r}: {value!r} is no YAML value.") from None
    return options


def _with_numbers(value: Any) -> Any:
    """Return a value of YAML 1.1, where ``1e-3`` is a text, with such texts as numbers, in lists and tables, too."""
    if isinstance(value, list):
        return [_with_numbers(each) for each in value]
    if isinstance(value, dict):
        return {key: _with_numbers(each) for key, each in value.items()}
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    plans = add_command(
        commands,
        "plans",
        _plans,
        "write a new plans file with a preset, another schedule, another resolution or slices across another axis; "
        "only the last two need preprocessing again",
        "nnunet-ext plans 4 --preset pnpnet --configuration 3d_fullres --epochs 100",
        "nnunet-ext plans 4 --configuration 3d_fullres --spacing 2 2 2 --features 16 32 64 --name low",
    )
    add_word(plans, "-d", "dataset", "DATASET", "number or name of a preprocessed data set")
    plans.add_argument(
        "--preset", **SEVERAL, default=[], metavar="NAME", help="presets from plans/, applied in this order"
    )
    plans.add_argument("-p", "--plans", default="nnUNetPlans", metavar="NAME", help="plans to start from (%(default)s)")
    plans.add_argument("-c", "--configuration", **SEVERAL, metavar="C", help="configurations to change (default: all)")
    for key, flag in SCHEDULE_FLAGS.items():
        plans.add_argument(f"--{key.replace('_', '-')}", **flag)
    plans.add_argument(
        "--spacing",
        type=float,
        **SEVERAL,
        metavar="MM",
        help="another resolution, axes in the order of the plans; patch size, batch size and stages follow from it",
    )
    plans.add_argument(
        "--slice-axis",
        type=int,
        metavar="A",
        help="slices of 2d across this axis of the images: 0, 1 or 2 for z, y or x (nnU-Net: the coarsest one)",
    )
    plans.add_argument("--batch-size", type=int, metavar="B", help="samples per batch")
    plans.add_argument("--patch-size", type=int, **SEVERAL, metavar="X", help="voxels per axis")
    plans.add_argument("--features", type=int, **SEVERAL, metavar="F", help="channels of every stage")
    plans.add_argument(
        "--option",
        **SEVERAL,
        default=[],
        metavar="METHOD.NAME=VALUE",
        help="option of a method, such as attenscribble.crf_weight=1.0",
    )
    plans.add_argument("--name", metavar="NAME", help="name of the new plans (default: old name + presets)")
    plans.add_argument("--force", action="store_true", help="replace a different file of that name")
