"""Models by name and by folder; and what a user mistypes, each as one sentence before anything is written."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

from nnunet_ext import cli
from nnunet_ext.discovery import VARIABLE
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet import models
from nnunet_ext.nnunet.models import Prediction, model_folder, require_images, trained_folds

MODEL = "nnUNetTrainerS2VNet__nnUNetPlans__2d"
DESCRIPTION = {"file_ending": ".nii.gz", "channel_names": {"0": "T1", "1": "T2"}}


@pytest.fixture
def results(tmp_path, monkeypatch):
    root = tmp_path / "results"
    fold = root / "Dataset027_Heart" / MODEL
    fold.mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        (fold / name).write_text('{"configurations": {}, "labels": {}}')
    monkeypatch.setenv("nnUNet_results", str(root))
    return root


@pytest.fixture
def model(results):
    return results / "Dataset027_Heart" / MODEL


def fold(model, name, checkpoint="checkpoint_final.pth"):
    (model / f"fold_{name}").mkdir(exist_ok=True)
    torch.save({}, model / f"fold_{name}" / checkpoint)


def images(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


# --- which model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", [27, "27", "Dataset027_Heart"])
def test_a_model_is_found_by_number_and_by_name(model, dataset):
    assert model_folder(dataset, "nnUNetTrainerS2VNet", "nnUNetPlans", "2d") == model


def test_a_model_that_is_not_there(model, monkeypatch, tmp_path):
    with pytest.raises(InputError, match=f"no model nnUNetTrainer__nnUNetPlans__2d .*, but {MODEL}; give -tr, -p and"):
        model_folder(27, "nnUNetTrainer", "nnUNetPlans", "2d")
    with pytest.raises(InputError, match=r"Data set '28' is not in nnUNet_results=.*; give the number or name of one"):
        model_folder(28, "nnUNetTrainer", "nnUNetPlans", "2d")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"nnUNet_results is .*nowhere, which is no folder; export it"):
        model_folder(27, "nnUNetTrainer", "nnUNetPlans", "2d")
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(InputError, match="nnUNet_results is not set; export it to the folder that holds your trained"):
        model_folder(27, "nnUNetTrainer", "nnUNetPlans", "2d")


# --- which folds ------------------------------------------------------------------------------------------------------


def test_folds_are_those_that_were_trained(model):
    for name in (0, 3, "all"):
        fold(model, name)
    fold(model, 1, "checkpoint_latest.pth")
    assert trained_folds(model) == [0, 3]
    assert trained_folds(model, ["3", "all"]) == [3, "all"]
    assert trained_folds(model, [0]) == [0]
    assert trained_folds(model, checkpoint="checkpoint_latest.pth") == [1]


def test_a_model_that_was_trained_on_all_cases_is_used(model):
    fold(model, "all")
    assert trained_folds(model) == ["all"]


@pytest.mark.parametrize("wanted", [["1"], ["x"], [0, 4]])
def test_a_fold_that_is_not_there_is_named_with_those_that_are(model, wanted):
    fold(model, 0)
    with pytest.raises(InputError, match=rf"no checkpoint_final\.pth of fold {wanted[-1]}; it has that of 0; choose"):
        trained_folds(model, wanted)


def test_a_model_without_checkpoints(model):
    fold(model, 0, "checkpoint_latest.pth")
    with pytest.raises(InputError, match=r"holds no fold_…/checkpoint_final\.pth; finish the training"):
        trained_folds(model)
    with pytest.raises(InputError, match="of fold 0; it has that of no fold"):
        trained_folds(model, [0])


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
def test_a_folder_that_is_no_model(model, name):
    (model / name).unlink()
    with pytest.raises(InputError, match=f"is no trained model: it has no {name}; give the folder"):
        trained_folds(model)


# --- on which device, with which class --------------------------------------------------------------------------------


class Recorder:
    """Stands for a predictor."""

    def __init__(self, **settings):
        self.settings = settings

    def initialize_from_trained_model_folder(self, *arguments, **loading):
        self.arguments, self.loading = arguments, loading


def test_a_predictor_gets_what_the_flags_say_and_nnunet_finds_our_trainers(model, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    fold(model, 2)
    how = Prediction(device="cpu", tta=False, step_size=0.25, on_device=False, progress=False)
    made = how.predictor(Recorder, model, {"direction": "both"}, threshold=0.5)
    assert made.settings == {
        "tile_step_size": 0.25,
        "use_mirroring": False,
        "perform_everything_on_device": False,
        "device": torch.device("cpu"),
        "allow_tqdm": False,
        "direction": "both",
    }
    assert made.arguments == (str(model), [2], "checkpoint_final.pth")
    assert made.loading == {"threshold": 0.5}
    assert os.environ[VARIABLE]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(model):
    fold(model, 0)
    with pytest.raises(
        InputError, match="-device cuda is asked for, but PyTorch finds none on this machine; write -dev"
    ):
        Prediction().predictor(Recorder, model, {})


# --- which images -----------------------------------------------------------------------------------------------------


def test_images_with_all_channels_pass(tmp_path):
    names = [f"case_{c}_{channel:04d}.nii.gz" for c in "ab" for channel in range(2)]
    folder = images(tmp_path / "images", *reversed(names), "notes.txt")
    by_case = {f"case_{c}": [folder / f"case_{c}_{channel:04d}.nii.gz" for channel in range(2)] for c in "ab"}
    assert require_images(folder, DESCRIPTION) == by_case
    old = {"file_ending": ".nii.gz", "modality": {"0": "T1", "1": "T2"}}
    assert require_images(folder, old) == by_case


def test_only_the_cases_that_are_needed_must_be_complete(tmp_path):
    folder = images(tmp_path / "images", "a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz")
    assert len(require_images(folder, DESCRIPTION, ["b"])["b"]) == 2
    with pytest.raises(InputError, match=r"has no c_0000\.nii\.gz"):
        require_images(folder, DESCRIPTION, ["b", "c"])


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"], r"has no a_0001\.nii\.gz, but .* with 2 channels; add"),
        (["a.nii.gz"], r"holds no images named CASE_0000\.nii\.gz"),
        (["a_0000.mha"], r"holds no images named CASE_0000\.nii\.gz"),
        ([], r"holds no images named CASE_0000\.nii\.gz"),
    ],
)
def test_images_that_do_not_fit(tmp_path, names, sentence):
    with pytest.raises(InputError, match=sentence):
        require_images(images(tmp_path / "images", *names), DESCRIPTION)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (Prediction(processes=(0, 3)), "-npp 0 -nps 3: preprocessing and export need at least 1 process each"),
        (Prediction(step_size=0), "-step_size 0 is no part of a tile; give a number above 0, up to 1"),
        (Prediction(step_size=2), "-step_size 2 is no part of a tile"),
        (Prediction(step_size=float("nan")), "-step_size nan is no part of a tile"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_before_a_model_is_loaded(tmp_path, how, sentence):
    with pytest.raises(InputError, match=sentence):
        how.predictor(Recorder, tmp_path / "no_model", {})


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match=r"-i .*images is no folder; give one that holds images named"):
        require_images(tmp_path / "images", DESCRIPTION)


def test_a_second_stage_without_the_first_and_nothing_is_written(tmp_path):
    folder = images(tmp_path / "images", "a_0000.nii.gz", "a_0001.nii.gz")
    stage = SimpleNamespace(previous_stage_name="3d_lowres")
    predictor = SimpleNamespace(dataset_json=DESCRIPTION, configuration_manager=stage)
    with pytest.raises(InputError, match="second stage of a cascade; predict 3d_lowres first and give its folder"):
        Prediction().run(predictor, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "there", "sentence"),
    [
        (
            "3d_lowres",
            None,
            r"-prev_stage_predictions .*first has no a\.nii\.gz, b\.nii\.gz; predict 3d_lowres for all",
        ),
        ("3d_lowres", ["a.nii.gz"], r"-prev_stage_predictions .*first has no b\.nii\.gz; predict 3d_lowres for all"),
        (None, ["a.nii.gz", "b.nii.gz"], "is for the second stage of a cascade, unlike this model; omit it"),
    ],
)
def test_a_first_stage_that_does_not_fit_and_nothing_is_written(tmp_path, stage, there, sentence):
    folder = images(tmp_path / "images", *(f"{case}_000{channel}.nii.gz" for case in "ab" for channel in (0, 1)))
    if there is not None:
        images(tmp_path / "first", *there)
    predictor = SimpleNamespace(
        dataset_json=DESCRIPTION, configuration_manager=SimpleNamespace(previous_stage_name=stage)
    )
    with pytest.raises(InputError, match=sentence):
        Prediction(previous_stage=tmp_path / "first").run(predictor, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_first_stage_of_all_cases_is_whole_and_given_to_nnunet(tmp_path, monkeypatch):
    folder = images(tmp_path / "images", "a_0000.nii.gz", "a_0001.nii.gz")
    first = images(tmp_path / "first", "a.nii.gz", "left_over.nii.gz")
    read, given = [], {}
    monkeypatch.setattr(models, "require_whole", lambda file: read.append(file.name))
    predictor = SimpleNamespace(
        dataset_json=DESCRIPTION,
        configuration_manager=SimpleNamespace(previous_stage_name="3d_lowres"),
        predict_from_files=lambda *_, **how: given.update(how),
    )
    Prediction(previous_stage=first).run(predictor, folder, tmp_path / "out")
    assert read == ["a_0000.nii.gz", "a_0001.nii.gz", "a.nii.gz"]
    assert given["folder_with_segs_from_prev_stage"] == str(first)


@pytest.mark.parametrize("command", ["landmarks", "s2v"])
def test_the_commands_print_one_sentence(model, tmp_path, command, capsys):
    fold(model, 0)
    (model / "plans.json").write_text(json.dumps({}))
    arguments = [command, "predict", "-i", str(tmp_path), "-o", str(tmp_path / "out"), "-device", "cpu"]
    assert cli.main([*arguments, "-m", str(model), "-f", "x"]) == 2
    assert cli.main([*arguments, "-d", "99", "-c", "2d"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("nnunet-ext: ") for line in lines)
    assert not (tmp_path / "out").exists()
