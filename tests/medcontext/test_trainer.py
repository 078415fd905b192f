"""The trainers of MedContext: two views, the teacher beside the network, controls, and other methods inside."""

import importlib.util
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.attenscribble.trainer import nnUNetTrainerAttenScribble
from nnunet_ext.combinations import nnUNetTrainerMedContextPnPNet
from nnunet_ext.errors import InputError
from nnunet_ext.medcontext.consistency import consistency
from nnunet_ext.medcontext.masking import apply_mask
from nnunet_ext.medcontext.trainer import MedContext, nnUNetTrainerMedContext
from nnunet_ext.nnunet.labels import finest_logits
from nnunet_ext.nnunet.pretrained import load_pretrained_weights
from nnunet_ext.nnunet.trainer import CHECKPOINT_KEY
from tests import tiny
from tests.distributed import distributed

TRAINERS = [
    "nnUNetTrainerMedContext",
    "nnUNetTrainerMedContextPaper",
    "nnUNetTrainerMedContextMaskedOnly",
    "nnUNetTrainerTubeCutout",
    "nnUNetTrainerMedContextPnPNet",
]
RUNS = [(name, "2d", kind) for name in TRAINERS for kind in tiny.LABELS]
RUNS += [(name, "3d_fullres", "classes") for name in TRAINERS]


def plans_with(**options):
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        settings["nnunet_ext"] = {
            "medcontext": {"start": 0.0, "ramp": 0.0, "labelled": "both", **options},
            "schedule": {"epochs": 3, "iterations": 4, "validation_iterations": 1},
        }
    return plans


def train_steps(trainer, steps, seed=0):
    """Steps of the current epoch on seeded batches with seeded masks."""
    results = []
    for step in range(steps):
        torch.manual_seed(1000 * seed + step)
        results.append(trainer.train_step(tiny.batch(trainer, 1000 * seed + step)))
    return results


