"""The table of options in the documentation."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from nnunet_ext.pnpnet.options import LEVELS, PnPNetOptions
from tests import tiny

PAGE = Path(__file__).parents[2] / "docs/pnpnet.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="docs/pnpnet.md is not part of an installation")
def test_the_page_lists_every_option_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \| [^|]+ \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE))
    expected = {field.name: json.dumps(field.default) for field in dataclasses.fields(PnPNetOptions)}
    expected["levels"] += f": {', '.join(map(str, LEVELS))}"
    assert {name: rows.get(name) for name in expected} == expected


OTHER = {
    "levels": [1],
    "width": 2,
    "dim": 32,
    "heads": 2,
    "mlp_ratio": 2,
    "atlas_ratio": 1,
    "pull_weight": 0.7,
    "published": True,
}
"""Another value of every option that may have no effect but ``recompute``, whose gradients are equal by design."""


def weights(make_trainer, options):
    plans = tiny.plans(**{"2d": tiny.configuration(2, features=(4, 6, 8, 8))})
    plans["configurations"]["2d"]["nnunet_ext"] = {"pnpnet": options}
    trainer = make_trainer("nnUNetTrainerPnPNet", configuration="2d", plans=plans)
    return tiny.weights_after_two_steps(trainer, tiny.batch(trainer))


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize(("push", "pull"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_options_without_effect_are_those_that_change_nothing(make_trainer, push, pull, published):
    own = {"push": push, "pull": pull, "published": published}
    changes = {name: not published if name == "published" else value for name, value in OTHER.items()}
    usual = weights(make_trainer, own)
    idle = set()
    for name, value in changes.items():
        other = weights(make_trainer, {**own, name: value})
        if len(other) == len(usual) and all(map(torch.equal, usual, other)):
            idle.add(name)
    assert idle == set(PnPNetOptions(**own).without_effect) - {"recompute"}


@pytest.mark.parametrize(("own", "named"), [({}, False), ({"published": True}, True)])
def test_there_is_nothing_to_recompute_in_the_published_branches(own, named):
    assert ("recompute" in PnPNetOptions(**own).without_effect) == named
