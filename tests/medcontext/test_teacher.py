"""The teacher: its momentum over a whole training, and one update of it."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from nnunet_ext.medcontext.options import MedContextOptions
from nnunet_ext.medcontext.teacher import Teacher, ema_momentum
from tests import tiny

EPOCHS, ITERATIONS = 1000, 250


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (100, 0.039856),
        (1000, 0.398559),
        (2499, 0.996),
        (2500, 0.996),
        (5000, 0.996001),
        (25000, 0.996081),
        (125000, 0.997968),
        (249999, 1.0),
        (300000, 1.0),
    ],
)
def test_the_momentum_that_the_released_code_means(step, expected):
    epoch, batch = divmod(step, ITERATIONS)
    meant = MedContextOptions(ema_base=0.996, ema_final=1.0)
    assert meant.momentum(epoch, batch, EPOCHS, ITERATIONS) == pytest.approx(expected, abs=6e-7)


@pytest.mark.parametrize(("epochs", "iterations"), [(40, 7), (1, 2), (3, 1), (1, 1)])
def test_the_momentum_never_falls_not_even_where_an_epoch_ends(epochs, iterations):
    """The released code starts again in every epoch."""
    steps = itertools.product(range(epochs), range(iterations))
    momenta = [MedContextOptions().momentum(*step, epochs, iterations) for step in steps]
    assert (np.diff(momenta) >= 0).all()
    assert 0 <= min(momenta) <= max(momenta) <= 1


def age(options, epochs, iterations, share):
    """Mean age of the weights in the teacher after a share of the training, as a share of the training."""
    mean_age = 0.0
    for step in range(round(share * epochs * iterations)):
        mean_age = options.momentum(*divmod(step, iterations), epochs, iterations) * (mean_age + 1)
    return mean_age / (epochs * iterations)


@pytest.mark.parametrize(("epochs", "iterations"), [(20, 50), (50, 250)])
@pytest.mark.parametrize("share", [0.5, 0.75, 1.0])
def test_the_memory_is_the_same_share_of_any_training_from_its_middle_to_its_end(epochs, iterations, share):
    """The schedule that the released code means has a teacher of a fifth of a short training ago in the end."""
    step = 1 / (epochs * iterations)
    assert age(MedContextOptions(), epochs, iterations, share) == pytest.approx(0.025 - step, rel=1e-3)
    assert age(MedContextOptions(ema_memory=0.1), epochs, iterations, share) == pytest.approx(0.1 - step, rel=0.02)
    if epochs == 20 and share == 1.0:
        assert age(MedContextOptions(ema_base=0.9, ema_final=1.0), epochs, iterations, share) > 0.2


def test_the_teacher_of_a_very_short_training_is_a_mean_over_ten_steps():
    assert MedContextOptions().momentum(5, 9, 10, 10) == pytest.approx(0.9)
    assert MedContextOptions(ema_final=1.0).momentum(9, 9, 10, 10) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("start", "ramp", "expected"),
    [
        (0.2, 0.2, [0, 0, 0.5, 1, 1, 1, 1, 1, 1, 1]),
        (0.0, 0.0, [1] * 10),
        (0.5, 0.0, [0] * 5 + [1] * 5),
        (0.0, 1.0, [0.1 * (epoch + 1) for epoch in range(10)]),
        (0.25, 0.1, [0, 0, 0.5, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_consistency_starts_and_rises_by_epochs(start, ramp, expected):
    options = MedContextOptions(start=start, ramp=ramp)
    assert [options.rise(epoch, 10) for epoch in range(10)] == pytest.approx(expected, abs=1e-6)


def test_the_released_momentum_never_leaves_its_warm_up():
    released = [MedContextOptions.as_published().momentum(17, batch, EPOCHS, ITERATIONS) for batch in range(ITERATIONS)]
    assert released[0] == 0
    assert max(released) == released[-1] == pytest.approx(0.0496, abs=1e-4)
    assert np.mean(released) == pytest.approx(0.025, abs=1e-3)


def test_without_warm_up_the_momentum_starts_at_its_base():
    assert ema_momentum(0, 10, 0.9, 1.0, 0) == pytest.approx(0.9)
    assert ema_momentum(0, 10, 0.9, 1.0, 1) == 0
    assert ema_momentum(5, 10, 0.9, 1.0, 0) == pytest.approx(0.95)


@pytest.mark.parametrize("dim", [2, 3])
def test_an_update_is_the_weighted_mean_of_all_parameters(dim):
    student = tiny.network(dim).double()
    teacher = Teacher(student)
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p))
    teacher.follow(student, 0.75)
    for got, old, new in zip(teacher.parameters(), before, student.parameters(), strict=True):
        torch.testing.assert_close(got, 0.75 * old + 0.25 * new)
        assert not torch.equal(old, new)
    teacher.follow(student, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), student.parameters(), strict=True))
    frozen = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    teacher.follow(student, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), frozen, strict=True))


class WithBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.decoder = nn.Linear(2, 2)

    def forward(self, x):
        return self.decoder(self.norm(x))


def test_statistics_of_norms_are_averaged_and_counters_copied():
    student = WithBatchNorm().train()
    teacher = Teacher(student)
    student(5 + torch.randn(16, 2))
    teacher.follow(student, 0.5)
    own = teacher.network.norm
    torch.testing.assert_close(own.running_mean, 0.5 * student.norm.running_mean)
    torch.testing.assert_close(own.running_var, 0.5 + 0.5 * student.norm.running_var)
    assert own.num_batches_tracked == 1


def test_the_teacher_is_frozen_in_evaluation_mode_and_returns_one_tensor():
    student = tiny.network(2).train()
    teacher = Teacher(student).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert student.training
    assert student.decoder.deep_supervision
    assert all(p.requires_grad for p in student.parameters())
    x = torch.randn(2, 1, 16, 16, requires_grad=True)
    output = teacher(x)
    assert not output.requires_grad
    student.decoder.deep_supervision = False
    with torch.no_grad():
        assert torch.equal(output, student.eval()(x))
