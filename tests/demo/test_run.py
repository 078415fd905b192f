"""The demo without nnU-Net: what is done, what is reused, where an interruption is continued, and bad input."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nnunet_ext.benchmark import job as benchmark_job
from nnunet_ext.benchmark import own_data, queue, records
from nnunet_ext.benchmark.folder import BenchmarkFolder, Job
from nnunet_ext.benchmark.score import held_out_cases
from nnunet_ext.benchmark.synthetic import DATASET, LABELS, write_dataset
from nnunet_ext.cli import main
from nnunet_ext.demo import run
from nnunet_ext.demo.raw import find_dataset
from nnunet_ext.demo.run import MARK, run_demo, small_patch
from nnunet_ext.errors import InputError
from tests import tiny

pytestmark = pytest.mark.xdist_group("demo")

# --- the whole, with commands that only write what nnU-Net would write -----------------------------------------------


class FakeCommands:
    """Stands in for nnU-Net; ``steps`` and ``commands`` of what was run. Is interrupted at the step ``fail``."""

    def __init__(self, root: Path, fail: str = "", before_it: Any = lambda fold: None, plans: Any = None) -> None:
        self.root, self.fail, self.before_it = root, fail, before_it
        self.plans = plans or tiny.plans()
        self.steps: list[str] = []
        self.commands: dict[str, list[str]] = {}

    def preprocess(self, title: str, command: list[str], *, shown: str, env: dict[str, str], **_: Any) -> None:
        self._noted(title, shown.split())
        raw, folder = Path(env["nnUNet_raw"]) / DATASET, Path(env["nnUNet_preprocessed"]) / DATASET
        shutil.copytree(raw / "labelsTr", folder / "gt_segmentations", dirs_exist_ok=True)
        shutil.copy(raw / "dataset.json", folder)
        (folder / "nnUNetPlans.json").write_text(json.dumps(self.plans))
        for settings in self.plans["configurations"].values():
            data = folder / settings["data_identifier"]
            data.mkdir(exist_ok=True)
            (data / "case.pkl").touch()

    def run(self, benchmark: BenchmarkFolder, job: Job, command: list[str], _: Path) -> None:
        self._noted(f"{command[0]} {job.trainer}", command, benchmark.fold(job))
        if command[0] == "nnUNetv2_train":
            output, references = benchmark.fold(job) / "validation", Path("labelsTr")
            output.mkdir(parents=True, exist_ok=True)
            (output / "summary.json").touch()
            (output.parent / "checkpoint_final.pth").touch()
        else:
            output, references = Path(command[command.index("-o") + 1]), Path("labelsTs")
            output.mkdir()
        for label in (Path(os.environ["nnUNet_raw"]) / DATASET / references).iterdir():
            (output / label.name).write_bytes(label.read_bytes())

    def _noted(self, step: str, command: list[str], fold: Path = Path()) -> None:
        self.steps.append(step)
        self.commands[step] = list(command)
        if step == self.fail:
            self.before_it(fold)
            raise KeyboardInterrupt


ALL_STEPS = ["preprocess"]
ALL_STEPS += [f"nnUNetv2_{verb} {trainer}" for trainer in run.TRAINERS for verb in ("train", "predict")]


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """``demo(**options)`` runs the demo with fake commands in one folder and returns them."""

    def go(raw: Path | None = None, **options: Any) -> FakeCommands:
        commands = FakeCommands(tmp_path / "demo", **options)
        monkeypatch.setattr(own_data, "run_step", commands.preprocess)
        monkeypatch.setattr(benchmark_job, "_run", commands.run)
        monkeypatch.setattr(records, "training", lambda _: {"epoch_seconds": [1.0] * run.EPOCHS})
        monkeypatch.setattr(
            queue, "run_here", lambda folder, jobs, _: [queue.run_job(folder.folder, job.name) for job in jobs] and []
        )
        arguments = {"raw": raw, "dataset": 900} if raw else {}
        if options.get("fail"):
            with pytest.raises(KeyboardInterrupt):
                run_demo(tmp_path / "demo", **arguments)
        else:
            assert run_demo(tmp_path / "demo", **arguments) == 0
        return commands

    return go


def test_the_first_run_does_every_step_and_reports(demo, tmp_path, capsys):
    assert demo().steps == ALL_STEPS
    printed = capsys.readouterr().out
    for text in ("Dice", "HD95", "surface-distance", "overlay.png", "--raw FOLDER", "not that one trainer", *LABELS):
        assert text in printed or text == "background"
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    means = results["means"]["nnUNetTrainerPnPNet"]["mean"]
    assert (means["dice"], means["hd95_mm"]) == (1, 0)
    assert results["evaluated"] == "3 held-out cases"
    with (tmp_path / "demo" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results["scores"]) == 2 * 3 * 2  # trainers, cases, classes
    assert list(rows[0])[:4] == ["trainer", "case", "label", "dice"]
    assert (tmp_path / "demo" / "overlay.png").read_bytes().startswith(b"\x89PNG")


def test_the_environment_is_afterwards_as_it_was(demo, monkeypatch):
    monkeypatch.setenv("nnUNet_results", "/the/users/own")
    monkeypatch.setenv("nnUNet_extTrainer", "/another/plugin")
    monkeypatch.delenv("nnUNet_raw", raising=False)
    before = dict(os.environ)
    demo()
    assert dict(os.environ) == before


def test_the_folder_is_one_of_a_benchmark(demo, tmp_path, capsys, monkeypatch):
    demo()
    monkeypatch.setenv("nnUNet_raw", "restored by monkeypatch")
    monkeypatch.setenv("nnUNet_preprocessed", "restored by monkeypatch")
    assert main(["benchmark", "report", str(tmp_path / "demo")]) == 0
    assert "nnUNetTrainerPnPNet against nnUNetTrainerReference: too few cases to test" in capsys.readouterr().out


def test_the_second_run_reuses_everything_and_says_so(demo, capsys):
    demo()
    capsys.readouterr()
    assert demo().steps == []
    printed = capsys.readouterr().out
    assert printed.count("reusing") == len(run.TRAINERS)
    assert "Mean over 3 held-out cases" in printed


@pytest.mark.parametrize(
    ("checkpoint", "argument"), [("checkpoint_latest.pth", "--c"), ("checkpoint_final.pth", "--val"), (None, None)]
)
def test_an_interrupted_training_goes_on_where_it_was(demo, checkpoint, argument):
    step = "nnUNetv2_train nnUNetTrainerPnPNet"

    def leave_checkpoint(fold: Path) -> None:
        fold.mkdir(parents=True)
        if checkpoint:
            (fold / checkpoint).touch()

    assert demo(fail=step, before_it=leave_checkpoint).steps == ALL_STEPS[:4]
    again = demo()
    assert again.steps == ALL_STEPS[3:]
    assert {"--c", "--val"} & set(again.commands[step]) == ({argument} if argument else set())


def test_an_interrupted_prediction_is_done_as_a_whole(demo, tmp_path):
    step = "nnUNetv2_predict nnUNetTrainerPnPNet"

    def leave_half(_: Path) -> None:
        [folder] = (tmp_path / "demo" / "jobs").glob("*PnPNet*")
        (folder / "predictions.unfinished").mkdir()
        (folder / "predictions.unfinished" / "touching_012.nii.gz").write_text("half")

    assert demo(fail=step, before_it=leave_half).steps == ALL_STEPS
    assert demo().steps == [step]


def test_another_schedule_trains_anew_on_the_same_preprocessed_data(demo, monkeypatch):
    demo()
    monkeypatch.setattr(run, "EPOCHS", 9)
    again = demo()
    assert again.steps == ALL_STEPS[1:]
    assert not {"--c", "--val"} & set(again.commands["nnUNetv2_train nnUNetTrainerPnPNet"])


def test_another_version_trains_anew_on_the_same_preprocessed_data(demo, monkeypatch):
    demo()
    monkeypatch.setattr("nnunet_ext.benchmark.prepare.__version__", "99.0")
    assert demo().steps == ALL_STEPS[1:]


def test_other_images_are_preprocessed_and_trained_on(demo, own_raw, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(own_raw, raw)
    assert demo(raw).steps == ALL_STEPS
    image, other = sorted((raw / DATASET / "imagesTr").iterdir())[:2]
    os.utime(image, (1, 1))
    assert demo(raw).steps == []  # the same images
    image.write_bytes(other.read_bytes())
    assert demo(raw).steps == ALL_STEPS
    assert demo(raw).steps == []


def test_without_references_for_the_test_cases_the_validation_cases_are_compared(demo, own_raw, tmp_path, capsys):
    raw = tmp_path / "raw"
    shutil.copytree(own_raw, raw)
    shutil.rmtree(raw / DATASET / "labelsTs")
    assert demo(raw).steps == [step for step in ALL_STEPS if "predict" not in step]
    assert "Mean over 1 validation cases of fold 0" in capsys.readouterr().out
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert results["means"]["nnUNetTrainerReference"]["mean"]["dice"] == 1
    assert (tmp_path / "demo" / "overlay.png").is_file()


def test_where_no_3d_configuration_is_planned_the_demo_is_2d(demo, own_raw, capsys):
    plans = tiny.plans()
    del plans["configurations"]["3d_fullres"]
    again = demo(own_raw, plans=plans)
    assert again.steps == ["preprocess", *ALL_STEPS]
    assert again.commands["preprocess"][-2:] == ["-c", "2d"]
    assert "2d" in again.commands["nnUNetv2_train nnUNetTrainerPnPNet"]
    assert "nnUNetv2_train 900 2d 0" in capsys.readouterr().out


def test_a_failed_step_is_one_message_and_exit_code_1(tmp_path, monkeypatch, capsys):
    failing = [sys.executable, "-c", "import sys; sys.exit('no memory left')"]
    monkeypatch.setattr(own_data, "console", lambda command: failing)
    assert main(["demo", "--folder", str(tmp_path / "demo")]) == 1
    error = capsys.readouterr().err
    assert "the step 'preprocess' failed" in error
    assert "no memory left" in error
    assert str(tmp_path / "demo" / "preprocess.log") in error
    assert "Traceback" not in error


def test_a_failed_training_is_exit_code_1(demo, tmp_path, monkeypatch, capsys):
    demo(fail="nnUNetv2_train nnUNetTrainerReference")
    monkeypatch.setattr(queue, "run_here", lambda folder, jobs, _: list(jobs))
    assert run_demo(tmp_path / "demo") == 1
    assert "2 of 2 jobs failed: nnUNetTrainerReference" in capsys.readouterr().err


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "nnUNet_results").mkdir()
    with pytest.raises(InputError, match="not empty"):
        run_demo(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        run_demo(tmp_path / "file")
    assert {path.name for path in tmp_path.iterdir()} == {"nnUNet_results", "file"}


def test_a_second_demo_in_the_same_folder_is_refused(tmp_path):
    with run.held(BenchmarkFolder(tmp_path / "demo").lock), pytest.raises(InputError, match="another nnunet-ext demo"):
        run_demo(tmp_path / "demo")


# --- the user's own data ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("own")
    write_dataset(raw, cases=5, held_out=1)
    return raw


@pytest.mark.parametrize("options", [{"raw": "/data"}, {"dataset": "4"}])
def test_raw_and_dataset_belong_together(tmp_path, options):
    with pytest.raises(InputError, match="belong together"):
        run_demo(tmp_path / "demo", **options)
    assert not (tmp_path / "demo").exists()


def test_a_data_set_that_is_not_there_is_answered_with_those_that_are(own_raw, tmp_path, capsys):
    with pytest.raises(InputError, match="Dataset900_TouchingStructures"):
        find_dataset(own_raw, "4")
    with pytest.raises(InputError, match="no data set"):
        find_dataset(tmp_path, "4")
    with pytest.raises(InputError, match="is no folder"):
        find_dataset(tmp_path / "nowhere", "4")
    assert main(["demo", "--folder", str(tmp_path / "demo"), "--raw", str(own_raw), "--dataset", "4"]) == 2
    assert "Dataset900" in capsys.readouterr().err
    assert not (tmp_path / "demo" / MARK).exists()


def test_too_few_cases_for_the_folds_are_refused(tmp_path):
    write_dataset(tmp_path, cases=4, held_out=0)
    with pytest.raises(InputError, match="4 training cases"):
        find_dataset(tmp_path, 900)


@pytest.mark.parametrize("dataset", [900, "900", "Dataset900_TouchingStructures"])
def test_a_data_set_is_found_by_number_or_name(own_raw, dataset):
    found = find_dataset(own_raw, dataset)
    assert found.folder == own_raw / DATASET
    assert held_out_cases(found.folder, found.folder / "labelsTs") == ("touching_005",)


@pytest.mark.parametrize(
    ("planned", "strides", "expected"),
    [
        ([16, 40, 40], [[1, 1, 1], [2, 2, 2]], [16, 40, 40]),
        ([128, 128, 128], [[1, 1, 1]] + [[2, 2, 2]] * 5, [64, 64, 64]),
        ([20, 320, 256], [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]], [20, 64, 128]),
        ([1024, 1024], [[1, 1]] + [[2, 2]] * 7, [512, 512]),
    ],
)
def test_a_patch_for_the_cpu_is_small_and_divisible(planned, strides, expected):
    configuration = {"patch_size": planned, "architecture": {"arch_kwargs": {"strides": strides}}}
    assert small_patch(configuration) == tuple(expected)
