"""MedContext on patches without labels: what is compared with what, when it starts, and what a step costs."""

import itertools
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_ext.medcontext.consistency import consistency, sure
from nnunet_ext.medcontext.masking import apply_mask
from nnunet_ext.medcontext.options import MedContextOptions
from nnunet_ext.nnunet.pseudo_labels import pseudo_label_loss, pseudo_labels
from nnunet_ext.nnunet.trainer import CHECKPOINT_KEY
from nnunet_ext.unlabelled.turns import Turn, draw_turn, turned
from tests import tiny
from tests.distributed import distributed
from tests.medcontext.test_trainer import parameters_of, same, seen_by


def plans_with(schedule=None, **options):
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        settings["nnunet_ext"] |= {
            "medcontext": {"start": 0.0, "ramp": 0.0, **options},
            "schedule": {"epochs": 5, "iterations": 2, "validation_iterations": 1, **(schedule or {})},
        }
    return plans


def batch_with(trainer, seed=0, patches=2):
    """A batch with patches without labels, as the loader gives it."""
    batch = tiny.batch(trainer, seed)
    generator = torch.Generator().manual_seed(seed + 77)
    size = (patches, *batch["data"].shape[1:])
    return {**batch, "unlabelled": torch.randn(size, generator=generator)}


def steps(trainer, number, **settings):
    results = []
    for step in range(number):
        torch.manual_seed(step)
        results.append(trainer.train_step(batch_with(trainer, step, **settings)))
    return results


@pytest.mark.parametrize(
    ("configuration", "kind"),
    [("2d", "classes"), ("3d_fullres", "classes"), ("2d", "regions"), ("2d", "regions+ignore")],
)
@pytest.mark.parametrize(
    ("region", "form"), [("patch", "kl"), ("hidden", "kl"), ("patch", "labels"), ("hidden", "labels")]
)
def test_gradients_are_those_of_the_formula(make_trainer, configuration, kind, region, form):
    """Written out: three forward passes, one sum, one backward pass."""
    turn = region == "patch"
    plans = plans_with(beta=0.7, confidence=0.45, region=region, consistency=form, turn=turn)
    trainer = make_trainer("nnUNetTrainerMedContext", configuration=configuration, kind=kind, plans=plans)
    axes = trainer.inference_allowed_mirroring_axes = (1,)
    steps(trainer, 2)  # so that teacher and student differ
    batch, network, seen = batch_with(trainer, 5), trainer.network, []
    network.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    images, exclusive = batch["unlabelled"], "regions" not in kind
    soft = trainer.aux["teacher"](images)
    if turn:
        turns = [draw_turn(images.shape[2:], axes) for _ in images]
        images, soft = turned(images, turns), turned(soft, turns)
    hidden = trainer.tubes.draw(2)
    student = network(apply_mask(images, hidden))[0]
    among = hidden if region == "hidden" else torch.ones_like(hidden)
    if form == "kl":
        compared = consistency(student, soft, "kl", exclusive=exclusive, confidence=0.45, among=among)
    else:
        probabilities = soft.softmax(1) if exclusive else soft.sigmoid()
        labels, use = pseudo_labels(probabilities, among, 0.45, exclusive=exclusive)
        compared = pseudo_label_loss(student, labels, use, exclusive=exclusive)
    parts = [trainer.loss(network(batch["data"]), batch["target"]), compared]
    (parts[0] + 0.7 * parts[1]).backward()
    expected = [parameter.grad for parameter in network.parameters()]

    trainer._clip_gradients = lambda: seen.extend(parameter.grad for parameter in network.parameters())
    trainer.optimizer.step = lambda: None
    torch.manual_seed(3)
    result = trainer.train_step(batch)
    for got, wanted in zip(seen, expected, strict=True):
        assert (got is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-6)
    assert result["loss_segmentation"] == pytest.approx(parts[0].item(), rel=1e-5)
    assert result["loss_unlabelled_consistency"] == pytest.approx(parts[1].item(), rel=1e-4)
    assert parts[1].item() > 0
    assert result["loss"] == pytest.approx(parts[0].item() + 0.7 * parts[1].item(), rel=1e-5)
    assert result["stat_sure"] == pytest.approx(sure(soft, exclusive, 0.45).float().mean().item())
    assert set(result) == {"loss", "loss_segmentation", "loss_unlabelled_consistency", "stat_sure"}


