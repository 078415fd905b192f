"""``-pretrained_weights``: stock weights into networks with added modules, and between those."""

import sys

import nnunetv2.run.run_training as run_training
import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights as stock_function
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.catalogue import TRAINERS, resolve
from nnunet_ext.errors import InputError
from nnunet_ext.export.planned import stock_trainer
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


def test_another_architecture_gets_one_clear_sentence_and_changes_nothing(make_trainer, tmp_path, capsys):
    plans = tiny.plans()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 10]
    other = make_trainer(nnUNetTrainer, plans=plans)
    other.save_checkpoint(str(tmp_path / "other.pth"))
    ours = make_trainer("nnUNetTrainerPnPNet")
    before = {k: v.clone() for k, v in ours.network.state_dict().items()}
    capsys.readouterr()
    with pytest.raises(InputError) as caught:
        load_pretrained_weights(ours.network, tmp_path / "other.pth")
    message = str(caught.value)
    assert f"({tiny.DATASET}, nnUNetTrainer, nnUNetPlans, 3d_fullres) does not fit the planned network" in message
    assert "nnUNetv2_move_plans_between_datasets" in message
    assert "(10, 6, 3, 3, 3) in the checkpoint, (8, 6, 3, 3, 3) here" in message
    listed = capsys.readouterr().out.splitlines()
    assert f"{sum('encoder.' in line or 'decoder.' in line for line in listed)} of " in message
    assert all(torch.equal(v, before[k]) for k, v in ours.network.state_dict().items())


def test_the_function_is_replaced_only_where_nnunet_calls_it(make_trainer):
    original = sys.modules["nnunetv2.run.load_pretrained_weights"].load_pretrained_weights
    make_trainer("nnUNetTrainerPnPNet")
    assert run_training.load_pretrained_weights.func is load_pretrained_weights
    assert run_training.load_pretrained_weights.keywords == {"channels": ["MRI"]}
    assert sys.modules["nnunetv2.run.load_pretrained_weights"].load_pretrained_weights is original


def everything(kind, more=False):
    """A dataset.json with which every trainer can be built; ``more``: one more class and landmark."""
    labels = {"background": 0, "left": 1, "right": 2, **({"middle": 3} if more else {})}
    if kind == "ignore":
        labels["ignore"] = len(labels)
    names = ["tip", "top"] if more else ["tip"]
    return {
        "channel_names": {"0": "MRI"},
        "numTraining": 6,
        "file_ending": ".nii.gz",
        "labels": labels,
        "landmarks": {"names": names, "surface_of": {"tip": ["left"]}},
        "annotated_labels": {"tiny_0": ["left"]},
    }


@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_takes_stock_weights_gives_its_own_and_changes_its_classes(
    make_trainer, monkeypatch, tmp_path, name
):
    kind, configuration = tiny.kind_for(name), tiny.configurations_for(name)[0]
    monkeypatch.setattr(tiny, "dataset_json", everything)
    stock = make_trainer(stock_trainer(resolve(name)), configuration=configuration, kind=kind, seed=1)
    ours = make_trainer(name, configuration=configuration, kind=kind, seed=2)

    stock.save_checkpoint(str(tmp_path / "stock.pth"))
    maybe_load_checkpoint(ours, False, False, str(tmp_path / "stock.pth"))
    transferred = [key for key in stock.network.state_dict() if ".seg_layers." not in key]
    assert all(torch.equal(ours.network.state_dict()[key], stock.network.state_dict()[key]) for key in transferred)

    ours = make_trainer(name, configuration=configuration, kind=kind, seed=3)
    ours.save_checkpoint(str(tmp_path / "ours.pth"))
    monkeypatch.setattr(run_training, "load_pretrained_weights", stock_function)
    maybe_load_checkpoint(stock, False, False, str(tmp_path / "ours.pth"))
    assert all(torch.equal(ours.network.state_dict()[key], stock.network.state_dict()[key]) for key in transferred)

    monkeypatch.setattr(tiny, "dataset_json", lambda kind: everything(kind, more=True))
    finer = make_trainer(name, configuration=configuration, kind=kind, seed=4)
    before = {key: value.clone() for key, value in finer.network.state_dict().items()}
    maybe_load_checkpoint(finer, False, False, str(tmp_path / "ours.pth"))
    old, new = ours.network.state_dict(), finer.network.state_dict()
    assert old.keys() == new.keys()
    for key, value in new.items():
        kept = ".seg_layers." in key or old[key].shape != value.shape
        assert torch.equal(value, before[key] if kept else old[key]), key
        assert kept <= (not key.startswith(("encoder.", "eva.")))


def test_what_is_not_transferred_is_listed(make_trainer, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tiny, "dataset_json", everything)
    first = make_trainer("nnUNetTrainerBaBLoss", configuration="2d", kind="ignore")
    first.save_checkpoint(str(tmp_path / "c.pth"))
    monkeypatch.setattr(tiny, "dataset_json", lambda kind: everything(kind, more=True))
    second = make_trainer("nnUNetTrainerBaBLoss", configuration="2d", kind="ignore")
    capsys.readouterr()
    load_pretrained_weights(second.network, tmp_path / "c.pth")
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [
        "  landmark_decoder.head.weight: (1, 6, 1, 1) in the checkpoint, (2, 6, 1, 1) here",
        "  landmark_decoder.head.bias: (1,) in the checkpoint, (2,) here",
    ]
    third = make_trainer("nnUNetTrainerPnPNet", configuration="2d")
    load_pretrained_weights(third.network, tmp_path / "c.pth")
    assert "In the checkpoint, but not in this network: landmark_decoder" in capsys.readouterr().out


