"""Options of AttenScribble: every number has a range, and what lies outside is refused in one sentence."""

from dataclasses import fields

import pytest
import torch

from nnunet_ext.attenscribble.options import OF_CRF, AttenScribbleOptions
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.options import not_applied, with_overrides
from tests import tiny

WRONG = {
    "attention": ["everywhere", "none"],
    "stages": [[], [-1], [0.5]],
    "max_tokens": [0, -1],
    "heads": [0],
    "head_dim": [0],
    "mlp_ratio": [0],
    "crf_weight": [-5, float("nan")],
    "crf_radius": [0, -1, 17, 2.5],
    "crf_sigma": [0, 0.1, 51, -1],
    "crf_intensity_sigma": [0, -0.1, 11],
    "crf_downsample": [0, 5, 1.5],
    "crf_volume_power": [-0.1, 1.1],
    "asl_weight": [-1],
    "asl_radius": [0, -1, 17, 2.5],
    "gamma": [-1],
    "ramp": [-3, 1.5],
    "crf_fade": [-0.1, 1.5],
    "wait": [-1, 5],
    "crf_image": ["raw"],
    "offsets_per_step": [0, -1],
    "published": ["yes"],
    "padding_annotated": [1],
    "pseudo_weight": [-1],
    "pseudo_confidence": [-0.1, 1.1],
    "pseudo_start": [-0.1, 2],
    "pseudo_momentum": [-0.1, 1.0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_what_makes_no_sense_is_refused(name, value):
    with pytest.raises(InputError, match=rf"attenscribble\.{name}") as error:
        with_overrides(AttenScribbleOptions(), {name: value})
    assert "\n" not in str(error.value)


def test_every_option_is_tried():
    """Fails for an option that was added without a range."""
    assert {field.name for field in fields(AttenScribbleOptions)} <= set(WRONG)


def test_options_of_the_crf_loss_are_all_known():
    weights = {"crf_weight"}
    assert {f.name for f in fields(AttenScribbleOptions) if f.name.startswith("crf_")} - weights < set(OF_CRF)


def test_the_ends_of_the_ranges_are_taken():
    ends = {"crf_radius": 16, "crf_sigma": 0.3, "crf_intensity_sigma": 0.001, "crf_downsample": 4, "crf_weight": 0}
    assert with_overrides(AttenScribbleOptions(), ends).crf_radius == 16
    assert with_overrides(AttenScribbleOptions(crf_radius=4), {"crf_radius": None}).crf_radius is None


@pytest.mark.parametrize(
    ("plans", "idle"),
    [
        ({"heads": 2}, ["attenscribble.heads = 2"]),
        ({"gamma": 0.5, "asl_weight": 1.0}, []),
        ({"heads": 2, "asl_weight": 1.0}, []),
        ({"asl_radius": 2}, ["attenscribble.asl_radius = 2"]),
        ({"asl_radius": 2, "asl_weight": 1.0}, []),
        ({"gamma": 0.5, "stages": [1], "attention": "trunk"}, ["attenscribble.gamma = 0.5"]),
        (
            {"crf_weight": 0.0, "crf_radius": 2, "ramp": 0.1},
            ["attenscribble.crf_radius = 2", "attenscribble.ramp = 0.1"],
        ),
        ({"crf_weight": 0.0, "asl_weight": 1.0, "wait": 0.3, "ramp": 0.1}, []),
        ({"crf_weight": 2.0, "crf_radius": 2, "wait": 0.3, "ramp": 0.1}, []),
        (
            {"pseudo_start": 0.3, "pseudo_momentum": 0.9},
            ["attenscribble.pseudo_start = 0.3", "attenscribble.pseudo_momentum = 0.9"],
        ),
        ({"pseudo_start": 0.3, "pseudo_momentum": 0.9, "pseudo_weight": 1.0}, []),
    ],
)
def test_options_of_what_is_not_computed_are_named(plans, idle):
    options = with_overrides(AttenScribbleOptions(), plans)
    assert not_applied({"attenscribble": options}, {"attenscribble": plans}) == idle


OTHER = {
    "stages": [2],
    "max_tokens": 20,
    "heads": 2,
    "head_dim": 32,
    "mlp_ratio": 2,
    "crf_radius": 1,
    "crf_sigma": 1.0,
    "crf_intensity_sigma": 0.2,
    "crf_downsample": 2,
    "crf_volume_power": 0.5,
    "asl_radius": 1,
    "gamma": 0.5,
    "ramp": 1.0,
    "crf_fade": 1.0,
    "wait": 0.0,
    "pseudo_start": 0.9,
    "crf_image": "clean",
    "offsets_per_step": 1,
    "published": True,
    "pseudo_confidence": 0.35,
    "pseudo_momentum": 0.0,
}
"""Another value of every option that may have no effect."""

SIMILARITY, TEACHER = {"asl_weight": 1.0}, {"pseudo_weight": 1.0, "pseudo_confidence": 0.0}


def weights(make_trainer, options):
    plans = tiny.plans()
    plans["configurations"]["2d"]["nnunet_ext"]["attenscribble"] |= options
    trainer = make_trainer("nnUNetTrainerAttenScribble", kind="ignore", configuration="2d", plans=plans)
    batch = tiny.batch(trainer)
    for target in batch["target"]:
        # the loader's mark of padding, which stays only for trainers that leave padding out
        target[:, :, : target.shape[2] // 4] = 0 if trainer.padding_is_annotated else -1
    if trainer.has_clean_image:
        batch["data"] = torch.cat([batch["data"], 0.5 * batch["data"].flip(2)], 1)
    return tiny.weights_after_two_steps(trainer, batch)


@pytest.mark.parametrize(
    "own",
    [
        {},
        SIMILARITY,
        {**SIMILARITY, "published": True, "crf_weight": 0.0},
        {**SIMILARITY, "stages": [1], "crf_weight": 0.0},
        {"attention": "trunk", "crf_weight": 0.0},
        {"crf_weight": 0.0, **TEACHER},
        {"padding_annotated": True},
        {"crf_weight": 0.0},
    ],
    ids=str,
)
def test_the_options_without_effect_are_those_that_change_nothing(make_trainer, own):
    usual = weights(make_trainer, own)
    idle = set()
    for name, value in OTHER.items():
        changed = {**own, name: not own.get(name, False) if name == "published" else value}
        other = weights(make_trainer, changed)
        if len(other) == len(usual) and all(map(torch.equal, usual, other)):
            idle.add(name)
    assert idle == set(AttenScribbleOptions(**own).without_effect)
