"""bfloat16 on a CPU: what a step computes stays that of float32 up to rounding, and losses stay in float32."""

import pytest
import torch

from nnunet_ext.errors import InputError
from tests import tiny

BFLOAT16 = {"precision": {"cpu": "bfloat16"}}
TRAINERS = {
    "nnUNetTrainerReference": {},
    "nnUNetTrainerPnPNet": {},
    "nnUNetTrainerAttenScribble": {"attenscribble": {"wait": 0.0}},
    "nnUNetTrainerMedContext": {},
    "nnUNetTrainerMedContextPnPNet": {},
    "nnUNetTrainerS2VNet": {"s2vnet": {"width": 8, "heads": 2, "embedding": 4, "interactive": 1.0}},
}


def trainer_with(make_trainer, name, settings, kind=None):
    dim = 2 if "S2VNet" in name else 3
    plans = tiny.plans(**{"2d" if dim == 2 else "3d_fullres": tiny.configuration(dim)})
    [configuration] = plans["configurations"]
    plans["configurations"][configuration]["nnunet_ext"] = settings
    return make_trainer(name, kind=kind or tiny.kind_for(name), configuration=configuration, plans=plans)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_in_bfloat16_is_that_of_float32_up_to_rounding(make_trainer, name):
    exact, half = (
        trainer_with(make_trainer, name, TRAINERS[name] | precision) for precision in ({"precision": {}}, BFLOAT16)
    )
    seen = []
    half.network.register_forward_hook(lambda *_: seen.append(torch.get_autocast_dtype("cpu")))
    steps = []
    for trainer in (exact, half):
        torch.manual_seed(3)
        steps.append([trainer.train_step(tiny.batch(trainer, seed)) for seed in range(3)])
    assert seen
    assert set(seen) == {torch.bfloat16}
    for want, got in zip(*steps, strict=True):
        assert want.keys() == got.keys()
        for key in want:
            assert abs(want[key] - got[key]) <= 0.05 * max(1.0, abs(want[key])), key
    assert any(steps[0][0][key] != steps[1][0][key] for key in steps[0][0])
    assert {p.dtype for p in half.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", tiny.LABELS)
def test_nnunets_loss_gets_float32_logits(make_trainer, kind):
    trainer = trainer_with(make_trainer, "nnUNetTrainerReference", BFLOAT16, kind)
    seen = []
    for module in trainer.loss.modules():
        module.register_forward_hook(
            lambda _, inputs, out: seen.extend(x.dtype for x in (*inputs, out) if isinstance(x, torch.Tensor))
        )
    trainer.train_step(tiny.batch(trainer))
    assert seen
    assert torch.bfloat16 not in seen


def test_the_gradients_are_those_of_float32_up_to_rounding(make_trainer):
    gradients = []
    for settings in ({}, BFLOAT16):
        trainer = trainer_with(make_trainer, "nnUNetTrainerReference", settings)
        trainer.train_step(tiny.batch(trainer))
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


@pytest.mark.parametrize("wrong", [{"cpu": "float16"}, {"cuda": "bfloat16"}])
def test_another_precision_is_refused(make_trainer, wrong):
    with pytest.raises(InputError, match="precision"):
        trainer_with(make_trainer, "nnUNetTrainerReference", {"precision": wrong})
