"""The trainers: terms, what each direction touches, options, checkpoints, and landmarks from training to files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from benchmarks import step_cost
from nnunet_ext.babloss.options import BaBLossOptions
from nnunet_ext.babloss.trainer import BRIDGE_A, BRIDGE_B, HEATMAP, PAIRS_A, PAIRS_B, PLACE, nnUNetTrainerBaBLoss
from nnunet_ext.catalogue import resolve
from nnunet_ext.discovery import discovery_folder
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.formats import read, write_markups
from nnunet_ext.landmarks.mirroring import Mirroring
from nnunet_ext.landmarks.points import State, present
from nnunet_ext.landmarks.predictor import LandmarkHead, LandmarkPredictor, predict
from nnunet_ext.landmarks.training.loader import KEYS, landmark_entries
from nnunet_ext.medcontext.trainer import MedContext
from nnunet_ext.nnunet.models import Prediction
from nnunet_ext.nnunet.options import not_applied, with_overrides
from nnunet_ext.nnunet.pseudo_label_training import PSEUDO
from nnunet_ext.nnunet.trainer import INSIDE, SEGMENTATION
from tests import tiny
from tests.landmarks.training import landmark_dataset

TRAINERS = {
    "Landmark": ("nnUNetTrainerLandmark", {}),
    "BaBLoss": ("nnUNetTrainerBaBLoss", {}),
    "direction A": ("nnUNetTrainerBaBLoss", {"b_weight": 0.0}),
    "direction B": ("nnUNetTrainerBaBLoss", {"a_weight": 0.0}),
    "self-training": ("nnUNetTrainerBaBLoss", {"pseudo_weight": 1.0, "ramp_start": 0.0, "ramp_end": 0.0}),
    "without the place": ("nnUNetTrainerBaBLoss", {"place_weight": 0.0}),
    "ball": ("nnUNetTrainerBaBLoss", {"heatmap_target": "ball", "heatmap_radius": 5.0}),
    "Paper": ("nnUNetTrainerBaBLossPaper", {}),
}
"""Trainers and options: everything that was measured on its own."""
SURFACES = {"left": ["left"], "right": ["right"], "top": ["left", "right"]}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return landmark_dataset.write(
        tmp_path_factory.mktemp("landmarks"), landmark_dataset.description(surface_of=SURFACES)
    )


@pytest.fixture
def make(template, tmp_path, monkeypatch):
    shutil.copytree(template, tmp_path / "nnunet")
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / "nnunet" / name))
    monkeypatch.setenv("nnUNet_extTrainer", str(discovery_folder()))

    def made(name, configuration="3d_fullres", options=None, description=None, initialize=True):
        folder = tmp_path / "nnunet" / "preprocessed" / tiny.DATASET
        plans = json.loads((folder / "nnUNetPlans.json").read_text())
        plans["continue_training"] = False
        if options:
            plans["configurations"][configuration]["nnunet_ext"] = {"babloss": options}
        content = description or json.loads((folder / "dataset.json").read_text())
        torch.manual_seed(0)
        trainer_class = resolve(name) if isinstance(name, str) else name
        trainer = trainer_class(plans, configuration, 0, content, torch.device("cpu"))
        if initialize:
            trainer.initialize()
        return trainer

    return made


def batch_of(trainer, states, drawn, seed=0):
    """Two samples: ``states`` ``(2, 4)``; ``drawn``: which are segmented."""
    batch = tiny.batch(trainer, seed)
    size, dim = batch["data"].shape[0], batch["data"].ndim - 2
    targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
    for target in targets:
        for sample in range(size):
            if not drawn[sample % 2]:
                target[sample] = trainer.labels.ignore_label
                target[sample, :, 0] = 0  # where nnU-Net pads, it writes background into every case
            else:
                target[sample] = torch.where(target[sample] == trainer.labels.ignore_label, 0, target[sample])
    rows = [states[sample % 2] for sample in range(size)]
    points = torch.full((size, len(rows[0]), dim), float("nan"))
    points[torch.tensor(rows) == State.PRESENT] = min(batch["data"].shape[2:]) / 2
    if getattr(trainer, "has_clean_image", False):
        batch["data"] = torch.cat([batch["data"], 0.5 * batch["data"]], 1)
    segmented = torch.tensor([drawn[sample % 2] for sample in range(size)])
    batch |= landmark_entries(points, torch.tensor(rows, dtype=torch.int8), segmented)
    return {**batch, "keys": [f"case_{sample}" for sample in range(size)]}


PRESENT, ABSENT, UNKNOWN = 1, 0, -1
BOTH_KINDS = ([[PRESENT, PRESENT, PRESENT, ABSENT], [UNKNOWN] * 4], [False, True])


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_trains_and_validates(make, name, configuration):
    trainer_name, options = TRAINERS[name]
    trainer = make(trainer_name, configuration, options)
    trainer.on_validation_epoch_start()
    trainer.network.train()
    steps = [trainer.train_step(batch_of(trainer, *BOTH_KINDS, seed=seed)) for seed in range(3)]
    assert all(np.isfinite(list(step.values())).all() for step in steps)
    assert {f"loss_{SEGMENTATION}", f"loss_{HEATMAP}"} <= steps[0].keys()
    assert (f"loss_{PLACE}" in steps[0]) == (name not in ("Paper", "without the place"))
    assert (f"loss_{BRIDGE_A}" in steps[0]) == (name not in ("Landmark", "direction B"))
    assert (f"loss_{BRIDGE_B}" in steps[0]) == (name not in ("Landmark", "direction A"))
    trainer.network.eval()
    validated = batch_of(trainer, *BOTH_KINDS)
    validated["data"] = validated["data"][:, : trainer.image_channels]  # the clean image is of the training alone
    with torch.no_grad():
        assert trainer.validation_step(validated)["tp_hard"].shape == (2,)
    assert len(trainer.radial_errors) > 0


@pytest.mark.parametrize("drawn", [(False, True), (False, False), (True, True)])
def test_the_average_sees_only_samples_without_a_segmentation(make, drawn):
    trainer = make("nnUNetTrainerBaBLoss", "2d", {**TRAINERS["self-training"][1], "pseudo_confidence": 0.0})
    batch = batch_of(trainer, [[UNKNOWN] * 4] * 2, drawn)
    seen = []
    trainer.average().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    labels, use = trainer.prepare_batch(batch)[PSEUDO]
    without = ~batch["segmented"]
    clean = batch["data"][:, trainer.image_channels :]
    assert all(torch.equal(image, clean[without]) for image in seen)
    assert len(seen) == int(without.any())
    # where nothing is drawn and the image is, the label is what the average predicts
    with torch.no_grad():
        best = trainer.average()(clean).argmax(1)
    unlabelled = trainer.unlabelled_voxels(batch)
    assert torch.equal(use.all(1, keepdim=True), unlabelled)
    assert torch.equal(labels.argmax(1)[unlabelled[:, 0]], best[unlabelled[:, 0]])
    assert not use[batch["segmented"]].any()


def test_batches_of_noise_have_what_the_loader_adds(make):
    # the losses read these keys, and benchmarks/step_cost.py makes its own batches
    assert set(KEYS) <= set(step_cost.random_batch(make("nnUNetTrainerBaBLoss")))


def test_a_ball_is_the_target_where_the_options_say_so_and_never_of_the_published_loss(make):
    radius = make(TRAINERS["ball"][0], options=TRAINERS["ball"][1]).heatmap_loss.width
    assert max(radius) == 5.0
    # options of the plans do not apply to published arithmetic
    paper = make("nnUNetTrainerBaBLossPaper", options={"heatmap_target": "ball", "heatmap_radius": 7.0})
    assert max(paper.heatmap_loss.width) == 5.0
    assert paper.options.babloss.heatmap_target == "gaussian"
    with pytest.raises(InputError, match="heatmap_target"):
        make("nnUNetTrainerBaBLoss", options={"heatmap_target": "cone"})


@pytest.mark.parametrize(
    ("plans", "idle"),
    [
        ({"heatmap_radius": 9.0}, ["babloss.heatmap_radius = 9.0"]),
        ({"heatmap_radius": 9.0, "heatmap_target": "ball", "heatmap_sigma": 3.0}, []),
        # a prediction near surfaces smooths heatmaps by a share of it
        ({"heatmap_target": "ball", "heatmap_sigma": 3.0, "b_weight": 0.0}, []),
        (
            {"heatmap_target": "ball", "heatmap_sigma": 3.0, "b_weight": 0.0, "surface_sigma": 0.0},
            ["babloss.heatmap_sigma = 3.0"],
        ),
        ({"seen": 0.1, "similarity": "cosine", "b_weight": 0.0}, ["babloss.seen = 0.1"]),
        ({"seen": 0.1, "similarity": "cosine", "a_weight": 0.0}, ["babloss.similarity = 'cosine'"]),
        ({"a_weight": 0.0, "b_weight": 0.0, "levels": 6}, ["babloss.levels = 6"]),
        ({"a_weight": 0.0, "b_weight": 0.0, "ramp_end": 0.5}, ["babloss.ramp_end = 0.5"]),
        ({"a_weight": 0.0, "b_weight": 0.0, "ramp_end": 0.5, "pseudo_weight": 1.0}, []),
        ({"pseudo_confidence": 0.9}, ["babloss.pseudo_confidence = 0.9"]),
        ({"heatmap_target": "ball", "heatmap_weight": 0.0}, []),
        (
            {"heatmap_target": "ball", "heatmap_radius": 9.0, "heatmap_weight": 0.0, "place_weight": 0.0},
            ["babloss.heatmap_target = 'ball'", "babloss.heatmap_radius = 9.0"],
        ),
    ],
)
def test_options_of_what_is_not_computed_are_named(plans, idle):
    options = with_overrides(BaBLossOptions(), plans)
    assert not_applied({"babloss": options}, {"babloss": plans}) == idle


def test_widths_of_targets_follow_the_spacing():
    spacing = (10.0, 1.0, 2.0)
    assert BaBLossOptions().heatmap_width(spacing) == [0.4, 4.0, 2.0]
    assert BaBLossOptions().heatmap_mm((0.5, 0.7)) == 2.0
    assert BaBLossOptions(heatmap_target="ball").heatmap_mm((0.5, 0.7)) == 7.5
    # a ball between two thick slices is seen in both
    assert BaBLossOptions(heatmap_target="ball", heatmap_radius=6.0).heatmap_width(spacing) == [1.0, 6.0, 3.0]


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize(
    ("states", "drawn"),
    [([[UNKNOWN] * 4] * 2, [True, True]), ([[PRESENT] * 4] * 2, [False, False]), ([[UNKNOWN] * 4] * 2, [False, False])],
    ids=["only segmented", "only landmarks", "nothing"],
)
def test_batches_of_one_kind_are_finite_and_have_the_same_terms(make, name, states, drawn):
    trainer_name, options = TRAINERS[name]
    trainer = make(trainer_name, options=options)
    trainer.network.train()
    ordinary = trainer.train_step(batch_of(trainer, *BOTH_KINDS))
    step = trainer.train_step(batch_of(trainer, states, drawn))
    assert step.keys() == ordinary.keys()
    assert np.isfinite(list(step.values())).all()
    assert all(p.isfinite().all() for p in trainer.network.parameters())
    if name != "Paper":
        heads = [p for n, p in trainer.network.named_parameters() if n.startswith("landmark_decoder.")]
        assert all(p.grad is not None for p in heads)  # DDP waits for all of them


def test_around_the_bridge_both_views_have_both_heads(make):
    trainer = make(type("Wrapped", (MedContext, nnUNetTrainerBaBLoss), {}))
    trainer.network.train()
    step = trainer.train_step(batch_of(trainer, *BOTH_KINDS))
    terms = {f"loss_{term}" for term in (SEGMENTATION, HEATMAP, PLACE, BRIDGE_A, BRIDGE_B)}
    assert terms | {"loss_consistency"} <= step.keys()
    assert np.isfinite(list(step.values())).all()


def gradients(trainer, term, batch):
    trainer._recorded = {}
    with trainer.annotated_in(batch):
        terms = next(trainer.loss_passes(trainer.prepare_batch(batch)))
    trainer.network.zero_grad(set_to_none=True)
    terms[term].backward()
    found = dict.fromkeys(("encoder", "decoder", "landmark_decoder"), 0.0)
    for name, parameter in trainer.network.named_parameters():
        if parameter.grad is not None:
            found[name.partition(".")[0]] += float(parameter.grad.abs().sum())
    return {name: float(values[0]) for name, values in trainer._recorded.items()}, found


def test_direction_a_moves_the_segmentation_of_cases_that_nobody_drew(make):
    trainer = make("nnUNetTrainerBaBLoss")
    trainer.network.train()
    pairs, found = gradients(trainer, BRIDGE_A, batch_of(trainer, *BOTH_KINDS))
    assert pairs["stat_pairs_a"] > 0
    assert found["encoder"] > 0
    assert found["decoder"] > 0
    assert found["landmark_decoder"] == 0
    pairs, found = gradients(trainer, BRIDGE_A, batch_of(trainer, BOTH_KINDS[0], [True, True]))
    assert pairs["stat_pairs_a"] == 0
    assert sum(found.values()) == 0


def test_direction_b_moves_landmarks_that_nobody_placed(make):
    trainer = make("nnUNetTrainerBaBLoss", options={"seen": 0.0})
    trainer.network.train()
    batch = batch_of(trainer, *BOTH_KINDS)
    pairs, found = gradients(trainer, BRIDGE_B, batch)
    assert pairs["stat_pairs_b"] > 0
    assert found["decoder"] == 0
    assert found["landmark_decoder"] > 0
    _, found = gradients(trainer, BRIDGE_B, batch_of(trainer, BOTH_KINDS[0], [False, False]))
    assert sum(found.values()) == 0


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_batches_say_where_the_image_is_and_have_the_targets_of_stock_nnunet(make, configuration):
    """The bridge must not take the end of the image for a surface; for the segmentation padding stays background."""

    def prepared(name):
        trainer = make(name, configuration)
        np.random.seed(0)
        torch.manual_seed(0)
        loaders = trainer.get_dataloaders()
        return [trainer.prepare_batch(trainer.to_device(next(loaders[0]))) for _ in range(4)]

    shares = []
    for ours, stock in zip(prepared("nnUNetTrainerBaBLoss"), prepared("nnUNetTrainerLandmark"), strict=True):
        assert INSIDE not in stock
        assert torch.equal(ours["data"], stock["data"])
        assert all(torch.equal(a, b) for a, b in zip(ours["target"], stock["target"], strict=True))
        shares.append(ours[INSIDE].float().mean().item())
    assert 0.1 < min(shares) < 0.95


@pytest.mark.parametrize("term", [BRIDGE_A, BRIDGE_B])
def test_both_directions_use_where_the_image_is(make, term):
    trainer = make("nnUNetTrainerBaBLoss", options={"seen": 0.0})
    trainer.network.train()
    batch = trainer.prepare_batch(trainer.to_device(batch_of(trainer, *BOTH_KINDS)))
    everywhere = torch.ones_like(batch["data"][:, :1], dtype=torch.bool)
    losses = [
        trainer.compute_terms(trainer.network(batch["data"]), {**batch, INSIDE: inside})[term].item()
        for inside in (everywhere, everywhere & False)
    ]
    # where nothing is inside there is no boundary: nothing takes part in A, and B is as far from one as it can be
    assert losses[1] == pytest.approx(0 if term == BRIDGE_A else 1)
    assert losses[0] != pytest.approx(losses[1], abs=0.01)


def test_samples_in_which_nothing_is_drawn_do_not_dilute_the_dice(make):
    trainer = make("nnUNetTrainerBaBLoss")
    batch = batch_of(trainer, *BOTH_KINDS)
    drawn = {key: value[1:] for key, value in batch.items() if key not in ("target", "keys")}
    drawn |= {"target": [target[1:] for target in batch["target"]], "keys": batch["keys"][1:]}
    trainer.network.eval()  # the network does not depend on who else is in the batch, and returns no landmarks
    losses = []
    for one in (batch, drawn):
        with trainer.annotated_in(one), torch.no_grad():
            losses.append(float(trainer.loss(trainer.network(one["data"]), one["target"])))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_self_training_teaches_only_cases_in_which_nothing_is_drawn(make):
    options = {"pseudo_weight": 0.5, "pseudo_confidence": 0.0, "a_weight": 0.0, "b_weight": 0.0}
    trainer = make("nnUNetTrainerBaBLoss", "2d", options)
    trainer.num_epochs = 100
    trainer.network.train()
    seen = []
    trainer.average().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch, weights = batch_of(trainer, *BOTH_KINDS), []
    nothing = ~batch["segmented"]
    for trainer.current_epoch in (0, 9, 20, 30):
        weights.append(trainer.term_weight("pseudo_labels"))
        step = trainer.train_step(batch)
        assert (step["loss_pseudo_labels"] > 0) == (trainer.current_epoch > 10)
    assert weights == pytest.approx([0, 0, 0.25, 0.5])
    assert step["stat_pseudo_share"] == 1
    assert torch.equal(seen[0], batch["data"][nothing, 1:])
    prepared = trainer.prepare_batch(trainer.to_device(batch))
    _, use = prepared["pseudo_labels"]
    assert not use[~nothing].any()
    assert use[nothing, :, 1:].all()
    assert not use[nothing, :, 0].any()  # where nnU-Net pads, it writes background into every case


def test_without_self_training_there_is_no_average(make):
    trainer = make("nnUNetTrainerBaBLoss", "2d")
    assert not trainer.has_clean_image
    assert not trainer.teacher_names()


def test_self_training_where_every_voxel_has_a_label_is_refused(make, template):
    file = next((template / "preprocessed").rglob("dataset.json"))
    content = json.loads(file.read_text())
    del content["labels"]["ignore"]
    with pytest.raises(InputError, match=r"pseudo_weight = 1, but dataset.json of .* declares no ignore label"):
        make("nnUNetTrainerBaBLoss", "2d", {"pseudo_weight": 1.0}, content)


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_self_training_has_the_unaugmented_image_on_the_grid_of_the_landmarks(make, configuration):
    trainer = make("nnUNetTrainerBaBLoss", configuration, {"pseudo_weight": 1.0})
    loaders = trainer.get_dataloaders()
    try:
        batch = next(loaders[0])
    finally:
        for loader in loaders:
            getattr(loader, "_finish", lambda: None)()
    assert batch["data"].shape[1] == 2 * trainer.image_channels
    assert batch["landmarks"].shape[-1] == batch["data"].ndim - 2
    prepared = trainer.prepare_batch(trainer.to_device(batch))
    assert prepared["data"].shape == prepared["clean_image"].shape


def test_the_control_trains_with_the_segmented_cases_alone(make, monkeypatch):
    both, control = make("nnUNetTrainerBaBLoss"), make("nnUNetTrainerSegmentedOnly")
    training, validation = both.do_split()
    kept, validated = control.do_split()
    assert sorted(validated) == sorted(validation)
    assert kept == [case for case in training if both.landmark_cases[case].annotation.segmentation]
    assert 0 < len(kept) < len(training)
    monkeypatch.setattr("nnunet_ext.nnunet.annotated.is_segmented", lambda locations, labels: False)
    with pytest.raises(InputError, match=r"in all \d+ training cases of fold 0 every voxel has the ignore label"):
        control.do_split()


def test_a_case_in_which_no_label_was_annotated_is_not_segmented(make, tmp_path):
    content = landmark_dataset.description(surface_of=SURFACES)
    content["annotated_labels"] = {"case_0": [], "case_2": [], "case_3": ["left"]}
    both, control = (make(name, description=content) for name in ("nnUNetTrainerBaBLoss", "nnUNetTrainerSegmentedOnly"))
    found = {name: case.annotation.value for name, case in both.landmark_cases.items()}
    assert [found[f"case_{n}"] for n in (0, 2, 3)] == ["nothing", "landmarks", "segmentation"]
    folds = [{"train": ["case_0", "case_2", "case_3"], "val": ["case_1"]}]
    (tmp_path / "nnunet" / "preprocessed" / tiny.DATASET / "splits_final.json").write_text(json.dumps(folds))
    assert control.do_split()[0] == ["case_3"]


def test_an_organ_that_nobody_annotated_does_not_teach_the_segmentation(make):
    content = landmark_dataset.description(surface_of=SURFACES)
    content["annotated_labels"] = {"case_0": ["left"], "case_1": ["left"]}
    trainer = make("nnUNetTrainerBaBLoss", "2d", {"a_weight": 0.0, "b_weight": 0.0}, content)
    trainer.initial_lr, trainer.optimizer = 0.0, torch.optim.SGD(trainer.network.parameters(), 0.0)
    trainer.network.train()
    batch = batch_of(trainer, BOTH_KINDS[0], [True, True])
    batch["keys"] = [f"case_{sample % 2}" for sample in range(len(batch["keys"]))]
    right = trainer.labels.num_heads - 1
    assert any((target == right).any() for target in batch["target"])
    without = [torch.where(target == right, 0, target) for target in batch["target"]]
    losses = [float(trainer.train_step(one)["loss_segmentation"]) for one in (batch, {**batch, "target": without})]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_the_published_form_says_that_it_does_not_read_which_labels_were_annotated(make, capsys):
    complete = landmark_dataset.description(surface_of=SURFACES)
    for content, said in ((complete, False), ({**complete, "annotated_labels": {"case_0": ["left"]}}, True)):
        make("nnUNetTrainerBaBLossPaper", description=content).on_train_start()
        assert ("WARNING: annotated_labels is not read" in capsys.readouterr().out) is said


def test_of_two_organs_of_a_landmark_each_direction_has_its_own(make):
    def bridge(**surface_of):
        content = {**landmark_dataset.description(surface_of=surface_of), "annotated_labels": {"case_0": ["left"]}}
        trainer = make("nnUNetTrainerBaBLoss", "2d", {"seen": 0.0}, content)
        states = [[ABSENT, ABSENT, state, ABSENT] for state in (PRESENT, UNKNOWN)]
        batch = batch_of(trainer, states, [True, True])
        batch["keys"] = ["case_0"] * len(batch["keys"])
        shape = batch["data"].shape[2:]
        for target in batch["target"]:
            target[:] = 0
            target[..., : target.shape[-1] // 4] = 1
        # the predictions of left and right meet where the landmark is
        sides = torch.linspace(-6, 6, shape[-1]).expand(shape)
        logits = torch.stack([torch.full(shape, -9.0), sides, -sides]).expand(len(states), -1, -1, -1)
        heat = torch.full((len(states), 4, *shape), -9.0)
        heat[:, 2, shape[0] // 2, shape[1] // 2] = 9.0
        terms = trainer.bridge_terms(logits, heat, trainer.prepare_batch(batch))
        pairs = [int(trainer._recorded[f"stat_{name}"][0]) for name in (PAIRS_A, PAIRS_B)]
        return pairs, [float(terms[name]) for name in (BRIDGE_A, BRIDGE_B)]

    # nobody drew the right one: the landmark pulls its boundary (A); the left one is drawn and pulls the landmark (B)
    pairs, terms = bridge(top=["left", "right"])
    assert pairs == [1, 1]
    pairs, (a, _) = bridge(top=["right"])
    assert pairs == [1, 0]
    pairs, (_, b) = bridge(top=["left"])
    assert pairs == [0, 1]
    assert terms == pytest.approx([a, b])
    assert min(terms) > 0


def test_masks_have_half_of_the_samples_but_not_in_the_published_form(make):
    assert make("nnUNetTrainerBaBLoss").shares == {"segmented_share": 0.75, "landmark_share": 0.0}
    assert make("nnUNetTrainerBaBLoss", options={"landmark_share": 0.6}).shares["landmark_share"] == 0.6
    assert set(make("nnUNetTrainerBaBLossPaper").shares.values()) == {0.0}


def test_landmarks_are_sought_on_the_surface_but_not_in_the_published_form(make):
    def widths(name, **options):
        head = LandmarkHead.from_settings(make(name, options=options).landmark_settings(Mirroring()))
        return head.surface_sigma, head.heatmap_sigma

    assert widths("nnUNetTrainerBaBLoss") == (1.0, 4.0)
    assert widths("nnUNetTrainerLandmark", surface_sigma=2.0, heatmap_sigma=3.0) == (2.0, 3.0)
    assert widths("nnUNetTrainerLandmark", surface_sigma=0.0) == (None, 4.0)
    assert widths("nnUNetTrainerBaBLossPaper") == (None, 5.0)


def test_the_bridge_waits_and_grows(make):
    trainer = make("nnUNetTrainerBaBLoss")
    trainer.num_epochs = 100
    weights = []
    for trainer.current_epoch in (0, 9, 20, 30, 99):
        weights.append(trainer.term_weight(BRIDGE_A))
    assert weights == pytest.approx([0, 0, 0.15, 0.3, 0.3])


def test_options_of_the_plans_count_but_not_for_the_published_form(make):
    assert make("nnUNetTrainerBaBLoss", options={"levels": 4}).options.babloss.levels == 4
    assert make("nnUNetTrainerBaBLossPaper", options={"levels": 4}).options.babloss.levels == 10
    with pytest.raises(InputError, match="unknown babloss options"):
        make("nnUNetTrainerBaBLoss", options={"level": 4})
    with pytest.raises(InputError, match=r"babloss\.sigma = -1: input should be greater than 0"):
        make("nnUNetTrainerBaBLoss", options={"sigma": -1})


def test_a_data_set_without_landmarks_gets_one_sentence(make, tmp_path):
    with pytest.raises(InputError, match="has no 'landmarks'; add for example"):
        make("nnUNetTrainerBaBLoss", description=tiny.dataset_json("ignore"))
    assert not list((tmp_path / "nnunet" / "results").iterdir())


@pytest.mark.parametrize("name", ["nnUNetTrainerBaBLoss", "nnUNetTrainerBaBLossPaper"])
def test_without_surfaces_the_bridge_is_refused_before_anything_is_written(make, tmp_path, name):
    alone = landmark_dataset.description()
    misspelt = {**alone, "surfaceof": SURFACES}
    with pytest.raises(InputError, match=f'{name} .* add to its "landmarks" .*surface_of.* nnUNetTrainerLandmark'):
        make(name, description=alone)
    with pytest.raises(InputError, match=r"nobody reads 'surfaceof' \(did you mean 'surface_of'\?\)"):
        make(name, description=misspelt)
    assert not list((tmp_path / "nnunet" / "results").iterdir())


def test_without_surfaces_landmarks_are_learned_without_the_bridge(make):
    off = {"a_weight": 0.0, "b_weight": 0.0}
    for name, options in (("nnUNetTrainerLandmark", None), ("nnUNetTrainerBaBLoss", off)):
        trainer = make(name, "2d", options, landmark_dataset.description())
        assert trainer.landmark_declaration.surface_of == {}


def test_the_segmentation_part_is_stock_nnunets(make, make_trainer, tmp_path):
    trainer = make("nnUNetTrainerBaBLoss")
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    weights = torch.load(tmp_path / "c.pth", weights_only=False)["network_weights"]
    stock = make(nnUNetTrainer)
    stock.network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("landmark_decoder.")})
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        for a, b in zip(stock.network.eval()(x), trainer.network.eval()(x), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_from_training_to_landmarks_in_files(make, tmp_path, configuration):
    trainer = make("nnUNetTrainerBaBLoss", configuration, initialize=False)  # as nnUNetv2_train
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
    trainer.run_training()
    trainer.perform_actual_validation()
    fold = tmp_path / "nnunet" / "results" / tiny.DATASET
    (model,) = fold.iterdir()
    log = next((model / "fold_0").glob("training_log*")).read_text()
    counted = "Of 4 training cases these were annotated in: {'left': 2, 'right': 2}; in 2 of them nothing is"
    assert counted in log
    summary = json.loads((model / "fold_0" / "validation" / "landmarks" / "landmarks_summary.json").read_text())
    assert set(summary["landmarks"]) == set(landmark_dataset.NAMES)
    plans = json.loads((model / "plans.json").read_text())["configurations"][configuration]
    assert LandmarkHead.from_configuration(plans, "model").surface_sigma == 1.0  # predictions find it there
    images = tmp_path / "nnunet" / "raw" / tiny.DATASET / "imagesTr"
    how = Prediction(folds=[0], device="cpu", progress=False)
    found = predict(images, tmp_path / "out", model, how, threshold=0.0)
    assert len(found) == len(landmark_dataset.KINDS)
    written = read(tmp_path / "out" / "landmarks")
    assert written.keys() == found.keys()
    for case, landmarks in found.items():
        assert list(landmarks) == list(landmark_dataset.NAMES)
        for name, landmark in landmarks.items():
            assert np.allclose(landmark.position_mm, written[case][name].position_mm, atol=1e-3)
        assert (tmp_path / "out" / f"{case}.nii.gz").is_file()
    assert read(tmp_path / "out" / "landmarks.csv").keys() == found.keys()
    (tmp_path / "out" / f"._{next(iter(found))}.nii.gz").touch()  # macOS leaves such files
    again = predict(images, tmp_path / "out", model, replace(how, continue_prediction=True))
    assert again.keys() == found.keys()
    first = images / f"{next(iter(found))}_0000.nii.gz"
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / first.name).write_bytes(first.read_bytes())
    assert predict(tmp_path / "one", tmp_path / "out", model, how, threshold=0.0).keys() == found.keys()
    assert read(tmp_path / "out" / "landmarks.csv").keys() == found.keys()  # all cases of the folder
    earlier = tmp_path / "out" / "landmarks" / f"{list(found)[1]}.mrk.json"
    earlier.write_text("{")
    before = (tmp_path / "out" / "landmarks.csv").read_bytes(), sorted((tmp_path / "out").iterdir())
    with pytest.raises(InputError, match=rf"{earlier.name} cannot be read"):  # before the work
        predict(tmp_path / "one", tmp_path / "out", model, how)
    assert ((tmp_path / "out" / "landmarks.csv").read_bytes(), sorted((tmp_path / "out").iterdir())) == before
    assert predict(images, tmp_path / "out", model, how, threshold=0.0).keys() == found.keys()  # it is replaced
    anywhere = predict(images, tmp_path / "anywhere", model, how, threshold=0.0, surface_sigma=0.0)
    assert {c: {n: m.confidence for n, m in f.items()} for c, f in anywhere.items()} == {
        c: {n: m.confidence for n, m in f.items()} for c, f in found.items()
    }


def test_validation_alone_exchanges_left_and_right_as_at_the_end_of_the_training(make, tmp_path):
    paired = landmark_dataset.description(mirror_pairs=[["left", "right"]])
    trained = make("nnUNetTrainerLandmark", description=paired)
    with torch.no_grad():  # a network to which left and right are not alike
        trained.network.landmark_decoder.head.bias[:] = torch.tensor([1.0, -1.0, 0.0, -3.0])
    trained.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # with the data loaders of a training
    trained.save_checkpoint(str(tmp_path / "trained.pth"))

    def validated(trainer):
        trainer.validate_landmarks()
        fold = next((tmp_path / "nnunet" / "results").rglob("fold_0"))
        return {file.name: file.read_text() for file in (*fold.rglob("*.mrk.json"), *fold.rglob("*thresholds.json"))}

    expected = validated(trained)
    alone = make("nnUNetTrainerLandmark", description=paired)
    alone.load_checkpoint(str(tmp_path / "trained.pth"))
    assert alone.inference_allowed_mirroring_axes == (0, 1, 2)
    assert validated(alone) == expected
    assert "landmark_thresholds.json" in expected


def test_a_validation_case_is_judged_by_the_others_and_files_of_other_folds_are_not_scored(make, tmp_path, monkeypatch):
    raw = tmp_path / "nnunet" / "raw" / tiny.DATASET / "landmarksTr"
    cases = read(raw)
    confidences = {"case_1": 0.05, "case_2": 0.01}
    write_markups(raw / "case_2.mrk.json", {**cases["case_2"], "left": cases["case_2"]["never"]})  # absent
    trainer = make("nnUNetTrainerLandmark")
    monkeypatch.setattr(trainer, "do_split", lambda: (["case_0", "case_3", "case_5"], ["case_1", "case_2"]))
    order = iter(confidences.values())

    def predicted(self, both, properties):
        return dict.fromkeys(landmark_dataset.NAMES, present((0, 0, 0), next(order)))

    monkeypatch.setattr(LandmarkPredictor, "landmarks_of", predicted)
    folder = Path(trainer.output_folder) / "validation" / "landmarks"
    write_markups(folder / "case_5.mrk.json", cases["case_5"])  # of a training with other folds
    trainer.validate_landmarks()
    thresholds = json.loads((Path(trainer.output_folder) / "landmark_thresholds.json").read_text())
    assert thresholds["left"] == pytest.approx(0.03)
    # alone, the absent one gives no threshold, so 0.1 counts for the other
    assert {case: found["left"].state for case, found in read(folder.parent / "landmarks.csv").items()} == {
        "case_1": State.ABSENT,
        "case_2": State.ABSENT,
    }
    left = json.loads((folder / "landmarks_summary.json").read_text())["landmarks"]["left"]
    assert (left["found"], left["missed"], left["false"], left["rejected"]) == (0, 1, 0, 1)
