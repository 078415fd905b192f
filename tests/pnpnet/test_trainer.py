"""The trainers: every label regime, the plans' options, and the sentences for plans that cannot work."""

from typing import ClassVar

import numpy as np
import pytest
import torch

from nnunet_ext.catalogue import resolve
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.trainer import CHECKPOINT_KEY
from nnunet_ext.planning import load_presets
from nnunet_ext.pnpnet.network import Pulled
from nnunet_ext.pnpnet.trainer import nnUNetTrainerPnPNet
from tests import tiny


class BothBranches(nnUNetTrainerPnPNet):
    """PnPNet as ``push`` in the plans makes it."""

    fixed_options: ClassVar = {"pnpnet": {"push": True}}


TRAINERS = ["nnUNetTrainerPnPNet", "nnUNetTrainerSDM", BothBranches, "nnUNetTrainerPnPNetPaper"]


@pytest.mark.parametrize("kind", tiny.LABELS)
@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_trains_and_validates_on_every_kind_of_labels(make_trainer, name, configuration, kind):
    trainer = make_trainer(name, kind=kind, configuration=configuration)
    trainer.network.train()
    losses = [trainer.train_step(tiny.batch(trainer)) for _ in range(3)]
    assert all(np.isfinite(list(step.values())).all() for step in losses)
    own = {"nnUNetTrainerSDM": set(), "nnUNetTrainerPnPNetPaper": {"loss_centers"}}.get(name, {"loss_pull"})
    assert losses[0].keys() == {"loss", "loss_segmentation"} | own
    trainer.network.eval()
    with torch.no_grad():
        result = trainer.validation_step(tiny.batch(trainer))
    foreground = 2
    assert result["tp_hard"].shape == (foreground,)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_batch_without_any_annotated_voxel_is_finite_and_has_the_same_terms(make_trainer, name):
    trainer = make_trainer(name, kind="ignore")
    trainer.network.train()
    ordinary = trainer.train_step(tiny.batch(trainer))
    batch = tiny.batch(trainer)
    targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
    for target in targets:
        target.fill_(3)
    empty = trainer.train_step(batch)
    assert empty.keys() == ordinary.keys()
    assert np.isfinite(list(empty.values())).all()
    assert all(p.isfinite().all() for p in trainer.network.parameters())


@pytest.mark.parametrize("name", TRAINERS)
def test_the_network_for_inference_is_rebuilt_from_the_saved_plans_alone(make_trainer, name):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    for kind in ("classes", "regions"):
        trainer = make_trainer(name, kind=kind)
        manager = PlansManager(trainer.plans_manager.plans)
        rebuilt = type(trainer).build_network_architecture(
            manager, manager.get_configuration("3d_fullres"), 1, trainer.label_manager.num_segmentation_heads, False
        )
        rebuilt.load_state_dict(trainer.network.state_dict(), strict=True)
        trainer.set_deep_supervision_enabled(False)
        x = torch.randn(1, 1, 16, 16, 16)
        with torch.no_grad():
            assert torch.equal(rebuilt.eval()(x), trainer.network.eval()(x))


@pytest.mark.parametrize("name", TRAINERS[:3])
def test_the_published_modules_are_an_option_with_their_centre_loss(make_trainer, name):
    plans = tiny.plans()
    plans["configurations"]["3d_fullres"]["nnunet_ext"] = {"pnpnet": {"published": True}}
    trainer = make_trainer(name, plans=plans)
    trainer.network.train()
    step = trainer.train_step(tiny.batch(trainer))
    own = set() if name == "nnUNetTrainerSDM" else {"loss_centers"}
    assert step.keys() == {"loss", "loss_segmentation"} | own
    assert np.isfinite(list(step.values())).all()
    assert set(trainer.aux) == ({"centers"} if own else set())


