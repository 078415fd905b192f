"""The trainers of AttenScribble: terms, ramp, checkpoints, labels that do not fit, and what inference sees."""

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.attenscribble.trainer import ASL, CRF
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.clean_image import WithCleanImage
from nnunet_ext.nnunet.partial_cross_entropy import PartialCrossEntropy
from nnunet_ext.nnunet.trainer import CHECKPOINT_KEY
from tests import tiny

TRAINERS = [
    "nnUNetTrainerAttenScribble",
    "nnUNetTrainerMaskedCRF",
    "nnUNetTrainerSSA",
    "nnUNetTrainerAttenScribblePaper",
]
KINDS = ["ignore", "regions+ignore"]


@pytest.fixture
def make_with_similarity(make_trainer):
    """``make_with_similarity(configuration)`` → ``nnUNetTrainerAttenScribble`` with the similarity."""

    def make(configuration="2d", seed=0, kind="ignore", **options):
        plans = tiny.plans()
        plans["configurations"][configuration]["nnunet_ext"]["attenscribble"] |= {"asl_weight": 1.0, **options}
        name = "nnUNetTrainerAttenScribble"
        return make_trainer(name, kind=kind, configuration=configuration, plans=plans, seed=seed)

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_trains_and_validates(make_trainer, name, configuration, kind):
    if name.endswith("Paper") and "regions" in kind:
        with pytest.raises(InputError, match="published for classes"):
            make_trainer(name, kind=kind, configuration=configuration)
        return
    trainer = make_trainer(name, kind=kind, configuration=configuration)
    trainer.network.train()
    steps = [trainer.train_step(tiny.batch(trainer, seed)) for seed in range(3)]
    assert all(np.isfinite(list(step.values())).all() for step in steps)
    assert (f"loss_{CRF}" in steps[0]) == (name != "nnUNetTrainerSSA")
    assert (f"loss_{ASL}" in steps[0]) == name.endswith("Paper")
    trainer.network.eval()
    with torch.no_grad():
        assert trainer.validation_step(tiny.batch(trainer))["tp_hard"].shape == (2,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_the_similarity_is_an_option(make_with_similarity, configuration, kind):
    trainer = make_with_similarity(configuration, kind=kind)
    trainer.network.train()
    steps = [trainer.train_step(tiny.batch(trainer, seed)) for seed in range(3)]
    assert all(np.isfinite(list(step.values())).all() for step in steps)
    assert {f"loss_{CRF}", f"loss_{ASL}", "stat_mean_similarity"} <= steps[0].keys()


@pytest.mark.parametrize("name", [*TRAINERS, "with similarity"])
@pytest.mark.parametrize("label", [3, 1], ids=["nothing annotated", "one class"])
def test_patches_without_annotation_or_with_one_class_are_finite(make_trainer, make_with_similarity, name, label):
    similar = name == "with similarity"
    trainer = make_with_similarity() if similar else make_trainer(name, kind="ignore", configuration="2d")
    trainer.network.train()
    trainer.current_epoch = 500
    ordinary = trainer.train_step(tiny.batch(trainer))
    batch = tiny.batch(trainer)
    for target in batch["target"] if isinstance(batch["target"], list) else [batch["target"]]:
        target.fill_(label)
    step = trainer.train_step(batch)
    assert step.keys() == ordinary.keys()
    assert np.isfinite(list(step.values())).all()
    assert all(p.isfinite().all() for p in trainer.network.parameters())
    if f"loss_{ASL}" in step:
        assert step[f"loss_{ASL}"] == 0
    if f"loss_{CRF}" in step:
        assert (step[f"loss_{CRF}"] > 0) == (label == 3)  # everything is labelled: nobody receives energy


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_without_ignore_label_one_sentence_says_how_to_declare_it(make_trainer, name, kind):
    with pytest.raises(InputError, match=r'no ignore label; add "ignore": N .* dataset.json'):
        make_trainer(name, kind=kind)


@pytest.mark.parametrize("name", ["nnUNetTrainerAttenScribble", "nnUNetTrainerMaskedCRF", "with similarity"])
def test_the_trained_network_is_stock_nnunets(make_trainer, make_with_similarity, tmp_path, name):
    similar = name == "with similarity"
    trainer = make_with_similarity("3d_fullres") if similar else make_trainer(name, kind="ignore")
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    saved = torch.load(tmp_path / "c.pth", weights_only=False)
    stock = make_trainer(nnUNetTrainer, kind="ignore")
    stock.network.load_state_dict(saved["network_weights"], strict=True)
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        for a, b in zip(stock.network.eval()(x), trainer.network.eval()(x), strict=True):
            assert torch.equal(a, b)
    aux = saved[CHECKPOINT_KEY]["aux"]
    assert "confidence.probability" in aux
    assert (len(aux) > 1) == similar


def test_regularisers_wait_for_each_class(make_trainer, make_with_similarity):
    trainer = make_with_similarity()
    trainer.network.train()
    batch = tiny.batch(trainer)

    def pull(probability):
        trainer.gate.probability.copy_(torch.tensor(probability))
        trainer.gate.wait = 0.5
        terms = next(trainer.loss_passes(trainer.prepare_batch(batch)))
        heads = trainer.network.decoder.seg_layers[-1].bias
        return {name: torch.autograd.grad(terms[name], heads, retain_graph=True)[0].abs() for name in (CRF, ASL)}

    trainer.gate.leave_out([])
    shut, opened, one_shut = pull([0.0, 0.0, 0.0]), pull([1.0, 1.0, 1.0]), pull([1.0, 1.0, 0.0])
    for name in (CRF, ASL):
        assert shut[name].max() < 0.1 * opened[name].max()
        assert one_shut[name][2] < 0.2 * one_shut[name][:2].max()
    published = make_trainer("nnUNetTrainerAttenScribblePaper", kind="ignore", configuration="2d")
    published.network.train()
    assert published.train_step(tiny.batch(published))["stat_gate"] == 1


@pytest.mark.parametrize(
    ("weights", "terms"),
    [
        ({"crf_weight": 0.0, "asl_weight": 1.0}, {"similarity_loss", "mean_similarity"}),
        ({}, {"crf"}),
        ({"crf_weight": 0.0}, set()),
    ],
)
def test_a_loss_of_weight_0_is_not_computed(make_trainer, weights, terms):
    plans = tiny.plans()
    plans["configurations"]["2d"]["nnunet_ext"]["attenscribble"].update(weights, crf_image="clean")
    trainer = make_trainer("nnUNetTrainerAttenScribble", kind="ignore", configuration="2d", plans=plans)
    assert trainer.has_clean_image == ("crf" in terms)
    batch = tiny.batch(trainer)
    if "crf" in terms:
        batch["data"] = batch["data"].repeat(1, 2, 1, 1)
    called = []
    trainer.crf.register_forward_hook(lambda *_: called.append("crf"))
    assert ("similarity" in trainer.aux) == ("similarity_loss" in terms)
    if "similarity" in trainer.aux:
        trainer.aux["similarity"].register_forward_hook(lambda *_: called.append("similarity_loss"))
    step = trainer.train_step(batch)
    assert set(called) == terms & {"crf", "similarity_loss"}
    assert {key.partition("_")[2] for key in step} - {"", "segmentation", "gate", "annotated"} == terms
    assert ("stat_gate" in step) == bool(terms)


def test_the_log_says_once_after_the_ramp_for_which_classes_the_regularisers_are_on(make_trainer, capsys):
    trainer = make_trainer("nnUNetTrainerMaskedCRF", kind="ignore", configuration="2d")
    trainer.on_train_epoch_start()
    outputs = [trainer.train_step(tiny.batch(trainer))]
    trainer.gate.probability.copy_(torch.tensor([0.9, 0.7, 0.1]))
    said = []
    for epoch in (49, 50, 51):  # the ramp ends at 5 % of 1000 epochs
        trainer.current_epoch = epoch
        trainer.logger.local_logger.my_fantastic_logging["train_losses"] = [0.0] * epoch
        trainer.on_train_epoch_end(outputs)
        said.append("Regularisers: on for background, left; right at 20%" in capsys.readouterr().out)
    assert said == [False, True, False]


def test_affinity_and_projections_are_trained_saved_and_restored(make_with_similarity, tmp_path):
    trainer = make_with_similarity()
    trainer.network.train()
    trainer.current_epoch = 500
    before = {key: value.clone() for key, value in trainer.aux.state_dict().items()}
    for seed in range(3):
        trainer.train_step(tiny.batch(trainer, seed))
    changed = {key for key, value in trainer.aux.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == set(before)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    restored = make_with_similarity(seed=1)
    restored.load_checkpoint(str(tmp_path / "c.pth"))
    for key, value in trainer.aux.state_dict().items():
        assert torch.equal(restored.aux.state_dict()[key], value)


def test_the_regularisers_grow_from_zero_over_the_first_epochs(make_trainer, make_with_similarity):
    trainer = make_with_similarity()
    weights = []
    for epoch in (0, 25, 50, 999):  # 5 % of 1000 epochs
        trainer.current_epoch = epoch
        weights.append([trainer.term_weight(name) for name in (CRF, ASL)])
    assert [crf for crf, _ in weights] == pytest.approx([0, 4.6, 9.2, 9.2])
    assert [asl for _, asl in weights] == pytest.approx([0, 0.5, 1, 1])
    paper = make_trainer("nnUNetTrainerAttenScribblePaper", kind="ignore", configuration="2d")
    assert paper.term_weight(CRF) == paper.term_weight(ASL) == 9.2


def test_the_weight_of_the_crf_loss_may_fade_at_the_end(make_with_similarity):
    trainer = make_with_similarity(crf_fade=0.2)
    weights = []
    for epoch in (25, 50, 800, 900, 999):  # the last 200 of 1000 epochs
        trainer.current_epoch = epoch
        weights.append([trainer.term_weight(name) for name in (CRF, ASL)])
    assert [crf for crf, _ in weights] == pytest.approx([4.6, 9.2, 9.2, 4.6, 9.2 / 200])
    assert [asl for _, asl in weights] == pytest.approx([0.5, 1, 1, 1, 1])


def test_in_the_first_epoch_the_loss_is_that_of_stock_nnunet(make_trainer, make_with_similarity):
    """Weights of zero: the terms are in the graph and change nothing."""
    ours = make_with_similarity()
    stock = make_trainer("nnUNetTrainerReference", kind="ignore", configuration="2d")
    for seed in range(2):
        step = ours.train_step(tiny.batch(ours, seed))
        assert step["loss"] == pytest.approx(float(stock.train_step(tiny.batch(stock, seed))["loss"]), rel=1e-5)
        assert step[f"loss_{CRF}"] > 0


def test_partial_cross_entropy_is_the_mean_over_annotated_voxels():
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(0, 4, (2, 1, 4, 5))
    expected = torch.nn.functional.cross_entropy(logits, target[:, 0], ignore_index=3)
    torch.testing.assert_close(PartialCrossEntropy(3)(logits, target), expected)
    assert PartialCrossEntropy(3)(logits, torch.full_like(target, 3)) == 0


def test_plans_choose_options_and_unknown_ones_get_one_sentence(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["2d"]["nnunet_ext"] = {"attenscribble": {"attention": "trunk", "crf_weight": 1.0}}
    trainer = make_trainer("nnUNetTrainerAttenScribble", kind="ignore", configuration="2d", plans=plans)
    assert any(key.startswith("attention.") for key in trainer.network.state_dict())
    plans["configurations"]["2d"]["nnunet_ext"]["attenscribble"] = {"crf": 1.0}
    with pytest.raises(InputError, match=r"unknown attenscribble options \['crf'\]"):
        make_trainer("nnUNetTrainerAttenScribble", kind="ignore", configuration="2d", plans=plans)


def test_a_cascade_compares_images_and_not_the_previous_stage(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    trainer = make_trainer("nnUNetTrainerMaskedCRF", kind="ignore", configuration="3d_cascade_fullres", plans=plans)
    batch = tiny.batch(trainer)
    with torch.no_grad():
        expected = next(trainer.loss_passes(trainer.prepare_batch(batch)))[CRF]
        seen = []
        trainer.crf.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1].shape[1]))
        next(trainer.loss_passes(trainer.prepare_batch(batch)))
    assert seen == [1]
    assert expected.isfinite()


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("mask", "cascade"), [(False, False), (True, True)])
def test_the_clean_image_is_warped_like_the_image_and_not_augmented_otherwise(dim, mask, cascade):
    patch = [8, 16, 16][-dim:]
    arguments = (patch, (-0.5, 0.5), [[1] * dim, [0.5] * dim], tuple(range(dim)), dim == 3)
    known = {"use_mask_for_norm": [mask], "is_cascaded": cascade, "foreground_labels": [1, 2], "ignore_label": 3}
    transforms = WithCleanImage(nnUNetTrainer.get_training_transforms(*arguments, **known))
    torch.manual_seed(0)
    np.random.seed(0)
    differs = 0
    for _ in range(20):
        image = torch.rand(1, *[n + 2 for n in patch])
        result = transforms(image=image, segmentation=torch.zeros(1 + cascade, *image.shape[1:], dtype=torch.int16))
        seen, clean = result["image"][:1], result["image"][-1:]
        assert result["image"].shape[0] == 2 + 2 * cascade
        assert clean.min() > -1e-3
        assert clean.max() < 1 + 1e-3
        # noise: two differently warped images of it have nothing in common
        assert torch.corrcoef(torch.stack([seen.flatten(), clean.flatten()]))[0, 1] > 0.25
        differs += not torch.allclose(seen, clean)
    assert 0 < differs < 20


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("kind", KINDS)
def test_pseudo_labels_begin_after_a_while_and_come_from_the_average_that_sees_the_clean_image(
    make_trainer, kind, configuration
):
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        settings["nnunet_ext"]["attenscribble"] = {"pseudo_weight": 0.5, "pseudo_confidence": 0.0}
    trainer = make_trainer("nnUNetTrainerMaskedCRF", kind=kind, configuration=configuration, plans=plans)
    trainer.network.train()
    batch = tiny.batch(trainer)
    batch["data"] = torch.cat([batch["data"], 0.5 * batch["data"]], 1)
    seen = []
    trainer.average().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    weights = []
    for epoch in (0, 200, 225, 250, 999):  # from 20 % on, grows over 5 %
        trainer.current_epoch = epoch
        weights.append(trainer.term_weight("pseudo_labels"))
        step = trainer.train_step(batch)
        assert (step["loss_pseudo_labels"] > 0) == (epoch > 200)
        assert ("stat_pseudo_share" in step) == (epoch > 200)
    assert weights == pytest.approx([0, 0, 0.25, 0.5, 0.5])
    assert step["stat_pseudo_share"] == 1
    assert len(seen) == 3
    assert torch.equal(seen[0], batch["data"][:, 1:])


