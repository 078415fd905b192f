"""The common trainer: stock nnU-Net plus named terms, auxiliary modules, schedules and whole checkpoints."""

import copy
import json
import os
import weakref
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.trainer import CHECKPOINT_KEY, CommonTrainer
from tests import tiny


@pytest.mark.parametrize("kind", tiny.LABELS)
@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_the_reference_trainer_computes_the_losses_of_stock_nnunet_bit_for_bit(make_trainer, kind, configuration):
    stock = make_trainer(nnUNetTrainer, kind=kind, configuration=configuration)
    ours = make_trainer("nnUNetTrainerReference", kind=kind, configuration=configuration)
    for step in range(3):
        expected = stock.train_step(tiny.batch(stock, seed=step))["loss"]
        got = ours.train_step(tiny.batch(ours, seed=step))
        assert got["loss"] == expected
        assert got["loss_segmentation"] == expected
    for a, b in zip(stock.network.parameters(), ours.network.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["ignore", "regions+ignore"])
def test_with_an_ignore_label_the_log_says_on_how_many_voxels_the_dice_is(make_trainer, kind, capsys):
    trainer = make_trainer("nnUNetTrainerReference", kind=kind)
    trainer.network.eval()
    batch = tiny.batch(trainer)
    share = trainer.labels.annotated(batch["target"][0]).float().mean().item()
    assert 0.1 < share < 0.9
    with torch.no_grad():
        outputs = [trainer.validation_step(batch)]
    trainer.on_validation_epoch_end(outputs)
    assert f"Pseudo dice is on annotated voxels only, {share:.1%}" in capsys.readouterr().out


class TrainerWithTerms(CommonTrainer):
    """Two terms, one of them from an auxiliary module with parameters."""

    term_weights: ClassVar = {"extra": 0.5}

    def build_aux(self):
        return {"head": nn.Linear(1, 1, bias=False)}

    def compute_terms(self, output, batch):
        terms = super().compute_terms(output, batch)
        return {**terms, "extra": self.aux["head"](torch.ones(1, 1)).sum()}


def test_terms_are_weighted_and_returned_by_name(make_trainer):
    trainer = make_trainer(TrainerWithTerms)
    result = trainer.train_step(tiny.batch(trainer))
    assert result["loss"] == pytest.approx(result["loss_segmentation"] + 0.5 * result["loss_extra"], abs=1e-6)


def test_auxiliary_parameters_are_optimised_but_are_no_network_weights(make_trainer, tmp_path):
    trainer = make_trainer(TrainerWithTerms)
    before = trainer.aux["head"].weight.item()
    trainer.train_step(tiny.batch(trainer))
    assert trainer.aux["head"].weight.item() != before
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    checkpoint = torch.load(tmp_path / "c.pth", weights_only=False)
    stock = make_trainer(nnUNetTrainer)
    assert checkpoint["network_weights"].keys() == stock.network.state_dict().keys()
    assert list(checkpoint[CHECKPOINT_KEY]["aux"]) == ["head.weight"]


def test_a_restored_training_continues_as_if_it_had_not_been_interrupted(make_trainer, tmp_path):
    trainer = make_trainer(TrainerWithTerms)
    trainer.train_step(tiny.batch(trainer))
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    restored = make_trainer(TrainerWithTerms, seed=1)
    restored.load_checkpoint(str(tmp_path / "c.pth"))
    for step in range(1, 3):
        expected = trainer.train_step(tiny.batch(trainer, seed=step))
        assert restored.train_step(tiny.batch(restored, seed=step)) == expected


@pytest.mark.parametrize("name", ["nnUNetTrainerReference", "nnUNetTrainerS2VNet"])
def test_a_network_of_two_stages_has_finite_losses(make_trainer, name):
    plans = tiny.plans(**{"2d": tiny.configuration(2, features=(4, 6))})
    trainer = make_trainer(name, configuration="2d", plans=plans)
    assert all(np.isfinite(value) for value in trainer.train_step(tiny.batch(trainer)).values())
    trainer.network.eval()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(tiny.batch(trainer))["loss"])


