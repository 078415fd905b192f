"""One job: a real ``nnUNetv2_train``, which ends with predicting the validation cases, then their evaluation.

``python -m nnunet_ext.benchmark.job FOLDER JOB`` runs it in this process, wherever the queue put it. What was done
before is not done again: a training continues with ``--c``, a finished one is only validated (``--val``) or evaluated.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json
from nnunet_ext.nnunet.results import alone_in
from nnunet_ext.processes.commands import continuation, environment
from nnunet_ext.processes.lock import held


class JobFailed(RuntimeError):
    """The training ended with an error; its log says why."""


def run_job(folder: str | Path, name: str) -> None:
    """Run the job ``name`` of the benchmark in ``folder`` to its end, or return at once if it is done.

    Raises:
        JobFailed: ``nnUNetv2_train`` failed, or did not train what was asked for.
        InputError: plans or split are no longer those of the benchmark, or another process works on this job.
    """
    benchmark = BenchmarkFolder(folder)
    spec, jobs, _ = benchmark.load()
    [job] = [job for job in jobs if job.name == name]
    with held(benchmark.of(job) / "lock") as free:
        if not free:
            raise InputError(f"{benchmark.of(job)}: another process is working on this job.")
        if benchmark.record(job) is not None:
            return
        from nnunet_ext.benchmark import prepare, records

        prepare.use_folders(spec, benchmark)
        if prepare.job_key(job) != job.key:
            raise InputError(
                f"{job.title}: its plans or its split in nnUNet_preprocessed are no longer those with which "
                f"{benchmark.prepared} was written; restore them, or start anew in another --folder."
            )
        begin = time.time()
        train(benchmark, job)
        trained = records.training(benchmark.fold(job))
        if job.epochs is not None and len(trained["epoch_seconds"]) != job.epochs:
            raise JobFailed(
                f"{job.title}: {len(trained['epoch_seconds'])} epochs were trained instead of {job.epochs}; "
                "does the trainer set the number of epochs itself?"
            )
        with alone_in(benchmark.fold(job)):
            evaluated = prepare.evaluate(benchmark, job, spec.metrics)
        record = {
            "job": job.name,
            "key": job.key,
            "command": shlex.join(job.command()),
            "training": trained,
            "memory": memory(benchmark.of(job) / "memory.jsonl"),
            "evaluation": evaluated,
            "versions": records.versions(),
            "hardware": records.hardware(),
            "ended": time.strftime("%Y-%m-%d %H:%M:%S"),
            "seconds_of_last_attempt": round(time.time() - begin, 1),
        }
        write_json(benchmark.of(job) / "record.json", record)


def train(benchmark: BenchmarkFolder, job: Job) -> None:
    """Train and validate, from wherever an earlier attempt ended."""
    flag = continuation(benchmark.fold(job))
    if flag is None:
        return
    command = [*job.command(), *([flag] if flag else [])]
    memory_file = benchmark.of(job) / "memory.jsonl"
    own = environment(
        raw=os.environ["nnUNet_raw"],
        preprocessed=os.environ["nnUNet_preprocessed"],
        results=benchmark.results(job),
        # the process that trains is seeded: trainings of one arm repeat themselves, and so do the patches of arms that
        # draw no random numbers of their own
        augmenting=0 if job.device == "cpu" else None,
    )
    print(f"$ {shlex.join(command)}", flush=True)
    # close_fds: the training holds the lock of the job too, and keeps it should this process be killed
    code = subprocess.run(
        [sys.executable, "-m", "nnunet_ext.benchmark.train", str(job.seed), str(memory_file), *command],
        env=own,
        stdin=subprocess.DEVNULL,
        close_fds=False,
    ).returncode
    if code:
        raise JobFailed(f"{job.title}: nnUNetv2_train ended with exit code {code}.")
    if continuation(benchmark.fold(job)) is not None:
        raise JobFailed(f"{job.title}: nnUNetv2_train ended without a validated model in {benchmark.fold(job)}.")


def memory(file: Path) -> dict[str, Any]:
    """The largest values over all attempts, and their number; a line that was never finished is none."""
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
    """The exit code: 0, 1 for a failed training, 2 for bad input."""
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
