"""How long a benchmark still takes is estimated from what was seen, arm by arm."""

import pytest

from nnunet_ext.benchmark.folder import Job
from nnunet_ext.benchmark.remaining import Clock, Remaining, seconds_of
from nnunet_ext.processes.time_left import time_left


def job(arm: str, seed: int = 0) -> Job:
    return Job(arm, "T", "P", "Dataset901_Tiny", "2d", 0, seed, "cpu", 1, "key")


def clock(*read: tuple[float, float]) -> Clock:
    made = Clock()
    for now, fraction in read:
        made.read(fraction, now)
    return made


def test_before_anything_is_known_nothing_is_said():
    assert Remaining().seconds([job("a")], [(job("b"), 0.0, Clock())], 1) is None
    assert time_left(None) == ""


def test_an_arm_takes_what_it_took_before():
    remaining = Remaining()
    remaining.done(job("fast"), 60)
    remaining.done(job("slow"), 600)
    assert remaining.seconds([job("fast", 1), job("slow", 1)], [], 1) == 660
    assert remaining.seconds([job("new")], [], 1) == 330  # the mean of what is known
    assert remaining.seconds([], [], 1) == 0


def test_a_running_job_tells_by_its_own_speed():
    running = clock((100, 0.2), (200, 0.4))
    assert running.whole == pytest.approx(500)
    assert Remaining().seconds([], [(job("a"), 0.4, running)], 1) == pytest.approx(300)
    assert Remaining().seconds([job("a", 1)], [(job("a"), 0.4, running)], 1) == pytest.approx(800)


def test_what_was_done_before_a_restart_took_no_time_now():
    assert clock((0, 0.5)).whole is None
    assert clock((0, 0.5), (10, 0.6)).whole == pytest.approx(100)


def test_jobs_side_by_side_share_the_time_but_none_is_split():
    remaining = Remaining()
    remaining.done(job("a"), 100)
    assert remaining.seconds([job("a", seed) for seed in (1, 2, 3, 4)], [], 2) == 200
    assert remaining.seconds([job("a", 1)], [], 2) == 100


def test_a_resumed_job_took_all_its_epochs():
    record = {"training": {"epoch_seconds": [30.0, 30.0]}, "seconds_of_last_attempt": 70.0}
    assert seconds_of(record) == 70
    assert seconds_of({**record, "seconds_of_last_attempt": 35.0}) == 60


def test_a_training_taken_from_a_report_took_its_epochs():
    assert seconds_of({"training": {"epoch_seconds": [30.0, 30.0]}, "reused_from": "report"}) == 60


@pytest.mark.parametrize(("seconds", "words"), [(5, "about 1 min"), (3540, "about 59 min"), (7500, "about 2 h 05 min")])
def test_the_time_is_said_in_hours_and_minutes(seconds, words):
    assert time_left(seconds).startswith(f"{words} left, until ")