def test_a_restored_training_knows_how_good_the_best_epoch_was(make_trainer):
    trainer = make_trainer("nnUNetTrainerReference", configuration="2d")
    trainer.num_epochs, trainer.save_every = 3, 1
    trainer.logger.plot_progress_png = lambda _: None

    def epoch(trainer, dice):
        trainer.on_epoch_start()
        for name, value in {"mean_fg_dice": dice, "dice_per_class_or_region": [dice] * 2}.items():
            trainer.logger.log(name, value, trainer.current_epoch)
        for name in ("train_losses", "val_losses", "lrs"):
            trainer.logger.log(name, 0.0, trainer.current_epoch)
        trainer.on_epoch_end()

    epoch(trainer, 0.9)
    folder = Path(trainer.output_folder)
    # nnU-Net writes it before it looks whether the epoch was the best one
    assert torch.load(folder / "checkpoint_latest.pth", weights_only=False)["_best_ema"] is None
    restored = make_trainer("nnUNetTrainerReference", configuration="2d", seed=1)
    restored.load_checkpoint(str(folder / "checkpoint_latest.pth"))
    assert restored._best_ema == 0.9
    restored.num_epochs, restored.save_every = 3, 1
    restored.logger.plot_progress_png = lambda _: None
    epoch(restored, 0.1)
    assert torch.load(folder / "checkpoint_best.pth", weights_only=False)["current_epoch"] == 1


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_and_no_temporary_file(
    make_trainer, tmp_path, monkeypatch
):
    trainer = make_trainer("nnUNetTrainerReference")
    file = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    good = file.read_bytes()

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == good
    assert os.listdir(tmp_path).count("checkpoint_latest.pth") == 1
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_no_checkpoint_is_written_when_checkpointing_is_disabled(make_trainer, tmp_path):
    trainer = make_trainer("nnUNetTrainerReference")
    trainer.disable_checkpointing = True
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    assert not (tmp_path / "c.pth").exists()


@pytest.mark.progress_plots
def test_the_mean_of_every_term_is_logged_and_the_progress_plot_still_works(make_trainer, tmp_path):
    trainer = make_trainer(TrainerWithTerms)
    log = trainer.logger.local_logger.my_fantastic_logging
    for epoch in range(2):
        trainer.current_epoch = epoch
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([{"loss": np.float32(1), "loss_extra": np.float32(v)} for v in (1.0, 3.0)])
        for key in ("mean_fg_dice", "val_losses"):
            trainer.logger.log(key, 0.5, epoch)
        trainer.logger.log("dice_per_class_or_region", [0.5, 0.5], epoch)
        trainer.logger.log("epoch_end_timestamps", log["epoch_start_timestamps"][-1] + 1, epoch)
    assert log["loss_extra"] == [2.0, 2.0]
    trainer.logger.plot_progress_png(str(tmp_path))
    assert (tmp_path / "progress.png").stat().st_size > 0
    assert "train loss 1.0000 = 0.5 × 2.0000 extra" in Path(trainer.log_file).read_text()


class TrainerWithTwoPasses(CommonTrainer):
    """The ordinary pass, then one on the mirrored image, in every second step."""

    term_weights: ClassVar = {"mirrored": 0.25}

    def initialize(self):
        super().initialize()
        self.steps = 0

    def loss_passes(self, batch):
        output = self.run_network(self.network_input(batch), batch)
        yield self.compute_terms(output, batch)
        del output
        self.between_the_passes()
        if self.steps % 2 == 0:
            yield {"mirrored": self.loss(self.network(batch["data"].flip(2)), batch["target"])}

    def between_the_passes(self):
        """For the test to look."""

    def after_step(self):
        assert any(not torch.equal(p, before) for p, before in zip(self.network.parameters(), self.before, strict=True))
        self.steps += 1


