"""Time that a benchmark still takes, from what finished jobs took and how far the running ones are."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from nnunet_ext.benchmark.folder import BenchmarkFolder, Job


@dataclass
class Clock:
    """One running job; what was done before it was started took no time now.

    ``first`` and ``last`` are seconds of a clock and the fraction that was done then.
    """

    first: tuple[float, float] | None = None
    last: tuple[float, float] = (0.0, 0.0)

    def read(self, fraction: float, now: float) -> None:
        """Note that ``fraction`` of the job is done."""
        if self.first is None:
            self.first = (now, fraction)
        if fraction > self.last[1]:
            self.last = (now, fraction)

    @property
    def whole(self) -> float | None:
        """Seconds that the whole job takes; None before anything is known."""
        if self.first is None or self.last[1] <= self.first[1]:
            return None
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


@dataclass
class Remaining:
    """Seconds by arm: trainings of one arm, data set and configuration take about the same time."""

    known: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    @classmethod
    def from_records(cls, benchmark: BenchmarkFolder, jobs: Iterable[Job]) -> Remaining:
        """Start from the time that finished jobs took."""
        remaining = cls()
        for job in jobs:
            if (record := benchmark.record(job)) is not None:
                remaining.done(job, seconds_of(record))
        return remaining

    def done(self, job: Job, seconds: float) -> None:
        """Note that a job took this long."""
        self.known.setdefault(_kind(job), []).append(seconds)

    def seconds(
        self, waiting: Collection[Job], running: Collection[tuple[Job, float, Clock]], at_once: int
    ) -> float | None:
        """Seconds until everything is done; None before anything is known.

        Args:
            waiting: jobs that are not started.
            running: job, fraction that is done, and its clock.
            at_once: jobs at a time.
        """
        measured = {_kind(job): clock.whole for job, _, clock in running if clock.whole is not None}
        typical = {**measured, **{kind: statistics.median(times) for kind, times in self.known.items()}}
        if not typical:
            return None
        other = statistics.mean(typical.values())  # for arms of which nothing is known yet
        left = [(clock.whole or typical.get(_kind(job), other)) * (1 - done) for job, done, clock in running]
        left_waiting = [typical.get(_kind(job), other) for job in waiting]
        return max([sum([*left, *left_waiting]) / at_once, *left, *left_waiting], default=0.0)


def seconds_of(record: dict[str, Any]) -> float:
    """Seconds that a finished job took, with validation and evaluation unless it was interrupted."""
    return max(sum(record["training"]["epoch_seconds"]), record["seconds_of_last_attempt"])


def _kind(job: Job) -> tuple[str, str, str]:
    return job.arm, job.compared, job.configuration