def parameters_of(module):
    return [p.detach().clone() for p in module.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def seen_by(module):
    """Inputs of every forward pass of a module, from now on."""
    inputs = []
    module.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
    return inputs


@pytest.mark.parametrize(("name", "configuration", "kind"), RUNS)
def test_every_trainer_trains_and_validates_on_every_kind_of_labels(make_trainer, name, configuration, kind):
    trainer = make_trainer(name, configuration=configuration, kind=kind)
    trainer.network.train()
    steps = train_steps(trainer, 3)
    assert all(np.isfinite(list(step.values())).all() for step in steps)
    cutout, teacherless = name.endswith("TubeCutout"), name.endswith("MaskedOnly")
    assert ("loss_masked_segmentation" in steps[0]) == name.endswith(("Paper", "MaskedOnly"))
    assert ("loss_consistency" in steps[0]) == ("teacher" in trainer.aux) == (not cutout and not teacherless)
    trainer.network.eval()
    with torch.no_grad():
        assert trainer.validation_step(tiny.batch(trainer))["tp_hard"].shape == (2,)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("target", ["teacher", "self"])
def test_gradients_are_those_of_the_summed_loss(make_trainer, configuration, target):
    """Written out: three forward passes, one sum, one backward pass."""
    options = {"target": target, "beta": 0.3, "full_weight": 0.9, "masked_weight": 0.6, "consistency": "relative"}
    trainer = make_trainer(nnUNetTrainerMedContext, configuration=configuration, plans=plans_with(**options))
    train_steps(trainer, 2, seed=1)  # so that teacher and student differ
    batch, seen, network = tiny.batch(trainer), [], trainer.network
    network.zero_grad(set_to_none=True)
    torch.manual_seed(7)
    image = batch["data"]
    masked = apply_mask(image, trainer.tubes.draw(image.shape[0]))
    full, hidden = network(image), network(masked)
    soft = trainer.aux["teacher"](image) if target == "teacher" else full[0].detach()
    consistent = consistency(hidden[0], soft, "relative")
    parts = [trainer.loss(full, batch["target"]), trainer.loss(hidden, batch["target"]), consistent]
    (0.9 * parts[0] + 0.6 * parts[1] + 0.3 * parts[2]).backward()
    expected = [p.grad for p in network.parameters()]

    trainer._clip_gradients = lambda: seen.extend(p.grad for p in network.parameters())
    trainer.optimizer.step = lambda: None
    torch.manual_seed(7)
    result = trainer.train_step(batch)
    for got, wanted in zip(seen, expected, strict=True):
        assert (got is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-6)
    names = ("loss_segmentation", "loss_masked_segmentation", "loss_consistency")
    assert [float(result[name]) for name in names] == pytest.approx([part.item() for part in parts], rel=1e-5)
    assert result["loss"] == pytest.approx(0.9 * parts[0].item() + 0.6 * parts[1].item() + 0.3 * parts[2].item())


@pytest.fixture
def saved_bytes(monkeypatch):
    """The measure of ``benchmarks/step_cost.py``."""
    file = Path(__file__).parents[2] / "benchmarks" / "step_cost.py"
    spec = importlib.util.spec_from_file_location("step_cost", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "step_cost", module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module.saved_bytes


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_both_views_need_the_activations_of_one(make_trainer, saved_bytes, configuration):
    plans = tiny.plans()
    settings = plans["configurations"][configuration]
    settings["architecture"] = tiny.architecture(int(configuration[0]), features=(16, 24, 32))
    sizes = {}
    for name in (nnUNetTrainer, "nnUNetTrainerMedContext"):
        trainer = make_trainer(name, configuration=configuration, plans=plans)
        trainer.network.train()
        sizes[name] = saved_bytes(trainer, tiny.batch(trainer))
    assert sizes["nnUNetTrainerMedContext"] <= 1.1 * sizes[nnUNetTrainer]


def test_the_teacher_sees_the_whole_patch_and_the_student_both(make_trainer):
    trainer = make_trainer(nnUNetTrainerMedContext, plans=plans_with())
    student, teacher = seen_by(trainer.network), seen_by(trainer.aux["teacher"])
    batch = tiny.batch(trainer)
    trainer.train_step(batch)
    assert [x.shape for x in student] == [batch["data"].shape] * 2
    assert torch.equal(student[0], batch["data"])
    assert len(teacher) == 1
    assert torch.equal(teacher[0], batch["data"])
    hidden = student[1] == 0
    assert hidden.flatten(1).float().mean(1).tolist() == [6 / 16] * 2  # 40 % of 16 columns
    assert torch.equal(student[1], batch["data"].masked_fill(hidden, 0))
    assert not torch.equal(hidden[0], hidden[1])


def test_the_teacher_is_no_part_of_network_optimizer_or_gradients(make_trainer):
    trainer, stock = make_trainer(nnUNetTrainerMedContext), make_trainer(nnUNetTrainer)
    assert trainer.network.state_dict().keys() == stock.network.state_dict().keys()
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in trainer.network.parameters()}
    trainer.on_train_epoch_start()
    train_steps(trainer, 2)
    assert all(p.grad is None and not p.requires_grad for p in trainer.aux.parameters())
    assert not any(module.training for module in trainer.aux["teacher"].modules())


def test_the_teacher_follows_the_student_by_the_steps_of_the_whole_training(make_trainer):
    """Regression for the released schedule, which starts again in every epoch."""
    trainer = make_trainer(nnUNetTrainerMedContext, plans=plans_with(ema_warmup=0.5))
    momenta = []
    for epoch in range(3):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        for step in range(4):
            before = parameters_of(trainer.aux)
            train_steps(trainer, 1, seed=4 * epoch + step)
            momenta.append(trainer.momentum)
            m = momenta[-1]
            for got, old, new in zip(trainer.aux.parameters(), before, trainer.network.parameters(), strict=True):
                torch.testing.assert_close(got, m * old + (1 - m) * new, rtol=1e-5, atol=1e-6)
    assert momenta[0] == 0
    assert (np.diff(momenta) > -1e-12).all()
    assert momenta[5] == pytest.approx(0.9)


def test_the_teacher_starts_from_pretrained_weights(nnunet_folders, make_trainer, tmp_path):
    nnunet_folders()
    stock = make_trainer(nnUNetTrainer, seed=5)
    stock.save_checkpoint(str(tmp_path / "stock.pth"))
    trainer = make_trainer(nnUNetTrainerMedContext)
    load_pretrained_weights(trainer.network, tmp_path / "stock.pth")
    assert not same(trainer.aux.parameters(), trainer.network.parameters())
    trainer.on_train_start()
    assert same(trainer.aux.parameters(), trainer.network.parameters())
    log = Path(trainer.log_file).read_text()
    assert "MedContext: 6 of 16 columns of 4×4 voxels are hidden in a patch of 16×16×16, in all its slices alike" in log


def test_an_interrupted_training_continues_with_its_teacher_and_momentum(make_trainer, tmp_path):
    plans = plans_with(ema_warmup=0.2, ema_final=1.0)
    trainer = make_trainer(nnUNetTrainerMedContext, plans=plans)
    trainer.on_train_epoch_start()
    train_steps(trainer, 4)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    saved = torch.load(tmp_path / "c.pth", weights_only=False)
    assert saved["network_weights"].keys() == trainer.network.state_dict().keys()
    assert all(key.startswith("teacher.network.") for key in saved[CHECKPOINT_KEY]["aux"])

    restored = make_trainer(nnUNetTrainerMedContext, plans=plans, seed=1)
    restored.load_checkpoint(str(tmp_path / "c.pth"))
    assert same(restored.aux.parameters(), trainer.aux.parameters())
    assert not same(restored.aux.parameters(), restored.network.parameters())
    trainer.current_epoch += 1
    for each in (trainer, restored):
        assert each.current_epoch == 1
        each.lr_scheduler.step(1)
        each.step_in_epoch = 0
    assert train_steps(trainer, 2, seed=2) == train_steps(restored, 2, seed=2)
    assert restored.momentum == trainer.momentum > 0.9


def test_a_restored_teacher_is_not_replaced_when_the_training_starts(nnunet_folders, make_trainer, tmp_path):
    nnunet_folders()
    trainer = make_trainer(nnUNetTrainerMedContext, plans=plans_with(ema_warmup=0.0))
    train_steps(trainer, 2)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    restored = make_trainer(nnUNetTrainerMedContext, plans=plans_with(ema_warmup=0.0), seed=1)
    restored.load_checkpoint(str(tmp_path / "c.pth"))
    restored.on_train_start()
    assert same(restored.aux.parameters(), trainer.aux.parameters())


@pytest.mark.parametrize("name", [nnUNetTrainer, "nnUNetTrainerReference"])
def test_a_checkpoint_without_teacher_starts_one_from_its_network(make_trainer, tmp_path, name, capsys):
    stock = make_trainer(name, seed=3)
    train_steps(stock, 1)
    stock.save_checkpoint(str(tmp_path / "c.pth"))
    trainer = make_trainer(nnUNetTrainerMedContext)
    trainer.load_checkpoint(str(tmp_path / "c.pth"))
    assert same(trainer.network.parameters(), stock.network.parameters())
    assert same(trainer.aux.parameters(), stock.network.parameters())
    assert "The checkpoint holds no teacher" in capsys.readouterr().out


class WithoutDeepSupervision(nnUNetTrainerMedContext):
    hyperparameters: ClassVar = {"enable_deep_supervision": False}


def test_with_and_without_deep_supervision_the_consistency_covers_the_whole_batch(make_trainer):
    """Regression for the released code, whose ``output[0]`` is the first sample without deep supervision."""
    values = []
    plans = plans_with(confidence=0.0)
    for trainer_class in (nnUNetTrainerMedContext, WithoutDeepSupervision):
        trainer = make_trainer(trainer_class, plans=plans)
        values.append(train_steps(trainer, 1)[0]["loss_consistency"])
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    torch.manual_seed(0)
    trainer = make_trainer(WithoutDeepSupervision, plans=plans)
    batch = tiny.batch(trainer)
    torch.manual_seed(0)
    hidden = trainer.tubes.draw(2)
    with torch.no_grad():
        outputs = [trainer.network(x) for x in (apply_mask(batch["data"], hidden), batch["data"])]
    assert values[1] == pytest.approx(consistency(*outputs).item(), rel=1e-4)
    assert consistency(*[x[:1] for x in outputs]).item() != pytest.approx(values[1], rel=1e-3)


def test_a_masked_view_every_few_steps(make_trainer):
    trainer = make_trainer(nnUNetTrainerMedContext, plans=plans_with(every=3))
    passes = seen_by(trainer.network)
    made = []
    for epoch in range(3):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        steps = train_steps(trainer, 4, seed=epoch)
        made += ["loss_consistency" in step for step in steps]
        trainer.on_train_epoch_end(steps)
    assert made == [step % 3 == 0 for step in range(12)]
    assert len(passes) == 12 + 4
    log = trainer.logger.local_logger.my_fantastic_logging
    assert len(log["loss_consistency"]) == 3
    assert f"Teacher's momentum: {trainer.momentum:.6f}" in Path(trainer.log_file).read_text()
    with pytest.raises(InputError, match=r"every is 5, but an epoch has 4 iterations"):
        make_trainer(nnUNetTrainerMedContext, plans=plans_with(every=5))


def test_without_hidden_columns_both_views_are_the_same(make_trainer):
    step = train_steps(make_trainer(nnUNetTrainerMedContext, plans=plans_with(mask_ratio=0.0)), 1)[0]
    assert step["loss_masked_segmentation"] == step["loss_segmentation"]
    assert step["loss_consistency"] == pytest.approx(0, abs=1e-10)


def test_the_network_itself_can_be_the_target(make_trainer):
    trainer = make_trainer(nnUNetTrainerMedContext, plans=plans_with(target="self"))
    assert not trainer.aux
    assert train_steps(trainer, 1)[0]["loss_consistency"] > 0


def test_the_control_without_teacher_stays_one_whatever_the_plans_say(make_trainer):
    trainer = make_trainer("nnUNetTrainerMedContextMaskedOnly", plans=plans_with(beta=2.0, mask_ratio=0.5))
    assert not trainer.aux
    assert trainer.tubes.hidden == 8
    step = train_steps(trainer, 1)[0]
    assert step["loss"] == pytest.approx(step["loss_segmentation"] + step["loss_masked_segmentation"], rel=1e-6)


def test_the_published_arithmetic(make_trainer):
    trainer = make_trainer("nnUNetTrainerMedContextPaper", plans=plans_with(beta=2.0, consistency="kl"))
    student = seen_by(trainer.network)
    step = train_steps(trainer, 1)[0]
    assert step["loss"] == pytest.approx(
        step["loss_segmentation"] + step["loss_masked_segmentation"] + 0.4 * step["loss_consistency"], rel=1e-5
    )
    hidden = student[1] == 0
    assert torch.equal(hidden[0], hidden[1])  # one mask for the batch
    momenta = []
    for epoch in range(2):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        for _ in range(4):
            train_steps(trainer, 1)
            momenta.append(trainer.momentum)
    assert momenta[:4] == momenta[4:]


@pytest.mark.parametrize("kind", ["ignore", "regions+ignore"])
def test_consistency_needs_no_annotation(make_trainer, kind):
    trainer = make_trainer(nnUNetTrainerMedContext, kind=kind, plans=plans_with(consistency="kl"))
    batch = tiny.batch(trainer)
    for target in batch["target"]:
        target[:, -1:] = 3 if kind == "ignore" else True
    step = trainer.train_step(batch)
    assert np.isfinite(list(step.values())).all()
    assert step["loss_consistency"] > 0
    assert all(p.isfinite().all() for p in trainer.network.parameters())


@pytest.mark.parametrize("name", ["nnUNetTrainerMedContext", "nnUNetTrainerTubeCutout"])
def test_a_cascade_hides_the_previous_stage_too(make_trainer, name):
    plans = plans_with(cutout=1.0, fill="mean")
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    trainer = make_trainer(name, configuration="3d_cascade_fullres", plans=plans)
    assert trainer.num_input_channels == 3
    student = seen_by(trainer.network)
    batch = tiny.batch(trainer)
    batch["data"][:, 1:] = 1.0
    trainer.train_step(batch)
    previous, image = student[-1][:, 1:], student[-1][:, :1]
    hidden = previous[:, :1] == 0
    assert hidden.float().mean() == 6 / 16
    assert torch.equal(previous, (~hidden).float().expand_as(previous))
    assert torch.equal(hidden, image != batch["data"][:, :1])


def test_cutout_masks_some_samples_in_training_and_none_in_validation(make_trainer):
    trainer = make_trainer("nnUNetTrainerTubeCutout", configuration="2d")
    assert not trainer.aux
    seen = seen_by(trainer.network)
    shares = []
    for seed in range(20):
        train_steps(trainer, 1, seed)
        shares += (seen[-1] == 0).flatten(1).float().mean(1).tolist()
    assert len(seen) == 20
    assert set(shares) == {0, 6 / 16}
    assert 10 <= shares.count(0) <= 30
    with torch.no_grad():
        trainer.validation_step(batch := tiny.batch(trainer))
    assert torch.equal(seen[-1], batch["data"])


def test_cutout_of_nothing_is_the_reference_bit_for_bit(make_trainer):
    ours = make_trainer("nnUNetTrainerTubeCutout", plans=plans_with(cutout=0.0))
    reference = make_trainer("nnUNetTrainerReference")
    assert train_steps(ours, 3) == train_steps(reference, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ratio": 0.4}, r"unknown medcontext options \['ratio'\]"),
        ({"fill": "token"}, "medcontext.fill = 'token': input should be 'zero', 'noise' or 'mean'"),
        ({"consistency": "cosine"}, "consistency = 'cosine': input should be 'kl', 'mse', 'labels', 'relative' or 'of"),
        ({"target": "student"}, "target = 'student': input should be 'teacher' or 'self'"),
        ({"mask_ratio": 1.0}, r"medcontext\.mask_ratio = 1\.0: input should be less than 1"),
        (
            {"every": 0, "beta": -1},
            r"medcontext\.beta = -1: input .* and medcontext\.every = 0: input should be greater",
        ),
        ({"block": 0}, r"medcontext\.block = 0: input should be greater than or equal to 1"),
        ({"ema_warmup": 1.5}, r"medcontext\.ema_warmup = 1\.5: input should be less than or equal to 1"),
        ({"block": 16}, "A share of 0.4 of 1 columns is none: patch 16×16 has a grid of 1×1 blocks of 16 voxels"),
    ],
)
def test_options_that_cannot_work_get_one_sentence(make_trainer, options, sentence):
    with pytest.raises(InputError, match=sentence):
        make_trainer(nnUNetTrainerMedContext, configuration="2d", plans=plans_with(**options))


