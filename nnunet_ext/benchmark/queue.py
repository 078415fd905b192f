"""Runs many jobs: several in parallel on this machine, or on a cluster. A failed job does not stop the others."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from tqdm import tqdm

from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.job import prediction_left, run_job, training_left
from nnunet_ext.benchmark.remaining import Clock, Remaining, seconds_of
from nnunet_ext.benchmark.seeded import THREADS, threads_asked
from nnunet_ext.errors import InputError
from nnunet_ext.processes.children import Progress, end_group, follow_lines, last_lines, own_group, signals_noted
from nnunet_ext.processes.lock import is_held
from nnunet_ext.processes.progress import training
from nnunet_ext.processes.signals import interrupt
from nnunet_ext.processes.time_left import time_left

POLL_SECONDS = 0.5


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen
    output: IO[bytes]
    lines: Iterator[str | None]
    progress: Progress
    fraction: float = 0.0
    note: str = ""
    clock: Clock = field(default_factory=Clock)

    def look(self) -> None:
        """Read the output since the last look."""
        for line in self.lines:
            if line is None:
                return
            fraction, note = self.progress(line)
            if fraction is not None:
                self.fraction = min(fraction, 0.99)  # validation and evaluation still follow
                self.clock.read(self.fraction, time.monotonic())
            self.note = self.note if note is None else note


def run_here(benchmark: BenchmarkFolder, jobs: Sequence[Job], at_once: int = 1) -> list[Job]:
    """Run the unfinished jobs on this machine, ``at_once`` in parallel, each in its own process group.

    On a CPU the jobs share the cores, because trainings with more threads than cores wait for each other at every
    barrier. The environment variable ``NNUNET_EXT_THREADS`` overrides the number of threads per job.

    If processes of an earlier start still work on a job, this function waits for it. SIGINT, SIGTERM and SIGHUP end all
    processes started here before ``KeyboardInterrupt`` is raised.

    Returns:
        The jobs that failed.

    Raises:
        InputError: ``NNUNET_EXT_THREADS`` is no number of threads.
    """
    threads_asked()
    waiting = [job for job in jobs if benchmark.record(job) is None]
    remaining = Remaining.from_records(benchmark, jobs)
    threads = max(1, (os.cpu_count() or 1) // max(1, min(at_once, len(waiting))))
    failed: list[Job] = []
    running: list[_Running] = []
    elsewhere: list[Job] = []
    with signals_noted() as received, _bar(len(jobs), len(jobs) - len(waiting)) as bar:
        try:
            while (waiting or running or elsewhere) and not received:
                for job in [job for job in elsewhere if not is_held(benchmark.of(job) / "lock")]:
                    elsewhere.remove(job)
                    waiting.insert(0, job)  # to finish it
                while waiting and len(running) + len(elsewhere) < at_once:
                    ready = [job for job in waiting if benchmark.can_start(job)]
                    if not ready:
                        if not running and not elsewhere:
                            _give_up(waiting, failed, bar)
                        break
                    job = ready[0]
                    waiting.remove(job)
                    if is_held(benchmark.of(job) / "lock"):
                        bar.write(
                            f"{job.title}: a process of an earlier start is still working on it; waiting for it",
                            file=sys.stderr,
                        )
                        elsewhere.append(job)
                    else:
                        for command in (training_left(benchmark, job), prediction_left(benchmark, job)):
                            if command:
                                bar.write(f"$ {shlex.join(command)}")
                        running.append(_start(benchmark, job, threads))
                for one in list(running):
                    ended = one.process.poll() is not None
                    one.look()
                    if ended:
                        running.remove(one)
                        _ended(benchmark, one, failed, remaining, bar)
                states = [(one.job, one.fraction, one.clock) for one in running]
                left = remaining.seconds([*waiting, *elsewhere], states, at_once)
                _show(bar, len(jobs) - len(waiting) - len(running) - len(elsewhere), running, left)
                time.sleep(POLL_SECONDS if running or elsewhere else 0)
        finally:
            for one in running:
                end_group(one.process, hurry=lambda: len(received) > 1)
                one.output.close()
    if received:
        raise interrupt(received[0])
    return failed


def run_on_cluster(benchmark: BenchmarkFolder, jobs: Sequence[Job], cluster: str, parameters: dict[str, Any]) -> list:
    """Submit every job through ``submitit`` and return at once.

    Args:
        benchmark: the benchmark, in a folder that every node sees.
        jobs: jobs to submit.
        cluster: ``"slurm"``, or ``"local"`` to try it without a cluster.
        parameters: parameters of ``submitit.AutoExecutor.update_parameters``, such as ``slurm_partition``.

    Returns:
        submitit's jobs.

    Raises:
        InputError: submitit is not installed, or does not know a parameter.
    """
    try:
        import submitit
    except ImportError:
        raise InputError('--executor slurm needs the package submitit; run: pip install "nnunet-ext[slurm]".') from None
    executor = submitit.AutoExecutor(folder=benchmark.folder / "submitit" / "%j", cluster=cluster)
    try:
        executor.update_parameters(**{"timeout_min": 24 * 60, **parameters})
    except (NameError, TypeError, ValueError) as error:
        raise InputError(f"--parameter: {' '.join(str(error).split())}.") from None
    with executor.batch():
        return [executor.submit(run_job, str(benchmark.folder), job.name) for job in jobs]


# --- parts ------------------------------------------------------------------------------------------------------------


def _start(benchmark: BenchmarkFolder, job: Job, threads: int) -> _Running:
    log = benchmark.log(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    output = log.open("ab")
    command = [sys.executable, "-m", "nnunet_ext.benchmark.job", str(benchmark.folder), job.name]
    process = subprocess.Popen(
        command,
        env={THREADS: str(threads), **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        **own_group(),
    )
    return _Running(job, process, output, follow_lines(log, output.tell()), training(job.epochs or 1000))


def _give_up(waiting: list[Job], failed: list[Job], bar: tqdm) -> None:
    """Count the waiting jobs as failed, because no running job can provide the weights they start from."""
    for job in waiting:
        bar.write(f"failed: {job.title}: it starts from the weights of {job.start}, which failed", file=sys.stderr)
    failed += waiting
    waiting.clear()


def _ended(benchmark: BenchmarkFolder, one: _Running, failed: list[Job], remaining: Remaining, bar: tqdm) -> None:
    end_group(one.process, grace=1.0)  # stragglers
    one.output.close()
    record = benchmark.record(one.job)
    if one.process.returncode == 0 and record is not None:
        remaining.done(one.job, seconds_of(record))
        bar.write(f"done: {one.job.title}")
        return
    failed.append(one.job)
    log = benchmark.log(one.job)
    bar.write(
        f"failed: {one.job.title} (exit code {one.process.returncode}); the others go on, the same command tries it "
        f"again; the last lines of {log} are\n{last_lines(log)}",
        file=sys.stderr,
    )


def _bar(jobs: int, done: int) -> tqdm:
    terminal = sys.stderr.isatty()
    return tqdm(
        total=float(jobs),
        initial=float(done),
        desc="jobs",
        bar_format="{desc} {n:.1f}/{total:.0f} |{bar:24}| {elapsed}{postfix}",
        dynamic_ncols=True,
        mininterval=0.2 if terminal else 60,
    )


def _show(bar: tqdm, done: int, running: Sequence[_Running], left: float | None) -> None:
    notes = [time_left(left), *(f"{one.job.arm}: {one.note or 'starting'}" for one in running)]
    bar.set_postfix_str("; ".join(note for note in notes if note), refresh=False)
    bar.update(done + sum(one.fraction for one in running) - bar.n)
