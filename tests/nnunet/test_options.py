"""Options, weights and statistics: one contract between the common trainer and every method."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from pydantic.dataclasses import dataclass
from torch import nn

from nnunet_ext.catalogue import TRAINERS, resolve
from nnunet_ext.errors import InputError
from nnunet_ext.medcontext.trainer import MedContext
from nnunet_ext.nnunet.checkpoints import FINAL
from nnunet_ext.nnunet.loss_line import loss_line
from nnunet_ext.nnunet.options import STRICT, not_applied
from nnunet_ext.nnunet.plans import NOTED
from nnunet_ext.nnunet.trainer import CommonTrainer
from nnunet_ext.pnpnet.options import PnPNetOptions
from tests import tiny
from tests.babloss.test_trainer import batch_of as batch_with_landmarks

REFUSED = [
    ("nnUNetTrainerPnPNet", "pnpnet", {"dim": -64}, "pnpnet.dim = -64: input should be greater than 0"),
    ("nnUNetTrainerPnPNet", "pnpnet", {"heads": 3, "dim": 64}, "heads must divide dim, found heads = 3 and dim = 64"),
    ("nnUNetTrainerPnPNet", "pnpnet", {"levels": [9]}, "skip connections at stages 0 to 1 only; name at least one"),
    ("nnUNetTrainerPnPNet", "pnpnet", {"levels": []}, "pnpnet.levels = .*: .*at least 1 item"),
    ("nnUNetTrainerPnPNet", "pnpnet", {"push": 1}, "pnpnet.push = 1: input should be a valid boolean"),
    ("nnUNetTrainerMaskedCRF", "attenscribble", {"crf_weight": -9.2}, "crf_weight = -9.2: input should be greater"),
    ("nnUNetTrainerMaskedCRF", "attenscribble", {"wait": 7}, "attenscribble.wait = 7: input should be less than"),
    ("nnUNetTrainerMaskedCRF", "attenscribble", {"offsets_per_step": 0}, "offsets_per_step = 0: input should be"),
    ("nnUNetTrainerAttenScribble", "attenscribble", {"stages": [9]}, "their network has stages 0 to 2; leave out 9"),
    ("nnUNetTrainerMedContext", "medcontext", {"beta": "much"}, "medcontext.beta = 'much': input should be a valid"),
    ("nnUNetTrainerMedContext", "medcontext", {"mask_ratio": float("nan")}, "mask_ratio = nan: input should be a fin"),
    ("nnUNetTrainerBaBLoss", "babloss", {"ramp_end": 0.05}, "ramp_end must be at least ramp_start, found ramp_end = 0"),
    ("nnUNetTrainerS2VNet", "s2vnet", {"clip": 0}, "s2vnet.clip = 0: input should be greater than or equal to 1"),
    ("nnUNetTrainerS2VNet", "s2vnet", {"clips": 4}, "unknown s2vnet options .*'clips'"),
    ("nnUNetTrainerReference", "schedule", {"epochs": 0}, "schedule.epochs = 0: input should be greater"),
    ("nnUNetTrainerReference", "schedule", {"epoch": 5}, "unknown schedule options .*'epoch'.; known are"),
    ("nnUNetTrainerReference", "schedule", {"momentum": 1.0}, "schedule.momentum = 1.0: input should be less than 1"),
]


def plans_with(**sections):
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        settings["nnunet_ext"] = sections
    return plans


@pytest.mark.parametrize(("name", "section", "options", "sentence"), REFUSED)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(
    make_trainer, tmp_path, name, section, options, sentence
):
    with pytest.raises(InputError, match=sentence) as refused:
        make_trainer(name, kind="ignore", configuration="2d", plans=plans_with(**{section: options}))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "results").exists()


class AddsTerm(CommonTrainer):
    """A term whose gradient is its weight, added in front of any trainer."""

    term_weights: ClassVar = {"added": 0.125}

    def build_aux(self):
        return {**super().build_aux(), "probe": nn.Linear(1, 1, bias=False)}

    def compute_terms(self, output, batch):
        probe = self.aux["probe"].weight.sum()
        self.record("probe", probe * float("nan"))
        return {**super().compute_terms(output, batch), "added": probe}


def trainer_with(make_trainer, base, name, configuration=None):
    """The trainer ``name`` with ``base`` in front of it, and a batch for it."""
    configuration = configuration or tiny.configurations_for(name)[-1]
    made = type(f"{base.__name__}{name}", (base, resolve(name)), {})
    return make_trainer(made, kind=tiny.kind_for(name), configuration=configuration)


def batch_for(trainer, name):
    if "babloss" in tiny.rooms_of(name):
        return batch_with_landmarks(trainer, [[1], [-1]], [False, True])
    return {**tiny.batch(trainer), "keys": ["tiny_0"] * trainer.batch_size}


@pytest.fixture
def declared_trainer(make_trainer, monkeypatch):
    """As ``make_trainer``, with what dataset.json must declare for the trainer."""

    def make(base, name):
        description = tiny.dataset_json
        monkeypatch.setattr(tiny, "dataset_json", lambda kind="classes": {**description(kind), **tiny.declared(name)})
        return trainer_with(make_trainer, base, name)

    return make


@pytest.mark.parametrize("name", TRAINERS)
def test_a_term_that_a_subclass_adds_has_exactly_its_weight_around_every_trainer(declared_trainer, name):
    trainer = declared_trainer(AddsTerm, name)
    trainer.network.train()
    seen = []
    trainer._clip_gradients = lambda: seen.append(trainer.aux["probe"].weight.grad.item())
    step = trainer.train_step(batch_for(trainer, name))
    passes = 2 if "loss_masked_added" in step else 1
    assert seen == pytest.approx([0.125 * passes])
    assert trainer.term_weight("added") == 0.125
    assert np.isnan(step["stat_probe"])
    assert np.isfinite(step["loss"])
    assert all(p.isfinite().all() for p in trainer.network.parameters())


class HeavierPull(resolve("nnUNetTrainerPnPNet")):
    term_weights: ClassVar = {"pull": 0.7}


def test_a_weight_that_a_class_names_wins_over_the_option(make_trainer):
    plans = plans_with(pnpnet={"pull_weight": 0.3})
    assert make_trainer("nnUNetTrainerPnPNet", plans=plans).term_weight("pull") == 0.3
    assert make_trainer(HeavierPull, plans=plans).term_weight("pull") == 0.7


@pytest.mark.parametrize(
    ("name", "section", "option"),
    [
        ("nnUNetTrainerSDM", "pnpnet", {"pull": True}),
        ("nnUNetTrainerPnPNetPaper", "pnpnet", {"dim": 32}),
        ("nnUNetTrainerMedContextMaskedOnly", "medcontext", {"beta": 2.0}),
        ("nnUNetTrainerS2VNetNoPropagation", "s2vnet", {"inference_clip": 3}),
    ],
)
def test_what_a_trainer_fixes_wins_over_the_plans(make_trainer, name, section, option):
    kind = tiny.kind_for(name)
    plain = make_trainer(name, kind=kind, configuration="2d", plans=plans_with())
    told = make_trainer(name, kind=kind, configuration="2d", plans=plans_with(**{section: option}))
    assert getattr(told.options, section) == getattr(plain.options, section)


def test_the_log_says_which_values_of_the_plans_are_not_used(nnunet_folders, make_trainer):
    nnunet_folders()
    trainer = make_trainer(
        "nnUNetTrainerPnPNetPaper", configuration="2d", plans=plans_with(pnpnet={"dim": 32}, schedule={"momentum": 0.5})
    )
    trainer.on_train_start()
    text = Path(trainer.log_file).read_text()
    assert "Options of pnpnet: PnPNetOptions(push=True, pull=True, levels=None, width=None, dim=192" in text
    assert "Branches: on encoder stages 1; pulling branch with centres of length 192" in text
    assert "nnUNetTrainerPnPNetPaper does not use pnpnet.dim = 32, schedule.momentum = 0.5 of the plans" in text


class Added(CommonTrainer):
    """A class in front of another trainer that changes nothing."""


@pytest.mark.parametrize("name", TRAINERS)
def test_the_options_of_a_network_are_noted_in_the_plans_of_its_model(declared_trainer, name):
    trainer = declared_trainer(Added, name)
    plans, options = trainer.plans_manager.plans, vars(trainer.options)
    own = plans["configurations"][trainer.configuration_name]["nnunet_ext"]
    noted = {section: used.of_network for section, used in options.items() if used.OF_NETWORK}
    assert own.get(NOTED, {}) == ({} if trainer.published else noted)
    assert json.loads(json.dumps(own)) == own
    changed = [s for s, values in own.get(NOTED, {}).items() if "heads" in values and "heads" not in own.get(s, {})]
    for section in changed:
        own[NOTED][section]["heads"] = 1
    model = PlansManager(plans).get_configuration(trainer.configuration_name).configuration
    assert vars(type(trainer).resolve_options(model)) == {
        section: replace(used, heads=1) if section in changed else used for section, used in options.items()
    }


@dataclass(frozen=True, config=STRICT)
class LaterOptions(PnPNetOptions):
    """Options of a later version, with another default."""

    push: bool = True


class LaterPnPNet(resolve("nnUNetTrainerPnPNet")):
    methods: ClassVar = (LaterOptions,)


def test_a_model_stays_what_it_is_when_a_default_changes(make_trainer):
    plans = tiny.plans()
    trained = make_trainer("nnUNetTrainerPnPNet", plans=plans)
    for known, pushes in ((trained.plans_manager.plans, False), (tiny.plans(), True)):
        manager = PlansManager(known)
        configuration = manager.get_configuration("3d_fullres")
        network = LaterPnPNet.build_network_architecture(manager, configuration, 1, 3)
        assert bool(network.push) is pushes
        if not pushes:
            network.load_state_dict(trained.network.state_dict())


def test_plans_win_over_what_a_training_noted_and_options_that_are_gone_mean_nothing(make_trainer):
    noted = {"pnpnet": {"push": True, "heads": 2, "gone": 3}, "gone": {"too": 4}}
    trainer = make_trainer("nnUNetTrainerPnPNet", plans=plans_with(**{NOTED: noted, "pnpnet": {"push": False}}))
    assert (trainer.options.pnpnet.push, trainer.options.pnpnet.heads) == (False, 2)


@pytest.mark.parametrize(("chosen", "refused"), [({}, True), ({"bank": 8}, False)])
def test_a_training_that_goes_on_with_other_defaults_is_refused_unless_they_were_chosen(
    make_trainer, tmp_path, chosen, refused
):
    own = {"s2vnet": {**tiny.OPTIONS["s2vnet"], **chosen}}
    began = make_trainer("nnUNetTrainerS2VNet", configuration="2d", plans=plans_with(**own))
    began.plans_manager.plans["configurations"]["2d"]["nnunet_ext"][NOTED]["s2vnet"]["bank"] = 5
    began.save_checkpoint(str(tmp_path / "c.pth"))
    later = make_trainer("nnUNetTrainerS2VNet", configuration="2d", plans=plans_with(**own))
    with pytest.raises(InputError, match=r'options {"s2vnet": {"bank": 5}} of its') if refused else nullcontext():
        later.load_checkpoint(str(tmp_path / "c.pth"))


def test_an_option_without_effect_and_the_notes_of_another_model_refuse_nothing(make_trainer, tmp_path):
    wide = make_trainer("nnUNetTrainerPnPNet", plans=plans_with(pnpnet={"width": 8}))  # nothing without push
    wide.save_checkpoint(str(tmp_path / "c.pth"))
    make_trainer("nnUNetTrainerPnPNet", plans=plans_with()).load_checkpoint(str(tmp_path / "c.pth"))
    copied = plans_with(**{NOTED: {"pnpnet": PnPNetOptions(push=False, dim=8).of_network}})
    paper = make_trainer("nnUNetTrainerPnPNetPaper", plans=copied)
    paper.save_checkpoint(str(tmp_path / "c.pth"))
    make_trainer("nnUNetTrainerPnPNetPaper", plans=copied).load_checkpoint(str(tmp_path / "c.pth"))


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ({"asl_weight": 1.0}, {"asl_weight": 1.0, "heads": 2}, r'attenscribble.heads was "default" and is 2\. Restore'),
        ({"asl_weight": 1.0}, {}, r'attenscribble.asl_weight was 1.0 and is "default"\. Restore'),
        ({}, {"asl_weight": 1.0}, r'attenscribble.asl_weight was "default" and is 1.0\. Restore'),
    ],
)
def test_weights_that_do_not_fit_since_options_were_changed_are_one_sentence(make_trainer, tmp_path, was, now, words):
    def with_options(changed):
        options = {"attenscribble": {**tiny.OPTIONS["attenscribble"], **changed}, "presets": ["cpu"]}
        return make_trainer("nnUNetTrainerAttenScribble", kind="ignore", plans=plans_with(**options))

    with_options(was).save_checkpoint(str(tmp_path / "c.pth"))
    with_options(was).load_checkpoint(str(tmp_path / "c.pth"))
    with pytest.raises(InputError, match=f"In configuration 3d_fullres, {words}"):
        with_options(now).load_checkpoint(str(tmp_path / "c.pth"))


def test_a_fold_with_other_options_than_those_beside_it_is_refused_before_anything_is_replaced(
    nnunet_folders, make_trainer
):
    nnunet_folders()
    short = {"schedule": {"epochs": 1, "iterations": 1, "validation_iterations": 1}}
    both = plans_with(pnpnet={"push": True}, **short)
    first = make_trainer("nnUNetTrainerPnPNet", configuration="2d", plans=both)
    model = Path(first.output_folder_base)
    (model / "fold_1").mkdir(parents=True)
    first.save_checkpoint(str(model / "fold_1" / FINAL))
    first.run_training()
    before = (model / "plans.json").read_text()
    other = make_trainer("nnUNetTrainerPnPNet", configuration="2d", plans=plans_with(**short))
    words = r'fold_1 was trained with the options {"pnpnet": {"push": true}} of its network, .* or remove the folds'
    with pytest.raises(InputError, match=words):
        other.run_training()
    assert (model / "plans.json").read_text() == before
    make_trainer("nnUNetTrainerPnPNet", configuration="2d", plans=both).run_training()


def test_options_that_a_training_noted_are_none_that_the_user_chose(nnunet_folders, make_trainer):
    nnunet_folders()
    trainer = make_trainer("nnUNetTrainerPnPNet", configuration="2d", plans=plans_with(pnpnet={"width": 8}))
    trainer.on_train_start()
    ignored = [line for line in Path(trainer.log_file).read_text().splitlines() if "does not use" in line]
    assert [line.split(": ", 1)[1].strip() for line in ignored] == [
        "nnUNetTrainerPnPNet does not use pnpnet.width = 8 of the plans"
    ]


def test_the_epochs_of_a_class_win_over_the_plans_and_the_log_says_so(nnunet_folders, make_trainer):
    nnunet_folders()
    made = make_trainer("nnUNetTrainerReference_7epochs", configuration="2d", plans=plans_with(schedule={"epochs": 9}))
    made.on_train_start()
    assert made.num_epochs == 7
    assert "does not use schedule.epochs = 9 of the plans" in Path(made.log_file).read_text()


@pytest.mark.parametrize("name", ["nnUNetTrainerMaskedCRF", "nnUNetTrainerMaskedCRFPnPNet"])
def test_options_of_attention_mean_nothing_where_there_is_none(make_trainer, name):
    plans = {"asl_weight": 1.0, "attention": "trunk", "heads": 2, "crf_weight": 0.0}
    made = make_trainer(name, kind="ignore", configuration="2d", plans=plans_with(attenscribble=plans))
    assert not made.options.attenscribble.regularises
    assert not_applied({"attenscribble": made.options.attenscribble}, {"attenscribble": plans}) == [
        f"attenscribble.{word}" for word in ("asl_weight = 1.0", "attention = 'trunk'", "heads = 2")
    ]
    attends = make_trainer("nnUNetTrainerAttenScribble", kind="ignore", plans=plans_with(attenscribble=plans))
    assert attends.options.attenscribble.attends


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nnUNetTrainerPnPNet", "Branches: on encoder stages 1; pulling branch with centres of length"),
        ("nnUNetTrainerSDM", "Branches: on encoder stages 1; pushing branch with differences of"),
        ("nnUNetTrainerMaskedCRF", "CRF loss: weight 9.2, radius 3, σ 2 voxels"),
    ],
)
def test_the_log_says_what_the_open_options_became(nnunet_folders, make_trainer, name, line):
    nnunet_folders(tiny.kind_for(name))
    trainer = make_trainer(name, kind=tiny.kind_for(name), configuration="2d")
    trainer.on_train_start()
    assert line in Path(trainer.log_file).read_text()


class TwoPasses(CommonTrainer):
    """A trainer with passes of its own."""

    def loss_passes(self, batch):
        yield from super().loss_passes(batch)
        yield {"again": 0 * self.network(batch["data"])[0].sum()}


class AroundTwoPasses(MedContext, TwoPasses):
    pass


def test_medcontext_refuses_a_trainer_with_passes_of_its_own(make_trainer):
    with pytest.raises(InputError, match="puts MedContext around TwoPasses, which has loss passes of its own"):
        make_trainer(AroundTwoPasses)


class AroundClips(MedContext, resolve("nnUNetTrainerS2VNet")):
    pass


def test_medcontext_around_s2vnet_clicks_in_both_views(make_trainer, monkeypatch):
    clicked = {"interactive": 1.0, "width": 8, "heads": 2}
    plans = plans_with(s2vnet=clicked, medcontext={"block": 4, "start": 0.0, "labelled": "both"})
    trainer = make_trainer(AroundClips, configuration="2d", plans=plans)
    trainer.network.train()
    users = []
    made = trainer.user_of
    monkeypatch.setattr(trainer, "user_of", lambda target: users.append(made(target)) or users[-1])
    step = trainer.train_step(tiny.batch(trainer))
    assert [user is not None for user in users] == [True, True]
    assert {"loss_clusters", "loss_masked_clusters", "loss_consistency"} <= step.keys()
    assert np.isfinite(list(step.values())).all()


def test_the_learning_rate_momentum_and_warm_up_come_from_the_plans(make_trainer):
    schedule = {"learning_rate": 0.1, "momentum": 0.9, "warmup_steps": 3, "iterations": 2}
    trainer = make_trainer("nnUNetTrainerReference", plans=plans_with(schedule=schedule))
    assert trainer.optimizer.param_groups[0]["momentum"] == 0.9
    used = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda: (used.append(trainer.optimizer.param_groups[0]["lr"]), step())
    for trainer.current_epoch in range(3):
        trainer.on_train_epoch_start()
        start = trainer.optimizer.param_groups[0]["lr"]
        for _ in range(2):
            trainer.train_step(tiny.batch(trainer))
        assert trainer.optimizer.param_groups[0]["lr"] == start
    rates = [trainer.initial_lr * (1 - epoch / trainer.num_epochs) ** 0.9 for epoch in (0, 0, 1, 1, 2, 2)]
    assert used == pytest.approx(
        [rate * warmth for rate, warmth in zip(rates, (0.25, 0.5, 0.75, 1, 1, 1), strict=True)]
    )


def test_a_published_optimizer_does_not_follow_the_plans_but_the_length_does(make_trainer):
    schedule = {"learning_rate": 0.1, "momentum": 0.9, "epochs": 7}
    paper = make_trainer("nnUNetTrainerPnPNetPaper", plans=plans_with(schedule=schedule))
    assert (paper.initial_lr, paper.num_epochs) == (5e-4, 7)
    # the publication says nothing of the optimizer here
    assert make_trainer("nnUNetTrainerMedContextPaper", plans=plans_with(schedule=schedule)).initial_lr == 0.1


def test_the_line_of_the_log_adds_up():
    terms = {"segmentation": 1.5, "heatmap": 0.64, "masked": 2.0}
    line = loss_line(terms, {"segmentation": 1.0, "heatmap": 10.0, "masked": 0.25}, {"gate": 0.8})
    assert line == "train loss 8.4000 = 1.5000 segmentation + 10 × 0.6400 heatmap + 0.25 × 2.0000 masked; gate 0.8"


def test_old_and_new_nnunet_call_load_checkpoint_by_position(make_trainer, tmp_path):
    trainer = make_trainer("nnUNetTrainerReference")
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    before = [p.clone() for p in trainer.network.parameters()]
    other = make_trainer("nnUNetTrainerReference", seed=1)
    other.load_checkpoint(str(tmp_path / "c.pth"))
    assert all(torch.equal(a, b) for a, b in zip(before, other.network.parameters(), strict=True))
