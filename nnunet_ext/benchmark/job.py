"""One job: train, predict, score.

A job runs ``nnUNetv2_train``, which also predicts the validation cases; then ``nnUNetv2_predict`` if held-out cases are
scored; then the evaluation. The queue starts it as ``python -m nnunet_ext.benchmark.job FOLDER JOB``, on this machine
or elsewhere. Finished steps are not repeated: an interrupted training continues with ``--c``, and a finished one is
only validated (``--val``) or evaluated.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json
from nnunet_ext.nnunet.results import alone_in
from nnunet_ext.processes.commands import continuation, environment
from nnunet_ext.processes.lock import held


class JobFailed(RuntimeError):
    """A command of nnU-Net ended with an error; its log gives the reason."""


def run_job(folder: str | Path, name: str) -> None:
    """Run the job ``name`` of the benchmark in ``folder`` to its end, or return at once if it is done.

    Raises:
        JobFailed: nnU-Net failed, or trained another number of epochs.
        InputError: plans or split have changed since the benchmark was prepared, or another process works on this job.
    """
    benchmark = BenchmarkFolder(folder)
    spec, jobs, _ = benchmark.load()
    [job] = [job for job in jobs if job.name == name]
    with held(benchmark.of(job) / "lock") as free:
        if not free:
            raise InputError(f"{benchmark.of(job)}: another process is working on this job.")
        if benchmark.record(job) is not None:
            return
        from nnunet_ext.benchmark import preprocessed, records, score
        from nnunet_ext.benchmark.data_state import DataStates

        benchmark.use_data(spec)
        states = DataStates()
        found = replace(job, key=preprocessed.job_key(job), data=states.of(job), unlabelled=states.unlabelled_of(job))
        if not found.same_as(job):
            what = (
                "plans or its split in nnUNet_preprocessed" if found.key != job.key else "labels, images or references"
            )
            raise InputError(
                f"{job.title}: its {what} are no longer those with which {benchmark.prepared} was written; restore "
                "them, or start anew in another --folder."
            )
        if not benchmark.can_start(job):
            raise InputError(f"{job.title} starts from the weights of {job.start}, which are not there yet.")
        begin = time.time()
        train(benchmark, job)
        trained = records.training(benchmark.fold(job))
        if job.epochs is not None and len(trained["epoch_seconds"]) != job.epochs:
            raise JobFailed(
                f"{job.title}: {len(trained['epoch_seconds'])} epochs were trained instead of {job.epochs}; "
                "does the trainer set the number of epochs itself?"
            )
        with alone_in(benchmark.fold(job)):
            predict(benchmark, job)
            evaluated = score.evaluate(benchmark, job, spec.metrics)
        record = {
            "job": job.name,
            "key": job.key,
            "data": found.data,
            "unlabelled": found.unlabelled,
            "command": shlex.join(training(benchmark, job)),
            "training": trained,
            "memory": memory(benchmark.of(job) / "memory.jsonl"),
            "evaluation": evaluated,
            "versions": records.versions(),
            "hardware": records.hardware(),
            "ended": time.strftime("%Y-%m-%d %H:%M:%S"),
            "seconds_of_last_attempt": round(time.time() - begin, 1),
        }
        write_json(benchmark.of(job) / "record.json", record)


def training(benchmark: BenchmarkFolder, job: Job) -> list[str]:
    """The command that trains from the beginning, as a user would type it."""
    start = benchmark.start_of(job)
    weights = ["-pretrained_weights", str(benchmark.fold(start) / "checkpoint_final.pth")] if start else []
    return [*job.training(), *weights]


def training_left(benchmark: BenchmarkFolder, job: Job) -> list[str] | None:
    """The command that trains and validates, from where an earlier attempt ended; None if both are done."""
    flag = continuation(benchmark.fold(job))
    if flag is None:
        return None
    return [*job.training(), flag] if flag else training(benchmark, job)


def prediction_left(benchmark: BenchmarkFolder, job: Job) -> list[str] | None:
    """The command that predicts the held-out cases; None if they are predicted already, or are not scored."""
    if job.scored == "validation" or benchmark.predictions(job).is_dir():
        return None
    images = Path(os.environ["nnUNet_raw"]) / job.compared / "imagesTs"
    return job.prediction(images, _unfinished(benchmark, job))


def train(benchmark: BenchmarkFolder, job: Job) -> None:
    """Train and validate, unless that is done."""
    if command := training_left(benchmark, job):
        _run(benchmark, job, command, benchmark.of(job) / "memory.jsonl")
    if continuation(benchmark.fold(job)) is not None:
        raise JobFailed(f"{job.title}: nnUNetv2_train ended without a validated model in {benchmark.fold(job)}.")


def predict(benchmark: BenchmarkFolder, job: Job) -> None:
    """Predict the held-out cases, if they are scored. The folder of predictions appears only with all of them in it."""
    if command := prediction_left(benchmark, job):
        unfinished = _unfinished(benchmark, job)
        shutil.rmtree(unfinished, ignore_errors=True)
        _run(benchmark, job, command, Path(os.devnull))
        unfinished.rename(benchmark.predictions(job))


def _unfinished(benchmark: BenchmarkFolder, job: Job) -> Path:
    return benchmark.predictions(job).with_suffix(".unfinished")


def _run(benchmark: BenchmarkFolder, job: Job, command: Sequence[str], memory_file: Path) -> None:
    """Run one of nnU-Net's commands, seeded."""
    own = environment(
        raw=os.environ["nnUNet_raw"],
        preprocessed=os.environ["nnUNet_preprocessed"],
        results=benchmark.results(job),
        # without workers the seeded process augments too: trainings of one arm are repeatable, and arms that draw no
        # random numbers of their own see the same patches
        augmenting=0 if job.device == "cpu" else None,
    )
    print(f"$ {shlex.join(command)}", flush=True)
    # with close_fds=False the training inherits the job's lock, and keeps it if this process is killed
    code = subprocess.run(
        [sys.executable, "-m", "nnunet_ext.benchmark.seeded", str(job.seed), str(memory_file), *command],
        env=own,
        stdin=subprocess.DEVNULL,
        close_fds=False,
    ).returncode
    if code:
        raise JobFailed(f"{job.title}: {command[0]} ended with exit code {code}.")


def memory(file: Path) -> dict[str, Any]:
    """The largest values over all attempts, and the number of attempts; unfinished lines are skipped."""
    attempts = []
    for line in file.read_bytes().splitlines() if file.is_file() else []:
        with suppress(ValueError):
            attempts.append(json.loads(line))
    largest: dict[str, Any] = {"attempts_that_ended": len(attempts)}
    for attempt in attempts:
        for key, value in attempt.items():
            if isinstance(value, str):
                largest[key] = value
            elif value is not None and key != "seconds":
                largest[key] = max(value, largest.get(key, value))
    return largest


def main(argv: list[str]) -> int:
    """Run one job and return the exit code: 0, 1 for a failed training, 2 for bad input."""
    try:
        run_job(*argv)
    except JobFailed as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    except InputError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