def test_the_student_sees_labelled_patches_whole_and_the_others_masked_the_teacher_the_others_whole(make_trainer):
    trainer = make_trainer("nnUNetTrainerMedContext", plans=plans_with(turn=False))
    student, teacher = seen_by(trainer.network), seen_by(trainer.aux["teacher"])
    batch = batch_with(trainer, patches=3)
    trainer.train_step(batch)
    masked, whole = student
    assert torch.equal(whole, batch["data"])
    hidden = masked == 0
    assert torch.equal(masked, batch["unlabelled"].masked_fill(hidden, 0))
    assert hidden.flatten(1).float().mean(1).tolist() == [6 / 16] * 3
    assert [torch.equal(seen, batch["unlabelled"]) for seen in teacher] == [True]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_student_sees_the_others_turned_each_in_its_own_way(make_trainer, configuration):
    trainer = make_trainer("nnUNetTrainerMedContext", configuration=configuration, plans=plans_with(mask_ratio=0.0))
    axes = trainer.inference_allowed_mirroring_axes = tuple(range(int(configuration[0])))
    student, teacher = seen_by(trainer.network), seen_by(trainer.aux["teacher"])
    torch.manual_seed(0)
    batch = batch_with(trainer, patches=8)
    trainer.train_step(batch)
    images = batch["unlabelled"]
    assert torch.equal(teacher[0], images)
    flips = [chosen for number in range(len(axes) + 1) for chosen in itertools.combinations(axes, number)]
    ways = [Turn(quarters, flipped) for quarters in range(4) for flipped in flips]
    found = []
    for before, after in zip(images, student[0], strict=True):
        own = [way for way in ways if torch.equal(way(before), after)]
        assert own
        found.append(own[0])
    assert len(set(found)) > 4


@pytest.mark.parametrize(
    ("options", "unlabelled", "labelled"),
    [
        ({}, ("labels", 1.0), ("kl", 0.5)),
        ({"consistency": "kl"}, ("kl", 0.5), ("kl", 0.5)),
        ({"consistency": "labels"}, ("labels", 1.0), ("labels", 1.0)),
        ({"beta": 0.2}, ("labels", 0.2), ("kl", 0.2)),
        ({"beta": 0.0}, ("labels", 0.0), ("kl", 0.0)),
    ],
)
def test_form_and_weight_depend_on_whether_patches_have_labels(options, unlabelled, labelled):
    made = MedContextOptions(**options)
    assert (made.form(labelled=False), made.weight(labelled=False)) == unlabelled
    assert (made.form(labelled=True), made.weight(labelled=True)) == labelled
    assert made.compares == (made.beta != 0)


def test_channels_beyond_those_of_the_network_are_for_the_loss_alone(make_trainer):
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans_with())
    batch = batch_with(trainer)
    appended = torch.cat([batch["unlabelled"], torch.full_like(batch["unlabelled"], torch.nan)], 1)
    assert torch.equal(trainer.unlabelled({**batch, "unlabelled": appended}), batch["unlabelled"])


def test_until_its_start_it_is_the_reference_bit_for_bit(make_trainer):
    plans = plans_with(start=0.4, ramp=0.4)
    ours = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans)
    reference = make_trainer("nnUNetTrainerReference", configuration="2d", plans=plans)
    weights, terms = [], []
    for epoch in range(5):
        for trainer in (ours, reference):
            trainer.current_epoch = epoch
            trainer.step_in_epoch = 0
        found, expected = steps(ours, 2), steps(reference, 2)
        if epoch < 2:
            assert found == expected
            assert same(parameters_of(ours.network), parameters_of(reference.network))
        terms.append("loss_unlabelled_consistency" in found[0])
        weights.append(ours.term_weight("unlabelled_consistency"))
    assert terms == [False, False, True, True, True]
    assert weights == pytest.approx([0, 0, 0.5, 1, 1])
    assert not same(parameters_of(ours.network), parameters_of(reference.network))
    assert not same(ours.aux.parameters(), ours.network.parameters())


