"""Records that are read from a finished training."""

import math

import pytest
import torch
from torch import nn

from nnunet_ext.benchmark.records import hardware, late_gain, weights


def test_the_late_gain_is_the_rise_over_the_last_quarter():
    rising = [0.001 * epoch for epoch in range(100)]
    assert late_gain(rising) == pytest.approx(0.025)
    assert late_gain([*rising[:74], *[0.8] * 26]) == pytest.approx(0)
    assert late_gain([*[0.8] * 74, *[0.8 - 0.001 * i for i in range(26)]]) == pytest.approx(-0.025)


def test_a_single_noisy_epoch_does_not_decide():
    assert late_gain([*[0.8] * 39, 0.83]) == pytest.approx(0)


def test_short_trainings_say_what_they_can():
    assert late_gain([0.2, 0.5]) == pytest.approx(0.3)
    assert late_gain([0.2, 0.3, 0.5]) == pytest.approx(0.2)
    assert late_gain([0.2]) is None
    assert late_gain([]) is None
    assert late_gain([math.nan, math.nan, 0.5]) is None
    assert late_gain([*[0.1] * 6, 0.2, math.nan, 0.4]) == pytest.approx(0.2)  # epochs 0.2, ?, 0.4


def test_a_module_with_several_names_counts_once(tmp_path):
    encoder = nn.Conv2d(1, 2, 3)  # 20 values
    network = nn.ModuleDict(
        {"encoder": encoder, "decoder": nn.ModuleDict({"encoder": encoder, "head": nn.Linear(2, 2)})}
    )
    assert len(network.state_dict()) == 6
    assert weights(network.state_dict()) == sum(p.numel() for p in network.parameters()) == 26
    torch.save(network.state_dict(), tmp_path / "checkpoint.pth")
    assert weights(torch.load(tmp_path / "checkpoint.pth")) == 26


def test_equal_values_are_not_the_same_module():
    assert weights({"a": torch.zeros(4), "b": torch.zeros(4)}) == 8
    assert weights({"count": torch.tensor(0), "mean": torch.zeros(3)}) == 4


def test_the_machine_is_described():
    found = hardware()
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0.5
    assert found["processor"]
    assert found["bfloat16"] in (True, False)
