"""``nnunet-ext plans``: presets and short schedules in a plans file beside the old one."""

import json
import re

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.plans import extension_settings
from nnunet_ext.planning import load_presets, require_options, write_plans
from tests import tiny


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A preprocessed data set with plans that also have a cascade, which inherits."""
    dataset = tmp_path / tiny.DATASET
    dataset.mkdir()
    plans = tiny.plans()
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    (dataset / "nnUNetPlans.json").write_text(json.dumps(plans))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    return dataset


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_a_preset_keeps_configuration_names_and_data_so_nothing_is_preprocessed_again(folder):
    written = write_plans(901, ["cpu"])
    old, new = read(folder, "nnUNetPlans"), read(folder, "nnUNetPlans_cpu")
    assert written.name == new["plans_name"] == "nnUNetPlans_cpu"
    assert new["configurations"].keys() == old["configurations"].keys()
    manager = PlansManager(new)
    for name in new["configurations"]:
        before, after = PlansManager(old).get_configuration(name), manager.get_configuration(name)
        assert after.data_identifier == before.data_identifier
        assert after.network_arch_init_kwargs["features_per_stage"] == [4, 4, 4]
        assert extension_settings(after.configuration, "schedule")["epochs"] == 20


def test_arguments_win_over_presets_and_only_the_named_configurations_are_written(folder):
    write_plans(
        tiny.DATASET,
        ["cpu", "pnpnet"],
        configurations=["3d_fullres"],
        epochs=3,
        iterations=10,
        batch_size=5,
        patch_size=[8, 12, 16],
        features=[2, 4, 6],
        out="mine",
    )
    settings = read(folder, "mine")["configurations"]
    assert list(settings) == ["3d_fullres"]
    own = settings["3d_fullres"]
    assert own["batch_size"] == 5
    assert own["patch_size"] == [8, 12, 16]
    assert own["architecture"]["arch_kwargs"]["features_per_stage"] == [2, 4, 6]
    assert own["nnunet_ext"] == {
        "presets": ["cpu", "pnpnet"],
        "schedule": {"epochs": 3, "iterations": 10, "validation_iterations": 2},
        "pnpnet": {"dim": 32, "levels": [2, 3, 4]},
    }


def test_writing_twice_changes_nothing_and_says_so(folder):
    first = write_plans(901, ["pnpnet"])
    stamp = first.path.stat().st_mtime_ns
    second = write_plans(901, ["pnpnet"])
    assert second.unchanged
    assert second.path.stat().st_mtime_ns == stamp
    assert "already there" in second.summary()


def test_a_different_file_of_that_name_is_kept_unless_forced(folder):
    write_plans(901, ["pnpnet"])
    with pytest.raises(InputError, match=r"nnUNetPlans_pnpnet\.json exists and differs; .*--name.*--force"):
        write_plans(901, ["pnpnet"], epochs=5)
    assert "epochs" not in read(folder, "nnUNetPlans_pnpnet")["configurations"]["2d"]["nnunet_ext"]["schedule"]
    write_plans(901, ["pnpnet"], epochs=5, force=True)
    assert read(folder, "nnUNetPlans_pnpnet")["configurations"]["2d"]["nnunet_ext"]["schedule"]["epochs"] == 5


def test_a_cascade_does_not_get_a_preset_twice(folder):
    write_plans(901, ["cpu"], out="once")
    cascade = PlansManager(read(folder, "once")).get_configuration("3d_cascade_fullres").configuration
    assert cascade["previous_stage"] == "3d_lowres"
    assert cascade["nnunet_ext"]["presets"] == ["cpu"]
    assert cascade["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 4, 4]


BAD = {
    "data set": ({"dataset": 7}, r"'7' is not in nnUNet_preprocessed=.*nnUNetv2_plan_and_preprocess -d 7"),
    "plans": ({"base": "Nope"}, r"no plans file .*Nope\.json; found: nnUNetPlans.*--plans"),
    "preset": ({"presets": ["nope"]}, r"no preset 'nope'; there are: cpu"),
    "configuration": ({"configurations": ["3d"]}, r"no configuration '3d'; it has: 3d_fullres"),
    "nothing to do": ({}, r"replace the plans they come from"),
    "epochs": ({"epochs": 0, "out": "x"}, r"--epochs is 0, but must be at least 1"),
    "name": ({"out": "a__b"}, r"neither '/' nor '__'"),
    "patch": (
        {"out": "x", "configurations": ["3d_fullres"], "patch_size": [16, 17, 16]},
        r"16 17 16 is not divisible .* \(4 4 4\); the nearest that is: 16 16 16",
    ),
    "patch axes": ({"out": "x", "patch_size": [16, 16]}, r"gives 2 numbers, but configuration 3d_fullres has 3 axes"),
    "features": ({"out": "x", "features": [1, 2]}, r"gives 2 numbers \(1 2\), .* has 3 stages"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_sentence_and_writes_nothing(folder, arguments, message):
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=message) as error:
        write_plans(**{"dataset": 901, **arguments})
    assert "\n" not in str(error.value)
    assert sorted(folder.iterdir()) == before


def test_a_network_without_stages_gets_one_clear_sentence(folder):
    plans = tiny.plans()
    plans["configurations"]["2d"]["architecture"] = {
        "network_class_name": "dynamic_network_architectures.architectures.primus.PrimusM",
        "arch_kwargs": {},
        "_kw_requires_import": [],
    }
    (folder / "PrimusPlans.json").write_text(json.dumps(plans))
    with pytest.raises(InputError, match=r"configuration 2d: the network PrimusM has no U-Net stages"):
        write_plans(901, ["pnpnet"], base="PrimusPlans")


def test_a_damaged_plans_file_gets_one_clear_sentence(folder):
    (folder / "DamagedPlans.json").write_text('{"plans_name": ')
    with pytest.raises(InputError, match=r"DamagedPlans\.json is no JSON file .*; restore it, or plan again") as error:
        write_plans(901, ["pnpnet"], base="DamagedPlans")
    assert "\n" not in str(error.value)


def test_unset_folder_gets_one_clear_sentence(monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    with pytest.raises(InputError, match="nnUNet_preprocessed is not set"):
        write_plans(901, ["cpu"])


def test_the_command_prints_what_to_type_next(folder, capsys):
    assert main(["plans", "901", "--preset", "pnpnet", "--configuration", "2d"]) == 0
    out = capsys.readouterr().out
    assert f"nnUNetv2_train {tiny.DATASET} 2d 0 -tr nnUNetTrainerPnPNet -p nnUNetPlans_pnpnet" in out
    assert main(["plans", "901", "--preset", "nope"]) == 2
    assert capsys.readouterr().err.startswith("nnunet-ext: There is no preset 'nope'")


def test_the_command_sets_options_of_methods(folder, capsys):
    options = ["attenscribble.crf_weight=1.5", "pnpnet.levels=[2, 3]"]
    assert main(["plans", "901", "--option", *options, "--name", "new"]) == 0
    assert "-tr TRAINER -p new" in capsys.readouterr().out
    own = read(folder, "new")["configurations"]["2d"]["nnunet_ext"]
    assert (own["attenscribble"], own["pnpnet"]) == ({"crf_weight": 1.5}, {"levels": [2, 3]})


@pytest.mark.parametrize("text", ["crf_weight=1", "attenscribble.crf_weight", "attenscribble.crf_weight=", "a.b=[1"])
def test_an_option_that_cannot_be_read_gets_one_sentence(folder, capsys, text):
    assert main(["plans", "901", "--option", text, "--name", "new"]) == 2
    assert capsys.readouterr().err.startswith(f"nnunet-ext: --option {text!r}")
    assert not (folder / "new.json").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("medcontext.ratio=0.4", r"unknown medcontext options \['ratio'\]; known are"),
        ("medcontext.mask_ratio=1.5", "medcontext options out of range: mask_ratio = 1.5"),
        ("medcontext.mask_ratio=half", "medcontext.mask_ratio = 'half': input should be a valid number"),
        ("medcontext.fill=grey", "medcontext.fill = 'grey': input should be 'zero', 'noise' or 'mean'"),
        ("s2vnet.aggregation=gru", "s2vnet.aggregation = 'gru': input should be 'attention', 'mean' or 'last'"),
        ("babloss.similarity=dot", "babloss.similarity = 'dot': input should be "),
        ("attenscribble.stages=2", "attenscribble.stages = 2: "),
        ("pnpnet.levels=[2, x]", "pnpnet.levels = .*: input should be a valid integer"),
        ("pnpnet.push=1", "pnpnet.push = 1: input should be a valid boolean"),
        ("med.mask_ratio=0.4", "no options of 'med'; there are those of pnpnet, .*precision"),
        ("precision.cpu=float16", "The plans have the precision"),
    ],
)
def test_an_option_or_value_that_no_trainer_takes_is_refused_when_the_plans_are_written(folder, capsys, text, sentence):
    assert main(["plans", "901", "--option", text, "--name", "new"]) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert not (folder / "new.json").exists()


def test_an_option_is_judged_together_with_those_of_the_plans_it_is_added_to(folder, capsys):
    assert main(["plans", "901", "--option", "babloss.ramp_start=0", "--name", "at_once"]) == 0
    assert main(["plans", "901", "--plans", "at_once", "--option", "babloss.ramp_end=0.05", "--name", "soon"]) == 0
    assert main(["plans", "901", "--option", "babloss.ramp_end=0.05", "--name", "alone"]) == 2
    assert "ramp_end is at least ramp_start" in capsys.readouterr().err
    assert not (folder / "alone.json").exists()


def test_every_shipped_preset_says_what_it_is_and_applies(folder):
    for name, preset in load_presets().items():
        assert preset["description"].endswith(".")
        require_options(preset.get("options", {}))
        write_plans(901, [name])
