"""An arm gets as many iterations as fit into the time of another one."""

import json
import shutil
from pathlib import Path

import pytest

from nnunet_ext.benchmark import equal_time, step_seconds
from nnunet_ext.benchmark.equal_time import key_of
from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.package import PREPARED
from nnunet_ext.benchmark.prepare import prepare
from nnunet_ext.benchmark.seeded import THREADS
from nnunet_ext.benchmark.spec import load, parse
from nnunet_ext.errors import InputError
from tests import tiny

RESULTS = Path(__file__).parents[2] / "docs" / "results"
LONGER = {"name": "equal time", "trainer": "nnUNetTrainerReference", "time_of": "nnUNetTrainerPnPNet"}
SPEC = {
    "baseline": "nnUNetTrainerReference",
    "trainers": ["nnUNetTrainerReference", "nnUNetTrainerPnPNet", LONGER],
    "datasets": [901],
    "configurations": ["2d"],
    "plans": {"epochs": 2, "iterations": 10},
    "folds": [0],
    "device": "cpu",
}


@pytest.fixture
def root(nnunet_folders):
    return nnunet_folders()


@pytest.fixture
def measured(monkeypatch):
    """Measurements given instead of those of a training."""
    arms = []

    def seconds(_spec, _benchmark, arm):
        arms.append(arm.name)
        return 0.17 if "PnPNet" in arm.trainer else 0.1

    monkeypatch.setattr(equal_time, "_step_seconds", seconds)
    return arms


def schedules(root, **changes) -> dict[str, tuple[int, int]]:
    jobs = prepare(parse({**SPEC, **changes}, "mine.yaml", "mine"), BenchmarkFolder(root / "benchmark"))
    found = {}
    for job in jobs:
        plans = json.loads((root / "preprocessed" / tiny.DATASET / f"{job.plans}.json").read_text())
        schedule = plans["configurations"][job.configuration]["nnunet_ext"]["schedule"]
        found[job.arm] = (schedule["epochs"], schedule["iterations"])
    return found


def test_the_iterations_make_up_for_the_cost_of_a_step(root, measured):
    expected = {"nnUNetTrainerReference": (2, 10), "nnUNetTrainerPnPNet": (2, 10), "equal time": (2, 17)}
    assert schedules(root) == expected
    assert sorted(measured) == ["equal time", "nnUNetTrainerPnPNet"]


def test_what_was_measured_once_stays(root, measured):
    first = schedules(root)
    measured.clear()
    assert schedules(root, seeds=[0, 1]) == first
    assert measured == []
    assert schedules(root, plans={"epochs": 2, "iterations": 20})["equal time"] == (2, 34)
    assert measured


def test_another_configuration_or_data_set_in_the_same_folder_is_measured_anew(root, measured):
    schedules(root)
    measured.clear()
    schedules(root, configurations=["3d_fullres"])
    assert sorted(measured) == ["equal time", "nnUNetTrainerPnPNet"]
    measured.clear()
    shutil.copytree(root / "preprocessed" / tiny.DATASET, root / "preprocessed" / "Dataset902_Other")
    schedules(root, configurations=["3d_fullres"], datasets=[902])
    assert sorted(measured) == ["equal time", "nnUNetTrainerPnPNet"]


def test_other_epochs_count_too(root, measured):
    slow = {"name": "slow", "trainer": "nnUNetTrainerPnPNet", "plans": {"epochs": 6}}
    arms = ["nnUNetTrainerReference", slow, {**LONGER, "time_of": "slow"}]
    assert schedules(root, trainers=arms)["equal time"] == (2, 51)


def test_the_time_of_another_configuration(root, measured):
    in_3d = {**LONGER, "configuration": "3d_fullres"}
    arms = ["nnUNetTrainerReference", "nnUNetTrainerPnPNet", in_3d, {**LONGER, "name": "slices"}]
    jobs = prepare(parse({**SPEC, "trainers": arms}, "mine.yaml", "mine"), BenchmarkFolder(root / "benchmark"))
    assert sorted(measured) == ["equal time", "nnUNetTrainerPnPNet", "nnUNetTrainerPnPNet", "slices"]
    [job] = [job for job in jobs if job.arm == "equal time"]
    plans = json.loads((root / "preprocessed" / tiny.DATASET / f"{job.plans}.json").read_text())
    assert plans["configurations"]["3d_fullres"]["nnunet_ext"]["schedule"]["iterations"] == 17


def test_an_arm_that_would_be_another_one_again_is_refused(root, monkeypatch):
    monkeypatch.setattr(equal_time, "_step_seconds", lambda *_: 0.1)
    with pytest.raises(InputError, match="equal time would be nnUNetTrainerReference again"):
        schedules(root)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainers": [{**LONGER, "time_of": "nothing"}, "nnUNetTrainerReference"]}, "'nothing'"),
        ({"trainers": [{**LONGER, "time_of": "equal time"}, "nnUNetTrainerReference"]}, "is no other arm"),
        ({"trainers": [*SPEC["trainers"][:2], {**LONGER, "plans": {"iterations": 3}}]}, "iterations"),
        ({"configurations": ["2d", "3d_fullres"]}, "one data set and one configuration"),
        ({"datasets": [901, 902]}, "one data set and one configuration"),
    ],
)
def test_what_cannot_be_given_the_time_of_another_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        parse({**SPEC, **changes}, "mine.yaml", "mine")


@pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("3", 3), (None, 7)])
def test_a_step_of_a_real_training_is_timed_with_its_threads(root, tmp_path, monkeypatch, asked, threads):
    monkeypatch.setattr(step_seconds, "TIMED", 2)
    monkeypatch.delenv(THREADS, raising=False)
    if asked:
        monkeypatch.setenv(THREADS, asked)
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 7)
    used = []
    monkeypatch.setattr("torch.set_num_threads", used.append)
    file = tmp_path / "seconds.json"
    step_seconds.main([tiny.DATASET, "2d", "0", "nnUNetTrainerReference", "nnUNetPlans", "cpu", str(file)])
    found = json.loads(file.read_text())
    assert used[0] == threads
    assert 0 < found["seconds"] < 60
    assert [len(part) for part in found["of"]] == [step_seconds.WARM_UP + 2] * step_seconds.PARTS


@pytest.mark.parametrize("name", ["low-acdc-fewshot", "low-hippocampus-fewshot"])
def test_iterations_of_a_report_are_found_by_the_benchmark_of_today(name):
    spec = load(name)
    arms = {arm.name: arm for arm in spec.arms}
    report = json.loads((RESULTS / name / PREPARED).read_text())
    keys = [key_of(arm, arms[arm.time_of], spec.device) for arm in spec.arms if arm.time_of]
    assert keys == list(report["iterations"])
