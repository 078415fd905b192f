"""Preparing a benchmark: what it finds before it trains, data, plans, splits, trainers; and what it refuses."""

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
import textwrap

import pytest

from nnunet_ext.benchmark.data_state import NONE
from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.job import run_job, training_left
from nnunet_ext.benchmark.prepare import prepare
from nnunet_ext.benchmark.preprocessed import job_key, subsets
from nnunet_ext.benchmark.results import group_name
from nnunet_ext.benchmark.run import run_benchmark, with_arms
from nnunet_ext.benchmark.score import Truth, truth_of
from nnunet_ext.benchmark.spec import parse
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.plans import NOTED
from nnunet_ext.processes.lock import held, is_held
from nnunet_ext.unlabelled.preprocess import prepare_unlabelled
from tests import tiny
from tests.unlabelled.raw import write_images

SPEC = {
    "baseline": "nnUNetTrainerReference",
    "trainers": ["nnUNetTrainerReference", "nnUNetTrainerPnPNet"],
    "datasets": [901],
    "plans": {"epochs": 1, "iterations": 1},
    "folds": [0],
    "seeds": [0, 1],
    "device": "cpu",
}


@pytest.fixture
def root(nnunet_folders):
    return nnunet_folders()


def jobs_of(root, **changes) -> list[Job]:
    content = {**SPEC, **changes}
    return prepare(parse({k: v for k, v in content.items() if v is not None}, "mine.yaml", "mine"), folder(root))


def folder(root) -> BenchmarkFolder:
    return BenchmarkFolder(root / "benchmark")


def refused(root, *words, **changes):
    with pytest.raises(InputError) as error:
        jobs_of(root, **changes)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert not folder(root).prepared.exists()


# --- what it finds ----------------------------------------------------------------------------------------------------


def test_one_seed_after_the_other_with_the_arms_innermost(root):
    jobs = jobs_of(root, configurations=["2d", "3d_fullres"])
    assert len(jobs) == len({job.name for job in jobs}) == len({job.key for job in jobs}) == 8
    assert [job.seed for job in jobs] == [0] * 4 + [1] * 4
    assert [job.arm for job in jobs[:2]] == SPEC["trainers"]
    assert all(job.epochs == 1 and job.dataset == tiny.DATASET for job in jobs)


def test_all_arms_get_the_same_plans_unless_the_benchmark_says_otherwise(root):
    longer = {"name": "longer", "trainer": "nnUNetTrainerReference", "plans": {"epochs": 3}}
    jobs = jobs_of(root, trainers=[*SPEC["trainers"], longer], seeds=[0])
    assert jobs[0].plans == jobs[1].plans != jobs[2].plans
    assert [job.epochs for job in jobs] == [1, 1, 3]
    for job in jobs:
        written = json.loads((root / "preprocessed" / tiny.DATASET / f"{job.plans}.json").read_text())
        assert written["configurations"]["3d_fullres"]["nnunet_ext"]["schedule"]["epochs"] == job.epochs


def test_the_optimizer_of_all_arms_is_part_of_the_plans(root):
    optimizer = {"learning_rate": 0.1, "momentum": 0.9, "warmup_steps": 20}
    for job in jobs_of(root, plans={**SPEC["plans"], **optimizer}):
        written = json.loads((root / "preprocessed" / tiny.DATASET / f"{job.plans}.json").read_text())
        assert optimizer.items() <= written["configurations"]["3d_fullres"]["nnunet_ext"]["schedule"].items()


def test_without_changes_the_plans_are_used_as_they_are(root):
    assert {(job.plans, job.epochs) for job in jobs_of(root, plans=None)} == {("nnUNetPlans", 1000)}


def test_what_was_prepared_is_read_again(root):
    jobs = jobs_of(root)
    spec, again, about = folder(root).load()
    assert again == jobs
    assert spec.baseline == SPEC["baseline"]
    assert about["splits"][tiny.DATASET][0]["val"] == ["tiny_4", "tiny_5"]


