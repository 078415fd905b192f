"""Trainings of a report are taken over where this benchmark would start the same ones, and nowhere else."""

import dataclasses
import json
import shlex

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.benchmark import equal_time
from nnunet_ext.benchmark.cells import SCORE_DIGITS, as_csv
from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.manifest import write_manifest
from nnunet_ext.benchmark.package import CASES, RECORDS, SPECIFICATION
from nnunet_ext.benchmark.page import PAGE
from nnunet_ext.benchmark.prepare import prepare
from nnunet_ext.benchmark.records import weights
from nnunet_ext.benchmark.report import report_benchmark
from nnunet_ext.benchmark.reuse import published, take_over
from nnunet_ext.benchmark.run import run_benchmark, with_arms
from nnunet_ext.benchmark.spec import parse
from nnunet_ext.catalogue import resolve
from nnunet_ext.errors import InputError
from nnunet_ext.pnpnet.options import PnPNetOptions
from tests import tiny
from tests.benchmark.test_report import scores

REFERENCE, PNPNET = "nnUNetTrainerReference", "nnUNetTrainerPnPNet"


def weights_of(trainer: str) -> int:
    manager = PlansManager(tiny.plans())
    network = resolve(trainer).build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, 3)
    return weights(network.state_dict())


WEIGHTS = {trainer: weights_of(trainer) for trainer in (REFERENCE, PNPNET)}
SPEC = {
    "baseline": REFERENCE,
    "trainers": [REFERENCE, PNPNET],
    "datasets": [901],
    "plans": {"epochs": 2, "iterations": 1},
    "folds": [0],
    "seeds": [0, 1],
    "device": "cpu",
    "metrics": {"interfaces": True},
}


@pytest.fixture
def root(nnunet_folders):
    return nnunet_folders()


def prepared(root, name: str = "here", report=None, **changes) -> tuple[BenchmarkFolder, list[Job]]:
    benchmark = BenchmarkFolder(root / name)
    spec = parse({**SPEC, **changes}, "mine.yaml", "mine")
    return benchmark, prepare(spec, benchmark, iterations=report.iterations if report else None)


def finish(benchmark: BenchmarkFolder, job: Job, number: int, **noted) -> None:
    """Write what a job leaves, with made-up scores, and with options of its network that the training noted."""
    folder = benchmark.of(job)
    folder.mkdir(parents=True)
    table = scores(job.arm, job.seed, ["tiny_04", "tiny_05"], dice=0.5 + number / 100)
    own = table.drop(columns=["arm", "group", "fold", "seed"])
    (folder / "metrics.csv").write_text(as_csv(own, SCORE_DIGITS))
    pairs = own[own["label"] == "left"][["case", "status"]].assign(
        labels="left | right", interface_hd95_mm=1.5 + number, interface_nsd_1mm=0.5, interface_confusion=0.25
    )
    (folder / "interfaces.csv").write_text(as_csv(pairs, SCORE_DIGITS))
    (folder / "log.txt").write_text("$ nnUNetv2_train\nEpoch 0\n")
    start = ["-pretrained_weights", "/elsewhere/checkpoint_final.pth"] if job.start else []
    record = {
        "job": job.name,
        "key": job.key,
        "command": shlex.join([*job.training(), *start]),
        "training": {
            "trainer": job.trainer,
            "epoch_seconds": [1.0 + number] * job.epochs,
            "curves": {"mean_fg_dice": [0.1, 0.2]},
            "late_gain": 0.001,
            "weights": WEIGHTS.get(job.trainer, 1000),
            "settings": {"nnunet_ext": noted},
        },
        "memory": {"host_mib": 100.0},
        "evaluation": {"definitions": ["definition surface: …"]},
        "versions": {"torch": "0.1"},
        "hardware": {"processor": "a fast one", "cores": 8},
    }
    (folder / "record.json").write_text(json.dumps(record))


@pytest.fixture
def report(root):
    """The report of a benchmark that ended."""
    benchmark, jobs = prepared(root, "theirs")
    for number, job in enumerate(jobs):
        finish(benchmark, job, number)
    report_benchmark(benchmark.folder, root / "published", html=False, drawn=False)
    return published(root / "published")


def reused(report, benchmark: BenchmarkFolder, jobs: list[Job], only=None) -> list[Job]:
    return take_over(report, benchmark.load()[0], benchmark, jobs if only is None else only)