def test_gradients_of_several_passes_are_those_of_the_summed_loss_and_every_graph_is_freed_in_time(make_trainer):
    trainer, reference = make_trainer(TrainerWithTwoPasses), make_trainer("nnUNetTrainerReference")
    batch, seen, held = tiny.batch(trainer), [], []
    trainer.before = [p.detach().clone() for p in trainer.network.parameters()]
    trainer._clip_gradients = lambda: seen.extend(copy.deepcopy(p.grad) for p in trainer.network.parameters())

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor
            alive.add(self)

    alive = weakref.WeakSet()
    trainer.between_the_passes = lambda: held.append(len(alive))
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        result = trainer.train_step(batch)

    network, target = reference.network, batch["target"]
    views = [reference.loss(network(view), target) for view in (batch["data"], batch["data"].flip(2))]
    (views[0] + 0.25 * views[1]).backward()
    for gradient, parameter in zip(seen, network.parameters(), strict=True):
        assert (gradient is None) == (parameter.grad is None)  # of the coarsest segmentation layer, whose weight is 0
        if gradient is not None:
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)
    assert result["loss_mirrored"] == pytest.approx(views[1].item(), rel=1e-6)
    assert result["loss"] == pytest.approx(views[0].item() + 0.25 * views[1].item(), rel=1e-6)
    assert held == [0]


def test_all_passes_of_a_step_have_the_same_gradient_scale(make_trainer):
    """As on a GPU with half precision: gradients are unscaled once, before they are clipped."""
    plain, scaled = make_trainer(TrainerWithTwoPasses), make_trainer(TrainerWithTwoPasses)
    scaled.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for trainer in (plain, scaled):
        trainer.before = [p.detach().clone() for p in trainer.network.parameters()]
    for seed in range(3):
        expected, got = (trainer.train_step(tiny.batch(trainer, seed)) for trainer in (plain, scaled))
        assert [float(value) for value in got.values()] == pytest.approx(
            [float(v) for v in expected.values()], rel=1e-4
        )


def test_a_pass_that_only_some_steps_make_is_logged_as_the_mean_over_these(make_trainer):
    trainer = make_trainer(TrainerWithTwoPasses)
    trainer.before = [p.detach().clone() for p in trainer.network.parameters()]
    steps = [trainer.train_step(tiny.batch(trainer, seed)) for seed in range(3)]
    assert trainer.steps == 3
    assert ["loss_mirrored" in step for step in steps] == [True, False, True]
    for order in (steps, steps[::-1], steps[1:]):
        trainer.logger.local_logger.my_fantastic_logging["train_losses"] = []
        trainer.logger.local_logger.my_fantastic_logging.pop("loss_mirrored", None)
        trainer.logger.local_logger.my_fantastic_logging.pop("loss_segmentation", None)
        trainer.on_train_epoch_end(order)
        expected = np.mean([step["loss_mirrored"] for step in order if "loss_mirrored" in step])
        assert trainer.logger.get_value("loss_mirrored", -1) == pytest.approx(expected)


def test_a_term_that_was_not_logged_before_does_not_trip_nnunets_logger(make_trainer):
    trainer = make_trainer(TrainerWithTerms)
    trainer.current_epoch = 3
    log = trainer.logger.local_logger.my_fantastic_logging
    log["train_losses"] = [0.0] * 3
    trainer.on_train_epoch_end([{"loss": np.float32(1), "loss_extra": np.float32(2)}])
    assert np.isnan(log["loss_extra"][:3]).all()
    assert log["loss_extra"][3] == 2.0


def test_a_term_that_is_missing_for_an_epoch_keeps_its_later_values_in_their_epochs(make_trainer):
    trainer = make_trainer(TrainerWithTerms)
    for epoch in range(3):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_end([{"loss": np.float32(1), **({} if epoch == 1 else {"loss_extra": float(epoch)})}])
    logged = trainer.logger.local_logger.my_fantastic_logging["loss_extra"]
    assert np.array_equal(logged, [0.0, np.nan, 2.0], equal_nan=True)


