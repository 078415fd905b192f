"""Benchmarks are read whole or refused with the sentence that says what to correct."""

import json
import textwrap
from pathlib import Path

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext import catalogue
from nnunet_ext.benchmark.spec import Arm, Metrics, PlansRecipe, Spec, load, parse, ready_specs
from nnunet_ext.cli import main
from nnunet_ext.errors import InputError

PLANS = (
    Path(__file__).parents[2] / "docs/results/low-hippocampus/plans/Dataset004_Hippocampus.nnUNetPlans_benchf74f40.json"
)

MINIMAL = {
    "baseline": "nnUNetTrainerReference",
    "trainers": ["nnUNetTrainerReference", "nnUNetTrainerPnPNet"],
    "datasets": [4],
}


def read(**changes):
    content = {**MINIMAL, **changes}
    return parse({key: value for key, value in content.items() if value is not None}, "mine.yaml", "mine")


def refused(*words, **changes):
    with pytest.raises(InputError) as error:
        read(**changes)
    message = str(error.value)
    assert "mine.yaml" in message
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_three_keys_are_enough():
    spec = read()
    assert spec.arms == (
        Arm(name="nnUNetTrainerReference", trainer="nnUNetTrainerReference"),
        Arm(name="nnUNetTrainerPnPNet", trainer="nnUNetTrainerPnPNet"),
    )
    assert (spec.name, spec.datasets, spec.configurations) == ("mine", ("4",), ("3d_fullres",))
    assert (spec.folds, spec.seeds, spec.device, spec.metrics) == ((0, 1, 2, 3, 4), (0,), "cuda", Metrics())


def test_an_arm_inherits_the_plans_and_changes_what_it_names():
    longer = {"name": "longer", "trainer": "nnUNetTrainerReference", "plans": {"epochs": 34}}
    spec = read(trainers=[*MINIMAL["trainers"], longer], plans={"presets": ["cpu"], "epochs": 20, "patch_size": [8, 8]})
    assert spec.arms[0].plans == PlansRecipe(presets=("cpu",), epochs=20, patch_size=(8, 8))
    assert spec.arms[2].plans == PlansRecipe(presets=("cpu",), epochs=34, patch_size=(8, 8))


def test_options_of_methods_are_added_to_those_of_all_arms():
    arm = {"name": "other", "trainer": "nnUNetTrainerMaskedCRF", "plans": {"options": {"attenscribble": {"ramp": 0.5}}}}
    plans = {"options": {"attenscribble": {"crf_weight": 1, "ramp": 0}}}
    spec = read(trainers=[*MINIMAL["trainers"], arm], plans=plans)
    assert spec.arms[0].plans.options == {"attenscribble": {"crf_weight": 1, "ramp": 0}}
    assert spec.arms[2].plans.options == {"attenscribble": {"crf_weight": 1, "ramp": 0.5}}


def test_an_arm_takes_back_what_all_arms_have():
    arm = {"name": "as planned", "trainer": "nnUNetTrainerReference", "plans": {"patch_size": None}}
    spec = read(trainers=[*MINIMAL["trainers"], arm], plans={"patch_size": 8, "epochs": 2})
    assert [arm.plans.patch_size for arm in spec.arms] == [(8,), (8,), None]
    assert [arm.plans.epochs for arm in spec.arms] == [2, 2, 2]


def test_an_arm_may_start_from_the_weights_of_one_before_it():
    again = {"name": "again", "trainer": "nnUNetTrainerReference", "from": "nnUNetTrainerReference"}
    spec = read(trainers=[*MINIMAL["trainers"], again])
    assert [arm.start for arm in spec.arms] == [None, None, "nnUNetTrainerReference"]
    assert Spec.from_dict(spec.as_dict()) == spec
    refused("again starts from 'nnUNetTrainerReference', which is not listed before it",
            trainers=[again, *MINIMAL["trainers"]])  # fmt: skip
    refused("again starts from 'nothing'", trainers=[*MINIMAL["trainers"], {**again, "from": "nothing"}])