def refused(report, root, *words: str, **changes) -> None:
    benchmark, jobs = prepared(root, report=report, **changes)
    with pytest.raises(InputError) as error:
        reused(report, benchmark, jobs)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), error.value
    assert not (benchmark.folder / "jobs").exists()


def test_every_training_is_taken_over_and_gives_the_same_report(report, root, capsys):
    benchmark, jobs = prepared(root)
    assert reused(report, benchmark, jobs) == jobs
    assert "4 trainings are reused" in (said := capsys.readouterr().out)
    assert "torch 0.1, here" in said
    report_benchmark(benchmark.folder, root / "again", html=False, drawn=False)
    for name in (CASES, "interfaces.csv", RECORDS, PAGE, "costs.csv"):
        assert (root / "again" / name).read_bytes() == (root / "published" / name).read_bytes(), name


def test_a_report_in_which_no_labels_touch_is_reused(root):
    benchmark, jobs = prepared(root, "theirs")
    for number, job in enumerate(jobs):
        finish(benchmark, job, number)
        (benchmark.of(job) / "interfaces.csv").write_text("case,labels,interface_hd95_mm,status\n")
    report_benchmark(benchmark.folder, root / "published", html=False, drawn=False)
    assert not (root / "published" / "interfaces.csv").exists()
    benchmark, jobs = prepared(root)
    assert reused(published(root / "published"), benchmark, jobs) == jobs
    report_benchmark(benchmark.folder, root / "again", html=False, drawn=False)
    assert (root / "again" / PAGE).read_bytes() == (root / "published" / PAGE).read_bytes()


def test_a_new_arm_and_a_new_seed_are_left_to_train(report, root):
    trainers = [REFERENCE, "nnUNetTrainerSDM"]
    benchmark, jobs = prepared(root, trainers=trainers, seeds=[0, 1, 2])
    assert [(job.arm, job.seed) for job in reused(report, benchmark, jobs)] == [(REFERENCE, 0), (REFERENCE, 1)]
    assert [job.arm for job in jobs if benchmark.record(job) is None] == [trainers[1]] * 2 + trainers


def test_the_report_of_a_baseline_alone_is_reused(report, root):
    benchmark = BenchmarkFolder(root / "alone")
    spec = with_arms(parse(SPEC, "mine.yaml", "mine"), [REFERENCE], benchmark)
    for number, job in enumerate(prepare(spec, benchmark)):
        finish(benchmark, job, number)
    report_benchmark(benchmark.folder, root / "baseline", html=False, drawn=False)
    assert [job.arm for job in reused(published(root / "baseline"), *prepared(root))] == [REFERENCE] * 2


def test_what_was_begun_here_stays(report, root):
    benchmark, jobs = prepared(root)
    benchmark.fold(jobs[0]).mkdir(parents=True)
    finish(benchmark, jobs[1], 9)
    assert reused(report, benchmark, jobs) == jobs[2:]
    assert benchmark.record(jobs[1])["training"]["epoch_seconds"] == [10.0, 10.0]


def test_one_arm_with_other_plans_is_named_and_trained(report, root, capsys):
    trainers = [REFERENCE, {"name": PNPNET, "trainer": PNPNET, "plans": {"epochs": 3}}]
    benchmark, jobs = prepared(root, trainers=trainers)
    assert {job.arm for job in reused(report, benchmark, jobs)} == {REFERENCE}
    assert f"trained again, not reused: {PNPNET}" in capsys.readouterr().out


@pytest.mark.parametrize(("push", "taken"), [(True, {REFERENCE}), (False, {REFERENCE, PNPNET})])
def test_a_training_whose_network_had_other_defaults_is_trained(root, capsys, push, taken):
    benchmark, jobs = prepared(root, "theirs")
    for number, job in enumerate(jobs):
        noted = {"pnpnet": {**PnPNetOptions(push=push).of_network, "option_of_old": 3}}
        finish(benchmark, job, number, options_of_network=noted)
    report_benchmark(benchmark.folder, root / "published", html=False, drawn=False)
    benchmark, jobs = prepared(root)
    assert {job.arm for job in reused(published(root / "published"), benchmark, jobs)} == taken
    said = "its network has pnpnet.push = True there and False here" in capsys.readouterr().out
    assert said is push


