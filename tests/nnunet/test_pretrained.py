"""``-pretrained_weights``: stock weights into networks with added modules, and between those."""

import sys

import nnunetv2.run.run_training as run_training
import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.pretrained import load_pretrained_weights
from tests import tiny


@pytest.fixture(autouse=True)
def _restore_nnunets_function(monkeypatch):
    monkeypatch.setattr(run_training, "load_pretrained_weights", run_training.load_pretrained_weights)


def planned_tensors(trainer):
    return {k: v for k, v in trainer.network.state_dict().items() if k.startswith(("encoder.", "decoder."))}


def test_stock_weights_load_into_the_planned_part_through_nnunets_own_path(make_trainer, tmp_path):
    stock = make_trainer(nnUNetTrainer, seed=1)
    stock.save_checkpoint(str(tmp_path / "stock.pth"))
    ours = make_trainer("nnUNetTrainerPnPNet", seed=2)
    neck = {k: v.clone() for k, v in ours.network.state_dict().items() if k.startswith(("push.", "pull."))}
    maybe_load_checkpoint(ours, False, False, str(tmp_path / "stock.pth"))
    for key, value in planned_tensors(ours).items():
        if ".seg_layers." not in key:
            assert torch.equal(value, stock.network.state_dict()[key]), key
    assert all(torch.equal(ours.network.state_dict()[key], value) for key, value in neck.items())


def test_our_weights_load_into_ours_with_the_added_modules(make_trainer, tmp_path):
    first = make_trainer("nnUNetTrainerPnPNet", seed=1)
    first.save_checkpoint(str(tmp_path / "c.pth"))
    second = make_trainer("nnUNetTrainerPnPNet", seed=2)
    load_pretrained_weights(second.network, tmp_path / "c.pth")
    for key, value in second.network.state_dict().items():
        if ".seg_layers." not in key:
            assert torch.equal(value, first.network.state_dict()[key]), key


def test_our_weights_load_into_stock(make_trainer, tmp_path):
    ours = make_trainer("nnUNetTrainerPnPNet", seed=1)
    ours.save_checkpoint(str(tmp_path / "c.pth"))
    stock = make_trainer(nnUNetTrainer, seed=2)
    maybe_load_checkpoint(stock, False, False, str(tmp_path / "c.pth"))
    weights = ours.network.state_dict()
    for key, value in stock.network.state_dict().items():
        if ".seg_layers." not in key:
            assert torch.equal(value, weights[key]), key


def test_another_architecture_gets_one_clear_sentence_and_changes_nothing(make_trainer, tmp_path):
    plans = tiny.plans()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 10]
    other = make_trainer(nnUNetTrainer, plans=plans)
    other.save_checkpoint(str(tmp_path / "other.pth"))
    ours = make_trainer("nnUNetTrainerPnPNet")
    before = {k: v.clone() for k, v in ours.network.state_dict().items()}
    with pytest.raises(InputError, match=r"does not fit the planned network: .* expected .*; use a checkpoint"):
        load_pretrained_weights(ours.network, tmp_path / "other.pth")
    assert all(torch.equal(v, before[k]) for k, v in ours.network.state_dict().items())


def test_the_function_is_replaced_only_where_nnunet_calls_it(make_trainer):
    original = sys.modules["nnunetv2.run.load_pretrained_weights"].load_pretrained_weights
    make_trainer("nnUNetTrainerPnPNet")
    assert run_training.load_pretrained_weights is load_pretrained_weights
    assert sys.modules["nnunetv2.run.load_pretrained_weights"].load_pretrained_weights is original
