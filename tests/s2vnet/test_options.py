"""Options of S2VNet: those without effect are those that change nothing."""

import pytest
import torch

from nnunet_ext.s2vnet.options import S2VNetOptions
from tests import tiny

OTHER = {
    "first_click": 0.1,
    "jitter": 0,
    "aggregation": "mean",
    "bank": 1,
    "mask_memory": False,
    "mask_dropout": 1.0,
    "mask_corruption": 1.0,
}
"""Another value of options that may have no effect on a step. Those of another share of random draws are left out: they
move the other draws, whatever they do."""

OWN = {"interactive": 1.0, "first_click": 1.0, "state_dropout": 0.0, "mask_dropout": 0.0, "mask_corruption": 0.0}


def weights(make_trainer, options):
    plans = tiny.plans()
    plans["configurations"]["2d"]["nnunet_ext"]["s2vnet"] |= options
    trainer = make_trainer("nnUNetTrainerS2VNet", configuration="2d", plans=plans)
    return tiny.weights_after_two_steps(trainer, tiny.batch(trainer))


@pytest.mark.parametrize("changed", [{}, {"interactive": 0.0}, {"clip": 1}, {"mask_memory": False}], ids=str)
def test_the_options_without_effect_are_those_that_change_nothing(make_trainer, changed):
    own = {**OWN, **changed}
    usual = weights(make_trainer, own)
    idle = set()
    for name, value in OTHER.items():
        flipped = not own.get(name, True) if name == "mask_memory" else value
        other = weights(make_trainer, {**own, name: flipped})
        if len(other) == len(usual) and all(map(torch.equal, usual, other)):
            idle.add(name)
    assert idle == set(S2VNetOptions(**own).without_effect) & set(OTHER)
