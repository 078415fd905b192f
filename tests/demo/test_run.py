"""The demo without nnU-Net: process groups, progress, what is reused, bad input, and the rules of the metrics."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nnunet_ext.cli import main
from nnunet_ext.data.raw import open_dataset
from nnunet_ext.demo import run
from nnunet_ext.demo.data import LABELS, write_dataset
from nnunet_ext.demo.raw import find_dataset, held_out, number
from nnunet_ext.demo.run import Demo, run_demo, small_patch
from nnunet_ext.demo.workspace import RECORD, Workspace, files_digest
from nnunet_ext.errors import InputError

pytestmark = pytest.mark.xdist_group("demo")

# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_step_is_known_by_its_key(tmp_path):
    workspace = Workspace(tmp_path / "new")
    workspace.create()
    assert workspace.state("train", "a") == "new"
    workspace.started("train", "a")
    again = Workspace(tmp_path / "new")
    assert again.state("train", "a") == "interrupted"
    assert again.state("train", "b") == "new"
    again.finished("train", 1)
    assert Workspace(tmp_path / "new").state("train", "a") == "done"
    assert Workspace(tmp_path / "new").state("train", "b") == "new"


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "nnUNet_results").mkdir()
    with pytest.raises(InputError, match="not empty"):
        Workspace(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        Workspace(tmp_path / "file")


def test_the_environment_is_for_the_commands_only(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", "/the/users/own")
    monkeypatch.setenv("nnUNet_extTrainer", "/another/plugin")
    environment = Workspace(tmp_path).environment(tmp_path / "raw")
    assert environment["nnUNet_raw"] == str(tmp_path / "raw")
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        assert environment[name] == str(tmp_path / name)
    assert environment["nnUNet_extTrainer"].startswith("/another/plugin" + os.pathsep)
    assert int(environment["nnUNet_n_proc_DA"]) >= 1  # with 0, nnU-Net's planner fails
    assert os.environ["nnUNet_results"] == "/the/users/own"


def test_a_changed_file_changes_the_digest(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    before = files_digest(tmp_path, "imagesTr", "labelsTr")
    (tmp_path / "imagesTr" / "a").write_text("1")
    between = files_digest(tmp_path, "imagesTr", "labelsTr")
    (tmp_path / "imagesTr" / "a").write_text("12")
    assert len({before, between, files_digest(tmp_path, "imagesTr", "labelsTr")}) == 3


# --- the whole, with commands that only write what nnU-Net would write -----------------------------------------------

PLANNED = {
    "image_reader_writer": "SimpleITKIO",
    "configurations": {
        "3d_fullres": {"patch_size": [16, 40, 40], "architecture": {"arch_kwargs": {"strides": [[1] * 3, [2] * 3]}}}
    },
}


class FakeCommands:
    """Stands in for ``run_step``; ``titles`` and ``commands`` of what was run. Raises at the step ``fail``."""

    def __init__(self, root: Path, fail: str = "", before_it: Any = lambda: None) -> None:
        self.root, self.fail, self.before_it = root, fail, before_it
        self.titles: list[str] = []
        self.commands: dict[str, list[str]] = {}

    def __call__(self, title: str, command: list[str], **_: Any) -> None:
        self.titles.append(title)
        self.commands[title] = list(command)
        if title == self.fail:
            self.before_it()
            raise KeyboardInterrupt
        dataset = "Dataset900_TouchingStructures"
        preprocessed = self.root / "nnUNet_preprocessed" / dataset
        trainer = title.split()[-1]
        fold = self.fold(trainer)
        if title == "preprocess":
            preprocessed.mkdir(parents=True)
            (preprocessed / "nnUNetPlans.json").write_text(json.dumps(PLANNED))
        elif title == "plans":
            (preprocessed / f"{run.PLANS}.json").write_text(json.dumps(PLANNED))
        elif title.startswith("train"):
            (fold / "validation").mkdir(parents=True, exist_ok=True)
            (fold / "validation" / "summary.json").touch()
            (fold / "checkpoint_final.pth").touch()
        else:
            output = self.root / "predictions" / dataset / trainer
            output.mkdir(parents=True)
            for label in (self.root / "nnUNet_raw" / dataset / "labelsTs").iterdir():
                (output / label.name).write_bytes(label.read_bytes())

    def fold(self, trainer: str) -> Path:
        model = f"{trainer}__{run.PLANS}__3d_fullres"
        return self.root / "nnUNet_results" / "Dataset900_TouchingStructures" / model / "fold_0"


ALL_STEPS = ["preprocess", "plans", *(f"{verb} {trainer}" for trainer in run.TRAINERS for verb in ("train", "predict"))]


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """``demo(**options)`` runs the demo with fake commands in one folder and returns them."""

    def go(**options: Any) -> FakeCommands:
        commands = FakeCommands(tmp_path / "demo", **options)
        monkeypatch.setattr(run, "run_step", commands)
        if options.get("fail"):
            with pytest.raises(KeyboardInterrupt):
                run_demo(tmp_path / "demo")
        else:
            assert run_demo(tmp_path / "demo") == 0
        return commands

    return go


def test_the_first_run_does_every_step_and_reports(demo, tmp_path, capsys):
    assert demo().titles == ALL_STEPS
    printed = capsys.readouterr().out
    for text in ("Dice", "HD95", "surface-distance", "overlay.png", "--raw FOLDER", "not that one trainer", *LABELS):
        assert text in printed or text == "background"
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    means = results["means"]["nnUNetTrainerPnPNet"]["mean"]
    assert (means["dice"], means["hd95_mm"]) == (1, 0)
    with (tmp_path / "demo" / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 3 * 2  # trainers, cases, classes
    assert (tmp_path / "demo" / "overlay.png").read_bytes().startswith(b"\x89PNG")


def test_the_second_run_reuses_everything_and_says_so(demo, capsys):
    demo()
    capsys.readouterr()
    assert demo().titles == []
    assert capsys.readouterr().out.count("reusing") == len(ALL_STEPS)


def test_what_was_deleted_is_done_again(demo):
    first = demo()
    (first.fold("nnUNetTrainerPnPNet") / "checkpoint_final.pth").unlink()
    assert demo().titles == ["train nnUNetTrainerPnPNet"]


@pytest.mark.parametrize(
    ("checkpoint", "argument"), [("checkpoint_latest.pth", "--c"), ("checkpoint_final.pth", "--val"), (None, None)]
)
def test_an_interrupted_training_goes_on_where_it_was(demo, tmp_path, checkpoint, argument):
    title = "train nnUNetTrainerPnPNet"

    def leave_checkpoint() -> None:
        fold = FakeCommands(tmp_path / "demo").fold("nnUNetTrainerPnPNet")
        fold.mkdir(parents=True)
        if checkpoint:
            (fold / checkpoint).touch()

    assert demo(fail=title, before_it=leave_checkpoint).titles == ALL_STEPS[:5]
    again = demo()
    assert again.titles == ALL_STEPS[4:]
    assert {"--c", "--val"} & set(again.commands[title]) == ({argument} if argument else set())


def test_another_schedule_trains_anew_on_the_same_preprocessed_data(demo, monkeypatch):
    demo()
    monkeypatch.setitem(PLANNED["configurations"]["3d_fullres"], "nnunet_ext", {"schedule": {"epochs": 9}})
    monkeypatch.setattr(run, "EPOCHS", 9)
    again = demo()
    assert again.titles == ALL_STEPS[1:]
    assert not {"--c", "--val"} & set(again.commands["train nnUNetTrainerPnPNet"])


def test_a_failed_step_is_one_message_and_exit_code_1(tmp_path, monkeypatch, capsys):
    failing = [sys.executable, "-c", "import sys; sys.exit('no memory left')"]
    monkeypatch.setattr(run, "console", lambda command: failing)
    assert main(["demo", "--folder", str(tmp_path / "demo")]) == 1
    error = capsys.readouterr().err
    assert "the step 'preprocess' failed" in error
    assert "no memory left" in error
    assert str(tmp_path / "demo" / "logs" / "preprocess.log") in error
    assert "Traceback" not in error


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
    assert not (tmp_path / "demo" / RECORD).exists()


def test_too_few_cases_for_the_folds_are_refused(tmp_path):
    write_dataset(tmp_path, cases=4, held_out=0)
    with pytest.raises(InputError, match="4 training cases"):
        find_dataset(tmp_path, 900)


@pytest.mark.parametrize("dataset", [900, "900", "Dataset900_TouchingStructures"])
def test_a_data_set_is_found_by_number_or_name(own_raw, dataset):
    found = find_dataset(own_raw, dataset)
    assert number(found) == "900"
    assert held_out(found) == ["touching_005"]


def test_without_references_for_the_test_cases_the_validation_cases_are_compared(own_raw, tmp_path):
    dataset = open_dataset(own_raw / "Dataset900_TouchingStructures")
    demo = Demo(Workspace(tmp_path), dataset, True, "cpu")
    shutil.copytree(dataset.folder / "labelsTr", demo.preprocessed / "gt_segmentations")
    shutil.copytree(dataset.folder / "labelsTr", tmp_path / "validation")
    (demo.preprocessed / f"{run.PLANS}.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}))
    (demo.preprocessed / "splits_final.json").write_text(json.dumps([{"train": [], "val": ["touching_001"]}]))
    evaluation = demo.evaluate([], {"trainer": tmp_path / "validation"})["trainer"]
    [case] = evaluation.cases
    assert case.reference == demo.preprocessed / "gt_segmentations" / "touching_001.nii.gz"
    assert case.prediction == tmp_path / "validation" / "touching_001.nii.gz"
    assert case.mean_dice() == 1


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
    assert small_patch(configuration) == expected