def test_preparing_twice_changes_nothing_and_more_seeds_are_added(root):
    first = jobs_of(root)
    assert jobs_of(root) == first
    assert jobs_of(root, seeds=[0, 1, 2])[:4] == first


def test_without_splits_those_of_nnunet_are_written(root):
    file = root / "preprocessed" / tiny.DATASET / "splits_final.json"
    file.unlink()
    jobs_of(root, folds=[0, 4])
    splits = json.loads(file.read_text())
    assert len(splits) == 5
    assert sorted(case for fold in splits for case in fold["val"]) == [f"tiny_{i}" for i in range(6)]


def test_too_few_cases_for_the_splits_of_nnunet(root):
    data = root / "preprocessed" / tiny.DATASET
    (data / "splits_final.json").unlink()
    for case in ("tiny_4", "tiny_5"):
        (data / "gt_segmentations" / f"{case}.nii.gz").unlink()
    refused(root, "4 cases and no splits_final.json", "write folds with nnunet-ext splits")
    assert not (data / "splits_final.json").exists()


@pytest.mark.parametrize("change", ["plans", "split", "trainer", "seed", "device"])
def test_the_key_of_a_job_changes_with_what_its_result_depends_on(root, change):
    [job, *_] = jobs_of(root)
    data = root / "preprocessed" / tiny.DATASET
    if change == "plans":
        plans = json.loads((data / f"{job.plans}.json").read_text())
        plans["configurations"]["3d_fullres"]["batch_size"] = 7
        (data / f"{job.plans}.json").write_text(json.dumps(plans))
    elif change == "split":
        (data / "splits_final.json").write_text(json.dumps([{"train": ["tiny_0"], "val": ["tiny_1"]}]))
    else:
        values = {"trainer": "nnUNetTrainerSDM", "seed": 5, "device": "cuda"}
        job = dataclasses.replace(job, **{change: values[change]})
    assert job_key(job) != job.key


def test_predictions_can_be_scored_against_another_data_set_and_an_arm_trained_on_it(root):
    """Scribbles: the truth is the dense data set, on which the upper bound is trained."""
    dense = root / "preprocessed" / "Dataset902_Dense"
    shutil.copytree(root / "preprocessed" / tiny.DATASET, dense)
    upper = {"name": "dense", "trainer": "nnUNetTrainerReference", "dataset": 902}
    jobs = jobs_of(root, trainers=[*SPEC["trainers"], upper], references={901: 902}, seeds=[0])
    assert [job.dataset for job in jobs] == [tiny.DATASET, tiny.DATASET, "Dataset902_Dense"]
    assert len({job.name for job in jobs}) == 3
    for job in jobs:
        assert job.compared == tiny.DATASET
        assert job.name.startswith(tiny.DATASET)
        assert truth_of(job) == Truth(dense / "gt_segmentations", dense / "dataset.json", ("tiny_4", "tiny_5"))
    given = dense / "gt_segmentations"
    other = jobs_of(root, trainers=[*SPEC["trainers"], upper], references={901: str(given)}, seeds=[0])
    own = root / "preprocessed" / tiny.DATASET / "dataset.json"
    assert truth_of(other[0]) == Truth(given, own, ("tiny_4", "tiny_5"))
    assert other[0].key != jobs[0].key


def test_an_arm_of_another_configuration_is_compared_with_the_others(root):
    in_3d = {"name": "3D", "trainer": "nnUNetTrainerReference", "configuration": "3d_fullres"}
    jobs = jobs_of(root, trainers=[*SPEC["trainers"], in_3d], configurations=["2d"], seeds=[0])
    assert [job.configuration for job in jobs] == ["2d", "2d", "3d_fullres"]
    assert {job.compared_configuration for job in jobs} == {"2d"}
    assert len({group_name(job, {}) for job in jobs}) == 1
    assert jobs[2].training()[2] == "3d_fullres"
    assert jobs[2].name == f"{tiny.DATASET}.2d.3D.fold_0.seed_0"
    plans = json.loads((root / "preprocessed" / tiny.DATASET / f"{jobs[2].plans}.json").read_text())
    assert list(plans["configurations"]) == ["3d_fullres"]
    assert jobs[2].epochs == 1
    [again] = [job for job in folder(root).load()[1] if job.arm == "3D"]
    assert again == jobs[2]