def test_an_arm_of_another_configuration_needs_one_comparison_to_belong_to():
    own = {"name": "in slices", "trainer": "nnUNetTrainerReference", "configuration": "2d"}
    arms = [*MINIMAL["trainers"], own]
    spec = parse({**MINIMAL, "trainers": arms}, "mine.yaml", "mine")
    assert [spec.configurations_of(arm) for arm in spec.arms] == [("3d_fullres",)] * 2 + [("2d",)]
    refused("in slices", "several (2d, 3d_fullres)", trainers=arms, configurations=["2d", "3d_fullres"])
    refused("2d is the configuration of all", trainers=arms, configurations=["2d"])
    from_it = {**own, "from": "nnUNetTrainerReference"}
    refused("whose configuration is another one", trainers=[*MINIMAL["trainers"], from_it])
    back = {"name": "back", "trainer": "nnUNetTrainerPnPNet", "from": "in slices"}
    refused("back starts from in slices, whose configuration is another one", trainers=[*arms, back])
    parse({**MINIMAL, "trainers": [*arms, {**back, "configuration": "2d"}]}, "mine.yaml", "mine")


def test_a_spec_survives_json():
    plans = {"presets": ["cpu"], "features": [4, 8], "options": {"pnpnet": {"levels": [2, 3]}}}
    spec = read(plans=plans, metrics={"nsd_tolerances_mm": [1, 2]}, seeds=[3, 4])
    assert Spec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec


@pytest.mark.parametrize("name", ready_specs())
def test_the_ready_benchmarks_are_valid_and_name_trainers_that_exist(name):
    spec = load(name)
    assert spec.name == name
    assert spec.description
    for arm in spec.arms:
        assert catalogue.resolve(arm.trainer)


@pytest.mark.parametrize("name", ["low-hippocampus", "low-hippocampus-borders"])
def test_the_wider_reference_has_as_many_parameters_as_pnpnet(name):
    """With the plans that the committed report of the same data set and network was trained with."""
    arms = {arm.name: arm for arm in load(name).arms}
    plans = json.loads(PLANS.read_text())
    settings = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    both = "PnPNet with both branches"
    assert settings["features_per_stage"] == list(arms[both].plans.features)
    parameters = {}
    for one in ("nnUNetTrainerReference", "wider reference", both):
        settings["features_per_stage"] = list(arms[one].plans.features)
        plans["configurations"]["3d_fullres"]["nnunet_ext"] = dict(arms[one].plans.options)
        manager = PlansManager(plans)
        network = catalogue.resolve(arms[one].trainer).build_network_architecture(
            manager, manager.get_configuration("3d_fullres"), 1, 3
        )
        parameters[one] = sum(p.numel() for p in network.parameters())
    assert parameters["wider reference"] == pytest.approx(parameters[both], rel=0.001)
    assert parameters[both] > 1.1 * parameters["nnUNetTrainerReference"]


def test_the_command_lists_the_ready_benchmarks(capsys):
    assert main(["benchmark", "list"]) == 0
    printed = capsys.readouterr().out
    for name in ("cpu-smoke", "low-acdc", "gpu"):
        assert f"{name} " in printed


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_typo_is_answered_with_what_was_probably_meant():
    refused("'fold'", "did you mean 'folds'", fold=[0])
    refused("'epoch'", "did you mean 'epochs'", plans={"epoch": 3})
    narrow = {"name": "narrow", "trainer": "nnUNetTrainerPnPNet", "plans": {"feature": [4, 8]}}
    refused("trainers, entry 2, plans", "did you mean 'features'", trainers=["nnUNetTrainerReference", narrow])
    drawn = {"127": {"from": 27, "landmark": {"segmented": 4}}}
    refused("drawn, 127: unknown key 'landmark'", "did you mean 'landmarks'", drawn=drawn, raw="/raw")
    drawn = {"127": {"from": 27, "landmarks": {"segmented": 4, "rul": "interface"}}}
    refused("drawn, 127, landmarks: unknown key", "did you mean 'rule'", drawn=drawn, raw="/raw")
    refused("'nsd_tolerance_mm'", "did you mean 'nsd_tolerances_mm'", metrics={"nsd_tolerance_mm": 1})
    refused("'nnUNetTrainerReferense'", "did you mean 'nnUNetTrainerReference'", baseline="nnUNetTrainerReferense")


