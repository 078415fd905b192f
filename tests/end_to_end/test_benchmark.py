"""``nnunet-ext benchmark`` with real trainings on tiny data: killed, resumed, failed, submitted, reported."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nnunet_ext.benchmark import queue
from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.job import main as run_job
from nnunet_ext.benchmark.prepare import prepare
from nnunet_ext.benchmark.report import report_benchmark, report_results
from nnunet_ext.benchmark.run import run_benchmark
from nnunet_ext.benchmark.spec import parse
from nnunet_ext.benchmark.verify import verify
from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.processes.lock import is_held
from tests import tiny

posix = pytest.mark.skipif(sys.platform == "win32", reason="kill -9 and process groups of POSIX")

SPEC = {
    "baseline": "nnUNetTrainerReference",
    "trainers": ["nnUNetTrainerReference", "nnUNetTrainerSDM"],
    "datasets": [901],
    "configurations": ["2d"],
    "plans": {"epochs": 1, "iterations": 1},
    "folds": [0],
    "device": "cpu",
}


@pytest.fixture
def root(nnunet_folders, tmp_path, monkeypatch):
    """The tiny data set, and a folder whose ``mine.yaml`` the test writes."""
    root = nnunet_folders()
    monkeypatch.delenv("nnUNet_results")  # a benchmark has its own
    return root


def write_spec(root: Path, **changes) -> Path:
    (root / "mine.yaml").write_text(json.dumps({**SPEC, **changes}))
    return root / "mine.yaml"


def wait_for(condition, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def epochs_in(log: Path) -> list[str]:
    return [
        line.rpartition(": ")[2] for line in log.read_text().splitlines() if ": Epoch " in line and "time" not in line
    ]


@posix
@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_where_it_was(root):
    """The runner and its training are killed with SIGKILL; the second run continues with --c and keeps what is done."""
    quick = {"name": "quick", "trainer": "nnUNetTrainerReference", "plans": {"epochs": 1}}
    spec = write_spec(root, plans={"epochs": 12, "iterations": 1}, trainers=[quick, "nnUNetTrainerReference"])
    command = [sys.executable, "-m", "nnunet_ext", "benchmark", "run", str(spec), "--folder", str(root / "out")]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    benchmark = BenchmarkFolder(root / "out")
    wait_for(benchmark.prepared.is_file)
    done, killed = benchmark.load()[1]
    wait_for(lambda: benchmark.record(done) is not None)
    wait_for(lambda: (benchmark.fold(killed) / "checkpoint_latest.pth").is_file())
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kill_all_that_work_in(root / "out")
    wait_for(lambda: not is_held(benchmark.of(killed) / "lock"))
    assert benchmark.record(killed) is None
    assert not (benchmark.fold(killed) / "checkpoint_final.pth").exists()
    before = (benchmark.of(done) / "record.json").stat().st_mtime_ns

    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "2 jobs, 1 of them done" in second.stdout
    assert (benchmark.of(done) / "record.json").stat().st_mtime_ns == before
    record = benchmark.record(killed)
    assert record
    assert len(record["training"]["epoch_seconds"]) == len(record["training"]["curves"]["train_losses"]) == 12
    log = benchmark.log(killed)
    assert " --c\n" in log.read_text()
    trained = epochs_in(log)
    assert trained[-1] == "Epoch 11"
    assert trained.count("Epoch 0") == 1  # it did not begin anew


def kill_all_that_work_in(folder: Path) -> None:
    """SIGKILL to every process whose command line names ``folder``."""
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            named = str(folder).encode() in status.read_bytes()
        except OSError:
            continue
        if named and int(status.parent.name) != os.getpid():
            os.kill(int(status.parent.name), signal.SIGKILL)


@posix
@pytest.mark.slow
def test_a_training_that_survived_its_runner_is_waited_for(root, capsys):
    spec = write_spec(root, plans={"epochs": 8, "iterations": 1})
    command = [sys.executable, "-m", "nnunet_ext", "benchmark", "run", str(spec), "--folder", str(root / "out")]
    runner = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    benchmark = BenchmarkFolder(root / "out")
    wait_for(benchmark.prepared.is_file)
    job = benchmark.load()[1][0]
    wait_for(lambda: benchmark.log(job).is_file() and ": Epoch 1" in benchmark.log(job).read_text())
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    assert run_benchmark(spec, root / "out") == 0
    assert "still working on it" in capsys.readouterr().err
    assert epochs_in(benchmark.log(job)) == [f"Epoch {i}" for i in range(8)]  # nothing was trained twice
    assert all(benchmark.record(each) for each in benchmark.load()[1])


def test_one_failure_is_reported_and_stops_nobody(root, capsys):
    # BatchNorm and batch size 1: the published code cannot train
    failing = {"name": "failing", "trainer": "nnUNetTrainerPnPNetPaper", "plans": {"batch_size": 1}}
    metrics = {"interfaces": True, "topology": True}
    spec = write_spec(root, trainers=[failing, *SPEC["trainers"]], metrics=metrics)
    assert main(["benchmark", "run", str(spec), "--folder", str(root / "out"), "--jobs", "2"]) == 1
    printed = capsys.readouterr()
    assert "failed: failing" in printed.err
    assert "batch size 1" in printed.err
    assert "1 of 3 jobs failed: failing" in printed.err
    benchmark = BenchmarkFolder(root / "out")
    first, *others = benchmark.load()[1]
    assert benchmark.record(first) is None
    assert all(benchmark.record(job) for job in others)

    said = report_benchmark(root / "out")  # 2 validation cases
    assert "too few cases to test" in said
    page = (root / "out" / "report" / "report.md").read_text()
    assert "1 jobs are not done" in page
    assert "SDM: largest gains and losses" in page
    assert re.search(r"- failing, .*: failed or stopped; its log ends with: .*nnUNetv2\\?_train ended", page)
    assert "### Confusion near the interface: differences to nnUNetTrainerReference" in page
    assert "### Betti 2 error (cavities): differences to nnUNetTrainerReference" in page
    is_verified_and_says_nothing_of_the_machine(root / "out" / "report", root)
    record = benchmark.record(others[1])
    assert record
    assert record["command"].startswith("nnUNetv2_train Dataset901_Tiny 2d 0 -tr nnUNetTrainerSDM")
    assert record["versions"]["nnunetv2"].startswith("2.")
    assert record["memory"]["host_mib"] > 50
    assert record["training"]["weights"] > 1000
    assert len(record["training"]["epoch_seconds"]) == 1
    table = pd.read_csv(benchmark.of(others[1]) / "metrics.csv")
    assert sorted(set(table["case"])) == ["tiny_4", "tiny_5"]

    (benchmark.of(others[1]) / "interfaces.csv").rename(root / "aside.csv")
    with pytest.raises(InputError, match=r"SDM, .* was scored without interfaces, which the benchmark asks for by now"):
        report_benchmark(root / "out")
    (root / "aside.csv").rename(benchmark.of(others[1]) / "interfaces.csv")

    models = sorted((root / "out" / "results" / "seed_0" / tiny.DATASET).iterdir())
    trained = [str(model) for model in models if "Paper" not in model.name]
    out = root / "compared"
    command = ["benchmark", "report", "--from-results", *trained, "--baseline", "nnUNetTrainerReference"]
    assert main([*command, "-o", str(out)]) == 0
    is_verified_and_says_nothing_of_the_machine(out, root)
    ours = pd.read_csv(out / "cases.csv").sort_values(["arm", "case", "label"])
    theirs = pd.read_csv(root / "out" / "report" / "cases.csv").sort_values(["arm", "case", "label"])
    assert ours["hd95_mm"].to_list() == theirs["hd95_mm"].to_list()

    for changes, words in [
        ({"baseline": None}, "Name what the others are compared with"),
        ({"baseline": "nnUNetTrainer"}, "is not compared here"),
        ({"models": [trained[0]], "baseline": "nnUNetTrainerReference"}, "a comparison needs another"),
        ({"models": [str(root / "nowhere"), *trained], "baseline": "nnUNetTrainerReference"}, "is no trained model"),
        ({"folds": [3], "baseline": "nnUNetTrainerReference"}, "no validated fold 3"),
        ({"reference": root / "nowhere", "baseline": "nnUNetTrainerReference"}, "--reference"),
    ]:
        with pytest.raises(InputError, match=words):
            report_results(changes.pop("models", trained), root / "not_written", **changes)
    (Path(trained[0]) / "fold_0" / "validation" / "summary.json").unlink()
    with pytest.raises(InputError, match="the baseline has no validated fold yet"):
        report_results(trained, root / "not_written", baseline="nnUNetTrainerReference")
    (Path(trained[0]) / "fold_0" / "validation" / "summary.json").write_text("{}")
    (Path(trained[0]) / "plans.json").write_text("{}")
    with pytest.raises(InputError, match="names no image_reader_writer"):
        report_results(trained, root / "not_written", baseline="nnUNetTrainerReference")
    assert not (root / "not_written").exists()
    assert main(["benchmark", "report"]) == 2


def is_verified_and_says_nothing_of_the_machine(report: Path, root: Path) -> None:
    [package] = verify(report.parent if report.name == "report" else report)
    assert package.problems == ()
    assert len(list((report / "logs").iterdir())) >= 2
    assert "configurations" in json.loads(next((report / "plans").iterdir()).read_text())
    assert yaml.safe_load((report / "specification.yaml").read_text())["baseline"] == "nnUNetTrainerReference"
    for path in report.rglob("*"):
        if path.suffix in (".csv", ".json", ".md", ".txt", ".yaml"):
            text = path.read_text()
            assert not [folder for folder in (root, Path.home(), sys.prefix) if str(folder) + os.sep in text], path


@pytest.mark.slow
def test_a_benchmark_brings_its_data_scores_held_out_cases_and_trains_on_what_was_trained(root, monkeypatch, capsys):
    """From raw data to scores, with nothing of the user's preprocessed data touched."""
    raw = root / "raw" / tiny.DATASET
    for part in ("images", "labels"):
        (raw / f"{part}Ts").mkdir()
        for file in (raw / f"{part}Tr").glob("tiny_[45]*"):
            shutil.copy(file, raw / f"{part}Ts" / file.name.replace("tiny_", "held_out_"))
    own = sorted((root / "preprocessed").rglob("*"))
    monkeypatch.setenv("nnUNet_preprocessed", "restored by monkeypatch")
    on_top = {"name": "on top", "trainer": "nnUNetTrainerReference", "from": "nnUNetTrainerReference"}
    changes = {"raw": str(root / "raw"), "scored": "held-out", "trainers": ["nnUNetTrainerReference", on_top]}
    spec = write_spec(root, **changes, seeds=[5])
    assert run_benchmark(spec, root / "out") == 0
    benchmark = BenchmarkFolder(root / "out")
    first, second = benchmark.load()[1]
    for job in (first, second):
        table = pd.read_csv(benchmark.of(job) / "metrics.csv")
        assert sorted(set(table["case"])) == ["held_out_4", "held_out_5"]
        assert benchmark.predictions(job).is_dir()
    log = benchmark.log(second).read_text()
    assert f"-pretrained_weights {benchmark.fold(first)}/checkpoint_final.pth" in log
    assert f"Pretrained weights from {benchmark.fold(first)}" in log
    assert sorted((root / "preprocessed").rglob("*")) == own
    printed = capsys.readouterr().out
    assert "$ nnUNetv2_plan_and_preprocess -d 901" in printed
    assert printed.count("$ nnUNetv2_predict") == 2
    report_benchmark(root / "out")
    assert "on top: largest gains and losses" in (root / "out" / "report" / "report.md").read_text()