def test_an_arm_that_starts_from_another_waits_for_its_weights(root):
    again = {"name": "again", "trainer": "nnUNetTrainerReference", "from": "nnUNetTrainerReference"}
    jobs = jobs_of(root, trainers=[*SPEC["trainers"], again])
    benchmark = folder(root)
    first, other, third = jobs[3:]  # of the second seed
    assert benchmark.start_of(third) == first
    assert benchmark.start_of(other) is None
    assert third.key != first.key
    assert benchmark.fold(third) != benchmark.fold(first)
    weights = str(benchmark.fold(first) / "checkpoint_final.pth")
    assert training_left(benchmark, third)[-2:] == ["-pretrained_weights", weights]
    assert "-pretrained_weights" not in training_left(benchmark, first)
    benchmark.fold(third).mkdir(parents=True)
    (benchmark.fold(third) / "checkpoint_latest.pth").touch()
    assert training_left(benchmark, third)[-1] == "--c"
    assert [benchmark.can_start(job) for job in (first, other, third)] == [True, True, False]
    with pytest.raises(InputError, match="starts from the weights of nnUNetTrainerReference, which are not there yet"):
        run_job(benchmark.folder, third.name)
    benchmark.of(first).mkdir(parents=True)
    (benchmark.of(first) / "record.json").write_text("{}")
    assert benchmark.can_start(third)


def test_some_arms_bring_those_that_they_need_and_keep_those_that_are_there(root):
    on_top = {"name": "on top", "trainer": "nnUNetTrainerPnPNet", "from": "nnUNetTrainerReference"}
    spec = parse({**SPEC, "trainers": [*SPEC["trainers"], on_top]}, "mine.yaml", "mine")
    benchmark = folder(root)
    first = with_arms(spec, ["on top"], benchmark)
    assert [arm.name for arm in first.arms] == ["nnUNetTrainerReference", "on top"]
    prepare(first, benchmark)
    later = with_arms(spec, ["nnUNetTrainerPnPNet"], benchmark)
    assert [arm.name for arm in later.arms] == [arm.name for arm in spec.arms]
    with pytest.raises(InputError, match=r"--only: 'on tpo' is no arm.*did you mean 'on top'"):
        with_arms(spec, ["on tpo"], benchmark)


def test_an_arm_on_other_cases_is_refused(root):
    dense = root / "preprocessed" / "Dataset902_Dense"
    shutil.copytree(root / "preprocessed" / tiny.DATASET, dense)
    (dense / "splits_final.json").write_text(json.dumps([{"train": ["tiny_0"], "val": ["tiny_1"]}]))
    upper = {"name": "dense", "trainer": "nnUNetTrainerReference", "dataset": 902}
    refused(root, "fold 0 of Dataset902_Dense has other train cases", trainers=[*SPEC["trainers"], upper])


def test_references_that_are_not_there(root):
    refused(root, "'903'", references={901: 903})


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_a_trainer_that_does_not_exist(root):
    refused(root, "nnUNetTrainerPnPnet", trainers=[*SPEC["trainers"], "nnUNetTrainerPnPnet"])


def test_a_stock_trainer_with_a_schedule_that_it_would_ignore(root):
    refused(root, "ignores the schedule", "nnUNetTrainerReference", trainers=[*SPEC["trainers"], "nnUNetTrainer"])


@pytest.mark.parametrize("plans", [{"iterations": 3}, {"momentum": 0.9}, {"warmup_steps": 5}, {"presets": ["cpu"]}])
def test_whatever_a_stock_trainer_would_ignore_of_a_schedule(root, plans):
    refused(root, "ignores the schedule", plans=plans, trainers=[*SPEC["trainers"], "nnUNetTrainer"])


