"""Surroundings of a training of a benchmark: its share of the cores, and on a CPU nothing that is not seeded."""

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nnunet_ext.benchmark import job, queue, seeded
from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.run import run_benchmark
from nnunet_ext.benchmark.spec import Spec
from nnunet_ext.errors import InputError


def jobs(number: int) -> list[Job]:
    return [Job(f"arm {n}", "T", "P", "Dataset901_Tiny", "2d", 0, 0, "cpu", 1, "key") for n in range(number)]


@pytest.mark.parametrize(
    ("cores", "number", "at_once", "asked", "threads"),
    [
        (16, 3, 1, None, 16),
        (16, 3, 2, None, 8),
        (16, 3, 8, None, 5),
        (2, 3, 3, None, 1),
        (None, 1, 1, None, 1),
        (2, 1, 1, "7", 7),
    ],
)
def test_every_training_gets_its_share_of_the_cores(monkeypatch, tmp_path, cores, number, at_once, asked, threads):
    started = []

    def start(command, *, env, **kwargs):
        started.append(env)
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], env=env, **kwargs)

    monkeypatch.delenv(seeded.THREADS, raising=False)
    if asked:
        monkeypatch.setenv(seeded.THREADS, asked)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(queue, "subprocess", SimpleNamespace(Popen=start, DEVNULL=-3, STDOUT=-2))
    everything = jobs(number)
    failed = queue.run_here(BenchmarkFolder(tmp_path), everything, at_once)
    assert sorted(failed, key=lambda job: job.name) == everything  # all of them
    assert [env[seeded.THREADS] for env in started] == [str(threads)] * number


class Processes:
    """Stands in for ``subprocess``; every job ends at once, those of ``failing`` arms without a record."""

    DEVNULL, STDOUT = subprocess.DEVNULL, subprocess.STDOUT

    def __init__(self, benchmark: BenchmarkFolder, failing: str = "") -> None:
        self.benchmark, self.failing = benchmark, failing
        self.started: list[str] = []

    def Popen(self, command, **kwargs):  # noqa: N802
        [job] = [job for job in self.benchmark.load()[1] if job.name == command[-1]]
        self.started.append(job.arm)
        if job.arm != self.failing:
            record = {"training": {"epoch_seconds": [3.0]}, "seconds_of_last_attempt": 4.0}
            (self.benchmark.of(job) / "record.json").write_text(json.dumps(record))
        code = int(job.arm == self.failing)
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"], **kwargs)


@pytest.mark.parametrize(("failing", "started", "failed"), [("", 3, 0), ("arm 0", 2, 2)])
def test_what_starts_from_another_training_runs_after_it_or_not_at_all(
    monkeypatch, tmp_path, capsys, failing, started, failed
):
    benchmark = BenchmarkFolder(tmp_path)
    first, second, other = jobs(3)
    everything = [first, replace(second, start=first.arm), other]
    arms = [{"name": job.arm, "trainer": job.trainer} for job in everything]
    content = {"name": "x", "baseline": "arm 0", "datasets": ["901"], "arms": arms}
    benchmark.save(Spec.from_dict(content), everything)
    processes = Processes(benchmark, failing)
    monkeypatch.setattr(queue, "subprocess", processes)
    assert len(queue.run_here(benchmark, everything, 2)) == failed
    assert len(processes.started) == started
    assert processes.started[0] == "arm 0"
    if failing:
        assert "arm 1" not in processes.started
        assert (
            "arm 1, Dataset901_Tiny 2d, fold 0, seed 0: it starts from the weights of arm 0" in capsys.readouterr().err
        )
    else:
        assert queue.run_here(benchmark, everything, 2) == []
        assert len(processes.started) == 3  # all are done


