"""Answers to a mistake by the commands that a user types first, word for word."""

from __future__ import annotations

import pytest

from nnunet_ext import doctor
from nnunet_ext.benchmark.spec import ready_specs
from nnunet_ext.catalogue import resolve
from nnunet_ext.cli import main
from nnunet_ext.discovery import VARIABLE
from nnunet_ext.errors import InputError
from nnunet_ext.planning import load_presets
from tests import tiny

NO_RAW = "Data set '{}' is not in nnUNet_raw=ROOT/raw; give the number or name of one that is."
NO_MODEL = "nowhere is no trained model: it has no plans.json; give the folder that holds fold_0 and others."

SENTENCES = {
    "plans 7": "Data set '7' is not in nnUNet_preprocessed=ROOT/preprocessed; run: nnUNetv2_plan_and_preprocess -d 7.",
    "plans 901": "The new plans would be called nnUNetPlans and replace the plans they come from; give a --preset or "
    "another --name.",
    "plans 901 --plans Nope": "There is no plans file ROOT/preprocessed/Dataset901_Tiny/Nope.json; found: nnUNetPlans. "
    "Choose one of them with --plans.",
    "plans 901 --preset nope": f"There is no preset 'nope'; there are: {', '.join(load_presets())}.",
    "plans 901 --preset pnpnet --configuration 3d": "ROOT/preprocessed/Dataset901_Tiny/nnUNetPlans.json has no "
    "configuration '3d'; it has: 3d_fullres, 2d.",
    "plans 901 --preset pnpnet --epochs 0": "--epochs is 0, but must be at least 1.",
    "plans 901 --option pnpnet --name new": "--option 'pnpnet' is not METHOD.NAME=VALUE, such as "
    "attenscribble.crf_weight=1.0.",
    "evaluate raw/Dataset901_Tiny/labelsTr nowhere": "The prediction folder nowhere does not exist.",
    "evaluate nowhere raw/Dataset901_Tiny/labelsTr": "The reference folder nowhere does not exist.",
    "evaluate empty empty": "There is no dataset.json beside empty or empty; give it with --dataset-json, or name what "
    "is scored: --labels left=1 right=2.",
    "scribbles generate 7 --new-dataset 777": NO_RAW.format(7),
    "scribbles generate 901 --new-dataset 901": "Number 901 is taken: ROOT/raw/Dataset901_Tiny exists; choose "
    "another one.",
    "scribbles check 7": NO_RAW.format(7),
    "landmarks check 7": NO_RAW.format(7),
    "landmarks check 901": "ROOT/raw/Dataset901_Tiny/dataset.json has no 'landmarks'; add for example "
    '"landmarks": {"names": ["tip"], "surface_of": {"tip": ["liver"]}}.',
    "landmarks predict -i empty -o out -m nowhere": NO_MODEL,
    "s2v predict -i empty -o out -m nowhere": NO_MODEL,
    "splits 7": NO_RAW.format(7),
    "splits 901 --by nowhere.csv": "--by nowhere.csv cannot be read as a CSV table ([Errno 2] No such file or "
    "directory: 'nowhere.csv').",
    "splits 901 --check nowhere.json": "There is no file of folds nowhere.json; nnunet-ext splits DATASET --by "
    "SUBJECTS --out nowhere.json writes one.",
    "unlabelled 7": "Data set '7' is not in nnUNet_preprocessed=ROOT/preprocessed; run: nnUNetv2_plan_and_preprocess "
    "-d 7.",
    "unlabelled 901": "There is no folder ROOT/raw/Dataset901_Tiny/imagesUn; put the images there, named like "
    "CASE_0000.nii.gz, or name theirs with --images.",
    "unlabelled 901 -p Nope --images raw/Dataset901_Tiny/imagesTr": "There is no file "
    "ROOT/preprocessed/Dataset901_Tiny/Nope.json.",
    "unlabelled 901 -c 3d --images raw/Dataset901_Tiny/imagesTr": "ROOT/preprocessed/Dataset901_Tiny/nnUNetPlans.json "
    "has no configuration '3d'; it has: 3d_fullres, 2d.",
    "export empty --out out": "empty is no trained model: a folder of nnU-Net's results such as "
    "Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres, with plans.json, dataset.json and folds in it, is "
    "expected.",
    "benchmark run nope.yaml": "There is no benchmark 'nope.yaml': neither a file nor one of "
    f"{', '.join(ready_specs())}.",
    "benchmark run empty.yaml --folder out": "empty.yaml holds None, but a benchmark is a mapping with trainers and "
    "datasets.",
    "benchmark report empty": "ROOT/empty holds no benchmark.json; start with: nnunet-ext benchmark run.",
}


@pytest.fixture
def root(nnunet_folders, monkeypatch):
    """A data set, preprocessed, and an empty folder and file."""
    root = nnunet_folders()
    monkeypatch.chdir(root)
    (root / "empty").mkdir()
    (root / "empty.yaml").touch()
    return root


@pytest.mark.parametrize("command", SENTENCES)
def test_a_mistake_is_answered_with_one_sentence_and_nothing_is_written(root, capsys, command):
    before = sorted(root.rglob("*"))
    assert main(command.split()) == 2
    said = capsys.readouterr().err.replace(str(root), "ROOT")
    assert said == f"nnunet-ext: {SENTENCES[command]}\n"
    assert sorted(root.rglob("*")) == before


def test_a_trainer_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(LookupError) as error:
        resolve("nnUNetTrainerPnpNet")
    assert str(error.value) == ("There is no trainer 'nnUNetTrainerPnpNet' here; did you mean 'nnUNetTrainerPnPNet'?")


def test_a_training_refuses_a_schedule_that_it_does_not_know(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["2d"]["nnunet_ext"]["schedule"] = {"epoch": 7}
    with pytest.raises(InputError) as error:
        make_trainer("nnUNetTrainerReference", configuration="2d", plans=plans)
    assert str(error.value) == (
        "Plans nnUNetPlans, configuration 2d, have unknown schedule options ['epoch']; known are ['epochs', "
        "'iterations', 'learning_rate', 'momentum', 'validation_iterations', 'warmup_steps']."
    )


def test_a_training_with_scribbles_needs_an_ignore_label(make_trainer):
    with pytest.raises(InputError) as error:
        make_trainer("nnUNetTrainerAttenScribble", configuration="2d")
    assert str(error.value) == (
        "nnUNetTrainerAttenScribble learns from scribbles, but data set Dataset901_Tiny has no ignore label; add "
        '"ignore": N to the labels in dataset.json, where N is the highest label plus 1, and give it to every voxel '
        "that is not annotated."
    )


def test_the_doctor_says_what_to_type(monkeypatch, capsys):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(doctor, "CHECKS", (doctor.folders, doctor.discovery))
    assert doctor.run() == 1
    _, *lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "warning  nnUNet_raw           not set",
        "                              -> export nnUNet_raw=/a/folder/of/yours",
        "problem  nnUNet_preprocessed  not set",
        "                              -> export nnUNet_preprocessed=/a/folder/of/yours",
        "problem  nnUNet_results       not set",
        "                              -> export nnUNet_results=/a/folder/of/yours",
        "problem  nnUNet_extTrainer    not set, so nnU-Net does not find these trainers",
        '                              -> export nnUNet_extTrainer="$(nnunet-ext path)"  '
        "(or, once and for all: nnunet-ext enable)",
        "",
        "3 problem(s), 1 warning(s)",
    ]
