"""MedContext around nnU-Net's Primus: its own training until the masks begin, whole tokens, and a stock network."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import nnUNet_Primus_M_Trainer, nnUNet_Primus_S_Trainer

from nnunet_ext.errors import InputError
from nnunet_ext.export.write import export_model
from nnunet_ext.medcontext.primus_trainer import MedContextPrimus
from nnunet_ext.nnunet.pretrained import load_pretrained_weights
from tests import tiny
from tests.medcontext.test_trainer import parameters_of, same, seen_by
from tests.medcontext.test_unlabelled import batch_with

NAME = "nnUNetTrainerMedContextPrimusS"


def plans_with(schedule=None, patch=(16, 24, 24), **options):
    plans = tiny.plans(**{"3d_fullres": tiny.configuration(3, patch), "2d": tiny.configuration(2)})
    for settings in plans["configurations"].values():
        settings["nnunet_ext"] |= {
            "medcontext": {"start": 0.5, "ramp": 0.25, **options},
            "schedule": {"epochs": 4, "iterations": 2, "validation_iterations": 1, **(schedule or {})},
        }
    return plans


def epoch_of(trainer, epoch, make_batch=tiny.batch):
    """The steps of an epoch, on seeded batches with seeded masks and dropped paths; what they logged."""
    trainer.current_epoch = epoch
    trainer.on_train_epoch_start()
    results = []
    for step in range(2):
        torch.manual_seed(10 * epoch + step)
        results.append(trainer.train_step(make_batch(trainer, 10 * epoch + step)))
    return results


class ShortPrimus(nnUNet_Primus_S_Trainer):
    """nnU-Net's trainer with 4 epochs, of which it warms up in the first one."""

    def initialize(self):
        self.num_epochs, self.warmup_duration_whole_net = 4, 1
        super().initialize()


def test_until_its_start_it_is_nnunets_trainer_bit_for_bit_and_then_the_teacher_is_followed(make_trainer):
    """Optimiser, learning rate, clipping and dropped paths are Primus' own."""
    ours = make_trainer(NAME, plans=plans_with())
    stock = make_trainer(ShortPrimus, plans=plans_with())
    for epoch in range(2):
        found, expected = epoch_of(ours, epoch), epoch_of(stock, epoch)
        assert [step["loss"] for step in found] == [step["loss"] for step in expected]
        assert found[0].keys() == {"loss", "loss_segmentation"}
        assert ours.optimizer.state_dict()["param_groups"] == stock.optimizer.state_dict()["param_groups"]
        assert same(parameters_of(ours.network), parameters_of(stock.network))
    assert type(ours.optimizer) is torch.optim.AdamW

    before = parameters_of(ours.aux)
    for epoch in (2, 3):
        for step in epoch_of(ours, epoch):
            assert {"loss_segmentation", "loss_consistency", "stat_sure"} <= step.keys()
            assert np.isfinite(list(step.values())).all()
    after = parameters_of(ours.aux)
    assert not same(before, after)
    assert not same(after, parameters_of(ours.network))
    assert not any(module.training for module in ours.aux["teacher"].modules())


def test_gradients_are_clipped_as_by_primus(make_trainer):
    trainer, norms = make_trainer(NAME, plans=plans_with()), []
    trainer.loss = lambda output, target: 1e4 * output.square().mean()
    trainer.optimizer.step = lambda: norms.append(sum(p.grad.square().sum() for p in trainer.network.parameters()))
    trainer.network.train()
    trainer.train_step(tiny.batch(trainer))
    assert float(norms[0]) ** 0.5 == pytest.approx(1.0, rel=1e-3)