def test_without_pseudo_labels_there_is_no_average_and_no_further_channel(make_trainer):
    trainer = make_trainer("nnUNetTrainerMaskedCRF", kind="ignore", configuration="2d")
    assert not trainer.has_clean_image
    assert set(trainer.aux) == {"confidence"}
    assert "loss_pseudo_labels" not in trainer.train_step(tiny.batch(trainer))


def test_the_crf_loss_can_compare_the_clean_image(make_trainer):
    plans = tiny.plans()
    plans["configurations"]["2d"]["nnunet_ext"] = {"attenscribble": {"crf_image": "clean"}}
    trainer = make_trainer("nnUNetTrainerAttenScribble", kind="ignore", configuration="2d", plans=plans)
    stock = make_trainer("nnUNetTrainerAttenScribble", kind="ignore", configuration="2d")
    batch = tiny.batch(trainer)
    doubled = torch.cat([torch.zeros_like(batch["data"]), batch["data"]], 1)
    with torch.no_grad():
        seen = []
        trainer.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        trainer.crf.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
        next(trainer.loss_passes(trainer.prepare_batch({**batch, "data": doubled})))
    assert not seen[0].any()
    assert torch.equal(seen[1], batch["data"])
    arguments = ([16, 16], (-0.1, 0.1), None, None, False)
    assert isinstance(trainer.get_training_transforms(*arguments), WithCleanImage)
    assert not isinstance(stock.get_training_transforms(*arguments), WithCleanImage)
