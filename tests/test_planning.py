"""``nnunet-ext plans``: presets and short schedules in a plans file beside the old one."""

import itertools
import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.plans import NOTED, extension_settings
from nnunet_ext.planning import load_presets, require_options, write_plans
from tests import tiny


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A preprocessed data set with plans that also have a cascade, which inherits."""
    dataset = tmp_path / tiny.DATASET
    dataset.mkdir()
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        del settings["nnunet_ext"]  # as nnU-Net writes them
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


def test_what_a_training_noted_in_the_plans_of_its_model_is_left_out(folder):
    file = folder / "nnUNetPlans.json"
    base = json.loads(file.read_text())
    for settings in base["configurations"].values():
        settings["nnunet_ext"] = {"pnpnet": {"heads": 2}, NOTED: {"pnpnet": {"push": True}}}
    file.write_text(json.dumps(base))
    written = json.loads(write_plans(901, ["cpu"]).path.read_text())
    own = [settings["nnunet_ext"] for settings in written["configurations"].values() if "nnunet_ext" in settings]
    assert own
    assert all(one["pnpnet"]["heads"] == 2 and NOTED not in one for one in own)


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


def test_every_stage_that_new_plans_name_is_in_them(folder):
    plans = read(folder, "nnUNetPlans")
    low = {"inherits_from": "3d_fullres", "next_stage": ["3d_cascade_fullres", "3d_fullres"]}
    plans["configurations"]["3d_lowres"] = low
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    names = sorted(plans["configurations"])
    for number in range(1, len(names) + 1):
        for chosen in itertools.combinations(names, number):
            if "3d_cascade_fullres" in chosen and "3d_lowres" not in chosen:
                with pytest.raises(InputError, match=f"add it: --configuration 3d_lowres {' '.join(chosen)}"):
                    write_plans(901, configurations=chosen, out="new", force=True)
                continue
            write_plans(901, configurations=chosen, out="new", force=True)
            manager = PlansManager(read(folder, "new"))
            for name in chosen:
                settings = manager.get_configuration(name)
                expected = [stage for stage in low["next_stage"] if stage in chosen] if name == "3d_lowres" else []
                assert (settings.next_stage_names or []) == expected
                assert settings.previous_stage_name in (None, *chosen)


def test_the_name_of_another_file_of_the_data_set_is_refused(folder):
    file = folder / "dataset.json"
    file.write_text(json.dumps(tiny.dataset_json()))
    for force in (False, True):
        with pytest.raises(InputError, match=r"dataset\.json is no plans file, so it is not replaced; choose another"):
            write_plans(901, out="dataset", force=force)
    assert read(folder, "dataset") == tiny.dataset_json()


def test_no_warm_up_can_be_asked_for(folder):
    assert main(["plans", "901", "--warmup-steps", "5", "--name", "warm"]) == 0
    assert main(["plans", "901", "--plans", "warm", "--warmup-steps", "0", "--name", "cold"]) == 0
    assert read(folder, "cold")["configurations"]["2d"]["nnunet_ext"]["schedule"] == {"warmup_steps": 0}
    with pytest.raises(InputError, match="warmup_steps"):
        write_plans(901, out="x", warmup_steps=-1)


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


def test_a_number_with_an_exponent_is_a_number(folder):
    assert main(["plans", "901", "--option", "medcontext.beta=1e-3", "medcontext.fill=mean", "--name", "new"]) == 0
    assert read(folder, "new")["configurations"]["2d"]["nnunet_ext"]["medcontext"] == {"beta": 0.001, "fill": "mean"}


@pytest.mark.parametrize("text", ["crf_weight=1", "attenscribble.crf_weight", "attenscribble.crf_weight=", "a.b=[1"])
def test_an_option_that_cannot_be_read_gets_one_sentence(folder, capsys, text):
    assert main(["plans", "901", "--option", text, "--name", "new"]) == 2
    assert capsys.readouterr().err.startswith(f"nnunet-ext: --option {text!r}")
    assert not (folder / "new.json").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("medcontext.ratio=0.4", r"unknown medcontext options \['ratio'\]; known are"),
        ("medcontext.mask_ratio=1.5", r"medcontext\.mask_ratio = 1\.5: input should be less than 1"),
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
    assert "ramp_end must be at least ramp_start" in capsys.readouterr().err
    assert not (folder / "alone.json").exists()


def test_a_preset_for_cpus_prints_the_device(folder):
    assert write_plans(901, ["cpu"]).summary().count(" -p nnUNetPlans_cpu -device cpu") == 3
    assert "-device" not in write_plans(901, ["pnpnet"]).summary()


def test_a_key_of_the_schedule_that_no_trainer_knows_is_refused(folder):
    with pytest.raises(InputError, match=r"unknown schedule options \['epoch'\]; known are \['epochs', 'iterations', "):
        write_plans(901, epoch=5, out="new")
    assert not (folder / "new.json").exists()


# --- another resolution -----------------------------------------------------------------------------------------------


@pytest.fixture
def images(folder):
    """Fingerprints of 40 images of about 30 × 90 × 80 voxels of 3 × 1 × 1 mm, stored with the coarse axis last."""
    rng = np.random.default_rng(0)
    shapes = [[int(90 + rng.integers(-9, 9)), 80, 30] for _ in range(40)]
    content = {"spacings": [[1.0, 1.0, 3.0]] * 40, "shapes_after_crop": shapes}
    (folder / "dataset_fingerprint.json").write_text(json.dumps(content))
    plans = read(folder, "nnUNetPlans") | {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    for name, patch in {"2d": [96, 80], "3d_fullres": [32, 96, 80]}.items():
        plans["configurations"][name]["patch_size"] = patch
        plans["configurations"][name]["batch_size"] = 12
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    return shapes


def test_low_resolution_in_2d_follows_the_spacing_and_the_arguments(folder, images):
    write_plans(
        901, configurations=["2d"], spacing=[3, 3], patch_size=[32, 32], features=[4, 8, 8], batch_size=8, out="low"
    )
    low = read(folder, "low")["configurations"]["2d"]
    assert low["spacing"] == [3, 3]
    assert low["patch_size"] == [32, 32]
    assert low["batch_size"] == 8
    rows = np.median([round(shape[0] / 3) for shape in images])
    assert low["median_image_size_in_voxels"] == [rows, 27]
    network = low["architecture"]["arch_kwargs"]
    assert (network["n_stages"], network["features_per_stage"]) == (3, [4, 8, 8])
    assert network["strides"] == [[1, 1], [2, 2], [2, 2]]  # nnU-Net's four stages, without the last
    assert network["kernel_sizes"] == [[3, 3]] * 3
    assert (network["n_conv_per_stage"], network["n_conv_per_stage_decoder"]) == ([1, 1, 1], [1, 1])


def test_low_resolution_in_3d_clips_the_patch_to_the_image_and_the_batch_to_a_share_of_the_data(folder, images):
    write_plans(901, configurations=["3d_fullres"], spacing=[6, 2, 2], out="low")
    low = read(folder, "low")["configurations"]["3d_fullres"]
    rows = np.median([round(shape[0] / 2) for shape in images])
    assert low["median_image_size_in_voxels"] == [15, rows, 40]
    assert low["patch_size"] == [16, 48, 40]  # 15 × 45 × 40, padded to what the strides divide
    assert low["batch_size"] == 2  # 5 % of 40 images are 1.8 patches
    network = low["architecture"]["arch_kwargs"]
    # anisotropic: the coarse axis waits until the others are as coarse
    assert network["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert network["kernel_sizes"][0] == [1, 3, 3]
    assert network["features_per_stage"] == [4, 6, 8, 16]  # a stage more than planned: doubled
    assert (network["n_conv_per_stage"], network["n_conv_per_stage_decoder"]) == ([1] * 4, [1] * 3)


def test_the_network_at_the_planned_spacing_is_the_one_that_nnunet_planned(folder, nnunet_folders, monkeypatch):
    """Real planner, real images: the same strides, kernels, stages, channels, patch and median image."""
    root = nnunet_folders()
    planner = "nnunetv2.experiment_planning.experiment_planners.default_experiment_planner"
    monkeypatch.setattr(f"{planner}.nnUNet_raw", str(root / "raw"))
    monkeypatch.setattr(f"{planner}.nnUNet_preprocessed", str(root / "preprocessed"))
    monkeypatch.setattr(f"{planner}.maybe_convert_to_dataset_name", lambda _: tiny.DATASET)
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    properties = dict.fromkeys(["max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"], 1.0)
    shapes = [[40, 60, 50], [44, 66, 50], [37, 70, 55], [36, 61, 48], [40, 62, 57], [39, 62, 51]]
    content = {
        "spacings": [[2.5, 1.0, 1.0]] * 6,
        "shapes_after_crop": shapes,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {"0": properties},
    }
    preprocessed = root / "preprocessed" / tiny.DATASET
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(content))
    ExperimentPlanner(901, plans_name="planned").plan_experiment()
    planned = read(preprocessed, "planned")["configurations"]
    for name in ("2d", "3d_fullres"):
        spacing = planned[name]["spacing"]
        write_plans(901, base="planned", configurations=[name], spacing=spacing, out=f"again_{name}")
        again = read(preprocessed, f"again_{name}")["configurations"][name]
        for key in ("architecture", "patch_size", "median_image_size_in_voxels", "spacing", "normalization_schemes"):
            assert again[key] == planned[name][key], (name, key)


def test_data_of_another_spacing_lies_beside_the_old_one_and_is_shared_by_plans_of_that_spacing(folder, images):
    def identifier(name):
        return read(folder, name)["configurations"]["2d"]["data_identifier"]

    for name, spacing, changes in [("a", [3, 3], {}), ("b", [3, 3], {"epochs": 2}), ("c", [2.5, 3], {})]:
        write_plans(901, configurations=["2d"], spacing=spacing, out=name, **changes)
    assert identifier("nnUNetPlans") == "nnUNetPlans_2d"
    assert identifier("a") == identifier("b") == "nnUNetPlans_2d_3x3mm"
    assert identifier("c") == "nnUNetPlans_2d_2.5x3mm"


# --- slices across another axis ---------------------------------------------------------------------------------------


def test_slices_across_another_axis(folder, images):
    plans = read(folder, "nnUNetPlans")
    plans |= {"original_median_shape_after_transp": [30, 90, 80], "original_median_spacing_after_transp": [3, 1, 1]}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    written = write_plans(901, configurations=["2d"], slice_axis=1, out="across")
    turned = read(folder, "across")
    assert (turned["transpose_forward"], turned["transpose_backward"]) == ([1, 0, 2], [1, 0, 2])
    assert turned["original_median_shape_after_transp"] == [80, 90, 30]
    assert turned["original_median_spacing_after_transp"] == [1, 1, 3]
    settings = turned["configurations"]["2d"]
    assert settings["data_identifier"] == "nnUNetPlans_2d_across1_1x3mm"
    assert settings["spacing"] == [1, 3]
    assert settings["median_image_size_in_voxels"] == [np.median([shape[0] for shape in images]), 30]
    assert settings["architecture"]["arch_kwargs"]["strides"][1] == [2, 1]  # 3 mm are coarse enough
    assert written.missing == ("2d",)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nnunet_preprocesses_slices_across_the_axis_and_exports_them_back(nnunet_folders, monkeypatch, axis):
    root = nnunet_folders()
    folder = root / "preprocessed" / tiny.DATASET
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    fingerprint = {"spacings": [[1.0, 1.0, 1.0]], "shapes_after_crop": [[18, 20, 22]]}
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    write_plans(901, configurations=["2d"], slice_axis=axis, out="across")
    plans = PlansManager(read(folder, "across"))
    settings, dataset_json = plans.get_configuration("2d"), read(folder, "dataset")
    label_file = min((root / "raw" / tiny.DATASET / "labelsTr").iterdir())
    image_file = root / "raw" / tiny.DATASET / "imagesTr" / label_file.name.replace(".nii.gz", "_0000.nii.gz")
    preprocessor = settings.preprocessor_class(verbose=False)
    _, found, properties = preprocessor.run_case([str(image_file)], str(label_file), plans, settings, dataset_json)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(label_file)))
    assert np.array_equal(np.moveaxis(found[0], 0, axis), labels)
    manager = plans.get_label_manager(dataset_json)
    logits = 10.0 * np.stack([found[0] == label for label in range(manager.num_segmentation_heads)])
    export = convert_predicted_logits_to_segmentation_with_correct_shape
    exported = export(torch.from_numpy(logits).float(), plans, settings, manager, properties)
    assert np.array_equal(exported, labels)


def test_what_is_to_be_preprocessed_is_printed_until_it_is(folder, images, capsys):
    command = ["plans", "901", "--configuration", "2d", "--spacing", "3", "3", "--name", "low"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Preprocess with\n  nnUNetv2_preprocess -d 901 -plans_name low -c 2d\nand train with\n" in printed
    data = folder / "nnUNetPlans_2d_3x3mm"
    data.mkdir()
    for case in range(39):
        (data / f"{case}.pkl").touch()
    main(command)
    assert "nnUNetv2_preprocess" in capsys.readouterr().out  # 39 of 40
    (data / "39.pkl").touch()
    main(command)
    assert "Nothing needs to be preprocessed again" in capsys.readouterr().out


def test_plans_of_the_same_data_say_what_is_not_preprocessed_yet(folder, capsys):
    command = ["plans", "901", "--preset", "cpu"]
    main(command)
    first = read(folder, "nnUNetPlans_cpu")["configurations"]
    assert "3d_cascade_fullres" in first
    own_data = [name for name in first if name != "3d_cascade_fullres"]  # which has that of 3d_fullres
    for done, name in enumerate(own_data):
        missing = " ".join(own_data[done:])
        assert f"nnUNetv2_preprocess -d 901 -plans_name nnUNetPlans_cpu -c {missing}\n" in capsys.readouterr().out
        data = folder / first[name]["data_identifier"]
        data.mkdir()
        (data / "case.pkl").touch()
        main(command)
    assert "Nothing needs to be preprocessed again" in capsys.readouterr().out


IMPOSSIBLE = {
    "too few numbers": ({"spacing": [3]}, r"--spacing gives 1 number \(3\), but configuration 2d has 2 axes"),
    "patch axes": ({"patch_size": [16]}, r"--patch-size gives 1 number \(16\), but configuration 2d has 2 axes"),
    "all": ({"configurations": None}, r"gives 2 numbers \(3 3\), but configuration 3d_fullres has 3 axes"),
    "zero": ({"spacing": [0, 3]}, r"--spacing is 0 3, but must be positive"),
    "infinite": ({"spacing": [float("inf"), 3]}, r"--spacing is inf 3, but must be positive"),
    "nothing left": ({"spacing": [3, 200]}, r"leaves the smallest image without a voxel .* \(the median image is "),
    "patch": ({"patch_size": [4, 4]}, r"2d: a patch of 4 4 voxels at 3 3 mm has 1 stage .*, and a U-Net needs two; "),
    "indivisible": ({"patch_size": [30, 32]}, r"30 32 is not divisible .* \(8 8\); the nearest that is: 32 32"),
    "features": ({"patch_size": [16, 16], "features": [1] * 4}, r"gives 4 numbers, but a patch of 16 16 .* 3 stages"),
    "one stage": ({"features": [4]}, r"--features gives 1 number, but .*; give between 2 and "),
    "configuration": ({"configurations": ["4d"]}, r"no configuration '4d'"),
    "cascade": (
        {"configurations": ["3d_cascade_fullres"], "spacing": [3, 3, 3]},
        r"cannot change 3d_cascade_fullres, which belongs to a cascade with 3d_lowres; choose 2d or 3d_fullres",
    ),
    "first stage": (
        {"configurations": ["3d_lowres"], "spacing": [3, 3, 3]},
        r"cannot change 3d_lowres, which belongs to a cascade with 3d_cascade_fullres",
    ),
    "slices of volumes": (
        {"configurations": ["2d", "3d_fullres"], "slice_axis": 1},
        r"--slice-axis is for configurations of slices, but 3d_fullres has patches of volumes; add --configuration 2d",
    ),
    "slice axis": ({"slice_axis": 3}, r"--slice-axis is 3, but must be 0, 1 or 2, for slices across z, y or x"),
    "no resampling": ({"configurations": ["unresampled"]}, r"do not resample \(no_resampling_hack\)"),
    "Primus": ({"configurations": ["primus"]}, r"the network PrimusM has no U-Net stages"),
}


@pytest.mark.parametrize(("arguments", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_an_impossible_resolution_gets_one_sentence_and_writes_nothing(folder, images, arguments, message):
    plans = read(folder, "nnUNetPlans")
    primus = {"network_class_name": "a.PrimusM", "arch_kwargs": {}, "_kw_requires_import": []}
    plans["configurations"] |= {
        "3d_lowres": {"inherits_from": "3d_fullres", "next_stage": "3d_cascade_fullres"},
        "unresampled": {"inherits_from": "2d", "resampling_fn_data": "no_resampling_hack"},
        "primus": {"inherits_from": "2d", "architecture": primus},
    }
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=message) as error:
        write_plans(901, **{"configurations": ["2d"], "spacing": [3, 3], "out": "low", **arguments})
    assert "\n" not in str(error.value)
    assert sorted(folder.iterdir()) == before


def test_without_the_fingerprint_there_is_no_other_resolution(folder):
    with pytest.raises(InputError, match=r"fingerprint\.json does not say .*nnUNetv2_extract_fingerprint -d 901"):
        write_plans(901, configurations=["2d"], spacing=[3, 3], out="low")


def test_every_shipped_preset_says_what_it_is_and_applies(folder):
    for name, preset in load_presets().items():
        assert preset["description"].endswith(".")
        require_options(preset.get("options", {}))
        write_plans(901, [name])
