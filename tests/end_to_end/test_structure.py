"""Every trainer belongs to a group, is made of the parts of those that represent it, and survives its checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nnunet_ext.catalogue import TRAINERS
from nnunet_ext.nnunet.pretrained import unwrap
from nnunet_ext.nnunet.trainer import STATISTIC, TERM
from tests import tiny
from tests.end_to_end.test_training import declare
from tests.end_to_end.trainings import seed_everything
from tests.structure import MADE_OF, REPRESENTATIVES

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


@pytest.fixture
def made(nnunet_folders, make_trainer, monkeypatch):
    """``made(name, seed=…)`` → a trainer for whose data set everything is declared that any trainer needs."""
    declares = {key: value for content in tiny.DECLARES.values() for key, value in content.items()}
    declare(nnunet_folders("ignore"), monkeypatch, declares)
    return lambda name, seed=0: make_trainer(
        name, configuration=tiny.configurations_for(name)[0], kind="ignore", seed=seed
    )


def test_every_trainer_of_the_catalogue_represents_others_or_is_represented():
    assert not set(REPRESENTATIVES) & set(MADE_OF)
    assert {*REPRESENTATIVES, *MADE_OF} == set(TRAINERS)
    assert {name for names in MADE_OF.values() for name in names} <= set(REPRESENTATIVES)


def modules(module: nn.Module) -> set[tuple[str, str]]:
    """Names and kinds of what is directly inside of it."""
    return {(name, type(child).__name__) for name, child in module.named_children() if list(child.parameters())}


@pytest.fixture
def passes(monkeypatch):
    """``passes(trainer)`` → how often a step goes backward."""
    backward, done = torch.Tensor.backward, []

    def counted(tensor, *args, **kwargs):
        done.append(tensor)
        return backward(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", counted)

    def count(trainer: Any) -> int:
        done.clear()
        trainer.train_step(tiny.batch_with_everything(trainer))
        return len(done)

    return count


@pytest.mark.parametrize("name", MADE_OF)
def test_a_trainer_that_is_represented_has_no_part_of_its_own(made, passes, name):
    own, others = made(name), [made(other) for other in MADE_OF[name]]
    for parts in (lambda t: modules(unwrap(t.network)), lambda t: modules(t.aux), lambda t: {type(t.optimizer)}):
        assert parts(own) <= set().union(*map(parts, others))
    assert 1 <= passes(own) <= max(map(passes, others))


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_every_number_in_the_log_is_in_the_glossary(made, name):
    trainer = made(name)
    found = trainer.train_step(tiny.batch_with_everything(trainer)).keys() - {"loss"}
    names = {key.removeprefix(TERM).removeprefix(STATISTIC) for key in found}
    explained = set(re.findall(r"`(\w+)`", GLOSSARY.read_text(encoding="utf-8").partition("## In these pages")[0]))
    assert {name for name in names if not name.startswith("masked_")} <= explained
    assert names >= {"segmentation"}


@pytest.mark.parametrize("name", MADE_OF)
def test_a_trainer_that_is_restored_takes_the_same_step(made, tmp_path, name):
    first, second = made(name), made(name, seed=1)
    first.train_step(tiny.batch_with_everything(first, seed=1))
    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    second.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert second.current_epoch == 1
    first.current_epoch = 1  # a checkpoint is written at the end of an epoch
    steps = []
    for trainer in (first, second):
        seed_everything(2)
        trainer.on_train_epoch_start()
        losses = trainer.train_step(tiny.batch_with_everything(trainer, seed=2))
        assert np.isfinite(list(losses.values())).all()
        state = {f"network.{key}": value for key, value in unwrap(trainer.network).state_dict().items()}
        steps.append((losses, state | {f"aux.{key}": value for key, value in trainer.aux.state_dict().items()}))
    (losses, state), (again, restored) = steps
    assert again == losses
    assert state.keys() == restored.keys()
    assert [key for key in state if not torch.equal(state[key], restored[key])] == []
