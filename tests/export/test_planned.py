"""Which inference networks are the planned one: every trainer, from its class alone."""

import re
from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_ext.catalogue import TRAINERS, resolve
from nnunet_ext.export.model import Model
from nnunet_ext.export.planned import judge, logits, random_image, stock_trainer
from nnunet_ext.nnunet.plans import without_extension
from tests import tiny
from tests.structure import marks_of

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
LANDMARKS = {"names": ["tip", "top"], "surface_of": {"tip": ["left"]}}
CASES = [
    pytest.param(name, configuration, residual, marks=() if configuration == "2d" else marks_of(name, configuration))
    for name in TRAINERS
    for configuration, residual in (("2d", False), ("3d_fullres", True))
    if configuration in tiny.configurations_for(name)
]


@pytest.fixture
def model_of(make_trainer, monkeypatch):
    """``model_of(name, …)`` → a trainer, and the model that nnU-Net would find in its results."""
    stock = tiny.dataset_json
    monkeypatch.setattr(
        tiny,
        "dataset_json",
        lambda kind="classes": {**stock(kind), "landmarks": LANDMARKS, "annotated_labels": {"tiny_0": ["left"]}},
    )

    def made(name, configuration="3d_fullres", *, residual=False, kind=None, plans=None):
        plans = plans or tiny.plans()
        for each, settings in plans["configurations"].items():
            settings["architecture"] = tiny.architecture(int(each[0]), residual=residual)
        kind = kind or (tiny.kind_for(name) if name in TRAINERS else "classes")
        trainer = make_trainer(name, configuration=configuration, kind=kind, plans=plans)
        return trainer, Model(Path("a_model"), trainer.plans_manager.plans, trainer.dataset_json)

    return made


def documented():
    """Trainer → yes or no, from the table of the documentation."""
    rows = re.findall(r"^\| (`nnUNetTrainer.+?) \| (yes|no)\b", DOCS.read_text(), re.MULTILINE)
    return {name: answer for names, answer in rows for name in re.findall(r"`(nnUNetTrainer\w+)`", names)}


@pytest.mark.parametrize(("name", "configuration", "residual"), CASES)
def test_every_trainer_is_what_the_documentation_says(model_of, name, configuration, residual):
    trainer, model = model_of(name, configuration, residual=residual)
    verdict = judge(resolve(name), model, configuration)
    assert documented()[name] == ("yes" if verdict.planned else "no")
    assert bool(verdict.reason) != verdict.planned
    if not verdict.planned:
        return
    # weights of the trainer, as a checkpoint holds them, in the network that stock nnU-Net builds without our plans
    stripped = Model(model.folder, without_extension(model.plans), tiny.dataset_json())
    assert "nnunet_ext" not in str(stripped.plans)
    weights = trainer.network.state_dict()
    stock = stripped.inference_network(stock_trainer(resolve(name)), configuration)
    left_out = {key.partition(".")[0] for key in weights.keys() - stock.state_dict().keys()}
    assert left_out == set(verdict.left_out)
    stock.load_state_dict({key: weights[key] for key in stock.state_dict()})
    own = model.inference_network(resolve(name), configuration)
    own.load_state_dict(weights)
    image = random_image(model, configuration)
    assert torch.equal(logits(stock, image), logits(own, image))


def test_a_head_that_only_training_uses_is_left_out_and_named(model_of):
    _, model = model_of("nnUNetTrainerBaBLoss", "2d")
    assert judge(resolve("nnUNetTrainerBaBLoss"), model, "2d").left_out == ("landmark_decoder",)


def test_attention_is_looked_for_in_the_network_and_not_in_the_name_of_the_trainer(model_of):
    plans = tiny.plans()
    plans["configurations"]["2d"]["nnunet_ext"] = {"attenscribble": {"attention": "trunk"}}
    _, model = model_of("nnUNetTrainerAttenScribble", "2d", plans=plans)
    verdict = judge(resolve("nnUNetTrainerAttenScribble"), model, "2d")
    assert not verdict.planned
    assert "attention take part" in verdict.reason


class Gated(nn.Module):
    """A network whose additional module does nothing when it is new, as many are initialised."""

    def __init__(self, planned):
        super().__init__()
        self.encoder, self.decoder = planned.encoder, planned.decoder
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.decoder(self.encoder(x)) + self.gate * x


class GatedTrainer(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(plans_manager, *args, **kwargs):
        return Gated(nnUNetTrainer.build_network_architecture(plans_manager, *args, **kwargs))


class Thinner(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, *args, **kwargs):
        return tiny.network(2, features=(4, 6, 7), deep_supervision=False)


class Activated(nnUNetTrainer):
    """The planned tensors, and a forward pass of its own."""

    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, *args, **kwargs):
        network = nnUNetTrainer.build_network_architecture(plans_manager, configuration_manager, *args, **kwargs)
        network.register_forward_hook(lambda module, given, output: output.relu())
        return network


@pytest.mark.parametrize(
    ("trainer", "reason"),
    [
        (GatedTrainer, "gate take part in them"),
        (Thinner, r"\d+ tensors of the planned network are missing or differ, first encoder"),
        (Activated, "with the same weights"),
    ],
)
def test_what_is_not_the_planned_network_is_found_out(model_of, trainer, reason):
    _, model = model_of("nnUNetTrainerReference", "2d")
    verdict = judge(trainer, model, "2d")
    assert not verdict.planned
    assert re.search(reason, verdict.reason)
