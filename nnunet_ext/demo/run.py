"""``nnunet-ext demo``: a small benchmark of two trainers, from raw data to a table and a picture.

All slow steps are commands of nnU-Net that a user could type, run as processes. A finished step is not repeated, and an
interrupted training continues with ``--c``. The demo's folder is the folder of a benchmark.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark import synthetic
from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.own_data import provide
from nnunet_ext.benchmark.prepare import prepare
from nnunet_ext.benchmark.preprocessed import plans_of
from nnunet_ext.benchmark.results import from_benchmark
from nnunet_ext.benchmark.run import run_jobs
from nnunet_ext.benchmark.score import held_out_cases
from nnunet_ext.benchmark.spec import SYNTHETIC, Arm, Device, PlansRecipe, Spec
from nnunet_ext.data.raw import RawDataset, open_dataset
from nnunet_ext.demo import report
from nnunet_ext.demo.raw import find_dataset
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, require_folder, write_json
from nnunet_ext.processes.children import StepFailed
from nnunet_ext.processes.lock import held
from nnunet_ext.version import __version__

TRAINERS = ("nnUNetTrainerReference", "nnUNetTrainerPnPNet")
EPOCHS, ITERATIONS = 8, 40
PATCH_VOXELS = 64**3
"""Largest patch on a CPU, in voxels. With the planned patch an iteration could take minutes."""

MARK = "nnunet_ext_demo.json"
"""File that marks a folder of the demo, so that it never writes into another folder of the user."""

SUMMARY = """
Mean over {count} {kind}:

{table}

{definitions}

A demo of this size ({iterations} small iterations, {count} cases) proves that everything works, not that one trainer is
better than the other.