def test_around_pnpnet_both_views_have_its_terms_and_the_teacher_its_branches(make_trainer, tmp_path):
    trainer = make_trainer(nnUNetTrainerMedContextPnPNet, plans=plans_with())
    step = train_steps(trainer, 1)[0]
    assert step.pop("stat_sure") >= 0
    names = {"segmentation", "pull", "masked_segmentation", "masked_pull", "consistency"}
    assert {name.removeprefix("loss_") for name in step} == names | {"loss"}
    expected = step["loss_segmentation"] + step["loss_masked_segmentation"] + 0.5 * step["loss_consistency"]
    expected += trainer.options.pnpnet.pull_weight * (step["loss_pull"] + step["loss_masked_pull"])
    assert step["loss"] == pytest.approx(expected, rel=1e-5)
    teacher = trainer.aux["teacher"].network
    assert teacher.planned.decoder is teacher.decoder is not trainer.network.decoder
    assert teacher.state_dict().keys() == trainer.network.state_dict().keys()
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    wrapped = make_trainer("nnUNetTrainerPnPNet", seed=1)
    wrapped.network.load_state_dict(torch.load(tmp_path / "c.pth", weights_only=False)["network_weights"])


def test_around_attenscribble_the_network_sees_a_masked_image_and_the_crf_loss_the_clean_one(make_trainer):
    plans = tiny.plans()
    options = {
        "attenscribble": {"crf_image": "clean", "asl_weight": 1.0},
        "medcontext": {"fill": "mean", "labelled": "both"},
    }
    plans["configurations"]["2d"]["nnunet_ext"] = options
    wrapped = type("Wrapped", (MedContext, nnUNetTrainerAttenScribble), {})
    trainer = make_trainer(wrapped, kind="ignore", configuration="2d", plans=plans)
    trainer.current_epoch = 500
    clean = []
    student, teacher = seen_by(trainer.network), seen_by(trainer.aux["teacher"])
    trainer.crf.register_forward_pre_hook(lambda _, given: clean.append(given[1]))
    batch = tiny.batch(trainer)
    image, other = batch["data"], torch.randn_like(batch["data"])
    step = trainer.train_step({**batch, "data": torch.cat([image, other], 1)})
    assert {"loss_masked_crf", "loss_masked_similarity_loss", "loss_consistency"} <= set(step)
    assert torch.equal(student[0], image)
    assert torch.equal(teacher[0], image)
    assert (student[1] != image).float().mean() == 6 / 16
    assert len(clean) == 2
    assert all(torch.equal(seen, other) for seen in clean)
    assert np.isfinite(list(step.values())).all()