def test_a_stock_trainer_without_a_schedule(root):
    jobs = jobs_of(root, trainers=["nnUNetTrainerReference_5epochs", "nnUNetTrainer_5epochs"], plans=None,
                   baseline="nnUNetTrainer_5epochs")  # fmt: skip
    assert {job.epochs for job in jobs} == {5}


def test_a_fold_that_does_not_exist(root):
    refused(root, "folds: 3", "folds 0 to 0", folds=[0, 3])


def test_folds_that_share_validation_cases_are_told_apart_by_what_they_are_trained_on(root):
    from nnunet_ext.splits.write import write_splits

    file = root / "preprocessed" / tiny.DATASET / "splits_final.json"
    jobs_of(root)
    assert subsets(tiny.DATASET) == []
    file.unlink()
    write_splits(tiny.DATASET, by="case", shots=[1, 2], seeds=[0, 1], folds=2)
    assert subsets(tiny.DATASET) == ["1 training subjects", "1 training subjects", *["2 training subjects"] * 2]
    file.with_name("splits_final.about.json").unlink()
    assert subsets(tiny.DATASET) == ["fold 0", "fold 1", "fold 2", "fold 3"]


@pytest.mark.parametrize("text", ["[", "{}", '[{"train": []}]', "[3]"])
def test_damaged_splits(root, text):
    (root / "preprocessed" / tiny.DATASET / "splits_final.json").write_text(text)
    refused(root, "splits_final.json", "no list of folds")


@pytest.mark.parametrize("name", ["nnUNetPlans.json", "dataset.json"])
def test_a_damaged_file_of_the_data_set(root, name):
    data = root / "preprocessed" / tiny.DATASET
    (data / "splits_final.json").unlink(missing_ok=True)  # without it the file ending is needed
    (data / name).write_text("{")
    refused(root, name, "JSON")


def test_a_configuration_that_does_not_exist(root):
    refused(root, "3d_lowres", "2d", configurations=["3d_lowres"])


def test_data_that_is_not_preprocessed(root):
    (root / "preprocessed" / tiny.DATASET / "nnUNetPlans_3d").rename(root / "elsewhere")
    refused(root, "nnUNetv2_preprocess", "3d_fullres")


def test_a_data_set_that_does_not_exist(root):
    refused(root, "'7'", "nnUNetv2_plan_and_preprocess", datasets=[7])


