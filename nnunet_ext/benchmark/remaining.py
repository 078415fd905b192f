"""Remaining time of a benchmark, estimated from the times of finished jobs and the progress of running ones."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from nnunet_ext.benchmark.folder import BenchmarkFolder, Job


@dataclass
class Clock:
    """Progress of one running job since this run started it; earlier progress is not counted.

    ``first`` and ``last`` are the first and last reading: seconds of a clock, and the finished fraction.
    """

    first: tuple[float, float] | None = None
    last: tuple[float, float] = (0.0, 0.0)

    def read(self, fraction: float, now: float) -> None:
        """Note the finished fraction of the job."""
        if self.first is None:
            self.first = (now, fraction)
        if fraction > self.last[1]:
            self.last = (now, fraction)

    @property
    def whole(self) -> float | None:
        """Estimated seconds for the whole job; None without two readings."""
        if self.first is None or self.last[1] <= self.first[1]:
            return None
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


@dataclass
class Remaining:
    """Seconds of finished jobs by arm, data set and configuration, within which trainings take about the same time."""

    known: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    @classmethod
    def from_records(cls, benchmark: BenchmarkFolder, jobs: Iterable[Job]) -> Remaining:
        """Read the times of finished jobs."""
        remaining = cls()
        for job in jobs:
            if (record := benchmark.record(job)) is not None:
                remaining.done(job, seconds_of(record))
        return remaining

    def done(self, job: Job, seconds: float) -> None:
        """Note the time of a finished job."""
        self.known.setdefault(_kind(job), []).append(seconds)

    def seconds(
        self, waiting: Collection[Job], running: Collection[tuple[Job, float, Clock]], at_once: int
    ) -> float | None:
        """Estimated seconds until all jobs are done; None before any time is known.

        Args:
            waiting: jobs that are not started.
            running: job, finished fraction, and clock of every running job.
            at_once: number of parallel jobs.
        """
        measured = {_kind(job): clock.whole for job, _, clock in running if clock.whole is not None}
        typical = {**measured, **{kind: statistics.median(times) for kind, times in self.known.items()}}
        if not typical:
            return None
        other = statistics.mean(typical.values())  # for arms without a known time
        left = [(clock.whole or typical.get(_kind(job), other)) * (1 - done) for job, done, clock in running]
        left_waiting = [typical.get(_kind(job), other) for job in waiting]
        return max([sum([*left, *left_waiting]) / at_once, *left, *left_waiting], default=0.0)


def seconds_of(record: dict[str, Any]) -> float:
    """Seconds of a finished job, including validation and evaluation unless it was interrupted or reused."""
    return max(sum(record["training"]["epoch_seconds"]), record.get("seconds_of_last_attempt", 0.0))


def _kind(job: Job) -> tuple[str, str, str]:
    return job.arm, job.compared, job.compared_configuration
