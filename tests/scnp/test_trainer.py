"""The trainer: nnU-Net's loss on penalised logits, for every kind of labels, and around other trainers."""

import numpy as np
import pytest
import torch

from nnunet_ext.catalogue import resolve
from nnunet_ext.scnp.loss import SameClassNeighbours, worst_neighbours
from nnunet_ext.scnp.trainer import SCNP
from tests import tiny


@pytest.mark.parametrize("kind", tiny.LABELS)
@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_it_trains_and_validates_on_every_kind_of_labels(make_trainer, configuration, kind):
    trainer = make_trainer("nnUNetTrainerSCNP", kind=kind, configuration=configuration)
    trainer.network.train()
    losses = [trainer.train_step(tiny.batch(trainer)) for _ in range(3)]
    assert all(np.isfinite(list(step.values())).all() for step in losses)
    assert losses[0].keys() == {"loss", "loss_segmentation"}
    trainer.network.eval()
    with torch.no_grad():
        assert trainer.validation_step(tiny.batch(trainer))["tp_hard"].shape == (2,)


@pytest.mark.parametrize("kind", tiny.LABELS)
def test_the_loss_is_nnunets_on_penalised_logits_at_every_resolution(make_trainer, kind):
    stock, ours = (make_trainer(name, kind=kind) for name in ("nnUNetTrainerReference", "nnUNetTrainerSCNP"))
    batch, labels = tiny.batch(ours), ours.labels
    logits = [torch.randn(2, labels.num_heads, *target.shape[2:]) for target in batch["target"]]
    penalised = [
        worst_neighbours(x, labels.one_hot(target), labels.annotated(target))
        for x, target in zip(logits, batch["target"], strict=True)
    ]
    torch.testing.assert_close(ours.loss(logits, batch["target"]), stock.loss(penalised, batch["target"]))
    assert ours.loss(logits, batch["target"]) > stock.loss(logits, batch["target"])


def test_without_deep_supervision_it_wraps_the_loss_itself(make_trainer):
    class Shallow(resolve("nnUNetTrainerSCNP")):
        hyperparameters = {"enable_deep_supervision": False}  # noqa: RUF012

    trainer = make_trainer(Shallow)
    assert isinstance(trainer.loss, SameClassNeighbours)
    assert np.isfinite(trainer.train_step(tiny.batch(trainer))["loss"])


def test_a_batch_without_any_annotated_voxel_is_finite(make_trainer):
    trainer = make_trainer("nnUNetTrainerSCNP", kind="ignore")
    batch = tiny.batch(trainer)
    for target in batch["target"]:
        target.fill_(3)
    assert np.isfinite(trainer.train_step(batch)["loss"])
    assert all(p.isfinite().all() for p in trainer.network.parameters())


def test_it_goes_around_other_trainers(make_trainer):
    trainer = make_trainer(type("Wrapped", (SCNP, resolve("nnUNetTrainerPnPNet")), {}))
    step = trainer.train_step(tiny.batch(trainer))
    assert np.isfinite(step["loss"])
    assert {"loss_segmentation", "loss_pull"} <= step.keys()
    assert any(isinstance(module, SameClassNeighbours) for module in trainer.loss.modules())


def test_the_network_is_the_planned_one(make_trainer):
    assert type(make_trainer("nnUNetTrainerSCNP").network).__name__ == "PlainConvUNet"