def test_cascades_only_have_more_input_channels(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    trainer = make_trainer("nnUNetTrainerPnPNet", configuration="3d_cascade_fullres", plans=plans)
    assert trainer.num_input_channels == 3
    assert np.isfinite(trainer.train_step(tiny.batch(trainer))["loss"])


def test_the_plans_choose_options_and_unknown_ones_get_one_clear_sentence(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["3d_fullres"]["nnunet_ext"] = {"pnpnet": {"push": True, "dim": 16, "levels": [0]}}
    network = make_trainer("nnUNetTrainerPnPNet", plans=plans).network
    assert list(network.push) == ["0"]
    assert network.pull.atlas.queries.shape == (3, 16)
    plans["configurations"]["3d_fullres"]["nnunet_ext"]["pnpnet"] = {"dims": 16}
    with pytest.raises(InputError, match=r"unknown pnpnet options \['dims'\]; known are"):
        make_trainer("nnUNetTrainerPnPNet", plans=plans)


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("preset", ["cpu", "pnpnet"])
def test_every_trainer_trains_with_every_preset(make_trainer, name, preset):
    plans = tiny.plans(**{"2d": tiny.configuration(2, features=(4, 6, 8, 8))})
    plans["configurations"]["2d"]["nnunet_ext"] = load_presets()[preset]["options"]
    trainer = make_trainer(name, configuration="2d", plans=plans)
    trainer.network.train()
    assert np.isfinite(trainer.train_step(tiny.batch(trainer))["loss"])


def test_batch_norm_with_batch_size_one_gets_one_clear_sentence(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["3d_fullres"]["batch_size"] = 1
    with pytest.raises(InputError, match=r"nnUNetTrainerPnPNetPaper has BatchNorm, .* batch size 1.*--batch-size 2"):
        make_trainer("nnUNetTrainerPnPNetPaper", plans=plans)
    make_trainer("nnUNetTrainerPnPNet", plans=plans)


def test_a_network_of_one_stage_gets_one_clear_sentence(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["3d_fullres"]["architecture"] = tiny.architecture(features=(4,))
    with pytest.raises(InputError, match=r"1 stage, which has no skip connection .* at least 2 stages"):
        make_trainer("nnUNetTrainerPnPNet", plans=plans)


def test_a_primus_plan_gets_one_clear_sentence(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["3d_fullres"]["architecture"] = {
        "network_class_name": "dynamic_network_architectures.architectures.primus.PrimusS",
        "arch_kwargs": {"input_shape": [16, 16, 16], "patch_embed_size": [8, 8, 8]},
        "_kw_requires_import": [],
    }
    with pytest.raises(InputError, match=r"network PrimusS has no U-Net stages.*use nnUNetPlans"):
        make_trainer("nnUNetTrainerPnPNet", plans=plans)


def test_every_training_starts_as_stock_nnunet(make_trainer):
    """The same seed, hence the same planned weights: the first logits are those of the reference."""
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        expected = make_trainer("nnUNetTrainerReference").network.eval()(x)
        for name in TRAINERS[:3]:
            got = make_trainer(name).network.eval()(x)
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("kind", tiny.LABELS)
def test_the_pull_term_is_nnunets_loss_on_every_map(make_trainer, kind):
    trainer = make_trainer("nnUNetTrainerPnPNet", kind=kind)
    target = tiny.batch(trainer)["target"][0]
    maps = [torch.randn(2, trainer.labels.num_heads, size, size, size) for size in (8, 4)]
    losses = [trainer.loss.loss(found, trainer.labels.resize(target, found.shape[2:])) for found in maps]
    expected = (losses[0] + 0.5 * losses[1]) / 1.5
    torch.testing.assert_close(trainer.pulled_terms(Pulled(maps), target)["pull"], expected)
    assert trainer.term_weight("pull") == trainer.options.pnpnet.pull_weight


@pytest.mark.parametrize("epochs", [30, 80, 12, 631, 1000])
def test_no_published_training_ends_at_a_high_learning_rate(make_trainer, epochs):
    trainer = make_trainer(type("Short", (resolve("nnUNetTrainerPnPNetPaper"),), {"fixed_num_epochs": epochs}))
    trainer.lr_scheduler.step(epochs - 1)
    assert trainer.optimizer.param_groups[0]["lr"] < 0.04 * 5e-4


def test_the_published_optimiser_restarts_every_25_epochs_and_is_restored(make_trainer, tmp_path):
    trainer = make_trainer("nnUNetTrainerPnPNetPaper")
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert not trainer.enable_deep_supervision
    rates = []
    for epoch in (0, 24, 25):
        trainer.current_epoch = epoch
        trainer.lr_scheduler.step(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[2] == 5e-4
    assert rates[1] < 1e-5
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    saved = torch.load(tmp_path / "c.pth", weights_only=False)
    assert not any("centers" in key for key in saved["network_weights"])
    assert any(key.startswith("centers.project") for key in saved[CHECKPOINT_KEY]["aux"])
    restored = make_trainer("nnUNetTrainerPnPNetPaper", seed=1)
    restored.load_checkpoint(str(tmp_path / "c.pth"))
    for a, b in zip(trainer.aux.parameters(), restored.aux.parameters(), strict=True):
        assert torch.equal(a, b)


def test_golden_losses_in_2d_and_3d(make_trainer):
    """The first loss of seeded weights on a seeded batch; a change here is a change of the method."""
    got = {}
    for configuration in ("2d", "3d_fullres"):
        plans = tiny.plans()
        plans["configurations"][configuration]["nnunet_ext"] = {"pnpnet": {"push": True, "width": 32, "dim": 64}}
        trainer = make_trainer("nnUNetTrainerPnPNet", configuration=configuration, plans=plans)
        trainer.network.train()
        step = trainer.train_step(tiny.batch(trainer))
        got[configuration] = (float(step["loss_segmentation"]), float(step["loss_pull"]))
    expected = {"2d": (0.8396, 0.9511), "3d_fullres": (0.8446, 0.9482)}
    for configuration, values in expected.items():
        assert got[configuration] == pytest.approx(values, abs=2e-3), got
