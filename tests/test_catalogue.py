"""The catalogue: names, epochs, tiers, failures that stay alone, and answers for names that are not there."""

import importlib.util
import pickle
import re
from pathlib import Path

import pytest
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ext import catalogue
from nnunet_ext.catalogue import REMOVED, TIERS, TRAINERS, advice, in_tier, resolve
from nnunet_ext.cli import main
from nnunet_ext.discovery import VARIABLE, discovery_folder
from tests.export.test_planned import documented

ROOT = Path(__file__).parent.parent


@pytest.fixture
def door():
    """The module that nnU-Net imports."""
    spec = importlib.util.spec_from_file_location("door", discovery_folder() / "nnunet_ext_trainers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", TRAINERS)
def test_every_name_leads_to_a_class_of_that_name(door, name):
    assert getattr(door, name) is resolve(name)
    assert resolve(name).__name__ == name
    assert TRAINERS[name].description


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("suffix", ["_1epoch", "_50epochs", "_1234epochs"])
def test_every_trainer_exists_with_any_number_of_epochs(door, name, suffix):
    trainer = getattr(door, name + suffix)
    assert trainer.__name__ == name + suffix
    assert issubclass(trainer, resolve(name))
    assert trainer.fixed_num_epochs == int(suffix.strip("_epochs"))
    assert resolve(name + suffix) is trainer
    assert pickle.loads(pickle.dumps(trainer)) is trainer


@pytest.mark.parametrize("name", ["nnUNetTrainerNobodyWrote", "nnUNetTrainerPnPNet_0epochs", "x_50epochs", "__path__"])
def test_other_names_are_not_there_so_that_nnunet_searches_on(door, name):
    assert not hasattr(door, name)


def test_a_missing_dependency_of_one_trainer_does_not_hide_the_others(door, monkeypatch):
    broken = TRAINERS["nnUNetTrainerReference"]._replace(location="a_package_nobody_installed:X")
    monkeypatch.setitem(catalogue.TRAINERS, "nnUNetTrainerBroken", broken)
    assert hasattr(door, "nnUNetTrainerReference")
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_installed"):
        hasattr(door, "nnUNetTrainerBroken")


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_methods_come_first_and_are_few():
    assert {entry.tier for entry in TRAINERS.values()} == set(TIERS)
    assert list(TRAINERS) == [name for tier in TIERS for name in in_tier(tier)]
    assert len(in_tier("methods")) <= 10


@pytest.mark.parametrize("name", TRAINERS)
def test_a_verdict_says_its_word_first_and_where_the_numbers_are(name):
    entry = TRAINERS[name]
    words = ("better", "no difference", "worse", "not yet", "the baseline")
    assert entry.measured.startswith(words)
    if entry.measured.startswith(words[:3]):
        assert re.search(r"short trainings?|one training|seeds|subsets", entry.measured), "how long was trained"
        assert name in (ROOT / entry.page).read_text()
    assert (ROOT / entry.page).is_file()


@pytest.mark.parametrize("name", TRAINERS)
def test_whose_network_is_stock_is_what_export_finds(name):
    assert TRAINERS[name].network == {"yes": "stock", "no": "own"}[documented()[name]]


def test_the_command_shows_the_methods_alone_unless_it_is_asked_for_all(capsys):
    assert main(["trainers"]) == 0
    assert re.findall(r"(?m)^nnUNet\w+", capsys.readouterr().out) == list(in_tier("methods"))
    assert main(["trainers", "--all"]) == 0
    assert re.findall(r"(?m)^nnUNet\w+", capsys.readouterr().out) == list(TRAINERS)


@pytest.mark.parametrize("columns", ["20", "120"])
def test_the_table_wraps_its_cells_and_loses_none_of_their_words(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["trainers", "--all"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120
    for name, entry in TRAINERS.items():
        words = f"{name} {entry.description} {entry.needs} {entry.network} {entry.measured}, {entry.page}".split()
        assert not set(words) - set(shown.split())


# --- names that are not there -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("nnUNetTrainerPnpNet", "nnUNetTrainerPnPNet"),
        ("nnUNetTrainerPnpNet_50epochs", "nnUNetTrainerPnPNet_50epochs"),
        ("nnUNetTrainerAttentScribble", "nnUNetTrainerAttenScribble"),
        ("nnUNetTrainerS2Vnet_1epoch", "nnUNetTrainerS2VNet_1epoch"),
        ("nnUNetTrainerPnPNet_50", "nnUNetTrainerPnPNet"),
        ("nnUNetTrainerVanillaAdamm", "nnUNetTrainerVanillaAdam"),  # of nnU-Net
    ],
)
def test_a_misspelt_trainer_is_answered_with_the_nearest_name_before_nnunets_advice(monkeypatch, capsys, asked, meant):
    monkeypatch.setenv(VARIABLE, str(discovery_folder()))
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer"):
        recursive_find_trainer_class_by_name(asked)
    assert capsys.readouterr().err == f"nnunet-ext: There is no trainer {asked!r} here; did you mean {meant!r}?\n"


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainer",
        "nnUNetTrainer_100epochs",
        "nnUNetTrainerDA5",
        "nnUNetTrainerPnPNet",
        "nnUNetTrainerEntropy",  # trainers of docs/own_trainer.md, in a folder behind ours
        "nnUNetTrainerMedContextEntropy",
        "nnUNetTrainerEntropy_50epochs",
        "nnUNetTrainerNoSuch",
        "PnpNet",
        "__path__",
    ],
)
def test_trainers_of_nnunet_and_of_users_are_not_taken_for_mistakes(door, capsys, name):
    hasattr(door, name)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", REMOVED)
def test_a_name_that_is_gone_is_answered_with_what_replaces_it(door, capsys, name):
    assert not hasattr(door, f"{name}_50epochs")
    sentence = capsys.readouterr().err
    assert sentence == f"nnunet-ext: {advice(name)}\n"
    with pytest.raises(LookupError, match=f"{name} is no ready-made trainer any more: .*\\.$"):
        resolve(name)
    assert any(trainer in re.findall(r"\w+", sentence) for trainer in TRAINERS)
    assert "\n" not in sentence.strip()