@pytest.mark.slow
def test_jobs_go_through_submitit(root, capsys):
    spec = parse({**SPEC, "trainers": ["nnUNetTrainerReference", "nnUNetTrainerSDM"]}, "mine.yaml", "mine")
    benchmark = BenchmarkFolder(root / "out")
    jobs = prepare(spec, benchmark)
    submitted = queue.run_on_cluster(benchmark, jobs[:1], "local", {"timeout_min": 5})
    submitted[0].result()
    assert benchmark.record(jobs[0]) is not None
    with pytest.raises(InputError, match="--parameter"):
        queue.run_on_cluster(benchmark, jobs, "local", {"partition_of_nobody": 1})
    with pytest.raises(InputError, match="NAME=VALUE"):
        run_benchmark(write_spec(root), root / "out", executor="slurm", parameters=["partition"])


def test_a_job_whose_data_changed_is_refused(root, capsys):
    spec = parse(SPEC, "mine.yaml", "mine")
    benchmark = BenchmarkFolder(root / "out")
    [job, _] = prepare(spec, benchmark)
    splits = root / "preprocessed" / tiny.DATASET / "splits_final.json"
    splits.write_text(json.dumps([{"train": ["tiny_0"], "val": ["tiny_1"]}]))
    assert run_job([str(benchmark.folder), job.name]) == 2
    assert "no longer those" in capsys.readouterr().err
    assert not benchmark.fold(job).exists()