@pytest.mark.parametrize("key", ["baseline", "trainers", "datasets"])
def test_a_missing_key(key):
    refused(f"has no {key}", **{key: None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainers": ["nnUNetTrainerReference"]}, ["another one"]),
        ({"trainers": ["nnUNetTrainerReference"] * 2}, ["there twice"]),
        (
            {"trainers": [*MINIMAL["trainers"], {"name": "lr+", "trainer": "A"}, {"name": "lr-", "trainer": "B"}]},
            ["'lr+' and 'lr-' differ only in punctuation"],
        ),
        ({"trainers": []}, ["trainers: [] is not a list with at least 1 entry"]),
        ({"trainers": [{"trainer": "nnUNetTrainerReference"}]}, ["trainers, entry 1 has no name"]),
        ({"trainers": [3]}, ["trainers, entry 1: 3 is not a mapping"]),
        ({"trainers": [*MINIMAL["trainers"], {"name": "again", "trainer": "nnUNetTrainerPnPNet"}]}, ["seeds"]),
        ({"splits": {"by": "case"}}, ["splits: only where the benchmark preprocesses its data", "raw: $nnUNet_raw"]),
        ({"drawn": {902: {"from": 4, "scribbles": {}}}}, ["drawn: only where the benchmark preprocesses its data"]),
        ({"drawn": {902: {"from": 4}}}, ["with scribbles, landmarks, borders or missing_labels; write one of them"]),
        (
            {"drawn": {902: {"from": 4, "borders": {"between": ["a", "a"]}}}},
            ["drawn, 902, borders", "two different labels"],
        ),
        (
            {"drawn": {902: {"from": 4, "borders": {"between": ["a", "b"], "sd_mm": 0}}}},
            ["drawn, 902, borders, sd_mm", "0"],
        ),
        ({"drawn": {"Dataset902_A": {"from": 4, "scribbles": {}}}}, ["'Dataset902_A' is no number of a data set"]),
        ({"drawn": {902: {"from": 4, "landmarks": {"segmented": 8}}}}, ["902 has landmarks", "add splits with by"]),
        (
            {"drawn": {902: {"from": 4, "missing_labels": {"alone": "a"}}}},
            ["902 has one label alone", "add splits"],
        ),
        ({"plans": {"spacing": [0, 2]}}, ["plans, spacing"]),
        ({"device": "gpu"}, ["device: 'gpu' is not 'cpu', 'cuda' or 'mps'"]),
        ({"folds": [0, 0]}, ["folds: 0 is there twice"]),
        ({"folds": [0, -1]}, ["folds, entry 2: -1 is not at least 0"]),
        ({"folds": True}, ["folds", "True is not a whole number"]),
        ({"seeds": ["a"]}, ["seeds, entry 1: 'a' is not a whole number"]),
        ({"datasets": [2.5]}, ["datasets, entry 1: 2.5 is not text"]),
        ({"datasets": ["synthetic", 4]}, ["synthetic cannot be mixed"]),
        (
            {"raw": "/raw", "drawn": {902: {"from": "synthetic", "borders": {"between": ["a", "b"]}}}},
            ["data from synthetic cannot be mixed with others; leave out raw"],
        ),
        ({"plans": {"epochs": 0}}, ["plans, epochs: 0 is not at least 1"]),
        ({"plans": {"epochs": 2.5}}, ["plans, epochs: 2.5 is not a whole number"]),
        ({"plans": {"momentum": 1}}, ["plans, momentum: 1 is not less than 1"]),
        ({"plans": {"epochs": "many"}}, ["plans, epochs: 'many' is not a whole number"]),
        ({"plans": []}, ["plans: [] is not a mapping"]),
        ({"plans": {"options": {"pnpnet": 3}}}, ["plans, options, pnpnet: 3 is not a mapping"]),
        ({"metrics": {"nsd_tolerances_mm": [0]}}, ["nsd_tolerances_mm, entry 1: 0 is not more than 0"]),
        ({"metrics": {"nsd_tolerances_mm": [float("nan")]}}, ["nan is not a finite number"]),
        ({"metrics": {"definition": "mesh"}}, ["definition: 'mesh' is not 'surface' or 'voxel'"]),
        ({"description": 3}, ["description: 3 is not text"]),
        ({"references": {7: 27}}, ["7 is none of the datasets (4)"]),
        ({"references": 27}, ["references: 27 is not a mapping"]),
        ({"scored": "test"}, ["scored: 'test' is not 'validation' or 'held-out'"]),
    ],
)
def test_values_that_make_no_sense(changes, words):
    refused(*words, **changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("baseline: [", "no YAML"),
        ("baseline: a\nbaseline: b\n", "'baseline' is there twice"),
        ("- a list", "is a mapping"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path, text, words):
    (tmp_path / "mine.yaml").write_text(textwrap.dedent(text))
    with pytest.raises(InputError, match=words) as error:
        load(tmp_path / "mine.yaml")
    assert "\n" not in str(error.value)


def test_a_benchmark_that_is_not_there(capsys):
    assert main(["benchmark", "run", "cpo"]) == 2
    error = capsys.readouterr().err
    assert "'cpo'" in error
    assert "cpu-smoke" in error