@pytest.mark.parametrize("asked", ["two", "0", "-1", "1.5", ""])
def test_threads_that_are_no_number_are_refused_before_anything_starts(monkeypatch, tmp_path, asked):
    monkeypatch.setenv(seeded.THREADS, asked)
    with pytest.raises(InputError, match=f"NNUNET_EXT_THREADS is '{asked}', but it must be a number of threads"):
        queue.run_here(BenchmarkFolder(tmp_path), jobs(1))
    with pytest.raises(InputError, match=f"NNUNET_EXT_THREADS is '{asked}'"):
        run_benchmark("low-hippocampus", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_training_computes_with_the_threads_it_was_given(monkeypatch, tmp_path):
    seen = []
    command = SimpleNamespace(load=lambda: lambda: seen.append(multiprocessing.cpu_count()))
    monkeypatch.setattr(seeded, "entry_points", lambda **_: [command])
    monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 16)
    monkeypatch.delenv(seeded.THREADS, raising=False)
    seeded.main(["0", str(tmp_path / "memory.jsonl"), "nnUNetv2_train"])
    monkeypatch.setenv(seeded.THREADS, "3")
    seeded.main(["0", str(tmp_path / "memory.jsonl"), "nnUNetv2_train"])
    assert seen == [16, 3]


@pytest.mark.parametrize(
    ("device", "asked", "workers"), [("cpu", None, "0"), ("cpu", "3", "3"), ("cuda", None, "2"), ("cuda", "3", "3")]
)
def test_on_a_cpu_the_main_process_which_is_seeded_augments(monkeypatch, tmp_path, device, asked, workers):
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    if asked:
        monkeypatch.setenv("nnUNet_n_proc_DA", asked)
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    started = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, *, env, **_: started.append(env) or SimpleNamespace(returncode=1)
    )
    [one] = jobs(1)
    with pytest.raises(job.JobFailed):
        job.train(BenchmarkFolder(tmp_path), replace(one, device=device))
    assert [env["nnUNet_n_proc_DA"] for env in started] == [workers]


def test_half_a_line_of_a_killed_attempt_loses_neither_the_attempts_before_nor_those_after(tmp_path):
    file = tmp_path / "memory.jsonl"
    assert job.memory(file) == {"attempts_that_ended": 0}
    seeded.append_line(file, '{"seconds": 9, "host_mib": 5.0}')
    file.write_bytes(file.read_bytes() + b'{"seconds": 1, "gpu": "caf\xc3')  # within a letter
    seeded.append_line(file, '{"seconds": 1, "host_mib": 7.0}')
    assert job.memory(file) == {"attempts_that_ended": 2, "host_mib": 7.0}
    assert file.read_bytes().count(b"\n") == 3


def test_a_fold_is_not_scored_while_another_process_validates_it(tmp_path, monkeypatch):
    benchmark, [one] = BenchmarkFolder(tmp_path), jobs(1)
    evaluated = []
    monkeypatch.setattr(BenchmarkFolder, "load", lambda self: (SimpleNamespace(metrics=None), [one], {}))
    monkeypatch.setattr(job, "train", lambda *_: None)
    monkeypatch.setattr("nnunet_ext.benchmark.records.training", lambda _: {"epoch_seconds": [1.0]})
    monkeypatch.setattr(BenchmarkFolder, "use_data", lambda *_: None)
    monkeypatch.setattr("nnunet_ext.benchmark.preprocessed.job_key", lambda *_: one.key)
    monkeypatch.setattr("nnunet_ext.benchmark.data_state.DataStates.of", lambda *_: one.data)
    monkeypatch.setattr("nnunet_ext.benchmark.data_state.DataStates.unlabelled_of", lambda *_: one.unlabelled)
    monkeypatch.setattr(job, "predict", lambda *_: None)
    monkeypatch.setattr("nnunet_ext.benchmark.score.evaluate", lambda *_: evaluated.append(1) or {})
    holder = "import sys; from pathlib import Path; from nnunet_ext.nnunet.results import alone_in\n"
    holder += "with alone_in(Path(sys.argv[1])): print('at work', flush=True); sys.stdin.read()"
    benchmark.fold(one).mkdir(parents=True)
    command = [sys.executable, "-c", holder, str(benchmark.fold(one))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"at work\n"
        with pytest.raises(InputError, match="Another training is at work in"):
            job.run_job(tmp_path, one.name)
        assert not evaluated
        other.stdin.close()
    job.run_job(tmp_path, one.name)
    assert evaluated
    assert benchmark.record(one)