def test_the_warm_up_is_the_same_share_of_every_training_and_the_plans_set_its_length_only(make_trainer):
    assert make_trainer(NAME, plans=plans_with({"epochs": 1000})).warmup_duration_whole_net == 50
    assert make_trainer(f"{NAME}_60epochs").warmup_duration_whole_net == 3
    trainer = make_trainer(NAME, plans=plans_with({"epochs": 40, "learning_rate": 0.1, "momentum": 0.9}))
    assert trainer.warmup_duration_whole_net == 2
    rates = []
    for epoch in range(40):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        rates += [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == pytest.approx([1.5e-4, 3e-4, *(3e-4 * (1 - step / 38) ** 0.9 for step in range(38))])
    assert "momentum" not in trainer.optimizer.param_groups[0]


# --- masks ------------------------------------------------------------------------------------------------------------


def test_a_hidden_token_is_the_bias_of_the_embedding_whatever_the_image_shows_and_the_others_are_untouched(
    make_trainer,
):
    trainer = make_trainer(NAME, plans=plans_with(start=0.0, ramp=0.0, labelled="both"))
    seen, embedding = seen_by(trainer.network), trainer.network.down_projection
    tokens, bias = [], embedding.proj.bias
    assert not bias.any()  # as the token of the published code before it is learned
    torch.nn.init.normal_(bias)
    expected = bias.detach().clone()
    embedding.register_forward_hook(lambda _, __, output: tokens.append(output.detach()))
    trainer.train_step(tiny.batch(trainer))
    hidden = (seen[1] == 0).all(1)
    assert torch.equal(seen[1], seen[0].masked_fill(hidden[:, None], 0))
    blocks = hidden.unfold(1, 8, 8).unfold(2, 8, 8).unfold(3, 8, 8).flatten(4).float().mean(4)
    assert set(blocks.unique().tolist()) == {0, 1}  # whole tokens
    assert torch.equal(blocks[:, 0], blocks[:, 1])  # in all slices alike
    assert blocks.flatten(1).sum(1).tolist() == [2 * 3] * 2  # 40 % of 9 columns
    whole, masked = (each.movedim(1, -1) for each in tokens)
    here = blocks.bool()
    torch.testing.assert_close(masked[here], expected.expand_as(masked[here]))
    torch.testing.assert_close(masked[~here], whole[~here])
    assert not torch.allclose(whole[here], masked[here])


@pytest.mark.parametrize(("patch", "expected"), [((16, 16, 16), 8), ((32, 128, 96), 16), ((64, 160, 160), 16)])
def test_blocks_are_an_eighth_of_the_patch_and_at_least_a_token(make_trainer, patch, expected):
    assert make_trainer(NAME, plans=plans_with(patch=patch)).tubes.block == expected


@pytest.mark.parametrize(
    ("configuration", "patch", "options", "sentence"),
    [
        ("2d", (16, 16, 16), {}, r"configuration 2d, have patches of 16×16 pixels, but Primus .*; train a 3D config"),
        ("3d_fullres", (20, 16, 12), {}, r"patches of 20×16×12 voxels, but .* 8×8×8; .*, for example to 16 16 16\.$"),
        ("3d_fullres", (16, 16, 16), {"block": 12}, "block is 12, but .* voxels wide; choose a multiple of 8"),
    ],
)
def test_what_primus_cannot_train_gets_one_sentence(make_trainer, configuration, patch, options, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        make_trainer(NAME, configuration=configuration, plans=plans_with(patch=patch, **options))
    assert "\n" not in str(caught.value)


# --- data, checkpoints and models -------------------------------------------------------------------------------------


def test_images_without_labels_are_compared_masked_with_the_teacher(make_trainer):
    trainer = make_trainer(NAME, plans=plans_with(turn=False))
    assert "loss_unlabelled_consistency" not in epoch_of(trainer, 0, batch_with)[0]
    student, teacher = seen_by(trainer.network), seen_by(trainer.aux["teacher"])
    for step in epoch_of(trainer, 2, batch_with):
        assert step.keys() == {"loss", "loss_segmentation", "loss_unlabelled_consistency", "stat_sure"}
        assert step["loss_unlabelled_consistency"] >= 0
    batch = batch_with(trainer, 20)
    assert torch.equal(teacher[0], batch["unlabelled"])
    assert torch.equal(student[1], batch["data"])
    assert torch.equal(student[0], batch["unlabelled"].masked_fill(student[0] == 0, 0))


@pytest.mark.parametrize("reached", [0, 1, 2])
def test_a_continued_training_equals_one_that_was_not_interrupted(make_trainer, tmp_path, reached):
    """In the warm-up, at its end, and after the masks began."""
    plans = plans_with({"epochs": 40}, start=0.0, ramp=0.0)
    trainer = make_trainer(NAME, plans=plans)
    for epoch in range(reached + 1):
        epoch_of(trainer, epoch)
    trainer._best_ema = np.float64(0.3)  # nnU-Net's trainer then refuses its own checkpoint
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    restored = make_trainer(NAME, plans=plans, seed=1)
    restored.load_checkpoint(str(tmp_path / "c.pth"))
    assert restored.current_epoch == reached + 1
    assert same(parameters_of(restored.aux), parameters_of(trainer.aux))
    for epoch in (reached + 1, reached + 2):
        assert epoch_of(trainer, epoch) == epoch_of(restored, epoch)
        assert same(parameters_of(trainer.network), parameters_of(restored.network))
        assert same(parameters_of(trainer.aux), parameters_of(restored.aux))
        assert trainer.optimizer.param_groups[0]["lr"] == restored.optimizer.param_groups[0]["lr"]
    assert restored.training_stage == trainer.training_stage == "train"


def test_the_trained_model_is_predicted_with_by_nnunets_trainer(nnunet_folders, make_trainer, tmp_path, monkeypatch):
    root = nnunet_folders()
    short = {"epochs": 1, "iterations": 2}
    trainer = make_trainer(NAME, plans=plans_with(short, patch=(16, 16, 16), start=0.0, ramp=0.0))
    trainer.run_training()
    trainer.perform_actual_validation()
    exported = export_model(trainer.output_folder_base, tmp_path / "out")
    assert exported.record["trainer"] == "nnUNet_Primus_S_Trainer"
    assert exported.record["requires"] == []
    monkeypatch.delenv("nnUNet_extTrainer")
    image = root / "raw" / tiny.DATASET / "imagesTr" / "tiny_5_0000.nii.gz"
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=True, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(tmp_path / "out"), (0,))
    (tmp_path / "predicted").mkdir()
    predictor.predict_from_files_sequential([[str(image)]], str(tmp_path / "predicted"))
    validated = Path(trainer.output_folder) / "validation" / "tiny_5.nii.gz"
    labels = [sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (validated, tmp_path / "predicted/tiny_5.nii.gz")]
    assert np.array_equal(*labels)


def test_pretrained_weights_of_another_network_or_patch_are_refused_in_one_sentence(make_trainer, tmp_path, capsys):
    trainer = make_trainer(NAME, plans=plans_with())
    for name, patch, sentence in (
        (
            "nnUNetTrainerReference",
            (16, 24, 24),
            "it is of another kind of network; use a checkpoint of a trainer with",
        ),
        (NAME, (16, 16, 16), r"first eva.pos_embed: \(1, 8, 24\) in the checkpoint, \(1, 18, 24\) here"),
    ):
        make_trainer(name, plans=plans_with(patch=patch)).save_checkpoint(str(tmp_path / "c.pth"))
        with pytest.raises(InputError, match=sentence):
            load_pretrained_weights(trainer.network, tmp_path / "c.pth")


def test_another_size_is_two_lines(make_trainer):
    class Medium(MedContextPrimus, nnUNet_Primus_M_Trainer):
        """As in docs/medcontext.md."""

    trainer = make_trainer(Medium, plans=plans_with(start=0.0, ramp=0.0))
    assert np.isfinite(list(trainer.train_step(tiny.batch(trainer)).values())).all()