def test_a_batch_of_one_labelled_patch_is_seen_whole_too(make_trainer):
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans_with())
    assert trainer.labelled_view(None) == "part"
    trainer.configuration_manager.configuration["batch_size"] = 1
    assert trainer.labelled_view(None) == "both"
    assert trainer.labelled_view(torch.zeros(1)) == "whole"


@pytest.mark.parametrize(("samples", "view"), [(3, "both"), (4, "part")])
def test_processes_with_uneven_shares_of_a_batch_make_the_same_passes(make_trainer, monkeypatch, samples, view):
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans_with())
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    trainer.is_ddp, trainer.configuration_manager.configuration["batch_size"] = True, samples
    for share in (samples // 2, samples - samples // 2):
        trainer.batch_size = share
        assert trainer.labelled_view(None) == view


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "seen", "by_teacher"),
    [
        (None, True, [2, 2], [2]),
        (None, False, [2], [1]),
        ("both", False, [2, 2], [2]),
        ("whole", False, [2], []),
        ("both", True, [2, 2, 2], [2, 2]),
        ("part", False, [2], [1]),
        ("part", True, [2, 2], [2, 1]),
    ],
)
def test_samples_of_each_pass_are_what_a_step_costs(make_trainer, labelled, unlabelled, seen, by_teacher):
    plans = plans_with(labelled=labelled)
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans)
    student, teacher = seen_by(trainer.network), seen_by(trainer.aux["teacher"])
    batch = batch_with(trainer)
    if not unlabelled:
        del batch["unlabelled"]
    step = trainer.train_step(batch)
    assert [len(x) for x in student] == seen
    assert [len(x) for x in teacher] == by_teacher
    assert np.isfinite(list(step.values())).all()


@pytest.mark.parametrize("target", ["teacher", "self"])
def test_masks_on_a_part_of_the_batch_take_no_pass_of_their_own(make_trainer, target):
    plans = plans_with(labelled="part", part=0.5, target=target, confidence=0.0)
    trainer = make_trainer("nnUNetTrainerMedContext", plans=plans)
    steps(trainer, 2)
    batch = tiny.batch(trainer, 9)
    student, teacher = seen_by(trainer.network), seen_by(trainer.aux["teacher"]) if target == "teacher" else []
    step = trainer.train_step(batch)
    view = student[0]
    masked = [bool((view[sample] != batch["data"][sample]).any()) for sample in range(2)]
    assert sorted(masked) == [False, True]
    if target == "teacher":
        assert torch.equal(teacher[0], batch["data"][masked.index(True)][None])
    else:
        assert torch.equal(student[1], batch["data"])
    assert {"loss_segmentation", "loss_consistency"} <= step.keys()
    assert "loss_masked_segmentation" not in step


@pytest.mark.parametrize("name", ["nnUNetTrainerMedContext", "nnUNetTrainerMedContextPnPNet"])
@pytest.mark.parametrize("options", [{}, {"labelled": "both"}, {"labelled": "part"}, {"target": "self"}])
def test_in_distributed_training_the_pass_that_leaves_heads_out_waits_for_the_other(
    make_trainer, tmp_path, name, options
):
    """DistributedDataParallel refuses a second step if a parameter had no gradient in the first."""
    plans = plans_with(confidence=0.4, **options)
    alone, shared = (make_trainer(name, configuration="2d", plans=plans) for _ in range(2))
    with distributed(tmp_path, shared, alone):
        expected, got = steps(alone, 3), steps(shared, 3)
    for a, b in zip(expected, got, strict=True):
        assert a.keys() == b.keys()
        assert [float(a[key]) for key in a] == pytest.approx([float(b[key]) for key in a], rel=1e-3)


