"""bfloat16 on a CPU: what a step computes stays that of float32 up to rounding, and losses stay in float32."""

from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.catalogue import resolve
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet import precision
from nnunet_ext.nnunet.precision import TOLERANCE, Precision, infer_in, infer_in_float32
from tests import tiny

BFLOAT16 = {"precision": {"cpu": "bfloat16"}}
TRAINERS = {
    "nnUNetTrainerReference": {},
    "nnUNetTrainerPnPNet": {"pnpnet": {"push": True}},
    "nnUNetTrainerAttenScribble": {"attenscribble": {"wait": 0.0, "asl_weight": 1.0}},
    "nnUNetTrainerMedContext": {},
    "nnUNetTrainerMedContextPnPNet": {"pnpnet": {"push": True}},
    "nnUNetTrainerS2VNet": {"s2vnet": {"width": 8, "heads": 2, "embedding": 4, "interactive": 1.0}},
}


def trainer_with(make_trainer, name, settings, kind=None):
    dim = 2 if "S2VNet" in name else 3
    plans = tiny.plans(**{"2d" if dim == 2 else "3d_fullres": tiny.configuration(dim)})
    [configuration] = plans["configurations"]
    plans["configurations"][configuration]["nnunet_ext"] = settings
    return make_trainer(name, kind=kind or tiny.kind_for(name), configuration=configuration, plans=plans)


@pytest.fixture
def with_units(monkeypatch):
    """A CPU with units for bfloat16; without them, PyTorch computes the same, slowly."""
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: True)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_in_bfloat16_is_that_of_float32_up_to_rounding(with_units, make_trainer, name):
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
def test_nnunets_loss_gets_float32_logits(with_units, make_trainer, kind):
    trainer = trainer_with(make_trainer, "nnUNetTrainerReference", BFLOAT16, kind)
    seen = []
    for module in trainer.loss.modules():
        module.register_forward_hook(
            lambda _, inputs, out: seen.extend(x.dtype for x in (*inputs, out) if isinstance(x, torch.Tensor))
        )
    trainer.train_step(tiny.batch(trainer))
    assert seen
    assert torch.bfloat16 not in seen


def test_the_gradients_are_those_of_float32_up_to_rounding(with_units, make_trainer):
    gradients = []
    for settings in ({}, BFLOAT16):
        trainer = trainer_with(make_trainer, "nnUNetTrainerReference", settings)
        trainer.train_step(tiny.batch(trainer))
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


def test_a_cpu_without_units_trains_in_float32_and_says_so(monkeypatch, make_trainer):
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: False)
    weights, said = [], []
    for settings in ({}, BFLOAT16):
        trainer = trainer_with(make_trainer, "nnUNetTrainerReference", settings)
        said.append(precision.NO_UNITS in Path(trainer.log_file).read_text())
        torch.manual_seed(3)
        trainer.train_step(tiny.batch(trainer))
        weights.append(torch.cat([p.detach().flatten() for p in trainer.network.parameters()]))
    assert torch.equal(*weights)
    assert said == [False, True]


@pytest.mark.parametrize("wrong", [{"cpu": "float16"}, {"cuda": "bfloat16"}])
def test_another_precision_is_refused(make_trainer, wrong):
    with pytest.raises(InputError, match="precision"):
        trainer_with(make_trainer, "nnUNetTrainerReference", {"precision": wrong})


# --- inference --------------------------------------------------------------------------------------------------------


def built(name, settings, kind=None):
    """The network that nnU-Net's predictor would build, with the same random weights each time; and an image."""
    dim = 2 if "S2VNet" in name else 3
    configuration = tiny.configuration(dim)
    configuration["nnunet_ext"] = {"labels": {"has_regions": False}, **settings}
    if dim == 2:
        configuration["patch_size"] = [4, 16, 16]
    manager = PlansManager(tiny.plans(planned=configuration))
    torch.manual_seed(0)
    found = resolve(name).build_network_architecture(manager, manager.get_configuration("planned"), 1, 3, False)
    return found.eval(), torch.randn(1, 1, 4 if dim == 2 else 16, 16, 16)


@pytest.mark.parametrize("name", TRAINERS)
def test_logits_of_inference_are_those_of_float32_up_to_the_stated_tolerance(with_units, name):
    (exact, image), (half, _) = (built(name, TRAINERS[name] | section) for section in ({}, BFLOAT16))
    assert exact.state_dict().keys() == half.state_dict().keys()
    with torch.inference_mode():
        expected, found = exact(image), half(image)
    assert not torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_a_cpu_without_units_infers_in_float32(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: False)
    (exact, image), (half, _) = (built("nnUNetTrainerReference", section) for section in ({}, BFLOAT16))
    with torch.inference_mode():
        assert torch.equal(half(image), exact(image))


@pytest.mark.parametrize("threads", [None, 2])
def test_inference_has_no_gradients_and_gives_threads_back_whatever_happens(threads, with_units):
    before = torch.get_num_threads()
    planned = Precision(torch.device("cpu"), BFLOAT16["precision"])
    with suppress(KeyboardInterrupt), planned.inference(threads):
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_num_threads() == (threads or before)
        raise KeyboardInterrupt
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()


def test_which_cpus_have_units(monkeypatch):
    for avx, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx, raising=False)
        assert precision.has_bfloat16_units() == (avx or amx)


class Pair(NamedTuple):
    logits: torch.Tensor
    labels: torch.Tensor


class Told(torch.nn.Linear):
    """A layer that says in which precision it is called, fails on request, and returns what it is told to."""

    def __init__(self):
        super().__init__(2, 2)
        self.seen, self.result = [], lambda x: x

    def forward(self, x):
        self.seen.append(torch.is_autocast_enabled("cpu"))
        if x.isnan().any():
            raise ValueError("nan")
        return self.result(super().forward(x))


def test_only_evaluation_is_changed_and_an_error_leaves_nothing_behind(with_units):
    layer, x = infer_in(Told(), {"cpu": "bfloat16"}), torch.ones(1, 2)
    layer.train()(x)
    layer.eval()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16  # whoever has begun it wants it
    with pytest.raises(ValueError, match="nan"):
        layer(x * torch.nan)
    assert not torch.is_autocast_enabled("cpu")
    infer_in_float32(layer)(x)
    assert layer.seen == [False, True, True, True, False]
    assert infer_in(Told(), {"cpu": "float32"}).eval()(x).dtype == torch.float32


def test_copies_of_a_network_are_in_its_precision_and_independent(with_units):
    layer = infer_in(Told(), {"cpu": "bfloat16"}).eval()
    copied = deepcopy(layer)
    infer_in_float32(layer)
    for made in (layer, copied):
        made(torch.ones(1, 2))
    assert layer.seen == [False]
    assert copied.seen == [True]


def test_all_outputs_are_float32(with_units):
    layer = infer_in(Told(), {"cpu": "bfloat16"}).eval()
    layer.result = lambda x: [x, (x, None), Pair(x, x.argmax(1))]
    first, (second, nothing), named = layer(torch.ones(1, 2))
    assert first.dtype == second.dtype == named.logits.dtype == torch.float32
    assert nothing is None
    assert named.labels.dtype == torch.int64