def test_a_variable_that_is_not_set(root, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    refused(root, "nnUNet_raw is not set")


def test_synthetic_data_stands_alone(root):
    refused(root, "cannot be mixed", datasets=["synthetic", 901])


def test_a_training_with_other_plans_is_neither_mixed_in_nor_lost(root):
    [job, *_] = jobs_of(root)
    folder(root).fold(job).mkdir(parents=True)
    file = root / "preprocessed" / tiny.DATASET / "splits_final.json"
    file.write_text(json.dumps([{"train": ["tiny_0"], "val": ["tiny_1"]}]))
    with pytest.raises(InputError, match=r"other data, plans, split or device; choose another --folder"):
        jobs_of(root)
    assert folder(root).fold(job).is_dir()


@pytest.mark.parametrize("changed", ["a training label", "a reference", "an image", "a channel"])
def test_a_training_with_other_files_is_neither_mixed_in_nor_started(root, changed):
    [job, *_] = jobs_of(root)
    folder(root).fold(job).mkdir(parents=True)
    data = root / "preprocessed" / tiny.DATASET
    if changed == "an image":  # preprocessed again, and so its fingerprint
        (data / "dataset_fingerprint.json").write_text(json.dumps({"spacings": [[1, 1, 2]]}))
    elif changed == "a channel":
        content = json.loads((data / "dataset.json").read_text())
        (data / "dataset.json").write_text(json.dumps({**content, "channel_names": {"0": "CT"}}))
    else:
        case = {"a training label": "tiny_0", "a reference": "tiny_4"}[changed]
        file = data / "gt_segmentations" / f"{case}.nii.gz"
        file.write_bytes((data / "gt_segmentations" / "tiny_3.nii.gz").read_bytes())
    assert job_key(job) == job.key
    with pytest.raises(InputError, match=r"its labels, images or references are no longer those with which"):
        run_job(root / "benchmark", job.name)
    with pytest.raises(InputError, match=r"other data, plans, split or device; choose another --folder"):
        jobs_of(root)


def test_images_without_labels_count_for_the_trainings_that_draw_them(root):
    def data():
        draws = {"options": {"unlabelled": {"images": "folder"}}}
        trainers = ["nnUNetTrainerReference", {"name": "ours", "trainer": "nnUNetTrainerMedContext", "plans": draws}]
        stock, ours = jobs_of(root, trainers=trainers, seeds=[0], configurations=["3d_fullres"])
        assert stock.unlabelled == NONE
        assert len({stock.data, ours.data}) == 1
        return ours

    def prepare_images(*names):
        write_images(root, names)  # their size in bytes is the same
        prepare_unlabelled(901, configurations=["3d_fullres"], processes=1)

    without = data()
    assert without.unlabelled == NONE
    prepare_images("new_0", "new_1")
    two = data()
    prepare_images("new_2")
    three = data()
    write_images(root, ["new_2"], seed=8)
    prepare_images()
    jobs = (without, two, three, data())
    assert not any(one.same_as(other) for one, other in itertools.combinations(jobs, 2))
    # a folder of a version that did not look
    assert dataclasses.replace(without, unlabelled="").same_as(three)


def test_a_folder_of_an_earlier_version_which_did_not_look_at_files_goes_on(root):
    [job, *_] = jobs_of(root)
    folder(root).fold(job).mkdir(parents=True)
    content = json.loads(folder(root).prepared.read_text())
    for one in content["jobs"]:
        del one["data"]
    folder(root).prepared.write_text(json.dumps(content))
    assert jobs_of(root)[0] == job


def test_a_missing_reference_is_named_before_anything_is_trained(root):
    (root / "preprocessed" / tiny.DATASET / "gt_segmentations" / "tiny_4.nii.gz").unlink()
    refused(root, "There is no label map", "tiny_4.nii.gz; restore it")


def test_a_training_that_was_left_out_for_a_while_is_not_taken_for_one_with_other_plans(root):
    [*_, job] = jobs_of(root)
    assert job.trainer == "nnUNetTrainerPnPNet"
    folder(root).of(job).mkdir(parents=True)
    (folder(root).of(job) / "record.json").write_text(json.dumps({"key": job.key}))
    jobs_of(root, trainers=["nnUNetTrainerReference", "nnUNetTrainerSDM"])
    assert job.name not in {one.name for one in folder(root).load()[1]}
    other = {"name": job.trainer, "trainer": job.trainer, "plans": {"iterations": 2}}
    with pytest.raises(InputError, match=r"other data, plans, split or device; choose another --folder"):
        jobs_of(root, trainers=["nnUNetTrainerReference", other])
    assert folder(root).record(job) == {"key": job.key}
    assert job in jobs_of(root)
    jobs_of(root, trainers=["nnUNetTrainerReference", "nnUNetTrainerSDM"])
    (folder(root).of(job) / "record.json").write_text(json.dumps({"key": job.key, "unlabelled": "other images"}))
    with pytest.raises(InputError, match=r"other data, plans, split or device; choose another --folder"):
        jobs_of(root)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"settings": {"nnunet_ext": {NOTED: {"pnpnet": {"push": True}}}}}, "pnpnet.push = True there and False here"),
        ({"settings": {"patch_size": [16, 16, 16]}, "weights": 7}, r"7 weights there and \d+,\d+ here"),
    ],
)
def test_a_training_whose_network_had_other_defaults_is_refused(root, training, words):
    [*_, job] = jobs_of(root)
    folder(root).of(job).mkdir(parents=True)
    record = {"key": job.key, "data": job.data, "training": training}
    (folder(root).of(job) / "record.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"a training of .*PnPNet.* with a network that has {words}; choose another"):
        jobs_of(root)
    assert folder(root).record(job) == record


def test_a_damaged_benchmark_file(root):
    jobs_of(root)
    content = json.loads(folder(root).prepared.read_text())
    content["spec"]["arms"][1]["plans"]["epochs"] = 0
    folder(root).prepared.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"benchmark.json, spec, arms, entry 2, plans, epochs: 0 is not at least 1"):
        folder(root).load()
    folder(root).prepared.write_text("{")
    with pytest.raises(InputError, match=r"benchmark.json cannot be read"):
        folder(root).load()
    with pytest.raises(InputError, match=r"holds no benchmark.json"):
        BenchmarkFolder(root / "raw").load()


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_second_run_in_the_same_folder_is_refused(root, tmp_path):
    (tmp_path / "mine.yaml").write_text(json.dumps(SPEC))
    with held(folder(root).folder / ".lock"), pytest.raises(InputError, match="another nnunet-ext benchmark run"):
        run_benchmark(tmp_path / "mine.yaml", folder(root).folder)
    with pytest.raises(InputError, match="--jobs is 0"):
        run_benchmark(tmp_path / "mine.yaml", folder(root).folder, at_once=0)