def test_images_without_labels_change_nothing_for_the_control_without_teacher(make_trainer):
    trainer = make_trainer("nnUNetTrainerMedContextMaskedOnly", configuration="2d", plans=plans_with(labelled="whole"))
    assert trainer.options.unlabelled.images == "none"
    step = steps(trainer, 1)[0]
    assert set(step) == {"loss", "loss_segmentation", "loss_masked_segmentation"}


def test_a_teacher_that_is_kept_predicts_with_nnunet_and_the_model_stays_the_student(nnunet_folders, make_trainer):
    root = nnunet_folders()
    plans = plans_with(keep_teacher=True, schedule={"epochs": 1, "iterations": 3})
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans)
    teachers = []
    ended = trainer.on_epoch_end
    trainer.on_epoch_end = lambda: (teachers.append(deepcopy(trainer.aux["teacher"].network.state_dict())), ended())
    trainer.run_training()
    folder = Path(trainer.output_folder)
    kept, final = (torch.load(folder / f"checkpoint_{name}.pth", weights_only=False) for name in ("teacher", "final"))
    assert same(kept["network_weights"].values(), teachers[-1].values())
    assert same(final["network_weights"].values(), trainer.network.state_dict().values())
    assert not same(kept["network_weights"].values(), final["network_weights"].values())
    assert kept[CHECKPOINT_KEY]["aux"] == final[CHECKPOINT_KEY]["aux"] == {}
    assert kept["trainer_name"] == "nnUNetTrainerMedContext"
    assert "nnUNetv2_predict takes it with -chk checkpoint_teacher.pth" in Path(trainer.log_file).read_text()
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder.parent), (0,), "checkpoint_teacher.pth")
    (root / "out").mkdir()
    image = root / "raw" / tiny.DATASET / "imagesTr" / "tiny_5_0000.nii.gz"
    predictor.predict_from_files_sequential([[str(image)]], str(root / "out"))
    assert sitk.ReadImage(str(root / "out" / "tiny_5.nii.gz")).GetSize() == (22, 20, 18)


def test_by_default_no_teacher_is_kept(nnunet_folders, make_trainer):
    nnunet_folders()
    plans = plans_with(schedule={"epochs": 1, "iterations": 1})
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans)
    trainer.run_training()
    assert not list(Path(trainer.output_folder).glob("checkpoint_teacher*"))


def test_after_a_training_the_best_checkpoint_is_loaded_into_the_same_trainer(nnunet_folders, make_trainer):
    """As ``nnUNetv2_train --val_best`` does."""
    nnunet_folders()
    plans = plans_with(schedule={"epochs": 1, "iterations": 2})
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans)
    trainer.run_training()
    best = Path(trainer.output_folder) / "checkpoint_best.pth"
    saved = torch.load(best, weights_only=False)
    assert saved[CHECKPOINT_KEY]["aux"]
    with torch.no_grad():
        next(trainer.network.parameters()).zero_()
    trainer.load_checkpoint(str(best))
    assert same(trainer.network.state_dict().values(), saved["network_weights"].values())


def test_a_finished_training_that_is_continued_leaves_the_kept_teacher_alone(nnunet_folders, make_trainer):
    nnunet_folders()
    plans = plans_with(keep_teacher=True, schedule={"epochs": 1, "iterations": 3})
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans)
    trainer.run_training()
    kept = Path(trainer.output_folder) / "checkpoint_teacher.pth"
    before = torch.load(kept, weights_only=False)["network_weights"]
    again = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans, seed=1)
    again.load_checkpoint(str(kept.with_name("checkpoint_final.pth")))
    again.run_training()
    assert same(torch.load(kept, weights_only=False)["network_weights"].values(), before.values())


def test_a_finished_training_that_gets_more_epochs_has_a_teacher_again(nnunet_folders, make_trainer):
    nnunet_folders()
    short, longer = (plans_with(keep_teacher=True, schedule={"epochs": n, "iterations": 2}) for n in (1, 2))
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=short)
    trainer.run_training()
    final = Path(trainer.output_folder) / "checkpoint_final.pth"
    again = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=longer)
    again.load_checkpoint(str(final))
    assert same(again.aux["teacher"].parameters(), trainer.network.parameters())
