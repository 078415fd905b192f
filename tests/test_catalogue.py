"""The catalogue: names, epochs, and failures that stay alone."""

import importlib.util
import pickle

import pytest

from nnunet_ext import catalogue
from nnunet_ext.catalogue import TRAINERS, Entry, resolve
from nnunet_ext.discovery import discovery_folder


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
    monkeypatch.setitem(catalogue.TRAINERS, "nnUNetTrainerBroken", Entry("a_package_nobody_installed:X", "broken"))
    assert hasattr(door, "nnUNetTrainerReference")
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_installed"):
        hasattr(door, "nnUNetTrainerBroken")