def test_two_and_three_dimensions_are_told_apart(make_trainer, tmp_path):
    make_trainer(nnUNetTrainer, configuration="2d").save_checkpoint(str(tmp_path / "c.pth"))
    ours = make_trainer("nnUNetTrainerPnPNet", configuration="3d_fullres")
    with pytest.raises(InputError, match="it is of a 2D network, and this one is 3D; choose the configuration"):
        load_pretrained_weights(ours.network, tmp_path / "c.pth")


def first_weights(network):
    """Weights of the convolution that sees the image."""
    return next(value for value in network.encoder.state_dict().values() if value.ndim > 2)


def saved_with(tmp_path, channels, names=None, residual=False):
    """A checkpoint of a network with so many channels, and its first weights."""
    torch.manual_seed(1)
    network = tiny.network(2, channels=channels, residual=residual)
    description = {"channel_names": {str(i): name for i, name in enumerate(names)}} if names else {}
    checkpoint = {"network_weights": network.state_dict(), "init_args": {"dataset_json": description}}
    torch.save(checkpoint, tmp_path / "c.pth")
    return network


@pytest.mark.parametrize("residual", [False, True])
def test_new_channels_begin_with_the_mean_of_the_known_ones(tmp_path, capsys, residual):
    before = saved_with(tmp_path, 2, residual=residual)
    network = tiny.network(2, channels=3, residual=residual)
    load_pretrained_weights(network, tmp_path / "c.pth")
    old, new = first_weights(before), first_weights(network)
    assert torch.equal(new[:, :2], old)
    torch.testing.assert_close(new[:, 2], (old[:, 0] + old[:, 1]) / 2)
    rest = {k: v for k, v in network.state_dict().items() if v.shape != new.shape and ".seg_layers." not in k}
    assert all(torch.equal(value, before.state_dict()[key]) for key, value in rest.items())
    assert "input channel 2: weights of the mean of all 2 channels of the checkpoint" in capsys.readouterr().out


def test_channels_are_found_by_name(tmp_path, capsys):
    old = first_weights(saved_with(tmp_path, 3, ["T1", "T2", "FLAIR"]))
    network = tiny.network(2, channels=3)
    load_pretrained_weights(network, tmp_path / "c.pth", channels=["FLAIR", "DWI", "T1"])
    new = first_weights(network)
    assert torch.equal(new[:, 0], old[:, 2])
    torch.testing.assert_close(new[:, 1], old.mean(1))
    assert torch.equal(new[:, 2], old[:, 0])
    printed = capsys.readouterr().out
    assert "input channel FLAIR: weights of channel FLAIR of the checkpoint" in printed
    assert "not used: the weights of channel T2 of the checkpoint" in printed


@pytest.mark.parametrize("names", [None, ["A", "A"], ["A", "B"]], ids=["unknown", "twice", "none in common"])
def test_without_names_in_common_the_order_counts(tmp_path, names):
    old = first_weights(saved_with(tmp_path, 2, names))
    network = tiny.network(2, channels=1)
    load_pretrained_weights(network, tmp_path / "c.pth", channels=["MRI"])
    assert torch.equal(first_weights(network), old[:, :1])


def test_the_same_channels_are_taken_as_they_are(tmp_path, capsys):
    old = first_weights(saved_with(tmp_path, 2, ["T1", "T2"]))
    network = tiny.network(2, channels=2)
    load_pretrained_weights(network, tmp_path / "c.pth", channels=["T1", "T2"])
    assert torch.equal(first_weights(network), old)
    assert "input channel" not in capsys.readouterr().out


def test_names_that_ddp_and_compile_give_are_understood(make_trainer, tmp_path):
    network = make_trainer(nnUNetTrainer, configuration="2d", seed=1).network.state_dict()
    torch.save({"network_weights": {f"module._orig_mod.{k}": v for k, v in network.items()}}, tmp_path / "c.pth")
    ours = make_trainer("nnUNetTrainerMedContext", configuration="2d", seed=2)
    load_pretrained_weights(ours.network, tmp_path / "c.pth")
    assert all(torch.equal(v, network[k]) for k, v in ours.network.state_dict().items() if ".seg_layers." not in k)


def test_other_checkpoints_get_one_sentence(make_trainer, tmp_path):
    ours = make_trainer("nnUNetTrainerPnPNet", configuration="2d")
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "c.pth")
    with pytest.raises(InputError, match="is no checkpoint of nnU-Net: it holds state_dict, epoch, but the weights"):
        load_pretrained_weights(ours.network, tmp_path / "c.pth")
    torch.save({"network_weights": {"vit.weight": torch.zeros(3)}}, tmp_path / "c.pth")
    with pytest.raises(InputError, match="not in the checkpoint"):
        load_pretrained_weights(ours.network, tmp_path / "c.pth")
    with pytest.raises(InputError, match="has no tensor in common with this network"):
        load_pretrained_weights(torch.nn.Linear(1, 1), tmp_path / "c.pth")
