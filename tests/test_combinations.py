"""Combinations: the terms of both methods, the network of the one that is wrapped."""

import numpy as np
import pytest
import torch

from nnunet_ext.attenscribble.trainer import CRF, MaskedCRF
from nnunet_ext.catalogue import TRAINERS, in_tier, resolve
from nnunet_ext.combinations import nnUNetTrainerMaskedCRFPnPNet, nnUNetTrainerMedContextPnPNet
from nnunet_ext.errors import InputError
from nnunet_ext.medcontext.trainer import MedContext
from nnunet_ext.partial_labels.trainer import PartialLabels
from tests import tiny

TOGETHER = {
    (MaskedCRF, "nnUNetTrainerPnPNet"): nnUNetTrainerMaskedCRFPnPNet,
    (MedContext, "nnUNetTrainerPnPNet"): nnUNetTrainerMedContextPnPNet,
    **{
        (MedContext, name): type("Own", (MedContext, resolve(name)), {})
        for name in ("nnUNetTrainerMaskedCRF", "nnUNetTrainerAttenScribble")
    },
}
"""Combinations of the catalogue, and two that users make in two lines. They hold BaBLoss and partial labels, too."""


def step(trainer):
    torch.manual_seed(0)
    return trainer.train_step(tiny.batch(trainer))


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize(("around", "inner"), TOGETHER, ids=[f"{a.__name__}-{inner}" for a, inner in TOGETHER])
def test_the_terms_are_those_of_both_and_the_network_is_that_of_the_wrapped(make_trainer, around, inner, configuration):
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        settings["nnunet_ext"]["pnpnet"] = {"push": True}  # PnPNet with both branches; others do not read it
    alone = make_trainer(inner, kind="ignore", configuration=configuration, plans=plans)
    together = make_trainer(TOGETHER[around, inner], kind="ignore", configuration=configuration, plans=plans)
    assert together.network.state_dict().keys() == alone.network.state_dict().keys()
    terms, values = set(step(alone)) - {"loss"}, step(together)
    if around is MedContext:
        terms |= {"loss_consistency", "stat_sure"}
    else:
        terms |= {f"loss_{CRF}", "stat_gate", "stat_annotated"}
    assert values.keys() == terms | {"loss"}
    assert np.isfinite(list(values.values())).all()
    assert all(p.isfinite().all() for p in together.network.parameters())


def test_the_crf_loss_teaches_the_network_that_it_is_put_around(make_trainer):
    trainer = make_trainer("nnUNetTrainerMaskedCRFPnPNet", kind="ignore", configuration="2d")
    trainer.current_epoch = trainer.num_epochs - 1
    trainer.gate.probability.fill_(1)
    terms = next(trainer.loss_passes(trainer.prepare_batch(tiny.batch(trainer))))
    assert (trainer.gate.openness == 1).all()
    trainer.network.zero_grad()
    (trainer.term_weight(CRF) * terms[CRF]).backward()
    pulled = [
        p.grad for n, p in trainer.network.named_parameters() if n.startswith(("pull.", "push.")) and p.requires_grad
    ]
    assert pulled
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in pulled)


@pytest.mark.parametrize("around", [MaskedCRF, PartialLabels])
def test_losses_of_patches_do_not_go_around_clips_of_slices(make_trainer, around):
    with pytest.raises(InputError, match="nnUNetTrainerOwn trains on clips of slices, which losses for scribbles and"):
        make_trainer(
            type("nnUNetTrainerOwn", (around, resolve("nnUNetTrainerS2VNet")), {}), kind="ignore", configuration="2d"
        )


def test_every_combination_is_in_the_catalogue():
    from nnunet_ext import combinations

    made = {
        name for name, value in vars(combinations).items() if getattr(value, "__module__", "") == combinations.__name__
    }
    assert made == {name for name, entry in TRAINERS.items() if entry.location.startswith("nnunet_ext.combinations:")}
    assert made == set(in_tier("combinations")) - {"nnUNetTrainerMedContextPrimusS"}  # around a trainer of nnU-Net
