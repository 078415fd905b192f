"""``nnunet-ext benchmark run``: prepares a benchmark, then runs its unfinished jobs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark import queue
from nnunet_ext.benchmark.equal_time import timed_alike
from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.prepare import prepare
from nnunet_ext.benchmark.reuse import published, take_over
from nnunet_ext.benchmark.seeded import threads_asked
from nnunet_ext.benchmark.spec import Device, Spec, load
from nnunet_ext.devices import require_device
from nnunet_ext.errors import InputError
from nnunet_ext.files import require_folder
from nnunet_ext.processes.children import StepFailed
from nnunet_ext.processes.lock import held
from nnunet_ext.refusals import meant


def run_benchmark(
    name_or_path: str | Path,
    folder: str | Path | None = None,
    *,
    executor: str = "local",
    at_once: int = 1,
    parameters: Sequence[str] = (),
    only: Sequence[str] = (),
    reuse: str | Path | None = None,
    device: Device | None = None,
) -> int:
    """Train and evaluate every arm, keep finished jobs, and return the exit code.

    Args:
        name_or_path: a ready benchmark or a YAML file, see :mod:`nnunet_ext.benchmark.spec`.
        folder: folder for all output; ``nnunet_ext_benchmark_<name>`` by default.
        executor: ``"local"``, or ``"slurm"`` through submitit.
        at_once: number of parallel jobs on this machine.
        parameters: ``NAME=VALUE`` for submitit, such as ``slurm_partition=gpu``.
        only: arms to train now; all by default.
        reuse: a report of this benchmark whose trainings are taken over, see :mod:`nnunet_ext.benchmark.reuse`.
        device: device of all trainings, instead of the specification's.

    Raises:
        InputError: the benchmark cannot be run.
    """
    if at_once < 1:
        raise InputError(f"--jobs is {at_once}, but must be at least 1.")
    if parameters and executor == "local":
        raise InputError("--parameter is for submitit; add --executor slurm, or leave it out.")
    submitted_with = _parsed(parameters)
    threads_asked()  # refused before anything is prepared or timed
    spec = load(name_or_path)
    if device is not None:
        spec = spec.model_copy(update={"device": device})
    if executor == "local":
        require_device(spec.device, "device:" if device is None else "--device")
    benchmark = BenchmarkFolder(folder or f"nnunet_ext_benchmark_{spec.name}")
    require_folder(benchmark.folder)
    report = published(reuse) if reuse else None
    if only:
        spec = with_arms(spec, only, benchmark, [t.arm for t in report.results.trainings] if report else [])
    with held(benchmark.lock) as alone:
        if not alone:
            raise InputError(f"{benchmark.folder}: another nnunet-ext benchmark run is working here.")
        try:
            lent = report.iterations if report and timed_alike(report.spec, spec) else None
            prepared = prepare(spec, benchmark, iterations=lent)
        except StepFailed as error:
            print(f"nnunet-ext benchmark: {error}", file=sys.stderr)
            return 1
        if report:
            take_over(report, spec, benchmark, prepared)
        jobs = [job for job in prepared if not only or job.arm in only]
        todo = [job for job in jobs if benchmark.record(job) is None]
        print(f"{spec.name}: {len(jobs)} jobs, {len(jobs) - len(todo)} of them done, in {benchmark.folder}", flush=True)
        if executor != "local":
            free = [job for job in todo if benchmark.can_start(job)]
            submitted = queue.run_on_cluster(benchmark, free, executor, submitted_with)
            print(f"{len(submitted)} jobs submitted; the report shows what is done")
            if len(free) < len(todo):
                print(
                    f"{len(todo) - len(free)} jobs start from the weights of others; when these are done, run the same "
                    "command again"
                )
            return 0
        failed = run_jobs(benchmark, jobs, at_once)
    print(f"next: nnunet-ext benchmark report {benchmark.folder}")
    return 1 if failed else 0


def with_arms(spec: Spec, only: Sequence[str], benchmark: BenchmarkFolder, reused: Sequence[str] = ()) -> Spec:
    """``spec`` with these arms, those that they start from or are timed by, those in the folder, and reused ones.

    Raises:
        InputError: there is no such arm.
    """
    by_name = {arm.name: arm for arm in spec.arms}
    if strangers := [name for name in only if name not in by_name]:
        raise InputError(
            f"--only: {strangers[0]!r} is no arm{meant(strangers[0], list(by_name))}; there are {', '.join(by_name)}."
        )
    chosen = set(only) | ({*reused} & {*by_name})
    if benchmark.prepared.is_file():
        chosen |= {arm.name for arm in benchmark.load()[0].arms} & set(by_name)
    for _ in spec.arms:  # repeated, because an arm may start from one that starts from another
        arms = [by_name[name] for name in chosen]
        chosen |= {name for arm in arms for name in (arm.start, arm.time_of) if name is not None}
    return spec.model_copy(update={"arms": tuple(arm for arm in spec.arms if arm.name in chosen)})


def run_jobs(benchmark: BenchmarkFolder, jobs: Sequence[Job], at_once: int = 1) -> list[Job]:
    """Run the unfinished jobs on this machine, print how they end, and return those that failed."""
    try:
        failed = queue.run_here(benchmark, jobs, at_once)
    except KeyboardInterrupt:
        print("nothing is running any more; the same command continues where this one was", file=sys.stderr)
        raise
    if failed:
        print(f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(job.title for job in failed)}", file=sys.stderr)
    return failed


def _parsed(parameters: Sequence[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals:
            raise InputError(f"--parameter {parameter!r} is not NAME=VALUE, such as slurm_partition=gpu.")
        parsed[name] = int(value) if value.isdigit() else value
    return parsed