def test_a_training_that_noted_no_options_is_told_by_its_weights(root, monkeypatch, capsys):
    monkeypatch.setitem(WEIGHTS, PNPNET, WEIGHTS[PNPNET] + 7)
    benchmark, jobs = prepared(root, "theirs")
    for number, job in enumerate(jobs):
        finish(benchmark, job, number)
    report_benchmark(benchmark.folder, root / "published", html=False, drawn=False)
    benchmark, jobs = prepared(root)
    assert {job.arm for job in reused(published(root / "published"), benchmark, jobs)} == {REFERENCE}
    words = f"its network has {WEIGHTS[PNPNET]:,} weights there and {WEIGHTS[PNPNET] - 7:,} here"
    assert words in capsys.readouterr().out


def test_an_arm_that_lends_its_weights_is_trained(report, root, capsys):
    on_top = {"name": "on top", "trainer": PNPNET, "from": REFERENCE}
    benchmark, jobs = prepared(root, trainers=[REFERENCE, PNPNET, on_top], seeds=[0])
    assert [job.arm for job in reused(report, benchmark, jobs)] == [PNPNET]
    assert "others start from its weights" in capsys.readouterr().out


def test_an_arm_that_starts_from_other_weights_is_trained(root, capsys):
    def with_lender(name):
        return [REFERENCE, PNPNET, {"name": "on top", "trainer": PNPNET, "from": name}]

    benchmark, jobs = prepared(root, "theirs", trainers=with_lender(REFERENCE), seeds=[0])
    for number, job in enumerate(jobs):
        finish(benchmark, job, number)
    report_benchmark(benchmark.folder, root / "published", html=False, drawn=False)
    report = published(root / "published")
    benchmark, jobs = prepared(root, trainers=with_lender(REFERENCE), seeds=[0])
    assert reused(report, benchmark, jobs) == jobs
    benchmark, jobs = prepared(root, "other", trainers=with_lender(PNPNET), seeds=[0])
    assert [job.arm for job in reused(report, benchmark, jobs)] == [REFERENCE, PNPNET]
    assert f"from the weights of {REFERENCE} there, and from those of {PNPNET} here" in capsys.readouterr().out
    longer = {"name": REFERENCE, "trainer": REFERENCE, "plans": {"epochs": 3}}
    trainers = [longer, *with_lender(REFERENCE)[1:]]
    benchmark, jobs = prepared(root, "longer", trainers=trainers, seeds=[0])
    assert [job.arm for job in reused(report, benchmark, jobs)] == [PNPNET]
    assert f"the training of {REFERENCE} that it starts from is another one there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plans": {"epochs": 2, "iterations": 2}}, ("no training of", "its command is")),
        ({"device": "cuda"}, ("-device cuda",)),
        ({"metrics": {"interfaces": True, "nsd_tolerances_mm": [2]}}, ("other metrics",)),
        ({"metrics": {}}, ("other metrics",)),
    ],
)
def test_another_benchmark_is_refused(report, root, changes, words):
    refused(report, root, *words, **changes)


def test_a_report_of_other_arms_is_refused(report, root):
    refused(report, root, "has no training of these arms", "the report of mine", baseline="nnUNetTrainerSDM",
            trainers=["nnUNetTrainerSDM", "nnUNetTrainerCCM"])  # fmt: skip


def test_what_is_reused_already_is_no_mistake(report, root):
    benchmark, jobs = prepared(root)
    reused(report, benchmark, jobs)
    assert reused(report, benchmark, jobs) == []


def test_other_data_is_refused(report, root):
    """Plans hold the statistics of the intensities, so those of other images differ."""
    for file in (root / "preprocessed" / tiny.DATASET).glob("nnUNetPlans*.json"):
        plans = json.loads(file.read_text())
        plans["foreground_intensity_properties_per_channel"]["0"]["mean"] += 1e-3
        file.write_text(json.dumps(plans))
    refused(report, root, "its plans differ in foreground_intensity_properties_per_channel.0.mean")


def test_a_data_set_that_declares_something_else_is_refused(report, root):
    file = root / "preprocessed" / tiny.DATASET / "dataset.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "description": "moved", "dataset": {}}))
    benchmark, jobs = prepared(root, "moved")
    assert reused(report, benchmark, jobs) == jobs
    file.write_text(json.dumps({**content, "annotated_labels": {"tiny_0": ["left"]}}))
    refused(report, root, "dataset.json of Dataset901_Tiny declares other labels")


