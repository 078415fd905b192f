"""Equal compute: an arm gets as many iterations as fit into the time of another arm, measured on this machine.

A method that costs 1.7 times as much per iteration is compared with a baseline that trains for 1.7 times as many
iterations. The measurement is kept in ``benchmark.json``, so that the plans stay the same when the benchmark continues.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence

from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.plans import written_plans
from nnunet_ext.benchmark.preprocessed import digest, plans_of
from nnunet_ext.benchmark.spec import Arm, Spec
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.plans import extension_settings
from nnunet_ext.processes.children import run_step
from nnunet_ext.processes.commands import environment

SCHEDULE = {"epochs": 1000, "iterations": 250}
"""Schedule of stock nnU-Net, the default if plans have none."""


def with_equal_time(spec: Spec, benchmark: BenchmarkFolder, known: Mapping[str, int]) -> tuple[Spec, dict[str, int]]:
    """Set the iterations of every arm that has the time of another arm.

    Args:
        spec: specification; its data is preprocessed.
        benchmark: folder that logs the measurement.
        known: iterations that an earlier call returned; they are not measured again.

    Returns:
        The specification, and the iterations per epoch by a key of the two arms.

    Raises:
        InputError: an arm would be the same as another one.
        StepFailed: a step could not be measured.
    """
    by_name = {arm.name: arm for arm in spec.arms}
    found: dict[str, int] = {}
    arms = []
    for arm in spec.arms:
        if arm.time_of is not None:
            other = by_name[arm.time_of]
            key = key_of(arm, other, spec.device)
            found[key] = known[key] if key in known else _iterations(spec, benchmark, arm, other)
            plans = arm.plans.model_copy(update={"iterations": found[key]})
            arm = arm.model_copy(update={"plans": plans})
            _refuse_twin(arm, [one for one in spec.arms if one.time_of is None])
            print(f"{arm.name}: {found[key]} iterations per epoch take the time of {other.name}", flush=True)
        arms.append(arm)
    return spec.model_copy(update={"arms": tuple(arms)}), found


def key_of(arm: Arm, other: Arm, device: str) -> str:
    """The key under which the iterations of ``arm`` that take the time of ``other`` are kept."""
    own = [[one.trainer, one.plans.identity, one.dataset] for one in (arm, other)]
    configurations = [one.configuration for one in (arm, other)]
    # left out where all have one configuration, so that published keys fit
    return digest(own, device, *([configurations] if any(configurations) else []))


def timed_alike(one: Spec, other: Spec) -> bool:
    """Whether iterations measured for one specification hold for the other: same data set and configuration.

    The keys of the iterations do not have them.
    """
    return [*map(_number, one.datasets[:1])] == [*map(_number, other.datasets[:1])] and (
        one.configurations == other.configurations
    )


def _number(dataset: str) -> str:
    """The number of a data set that is given by number or by name; other words as they are."""
    return dataset.removeprefix("Dataset").partition("_")[0].lstrip("0")


def _iterations(spec: Spec, benchmark: BenchmarkFolder, arm: Arm, other: Arm) -> int:
    """Iterations per epoch with which ``arm`` takes as long as ``other``."""
    own, theirs = (_schedule(spec, one) for one in (arm, other))
    seconds = [_step_seconds(spec, benchmark, one) for one in (other, arm)]
    total = theirs["epochs"] * theirs["iterations"] * seconds[0] / seconds[1]
    return max(1, round(total / own["epochs"]))


def _refuse_twin(arm: Arm, others: Sequence[Arm]) -> None:
    for other in others:
        if other.training == arm.training:
            raise InputError(
                f"{arm.name} would be {other.name} again, because a step of {arm.time_of} takes as long; leave it out."
            )


def _dataset(spec: Spec, arm: Arm) -> str:
    return dataset_folder(arm.dataset or spec.datasets[0]).name


def _schedule(spec: Spec, arm: Arm) -> dict[str, int]:
    dataset = _dataset(spec, arm)
    [configuration] = spec.configurations_of(arm)
    plans = plans_of(dataset, written_plans(arm.plans, dataset, (configuration,)))
    return {**SCHEDULE, **extension_settings(plans["configurations"][configuration], "schedule")}


def _step_seconds(spec: Spec, benchmark: BenchmarkFolder, arm: Arm) -> float:
    """Seconds of a training step, measured in a separate process."""
    dataset = _dataset(spec, arm)
    [configuration] = spec.configurations_of(arm)
    plans = written_plans(arm.plans, dataset, (configuration,))
    file = benchmark.folder / "step_seconds.json"
    arguments = [dataset, configuration, str(spec.folds[0]), arm.trainer, plans, spec.device, str(file)]
    command = [sys.executable, "-m", "nnunet_ext.benchmark.step_seconds", *arguments]
    run_step(
        f"time a step of {arm.name}",
        command,
        shown=shlex.join(command[1:]),
        log=benchmark.folder / "step_seconds.log",
        env=environment(
            raw=os.environ["nnUNet_raw"],
            preprocessed=os.environ["nnUNet_preprocessed"],
            results=benchmark.folder / "results" / "step_seconds",
            augmenting=0 if spec.device == "cpu" else None,
        ),
        progress=lambda _: (None, None),
    )
    return json.loads(file.read_text())["seconds"]
