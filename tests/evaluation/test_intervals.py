"""How often the interval holds the truth, on data drawn like ours, and what a difference must be to be seen."""

import numpy as np
import pytest
from scipy import stats

from nnunet_ext.evaluation.intervals import POWER, interval

LIKE_OURS = [
    (0.014, 0.0, 0.023),
    (0.054, 0.0, 0.022),
    (0.0136, 0.022, 0.0215),
    (0.23, 0.02, 0.027),
    (0.12, 0.0, 0.05),
    (0.0136, 0.0, 0.068),
    (0.049, 0.023, 0.055),
    (0.07, 0.0, 0.05),
    (0.0, 0.02, 0.0475),
    (0.0, 0.031, 0.054),
]
"""Standard deviations between trainings, between subjects, and of the rest: of the paired differences in Dice of ten
arms to their reference, estimated by analysis of variance from the cases in ``docs/results/benchmark-*/cases.csv``."""


def draw(rng, trainings, subjects, sds, skewed):
    """Paired differences ``(trainings, subjects)`` with mean 0; skewed: some subjects differ much, and heavy tails."""
    between_trainings, between_subjects, rest = sds
    subject = (rng.gamma(2, 1, subjects) - 2) / np.sqrt(2) if skewed else rng.normal(0, 1, subjects)
    noise = (
        rng.standard_t(5, (trainings, subjects)) / np.sqrt(5 / 3) if skewed else rng.normal(0, 1, (trainings, subjects))
    )
    return between_trainings * rng.normal(0, 1, (trainings, 1)) + between_subjects * subject + rest * noise


def coverage(trainings, subjects, sds, skewed, repetitions=1500):
    rng = np.random.default_rng(0)
    found = (interval(draw(rng, trainings, subjects, sds, skewed)) for _ in range(repetitions))
    return np.mean([each.low <= 0 <= each.high for each in found])


@pytest.mark.slow
@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("subjects", [16, 40])
def test_with_three_seeds_it_holds_the_truth_as_often_as_it_says(subjects, skewed):
    shares = [coverage(3, subjects, sds, skewed) for sds in LIKE_OURS]
    assert 0.93 <= np.mean(shares) <= 0.97
    assert min(shares) >= 0.93
    assert max(shares) <= 0.99  # where subjects vary most it is longer than it must be


@pytest.mark.slow
@pytest.mark.parametrize("trainings", [2, 5])
def test_with_other_numbers_of_seeds_it_is_not_too_short_either(trainings):
    shares = [coverage(trainings, 16, sds, True, 1000) for sds in LIKE_OURS]
    assert min(shares) >= 0.93


@pytest.mark.slow
def test_what_the_issue_was_about_intervals_over_subjects_alone_are_far_too_short():
    rng = np.random.default_rng(0)
    means = [draw(rng, 3, 16, LIKE_OURS[1], False).mean(axis=0) for _ in range(500)]
    found = [stats.bootstrap((mean,), np.mean, n_resamples=199, rng=0).confidence_interval for mean in means]
    assert np.mean([each.low <= 0 <= each.high for each in found]) < 0.5


def test_one_training_gives_students_interval_over_subjects():
    x = np.random.default_rng(0).normal(1, 2, 16)
    found = interval(x[None])
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.p_value == pytest.approx(stats.ttest_1samp(x, 0).pvalue)


def test_the_parts_are_those_of_an_analysis_of_variance_by_hand():
    d = np.array([[1.0, 2, 6, 3], [2, 2, 7, 9], [0, 1, 1, 2]])
    grand = d.mean()
    trainings = sum((d.mean(1) - grand) ** 2) / 2 / 3
    subjects = sum((d.mean(0) - grand) ** 2) / 3 / 4
    rest = sum((d[i, j] - d[i].mean() - d[:, j].mean() + grand) ** 2 for i in range(3) for j in range(4)) / 6 / 12
    assert subjects > rest
    half = np.sqrt((stats.t.ppf(0.975, 2) ** 2 * trainings) + stats.t.ppf(0.975, 3) ** 2 * (subjects - rest))
    found = interval(d)
    assert (found.low, found.high) == pytest.approx((grand - half, grand + half))


def test_trainings_that_agree_by_chance_do_not_make_it_shorter_than_students_interval_over_subjects():
    rng = np.random.default_rng(0)
    d = rng.normal(0.04, 0.05, (3, 20))
    d += 0.04 - d.mean(axis=1, keepdims=True)  # three trainings with one mean
    expected = stats.ttest_1samp(d.mean(axis=0), 0)
    found = interval(d)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.smallest_difference == pytest.approx(interval(d.mean(axis=0)[None]).smallest_difference)


def test_it_always_holds_students_interval_over_subjects():
    rng = np.random.default_rng(4)
    for sds in LIKE_OURS:
        for _ in range(50):
            d = draw(rng, 3, 16, sds, True)
            found, over_subjects = interval(d), interval(d.mean(axis=0)[None])
            assert found.low <= over_subjects.low + 1e-12
            assert found.high >= over_subjects.high - 1e-12
            assert found.p_value >= over_subjects.p_value - 1e-12


def test_the_p_value_is_where_the_interval_ends_at_zero():
    d = np.random.default_rng(3).normal(0.5, 1, (3, 20))
    found = interval(d, 1 - interval(d).p_value)
    assert found.low == pytest.approx(0, abs=1e-6)
    assert interval(d - d.mean()).p_value == pytest.approx(1)
    assert interval(np.zeros((3, 8))).p_value == 1


def test_trainings_that_agree_and_subjects_that_agree_leave_a_point():
    found = interval(np.full((3, 8), -0.25))
    assert (found.low, found.high, found.smallest_difference) == (-0.25, -0.25, 0)


def test_more_subjects_and_more_trainings_make_it_shorter():
    rng = np.random.default_rng(1)

    def width(trainings, subjects):
        found = (interval(draw(rng, trainings, subjects, LIKE_OURS[6], False)) for _ in range(200))
        return np.median([each.high - each.low for each in found])

    assert width(3, 16) > width(3, 64)
    assert width(2, 16) > width(3, 16) > width(6, 16)


@pytest.mark.parametrize("sds", [LIKE_OURS[2], LIKE_OURS[6]])
def test_the_smallest_difference_is_seen_as_often_as_it_says(sds):
    rng = np.random.default_rng(2)
    trainings, subjects = 5, 30
    without = [interval(draw(rng, trainings, subjects, sds, False)) for _ in range(400)]
    true = np.sqrt(np.mean([each.smallest_difference**2 for each in without]))
    shown = [interval(true + draw(rng, trainings, subjects, sds, False)).low > 0 for _ in range(400)]
    assert np.mean(shown) == pytest.approx(POWER, abs=0.1)