def test_other_folds_are_refused(report, root):
    file = root / "preprocessed" / tiny.DATASET / "splits_final.json"
    folds = json.loads(file.read_text())
    folds[0]["train"].pop()
    file.write_text(json.dumps(folds))
    refused(report, root, "fold 0 has other cases there")


def test_a_report_that_was_changed_is_refused(report, root):
    cases = root / "published" / CASES
    cases.write_text(cases.read_text().replace("0.5", "0.9", 1))
    with pytest.raises(InputError, match="is not as it was written"):
        published(root / "published")


def test_a_report_of_models_is_refused(report, root):
    (root / "published" / SPECIFICATION).unlink()
    write_manifest(root / "published")
    with pytest.raises(InputError, match=f"has no {SPECIFICATION}"):
        published(root / "published")


def test_several_reports_are_refused(report, root):
    (root / "all").mkdir()
    (root / "published").rename(root / "all" / "one")
    report_benchmark(root / "theirs", root / "all" / "two", html=False, drawn=False)
    with pytest.raises(InputError, match="holds 2 reports; name one"):
        published(root / "all")


def test_iterations_for_equal_time_are_those_of_the_report(root, monkeypatch):
    longer = {"name": "longer", "trainer": REFERENCE, "time_of": PNPNET}
    monkeypatch.setattr(equal_time, "_step_seconds", lambda _s, _b, arm: 0.17 if arm.trainer == PNPNET else 0.1)
    benchmark, jobs = prepared(root, "theirs", trainers=[REFERENCE, PNPNET, longer], plans={"iterations": 10})
    short = [dataclasses.replace(job, epochs=1) for job in jobs]
    for number, job in enumerate(short):
        finish(benchmark, job, number)
    report_benchmark(benchmark.folder, root / "published", html=False, drawn=False)
    report = published(root / "published")
    monkeypatch.setattr(equal_time, "_step_seconds", lambda *_: pytest.fail("it was measured again"))
    _, again = prepared(root, report=report, trainers=[REFERENCE, PNPNET, longer], plans={"iterations": 10})
    assert [job.plans for job in again] == [job.plans for job in jobs]


def test_the_command_takes_over_what_is_asked_for_and_what_the_report_has(report, root, monkeypatch, capsys):
    file = root / "mine.yaml"
    file.write_text(json.dumps({**SPEC, "trainers": [*SPEC["trainers"], "nnUNetTrainerSDM", "nnUNetTrainerCCM"]}))
    started = []
    monkeypatch.setattr("nnunet_ext.benchmark.queue.run_here", lambda _b, jobs, _n: started.extend(jobs) or [])
    options = {"only": ["nnUNetTrainerSDM"], "reuse": root / "published"}
    assert run_benchmark(file, root / "here", **options) == 0
    assert {job.arm for job in started} == {"nnUNetTrainerSDM"}
    benchmark = BenchmarkFolder(root / "here")
    there = {job.arm: benchmark.record(job) is not None for job in benchmark.load()[1]}
    assert there == {REFERENCE: True, PNPNET: True, "nnUNetTrainerSDM": False}


@pytest.mark.parametrize(
    "other", [{"processor": "a slow one", "cores": 2}, {"processor": "a fast one", "cores": 8, "bfloat16": False}]
)
def test_times_of_other_machines_have_no_ratio(report, root, other):
    benchmark, jobs = prepared(root)
    reused(report, benchmark, jobs[:1])
    for number, job in enumerate(jobs[1:]):
        finish(benchmark, job, number)
        record = benchmark.record(job)
        record["hardware"] = other
        (benchmark.of(job) / "record.json").write_text(json.dumps(record))
    report_benchmark(benchmark.folder, root / "again", html=False, drawn=False)
    page = (root / "again" / PAGE).read_text()
    assert "times and memory of different machines are not compared" in page
    costs = (root / "again" / "costs.csv").read_text()
    assert ",," in costs
    assert "not compared" not in (root / "published" / PAGE).read_text()


def test_arms_of_the_report_belong_to_those_chosen():
    spec = parse({**SPEC, "trainers": [*SPEC["trainers"], "nnUNetTrainerSDM"]}, "mine.yaml", "mine")
    chosen = with_arms(spec, ["nnUNetTrainerSDM"], BenchmarkFolder("nowhere"), [REFERENCE, "one of another file"])
    assert [arm.name for arm in chosen.arms] == [REFERENCE, "nnUNetTrainerSDM"]