def test_a_device_that_is_not_there(root, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    file = root / "mine.yaml"
    file.write_text(json.dumps({**SPEC, "device": "cuda"}))
    with pytest.raises(InputError, match="device: cuda is asked for"):
        run_benchmark(file, folder(root).folder)
    file.write_text(json.dumps(SPEC))
    with pytest.raises(InputError, match="--device cuda is asked for"):
        run_benchmark(file, folder(root).folder, device="cuda")
    assert not folder(root).prepared.exists()
    assert not folder(root).folder.exists()  # not even a lock


def test_another_device_than_the_specification_names_is_that_of_all_jobs(root, monkeypatch):
    file = root / "mine.yaml"
    file.write_text(json.dumps({**SPEC, "device": "cpu"}))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    started = []
    monkeypatch.setattr("nnunet_ext.benchmark.queue.run_here", lambda _, jobs, at_once: started.extend(jobs) or [])
    assert run_benchmark(file, folder(root).folder, device="cuda") == 0
    assert {job.device for job in started} == {"cuda"}
    assert "-device cuda" in " ".join(started[0].training())
    assert folder(root).load()[0].device == "cuda"


def test_a_step_of_the_preparation_that_fails_is_one_message(root, monkeypatch, capsys):
    file = root / "mine.yaml"
    file.write_text(json.dumps({**SPEC, "datasets": ["synthetic"]}))
    failing = [sys.executable, "-c", "import sys; sys.exit('no memory left')"]
    monkeypatch.setattr("nnunet_ext.benchmark.own_data.console", lambda command: failing)
    monkeypatch.setenv("nnUNet_raw", "restored by monkeypatch")
    monkeypatch.setenv("nnUNet_preprocessed", "restored by monkeypatch")
    assert run_benchmark(file, folder(root).folder) == 1
    error = capsys.readouterr().err
    assert "no memory left" in error
    assert "preprocess.log" in error


@pytest.mark.skipif(sys.platform == "win32", reason="locks are not inherited on Windows")
def test_a_lock_is_held_until_the_last_process_that_inherited_it_has_ended(tmp_path):
    lock = tmp_path / "job" / "lock"
    assert not is_held(lock)
    parent = f"""
        import os, subprocess, sys
        from pathlib import Path
        from nnunet_ext.processes.lock import held
        with held(Path({str(lock)!r})) as free:
            assert free
            child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], close_fds=False,
                                     stdin=sys.stdin)
            print("started", flush=True)
            os._exit(0)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdin
    assert process.stdout.readline() == b"started\n"
    process.wait()
    assert is_held(lock)  # by the child, whose parent is gone
    process.stdin.close()
    for _ in range(200):
        if not is_held(lock):
            break
        subprocess.run(["sleep", "0.05"])
    assert not is_held(lock)