def test_in_distributed_training_two_backward_passes_give_the_same_gradients(make_trainer, tmp_path):
    alone = make_trainer(nnUNetTrainerMedContext, plans=plans_with(every=2))
    shared = make_trainer(nnUNetTrainerMedContext, plans=plans_with(every=2))
    with distributed(tmp_path, shared, alone):
        expected, got = train_steps(alone, 4), train_steps(shared, 4)
    for a, b in zip(expected, got, strict=True):
        assert a.keys() == b.keys()
        assert [float(a[key]) for key in a] == pytest.approx([float(b[key]) for key in b], rel=1e-4)
    for a, b in zip(alone.aux.parameters(), shared.aux.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@torch._dynamo.config.patch(error_on_recompile=True)  # monkeypatch would delete the entry afterwards
def test_a_compiled_network_is_compiled_once_for_both_views_and_the_teacher_is_not(make_trainer):
    plain = make_trainer(nnUNetTrainerMedContext, configuration="2d")
    compiled = make_trainer(nnUNetTrainerMedContext, configuration="2d")
    compiled.network = torch.compile(compiled.network, backend="eager")
    for a, b in zip(train_steps(plain, 2), train_steps(compiled, 2), strict=True):
        assert [float(a[key]) for key in a] == pytest.approx([float(b[key]) for key in a], rel=1e-4)
    assert compiled.aux["teacher"].state_dict().keys() == plain.aux["teacher"].state_dict().keys()


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_finished_model_renamed_to_nnunets_trainer_predicts_the_same(nnunet_folders, make_trainer, configuration):
    root = nnunet_folders()
    trainer = make_trainer("nnUNetTrainerMedContext", configuration=configuration, plans=short_plans())
    trainer.run_training()
    model = Path(trainer.output_folder_base)
    file = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    assert checkpoint[CHECKPOINT_KEY]["aux"] == {}
    for name in ("loss_segmentation", "loss_consistency"):
        assert np.isfinite(checkpoint["logging"][name]).all()

    image = root / "raw" / tiny.DATASET / "imagesTr" / "tiny_5_0000.nii.gz"
    predicted = []
    for name in ("nnUNetTrainerMedContext", "nnUNetTrainer"):
        torch.save({**checkpoint, "trainer_name": name}, file)
        predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), (0,))
        (root / name).mkdir()
        predictor.predict_from_files_sequential([[str(image)]], str(root / name), save_probabilities=True)
        with np.load(root / name / "tiny_5.npz") as arrays:
            predicted.append((arrays["probabilities"], sitk.ReadImage(str(root / name / "tiny_5.nii.gz"))))
    assert np.array_equal(predicted[0][0], predicted[1][0])
    assert np.array_equal(*(sitk.GetArrayFromImage(labels) for _, labels in predicted))
    # what nnU-Net saw of the network: no list, no extras
    assert finest_logits(predictor.network(torch.zeros(1, 1, *trainer.configuration_manager.patch_size))).ndim > 3

    again = make_trainer("nnUNetTrainerMedContext", configuration=configuration, plans=short_plans(), seed=1)
    again.load_checkpoint(str(file))  # as nnUNetv2_train --val
    again.perform_actual_validation()
    assert (model / "fold_0" / "validation" / "summary.json").is_file()


def short_plans():
    """One epoch of two iterations."""
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        settings["nnunet_ext"] = {"schedule": {"epochs": 1, "iterations": 2, "validation_iterations": 1}}
    return plans
