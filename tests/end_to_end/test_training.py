"""nnU-Net's own training loop, checkpoints, validation and prediction with our trainers, on tiny real files."""

import json
import multiprocessing
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ext.catalogue import TRAINERS
from nnunet_ext.planning import write_plans
from tests import tiny
from tests.structure import marks_of


def short_plans(**network):
    """The tiny plans with one epoch of two iterations, optionally with other network settings."""
    plans = tiny.plans()
    for name, settings in plans["configurations"].items():
        settings["nnunet_ext"]["schedule"] = {"epochs": 1, "iterations": 2, "validation_iterations": 1}
        settings["architecture"] = tiny.architecture(int(name[0]), **network)
    return plans


RUNS = [
    pytest.param(name, configuration, False, tiny.kind_for(name), marks=marks_of(name, configuration))
    for name in TRAINERS
    for configuration in tiny.configurations_for(name)
] + [
    ("nnUNetTrainerPnPNet", "3d_fullres", True, "classes"),
    ("nnUNetTrainerPnPNet", "2d", True, "regions"),
    ("nnUNetTrainerPnPNet", "3d_fullres", False, "ignore"),
    ("nnUNetTrainerSDM", "3d_fullres", True, "regions"),
]


def declare(root, monkeypatch, content):
    """Add to dataset.json, for trainers and on disk, and write the landmarks that it declares."""
    stock = tiny.dataset_json
    monkeypatch.setattr(tiny, "dataset_json", lambda kind="classes": {**stock(kind), **content})
    tiny.declare(root, content)


@pytest.mark.parametrize(("name", "configuration", "residual", "kind"), RUNS)
def test_a_trained_model_is_predicted_with_by_nnunets_own_predictor(
    nnunet_folders, make_trainer, monkeypatch, name, configuration, residual, kind
):
    root = nnunet_folders(kind)
    declare(root, monkeypatch, tiny.declared(name))
    found = recursive_find_trainer_class_by_name(name)
    trainer = make_trainer(found, configuration=configuration, kind=kind, plans=short_plans(residual=residual))
    trainer.run_training()
    model = Path(trainer.output_folder_base)
    assert (model / "fold_0" / "checkpoint_final.pth").is_file()
    assert not list(model.rglob("*.tmp"))

    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(predictor.network.state_dict()[key], value), key
    image = root / "raw" / tiny.DATASET / "imagesTr" / "tiny_5_0000.nii.gz"
    (root / "predicted").mkdir()
    predictor.predict_from_files_sequential([[str(image)]], str(root / "predicted"))
    predicted = sitk.ReadImage(str(root / "predicted" / "tiny_5.nii.gz"))
    assert predicted.GetSize() == sitk.ReadImage(str(image)).GetSize()
    assert set(np.unique(sitk.GetArrayFromImage(predicted))) <= {0, 1, 2}


def test_an_interrupted_training_continues_where_it_was(nnunet_folders, make_trainer):
    nnunet_folders()
    plans = short_plans()
    plans["configurations"]["2d"]["nnunet_ext"]["schedule"]["epochs"] = 3

    class Interrupted(Exception):
        pass

    first = make_trainer("nnUNetTrainerPnPNetPaper", configuration="2d", plans=plans)
    original = first.on_epoch_start

    def stop_in_the_second_epoch():
        if first.current_epoch == 1:
            raise Interrupted
        original()

    first.on_epoch_start = stop_in_the_second_epoch
    with pytest.raises(Interrupted):
        first.run_training()
    second = make_trainer("nnUNetTrainerPnPNetPaper", configuration="2d", plans=plans, seed=1)
    second.load_checkpoint(str(Path(first.output_folder) / "checkpoint_latest.pth"))
    assert second.current_epoch == 1
    for a, b in zip(first.aux.parameters(), second.aux.parameters(), strict=True):
        assert torch.equal(a, b)
    second.run_training()
    log = second.logger.local_logger.my_fantastic_logging
    assert {len(values) for values in log.values()} == {3}
    assert np.isfinite(log["loss_centers"]).all()


def run(command: str, *arguments: str) -> str:
    """Output of a command of nnU-Net or ours, which is installed beside this Python, in a process of its own."""
    result = subprocess.run(
        [str(Path(sys.executable).parent / command), *arguments], capture_output=True, text=True, env=os.environ
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture
def run_here(monkeypatch, capfd):
    """The same in this process, which has imported everything already."""

    def call(command: str, *arguments: str) -> str:
        (script,) = entry_points(group="console_scripts", name=command)
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 1)  # nnU-Net would take as many threads
        capfd.readouterr()
        assert not script.load()()
        return capfd.readouterr().out

    return call


@pytest.fixture(params=["here", pytest.param("in processes", marks=pytest.mark.slow)])
def command(request, run_here):
    return run_here if request.param == "here" else run


@pytest.mark.progress_plots
def test_the_commands_a_user_types(nnunet_folders, command):
    root = nnunet_folders()
    stock = ["901", "3d_fullres", "0", "-device", "cpu"]
    command("nnunet-ext", "plans", "901", "--epochs", "1", "--iterations", "2", "--name", "short")
    first = command("nnUNetv2_train", *stock, "-tr", "nnUNetTrainerReference", "-p", "short")
    assert "Mean Validation Dice" in first
    results = root / "results" / tiny.DATASET
    weights = results / "nnUNetTrainerReference__short__3d_fullres" / "fold_0" / "checkpoint_final.pth"
    assert (weights.parent / "progress.png").stat().st_size > 0
    second = command(
        "nnUNetv2_train", *stock, "-tr", "nnUNetTrainerPnPNet", "-p", "short", "-pretrained_weights", str(weights)
    )
    assert "tensors of the planned network, 0 of" in second
    model = results / "nnUNetTrainerPnPNet__short__3d_fullres"
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    assert np.isfinite(summary["foreground_mean"]["Dice"])
    again = command("nnUNetv2_train", *stock, "-tr", "nnUNetTrainerPnPNet", "-p", "short", "--c")
    assert "Mean Validation Dice" in again
    images = root / "raw" / tiny.DATASET / "imagesTr"
    model_arguments = ["-d", "901", "-c", "3d_fullres", "-tr", "nnUNetTrainerPnPNet", "-p", "short", "-f", "0"]
    folders = ["-i", str(images), "-o", str(root / "out")]
    command("nnUNetv2_predict", *folders, *model_arguments, "-device", "cpu", "-npp", "0", "-nps", "0", "--disable_tta")
    assert len(list((root / "out").glob("*.nii.gz"))) == 6


def test_plans_of_a_preset_need_no_preprocessing(nnunet_folders, make_trainer):
    root = nnunet_folders()
    written = write_plans(901, ["cpu"], epochs=1, iterations=1)
    plans = json.loads(written.path.read_text())
    trainer = make_trainer("nnUNetTrainerPnPNet", plans=plans)
    assert trainer.preprocessed_dataset_folder == str(root / "preprocessed" / tiny.DATASET / "nnUNetPlans_3d")
    trainer.run_training()
