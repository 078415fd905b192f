"""Records that are read from a finished training."""

import math

import pytest

from nnunet_ext.benchmark.records import hardware, late_gain


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


def test_the_machine_is_described():
    found = hardware()
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0.5
    assert found["processor"]
