"""Self-training: the network's own labels, turned with their patches, and nnU-Net's loss on both."""

import numpy as np
import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.unlabelled import training as module
from nnunet_ext.unlabelled.turns import Turn
from tests import tiny
from tests.distributed import distributed
from tests.medcontext.test_trainer import parameters_of, same, seen_by
from tests.medcontext.test_unlabelled import batch_with, steps

NAME = "nnUNetTrainerSelfTraining"


def plans_with(**options):
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        settings["nnunet_ext"] |= {
            "selftraining": {"start": 0.0, **options},
            "schedule": {"epochs": 5, "iterations": 2, "validation_iterations": 1},
        }
    return plans


@pytest.mark.parametrize("kind", tiny.LABELS)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_loss_is_nnunets_on_labels_and_on_own_labels_turned_alike(make_trainer, monkeypatch, kind, configuration):
    turn = Turn(1, (0,))
    monkeypatch.setattr(module, "draw_turn", lambda size, axes: turn)
    trainer = make_trainer(NAME, kind=kind, configuration=configuration, plans=plans_with(weight=0.5))
    trainer.inference_allowed_mirroring_axes = (0, 1)
    steps(trainer, 1)
    batch, network, seen = batch_with(trainer, 4), trainer.network, []
    images = batch["unlabelled"]
    with torch.no_grad():
        logits = network(images)[0]
    if "regions" in kind:
        own = logits.sigmoid() > 0.5
        own = torch.cat([own, torch.zeros_like(own[:, :1])], 1) if "ignore" in kind else own
    else:
        own = logits.softmax(1).argmax(1, keepdim=True).short()
    moved, target = (torch.stack([turn(x) for x in batch]) for batch in (images, own))
    sizes = [level.shape[2:] for level in network(images)]
    pyramid = [torch.nn.functional.interpolate(target.float(), s, mode="nearest-exact").to(target.dtype) for s in sizes]
    network.zero_grad(set_to_none=True)
    parts = [trainer.loss(network(batch["data"]), batch["target"]), trainer.loss(network(moved), pyramid)]
    (parts[0] + 0.5 * parts[1]).backward()
    expected = [parameter.grad for parameter in network.parameters()]

    trainer._clip_gradients = lambda: seen.extend(parameter.grad for parameter in network.parameters())
    trainer.optimizer.step = lambda: None
    inputs = seen_by(network)
    result = trainer.train_step(batch)
    assert [torch.equal(a, b) for a, b in zip(inputs, (images, moved, batch["data"]), strict=True)] == [True] * 3
    for got, wanted in zip(seen, expected, strict=True):
        assert (got is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-6)
    assert [float(result[f"loss_{name}"]) for name in ("segmentation", "pseudo_segmentation")] == pytest.approx(
        [part.item() for part in parts], rel=1e-5
    )
    assert result["loss"] == pytest.approx(parts[0].item() + 0.5 * parts[1].item(), rel=1e-5)


def test_without_deep_supervision_the_labels_are_those_of_full_resolution(make_trainer):
    trainer = make_trainer(NAME, configuration="2d", plans=plans_with())
    target = torch.zeros(2, 1, 16, 16, dtype=torch.int16)
    assert trainer.as_target(target, torch.zeros(2, 3, 16, 16)) is target
    assert [len(level) for level in trainer.as_target(target, trainer.network(torch.zeros(2, 1, 16, 16)))] == [2, 2]


def test_until_its_start_it_is_the_reference_bit_for_bit(make_trainer):
    plans = plans_with(start=0.4)
    ours = make_trainer(NAME, configuration="2d", plans=plans)
    reference = make_trainer("nnUNetTrainerReference", configuration="2d", plans=plans)
    began = []
    for epoch in range(4):
        ours.current_epoch = reference.current_epoch = epoch
        found, expected = steps(ours, 2), steps(reference, 2)
        began.append("loss_pseudo_segmentation" in found[0])
        if epoch < 2:
            assert found == expected
            assert same(parameters_of(ours.network), parameters_of(reference.network))
    assert began == [False, False, True, True]


def test_in_distributed_training_both_passes_give_the_gradients_of_one_process(make_trainer, tmp_path):
    alone, shared = (make_trainer(NAME, configuration="2d", plans=plans_with()) for _ in range(2))
    with distributed(tmp_path, shared, alone):
        expected, got = steps(alone, 3), steps(shared, 3)
    for a, b in zip(expected, got, strict=True):
        assert [float(a[key]) for key in a] == pytest.approx([float(b[key]) for key in a], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"start": 1.0}, r"selftraining\.start = 1\.0: input should be less than 1"),
        ({"weight": -1.0}, r"selftraining\.weight = -1\.0: input should be greater than or equal to 0"),
        ({"confidence": 0.9}, r"unknown selftraining options \['confidence'\]"),
    ],
)
def test_options_that_cannot_work_get_one_sentence(make_trainer, options, sentence):
    with pytest.raises(InputError, match=sentence):
        make_trainer(NAME, configuration="2d", plans=plans_with(**options))


def test_its_own_labels_ignore_nothing(make_trainer):
    trainer = make_trainer(NAME, kind="ignore", configuration="2d", plans=plans_with())
    own = trainer.own_labels(torch.randn(2, 1, 16, 16))
    assert own.dtype == torch.int16
    assert set(np.unique(own)) <= {0, 1, 2}
    assert not own.requires_grad


def test_what_was_cast_without_gradient_is_cast_again(make_trainer, monkeypatch):
    """Some versions of PyTorch keep it, so that convolutions would learn nothing from the network's own labels."""
    trainer = make_trainer(NAME, configuration="2d", plans=plans_with())
    cleared = []
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: cleared.append(torch.is_grad_enabled()))
    trainer.own_labels(torch.zeros(1, trainer.num_input_channels, 32, 32))
    assert len(cleared) == 1