{folder}
  results.json, results.csv  every case and class
  overlay.png                image, reference and both predictions
  results                    the trained models
  jobs/*/log.txt             everything that nnU-Net printed

Your own data, the same way:
  nnunet-ext demo --raw FOLDER --dataset ID
Your own data, for results:
  export nnUNet_extTrainer="$(nnunet-ext path)"
  nnUNetv2_train {number} {configuration} 0 -tr nnUNetTrainerPnPNet
"""


def run_demo(
    folder: str | Path, raw: str | Path | None = None, dataset: str | int | None = None, device: Device = "cpu"
) -> int:
    """Train, predict and compare :data:`TRAINERS`, and return the exit code.

    Args:
        folder: folder for all output; a second run continues in it.
        raw: the user's ``nnUNet_raw`` folder, which is only read; without it the synthetic data set of
            :mod:`nnunet_ext.benchmark.synthetic` is used.
        dataset: number or name of a data set in ``raw``.
        device: ``cpu``, ``cuda`` or ``mps``.

    Raises:
        InputError: the arguments do not fit.
    """
    if (raw is None) != (dataset is None):
        raise InputError("--raw and --dataset belong together: --raw names the folder, --dataset the data set in it.")
    benchmark = BenchmarkFolder(folder)
    require_demo_folder(benchmark)
    own = None if raw is None or dataset is None else find_dataset(raw, dataset)
    if (benchmark.folder / MARK).is_file():
        print(f"continuing in {benchmark.folder}")
    begin = time.monotonic()
    with held(benchmark.lock) as free, environment_kept():
        if not free:
            raise InputError(f"{benchmark.folder}: another nnunet-ext demo is working here.")
        write_json(benchmark.folder / MARK, {"nnunet_ext": __version__})
        found = own or open_dataset(synthetic.write_dataset(benchmark.raw))
        print(f"data: {found.folder}")
        try:
            spec = spec_for(benchmark, found, own is not None, device)
            jobs = prepare(spec, benchmark, anew=True)
        except StepFailed as error:
            print(f"nnunet-ext demo: {error}", file=sys.stderr)
            return 1
        for job in jobs:
            if benchmark.record(job) is not None:
                print(f"reusing {job.title}")
        if run_jobs(benchmark, jobs):
            return 1
        compare(benchmark, spec, found, own is not None)
    print(f"this run took {(time.monotonic() - begin) / 60:.1f} minutes")
    return 0


def require_demo_folder(benchmark: BenchmarkFolder) -> None:
    """Raise InputError if the folder holds files that no demo wrote."""
    folder = benchmark.folder
    require_folder(folder)
    if folder.is_dir() and not (folder / MARK).is_file() and set(folder.iterdir()) - {benchmark.lock}:
        raise InputError(f"{folder} is not empty and was not written by nnunet-ext demo; choose another --folder.")


@contextmanager
def environment_kept() -> Iterator[None]:
    """Context that restores the environment variables at its end; inside, nnU-Net's may point to the demo's folders."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def spec_for(benchmark: BenchmarkFolder, dataset: RawDataset, own_data: bool, device: Device) -> Spec:
    """Preprocess the data and return the benchmark: 3D if nnU-Net plans it, small patches on a CPU."""
    spec = Spec(
        name="demo",
        baseline=TRAINERS[0],
        arms=tuple(Arm(name=trainer, trainer=trainer) for trainer in TRAINERS),
        datasets=(dataset.name if own_data else SYNTHETIC,),
        raw=str(dataset.folder.parent) if own_data else None,
        folds=(0,),
        device=device,
        scored="held-out" if held_out_cases(dataset.folder, dataset.folder / "labelsTs") else "validation",
    )
    benchmark.use_data(spec)
    provide(spec, benchmark)
    planned = plans_of(dataset.name, "nnUNetPlans")["configurations"]
    configuration = "3d_fullres" if "3d_fullres" in planned else "2d"
    patch = tuple(planned[configuration]["patch_size"])
    small = small_patch(planned[configuration]) if device == "cpu" else patch
    changes: dict[str, Any] = {"patch_size": small} if small != patch else {}
    plans = PlansRecipe(presets=("cpu",), epochs=EPOCHS, iterations=ITERATIONS, **changes)
    arms = tuple(arm.model_copy(update={"plans": plans}) for arm in spec.arms)
    return spec.model_copy(update={"configurations": (configuration,), "arms": arms})


def compare(benchmark: BenchmarkFolder, spec: Spec, dataset: RawDataset, own_data: bool) -> None:
    """Write the files and the picture, and print the table."""
    results = from_benchmark(benchmark)
    folder = benchmark.folder
    summaries = {job.arm: read_json(benchmark.of(job) / "summary.json") for job in benchmark.load()[1]}
    means = {arm: summary["nnunet_ext"]["means"] for arm, summary in summaries.items()}
    count = results.cases["case"].nunique()
    kind = "held-out cases" if spec.scored == "held-out" else "validation cases of fold 0"
    report.write_results(folder, results, means, dataset=dataset.name, evaluated=f"{count} {kind}", device=spec.device)
    title = f"{dataset.name}: {kind}, the slice with the longest border between structures"
    report.draw(folder / "overlay.png", results, title)
    print(
        SUMMARY.format(
            count=count,
            kind=kind,
            table=report.table(means),
            definitions="\n".join(results.definitions),
            iterations=EPOCHS * ITERATIONS,
            folder=folder,
            number=int(dataset.name[7:10]) if own_data else "ID",
            configuration=spec.configurations[0],
        )
    )


def small_patch(configuration: Mapping[str, Any]) -> tuple[int, ...]:
    """The planned patch size, halved along its longest axes until it has at most :data:`PATCH_VOXELS`.

    Every axis stays divisible by the strides, with at least two voxels at the bottleneck.
    """
    strides = configuration["architecture"]["arch_kwargs"]["strides"]
    size = list(configuration["patch_size"])
    divisors = [math.prod(stride[axis] for stride in strides) for axis in range(len(size))]
    while math.prod(size) > PATCH_VOXELS:
        halves = [max(2, n // divisor // 2) * divisor for n, divisor in zip(size, divisors, strict=True)]
        smaller = [axis for axis in range(len(size)) if halves[axis] < size[axis]]
        if not smaller:
            break
        longest = max(smaller, key=lambda axis: size[axis])
        size[longest] = halves[longest]
    return tuple(size)