def test_a_term_that_only_another_process_has_counts_with_the_share_of_all_steps(make_trainer, monkeypatch):
    trainer = make_trainer(TrainerWithTerms)
    monkeypatch.setattr(nnUNetTrainer, "on_train_epoch_end", lambda self, outputs: None)

    def gather(gathered, own):
        gathered[:] = [own, ({"loss_extra": 4.0}, {"loss_extra": 1.0})]

    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    trainer.is_ddp = True
    trainer.logger.log("train_losses", 1.0, 0)
    trainer.on_train_epoch_end([{"loss": np.float32(1)}])
    assert trainer.logger.get_value("loss_extra", -1) == 4.0
    assert (
        "0.25 × 4.0000 extra" in Path(trainer.log_file).read_text()
    )  # its weight is 0.5, and half of the steps had it


def test_an_epoch_without_a_pseudo_dice_does_not_end_the_search_for_the_best(make_trainer, tmp_path):
    """No validation patch of the epoch shows a label, as with few validation iterations."""
    trainer = make_trainer("nnUNetTrainerReference")
    trainer.disable_checkpointing = True
    averages, bests = [], []
    for epoch, (true, wrong) in enumerate([(0, 0), (1, 1), (0, 0), (3, 1)]):
        trainer.current_epoch = epoch
        trainer.on_epoch_start()
        trainer.logger.log("train_losses", 1.0, epoch)
        counts = {"tp_hard": np.array([true]), "fp_hard": np.array([wrong]), "fn_hard": np.array([wrong])}
        trainer.on_validation_epoch_end([{**counts, "loss": np.float32(1)}])
        trainer.on_epoch_end()
        averages.append(trainer.logger.get_value("ema_fg_dice", step=-1))
        bests.append(trainer._best_ema)
    assert np.isnan(averages[0])
    assert averages[1:] == [0.5, 0.5, 0.9 * 0.5 + 0.1 * 0.75]
    assert bests == [None, 0.5, 0.5, averages[3]]
    trainer.disable_checkpointing = False
    trainer.save_checkpoint(str(tmp_path / "latest.pth"))
    restored = make_trainer("nnUNetTrainerReference", seed=1)
    restored.load_checkpoint(str(tmp_path / "latest.pth"))
    assert restored._best_ema == bests[-1]


def test_the_schedule_comes_from_the_plans(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["3d_fullres"]["nnunet_ext"] = {
        "schedule": {"epochs": 7, "iterations": 11, "validation_iterations": 3}
    }
    trainer = make_trainer("nnUNetTrainerReference", plans=plans)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (7, 11, 3)
    assert trainer.save_every == 1
    assert make_trainer("nnUNetTrainerReference_50epochs", plans=plans).num_epochs == 50


def test_without_a_schedule_it_is_nnunets(make_trainer):
    stock, ours = make_trainer(nnUNetTrainer), make_trainer("nnUNetTrainerReference")
    for name in ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "save_every"):
        assert getattr(ours, name) == getattr(stock, name)


def test_an_unknown_schedule_entry_gets_one_clear_sentence(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["3d_fullres"]["nnunet_ext"] = {"schedule": {"epoch": 7}}
    with pytest.raises(InputError, match=r"unknown schedule options \['epoch'\]; known are"):
        make_trainer("nnUNetTrainerReference", plans=plans)


def test_a_data_set_that_is_not_preprocessed_gets_the_command_that_does_it(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["2d"]["data_identifier"] = "low_2d"
    with pytest.raises(InputError) as refusal:
        make_trainer("nnUNetTrainerReference", plans=plans, configuration="2d")
    folder = Path(os.environ["nnUNet_preprocessed"]) / plans["dataset_name"] / "low_2d"
    number, name = int(plans["dataset_name"][7:10]), plans["plans_name"]
    command = f"nnUNetv2_preprocess -d {number} -plans_name {name} -c 2d"
    assert str(refusal.value) == f"There is no preprocessed data in {folder}; run: {command}."


def test_whether_labels_are_regions_travels_with_the_plans(make_trainer):
    for kind, expected in (("classes", False), ("regions", True)):
        trainer = make_trainer("nnUNetTrainerReference", kind=kind)
        saved = json.loads(json.dumps(trainer.plans_manager.plans))
        assert saved["configurations"]["3d_fullres"]["nnunet_ext"]["labels"] == {"has_regions": expected}
