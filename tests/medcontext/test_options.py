"""Options of MedContext: those without effect are those that change nothing."""

import pytest
import torch

from nnunet_ext.medcontext.options import MedContextOptions
from tests import tiny

OTHER = {
    "consistency": "mse",
    "target": "self",
    "ramp": 1.0,
    "region": "hidden",
    "confidence": 0.45,
    "ema_base": 0.5,
    "part": 1.0,
    "masked_weight": 0.3,
}
"""Another value of options that may have no effect on a step."""


def weights(make_trainer, options):
    plans = tiny.plans()
    plans["configurations"]["2d"]["nnunet_ext"]["medcontext"] |= options
    trainer = make_trainer("nnUNetTrainerMedContext", configuration="2d", plans=plans)
    return tiny.weights_after_two_steps(trainer, tiny.batch(trainer))


@pytest.mark.parametrize(
    "own",
    [
        {"labelled": "part"},
        {"labelled": "both"},
        {"labelled": "both", "target": "self"},
        {"labelled": "both", "beta": 0.0},
        {"labelled": "both", "consistency": "official"},
    ],
    ids=str,
)
def test_the_options_without_effect_are_those_that_change_nothing(make_trainer, own):
    own = {"confidence": 0.0, "ema_base": 0.9, **own}
    usual = weights(make_trainer, own)
    idle = set()
    for name, value in OTHER.items():
        other = {"teacher": "self", "self": "teacher"}[own.get(name, "teacher")] if name == "target" else value
        if all(map(torch.equal, usual, weights(make_trainer, {**own, name: other}))):
            idle.add(name)
    assert idle == set(MedContextOptions(**own).without_effect) & set(OTHER)
