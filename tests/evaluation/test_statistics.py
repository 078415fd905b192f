"""Every number against a second way of computing it, the verdict's rules, and every error sentence."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.comparison import Tail
from nnunet_ext.evaluation.intervals import interval
from nnunet_ext.evaluation.ranks import rank_distribution
from nnunet_ext.evaluation.statistics import compare, correct, holm


def table(arms, subjects=None):
    """Tidy values from ``{arm: (cases,) or (cases, seeds)}``; ``subjects``: of every case."""
    rows = []
    for arm, values in arms.items():
        values = np.asarray(values, dtype=float)
        for (case, seed), value in np.ndenumerate(values.reshape(len(values), -1)):
            rows.append({"arm": arm, "case": f"case_{case:03d}", "seed": seed, "value": value})
            if subjects is not None:
                rows[-1]["subject"] = subjects[case]
    columns = ["arm", "case", "seed", "value", *(["subject"] if subjects is not None else [])]
    return pd.DataFrame(rows, columns=columns)


def one(candidate, baseline, *, higher_is_better=True, subjects=None, **kwargs):
    arms = {"candidate": candidate, "baseline": baseline}
    return compare(table(arms, subjects), "baseline", higher_is_better=higher_is_better, **kwargs)[0]


def of_differences(differences, **kwargs):
    return one(differences, np.zeros_like(differences, dtype=float), **kwargs)


def thrice(differences):
    """The same in three seeds, but for a little noise."""
    return np.asarray(differences)[:, None] * [0.99, 1.0, 1.01]


def numbers(comparison):
    fields = dataclasses.asdict(dataclasses.replace(comparison, arm="", baseline=""))
    fields |= {f"seed {seed}": difference for seed, difference in fields.pop("per_seed").items()}
    for tail in fields.pop("tails"):
        fields |= {f"{key} {tail['share']}": tail[key] for key in ("candidate", "baseline")}
    return fields


def same(a, b):
    return numbers(a) == pytest.approx(numbers(b), abs=2e-7, nan_ok=True)


OPPOSITE = {
    "better": "worse",
    "worse": "better",
    "no difference shown": "no difference shown",
    "one training: no verdict": "one training: no verdict",
}

# twentieths, so that ties and zeros are frequent
paired = (
    st.integers(6, 8)
    .flatmap(lambda n: st.lists(st.integers(-20, 20), min_size=n, max_size=n))
    .map(lambda twentieths: np.array(twentieths) / 20)
)
cubes = st.tuples(st.integers(6, 9), st.integers(1, 3), st.integers(0, 2**31)).map(
    lambda shape: np.random.default_rng(shape[2]).integers(0, 20, (2, *shape[:2])) / 20
)


def midranks(x):
    return np.array([np.sum(x < value) + (np.sum(x == value) + 1) / 2 for value in x])


def wilcoxon_by_enumeration(differences):
    signed = differences[differences != 0]
    ranks = midranks(np.abs(signed))
    centre = ranks.sum() / 2
    observed = abs(ranks[signed > 0].sum() - centre)
    outcomes = [abs(ranks @ np.array(signs) - centre) for signs in itertools.product([0, 1], repeat=len(signed))]
    return np.mean(np.array(outcomes) >= observed - 1e-9)


@given(paired)
@settings(max_examples=60, deadline=None)
def test_p_equals_the_enumeration_of_all_signs(differences):
    assert of_differences(differences).p_value == pytest.approx(wilcoxon_by_enumeration(differences))


def test_a_zero_does_not_cost_the_exact_distribution():
    differences = np.array([0, 1, 2, -3, 4, 5, -6, 7, 8, 9, -10, 11, 12, 13.5])
    assert of_differences(differences).p_value == pytest.approx(wilcoxon_by_enumeration(differences), rel=1e-9)


def test_many_ties_use_the_normal_approximation_with_tie_correction():
    differences = np.repeat([-2.0, 1.0, 3.0], [5, 8, 7])
    ranks = midranks(np.abs(differences))
    variance = np.sum(ranks**2) / 4  # of the sum of the ranks with a positive sign
    z = (ranks[differences > 0].sum() - ranks.sum() / 2) / math.sqrt(variance)
    assert of_differences(differences).p_value == pytest.approx(2 * ndtr(-abs(z)))


def test_rounding_errors_do_not_break_ties_or_zeros():
    base = np.array([0.3, 0.8, 0.5, 0.1, 0.7, 0.2, 0.6])
    result = one(base + 0.1, base)  # as floats, these differences are not all the same
    assert [result.ci_low, result.ci_high, result.mean_difference] == pytest.approx([0.1] * 3)
    assert result.p_value == pytest.approx(2 / 2**7)
    averaged = one(np.array([[0.1, 0.2, 0.3]] * 6), np.array([[0.3, 0.1, 0.2]] * 6))
    assert (averaged.equal, averaged.p_value) == (6, 1)


@given(paired)
@settings(max_examples=30, deadline=None)
def test_effect_size_and_counts_by_definition(differences):
    result = of_differences(differences)
    signed = differences[differences != 0]
    ranks = midranks(np.abs(signed))
    favourable, unfavourable = ranks[signed > 0].sum(), ranks[signed < 0].sum()
    total = favourable + unfavourable
    assert result.effect_size == pytest.approx((favourable - unfavourable) / total if total else 0)
    assert -1 <= result.effect_size <= 1
    assert (result.better, result.worse) == ((differences > 0).sum(), (differences < 0).sum())
    assert result.better + result.worse + result.equal == result.n == len(differences)


@pytest.mark.slow
def test_without_a_difference_a_claim_is_rare():
    """False verdicts stay below alpha, also with two candidates (Holm) and with trainings that differ."""
    rng = np.random.default_rng(0)
    claims = 0
    for _ in range(300):
        arms = rng.normal(0, 1, (3, 15, 3)) + rng.normal(0, 0.5, (3, 1, 3))
        results = compare(table(dict(zip("abc", arms, strict=True))), "a", higher_is_better=True)
        claims += any(result.verdict != "no difference shown" for result in results)
    assert claims / 300 < 0.05


def test_the_interval_is_that_over_seeds_and_subjects():
    candidate, base = np.random.default_rng(4).normal(0, 1, (2, 12, 3))
    subjects = [f"patient {case // 2}" for case in range(12)]
    found = interval((candidate - base).reshape(6, 2, 3).mean(axis=1).T, 0.8)
    result = one(candidate, base, subjects=subjects, confidence=0.8)
    assert (result.ci_low, result.ci_high) == pytest.approx((found.low, found.high))
    assert result.smallest_difference == pytest.approx(found.smallest_difference)


def larger(comparisons):
    return [max(comparison.p_value, comparison.p_interval) for comparison in comparisons]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.6]) == [1, 1]
    assert holm([]) == []


def test_an_untested_comparison_is_no_member_of_the_family():
    assert holm([0.01, math.nan, 0.03]) == pytest.approx([0.02, math.nan, 0.03], nan_ok=True)


def test_the_correction_covers_the_arms_of_the_table_or_the_family_of_the_caller():
    rng = np.random.default_rng(1)
    base = rng.normal(0, 1, 12)
    arms = {"base": base, "x": base + rng.normal(0.6, 0.8, 12), "y": base + rng.normal(0.5, 0.8, 12)}
    dice = compare(table(arms), "base", higher_is_better=True)
    assert [result.arm for result in dice] == ["x", "y"]
    assert [result.p_corrected for result in dice] == holm(larger(dice))
    family = correct(dice + dice)
    assert [result.p_corrected for result in family] == holm(larger(dice + dice))
    assert family[0].p_corrected > dice[0].p_corrected
    assert family[0].p_value == dice[0].p_value


@given(cubes, st.booleans())
@settings(max_examples=30, deadline=None)
def test_swapping_the_arms_mirrors_the_result(cube, higher_is_better):
    there, back = (one(*pair, higher_is_better=higher_is_better) for pair in (cube, cube[::-1]))
    mirrored = dataclasses.replace(
        back,
        mean_candidate=back.mean_baseline,
        mean_baseline=back.mean_candidate,
        mean_difference=-back.mean_difference,
        ci_low=-back.ci_high,
        ci_high=-back.ci_low,
        effect_size=-back.effect_size,
        better=back.worse,
        worse=back.better,
        cases_better=back.cases_worse,
        cases_worse=back.cases_better,
        tails=tuple(Tail(tail.share, tail.baseline, tail.candidate) for tail in back.tails),
        per_seed={seed: -difference for seed, difference in back.per_seed.items()},
    )
    assert same(there, mirrored)
    assert there.verdict == OPPOSITE[back.verdict]


@given(cubes, st.integers(-9, 9))
@settings(max_examples=30, deadline=None)
def test_a_constant_added_to_both_arms_changes_nothing(cube, constant):
    moved = one(*(cube + constant))
    tails = tuple(Tail(t.share, t.candidate - constant, t.baseline - constant) for t in moved.tails)
    back = {"mean_candidate": moved.mean_candidate - constant, "mean_baseline": moved.mean_baseline - constant}
    back["tails"] = tails
    assert same(one(*cube), dataclasses.replace(moved, **back))


@given(cubes, st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_changes_nothing(cube, seed):
    values = table({"candidate": cube[0], "baseline": cube[1]})
    shuffled = values.sample(frac=1, random_state=seed)
    ours, theirs = (compare(v, "baseline", higher_is_better=True)[0] for v in (values, shuffled))
    assert repr(ours) == repr(theirs)  # to the last digit, NaN included
    pd.testing.assert_frame_equal(
        rank_distribution(values, higher_is_better=True), rank_distribution(shuffled, higher_is_better=True)
    )


@given(cubes)
@settings(max_examples=20, deadline=None)
def test_the_direction_of_the_metric_turns_only_better_and_worse(cube):
    up, down = one(*cube, higher_is_better=True), one(*cube, higher_is_better=False)
    back = dataclasses.replace(
        down,
        better=down.worse,
        worse=down.better,
        cases_better=down.cases_worse,
        cases_worse=down.cases_better,
        tails=up.tails,  # the other end of the distribution
        higher_is_better=True,
    )
    assert same(up, back)
    assert up.verdict == OPPOSITE[down.verdict]


def test_a_repeated_seed_is_no_further_case():
    rng = np.random.default_rng(2)
    base = rng.normal(0, 1, 10)
    candidate = base + rng.normal(0.4, 0.7, 10)
    single, repeated = one(candidate, base), one(np.stack([candidate] * 4, 1), np.stack([base] * 4, 1))
    same_numbers = ["n", "p_value", "p_corrected", "ci_low", "ci_high", "effect_size", "sd_between_subjects"]
    for name in same_numbers:
        assert getattr(repeated, name) == getattr(single, name), name
    pooled = one(np.tile(candidate, 4), np.tile(base, 4))
    assert pooled.p_value < 0.1 * single.p_value, "what pooling would have claimed"


def test_means_and_spreads_by_definition():
    candidate, base = np.random.default_rng(4).normal(0, 1, (2, 8, 3))
    result = one(candidate, base)
    difference = candidate - base
    assert (result.n, result.cases, result.seeds, result.dropped, result.unit) == (8, 8, 3, 0, "case")
    assert result.mean_candidate == pytest.approx(candidate.mean())
    assert result.mean_baseline == pytest.approx(base.mean())
    assert result.mean_difference == pytest.approx(difference.mean())
    assert result.per_seed == pytest.approx(dict(enumerate(difference.mean(axis=0))))
    assert result.sd_between_subjects == pytest.approx(np.std(difference.mean(axis=1), ddof=1))
    assert result.sd_between_seeds == pytest.approx(np.std(difference.mean(axis=0), ddof=1))
    assert math.isnan(one(candidate[:, 0], base[:, 0]).sd_between_seeds)


def test_a_case_with_a_nan_in_any_seed_of_either_arm_is_left_out_and_counted():
    candidate, base = np.random.default_rng(5).normal(0, 1, (2, 10, 2))
    holes = candidate.copy(), base.copy()
    holes[0][2, 1] = holes[1][2, 0] = holes[1][7, 0] = np.nan
    kept = np.delete(np.arange(10), [2, 7])
    result = one(*holes)
    assert (result.n, result.dropped) == (8, 2)
    assert same(dataclasses.replace(result, dropped=0), one(candidate[kept], base[kept]))


def test_equal_arms():
    values = np.linspace(0, 1, 7)
    result = one(values, values)
    assert (result.mean_difference, result.ci_low, result.ci_high, result.p_value) == (0, 0, 0, 1)
    assert (result.effect_size, result.equal, result.verdict) == (0, 7, "one training: no verdict")
    assert one(thrice(values), thrice(values)).verdict == "no difference shown"


def test_a_constant_difference_has_a_point_as_interval():
    result = of_differences(np.full((8, 2), -0.25))
    assert (result.mean_difference, result.ci_low, result.ci_high) == (-0.25, -0.25, -0.25)
    assert (result.p_value, result.effect_size, result.verdict) == (2 / 2**8, -1, "worse")


@pytest.mark.parametrize("differences", [[0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 2], [0, 0, 0, 0, 1, -1]])
def test_almost_constant_differences_have_a_finite_interval(differences):
    result = of_differences(np.array(differences, dtype=float))
    assert np.isfinite([result.ci_low, result.ci_high, result.p_value]).all()
    assert result.ci_low <= result.mean_difference <= result.ci_high


def test_better_and_worse():
    gains = thrice(np.linspace(0.01, 0.08, 8))
    assert of_differences(gains).verdict == "better"
    assert of_differences(gains, higher_is_better=False).verdict == "worse"
    assert of_differences(gains, alpha=0.001).verdict == "no difference shown"


@pytest.mark.parametrize("sign", [1, -1])
def test_one_training_never_gets_a_verdict(sign):
    result = of_differences(sign * np.linspace(0.4, 0.5, 60))
    assert result.p_corrected < 1e-9
    assert result.ci_low * result.ci_high > 0
    assert result.verdict == "one training: no verdict"
    assert any("not with the training" in caution for caution in result.cautions)


def test_no_verdict_when_the_correction_takes_the_significance_away():
    gains = thrice(np.linspace(0.01, 0.06, 6))  # p = 0.031, the smallest possible
    assert of_differences(gains).verdict == "better"
    results = compare(table({"base": gains * 0, "x": gains, "y": gains}), "base", higher_is_better=True)
    assert [result.verdict for result in results] == ["no difference shown"] * 2


def test_no_verdict_when_the_interval_includes_zero():
    differences = np.array([0.1] * 20 + [-1.0])  # one disaster against twenty small gains
    result = of_differences(thrice(differences))
    assert result.p_value < 0.05 < result.p_interval
    assert result.ci_low < 0 < result.mean_difference
    assert result.effect_size > 0
    assert result.verdict == "no difference shown"


def test_no_verdict_when_mean_and_ranks_disagree():
    differences = np.array([-0.01] * 50 + [0.5] * 10) + np.linspace(0, 1e-4, 60)
    result = of_differences(thrice(differences))
    assert result.p_corrected < 0.05
    assert result.ci_low > 0 > result.effect_size
    assert result.verdict == "no difference shown"


def test_no_verdict_when_the_trainings_vary_more_than_they_differ():
    first = np.linspace(0.2, 0.3, 20)
    result = of_differences(np.stack([first, first - 0.19, first + 0.2], 1))
    assert min(result.per_seed.values()) > 0
    assert result.p_value < 0.001 < 0.05 < result.p_interval
    assert result.ci_low < 0
    assert result.verdict == "no difference shown"


@pytest.mark.parametrize(("second", "verdict"), [(0.24, "better"), (0.0, "no difference shown")])
def test_no_verdict_unless_every_seed_agrees(second, verdict):
    first = np.linspace(0.2, 0.3, 10)
    result = of_differences(np.stack([*[first] * 14, np.full(10, second)], 1))
    assert result.p_corrected < 0.05
    assert result.ci_low > 0
    assert result.verdict == verdict


# --- the subject is the unit ------------------------------------------------------------------------------------------


@given(cubes, st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_repeating_every_case_changes_no_number_but_the_number_of_cases(cube, times):
    subjects = [f"patient {case}" for case in range(cube.shape[1])]
    single = one(*cube, subjects=subjects)
    repeated = one(*np.repeat(cube, times, axis=1), subjects=np.repeat(subjects, times))
    back = dataclasses.replace(
        repeated,
        cases=single.cases,
        cases_better=repeated.cases_better // times,
        cases_worse=repeated.cases_worse // times,
        tails=single.tails,
    )
    assert (repeated.cases, repeated.n) == (times * single.cases, single.n)
    assert repeated.ci_high - repeated.ci_low >= single.ci_high - single.ci_low - 1e-12
    assert same(single, back)


def test_cases_of_a_subject_are_averaged_first_however_many_they_are():
    means = np.array([0.1, 0.3, -0.2, 0.4, 0.25, 0.6])
    cases = np.array([0.0, 0.2, 0.3, 0.2, 0.3, 0.4, -0.2, 0.4, 0.25, 0.6])
    subjects = [0, 0, 1, 1, 1, 1, 2, 3, 4, 5]
    result = of_differences(cases, subjects=subjects)
    assert (result.n, result.cases, result.unit, result.counted) == (6, 10, "subject", "6 subjects, 10 cases")
    alone = of_differences(means)
    for name in ("mean_difference", "ci_low", "ci_high", "p_value", "effect_size", "sd_between_subjects", "better"):
        assert getattr(result, name) == pytest.approx(getattr(alone, name)), name
    assert result.ci_high - result.ci_low != pytest.approx(of_differences(cases).ci_high - of_differences(cases).ci_low)


def test_a_subject_counts_as_long_as_one_of_its_cases_does():
    cases = np.array([0.0, np.nan, 0.3, np.nan, np.nan, 0.4, -0.2, 0.4, 0.25, 0.6])
    result = of_differences(cases, subjects=[0, 0, 1, 2, 2, 3, 4, 5, 6, 7])
    assert (result.n, result.cases, result.dropped) == (7, 7, 3)


def test_cases_better_and_worse_by_more_than_a_point_and_the_bad_end():
    gains = np.array([0.011, 0.01, 0.009, -0.02, 0.0, 0.3, -0.011, 0.005])
    base = np.linspace(0.5, 0.9, 8)
    result = one(base + gains, base)
    assert (result.cases_better, result.cases_worse, result.point) == (2, 2, 0.01)
    assert one(base + gains, base, point=0.1).cases_better == 1
    for tail, share in zip(result.tails, (0.05, 0.1), strict=True):
        assert (tail.candidate, tail.baseline) == (np.quantile(base + gains, share), np.quantile(base, share))
    distance = one(base + gains, base, higher_is_better=False)
    assert (distance.cases_better, distance.cases_worse) == (2, 2)
    assert distance.tails[1].baseline == np.quantile(base, 0.9)  # a distance is bad where it is large


@pytest.mark.parametrize(("n", "warned"), [(49, True), (50, False)])
def test_a_caution_below_fifty_subjects(n, warned):
    result = of_differences(thrice(np.linspace(0.1, 0.2, n)), subjects=range(n))
    assert any("fewer than 50 subjects" in caution for caution in result.cautions) == warned
    assert result.verdict == "better"


def test_unknown_subjects_are_said():
    assert any("unknown" in caution for caution in of_differences(np.linspace(0.1, 0.2, 9)).cautions)


def test_too_few_subjects_are_described_without_a_test():
    candidate, base = np.array([0.9, 0.7, np.nan, 0.8, 0.6, 0.9]), np.array([0.8, 0.7, 0.9, 0.9, 0.5, 0.6])
    result = one(candidate, base, few_subjects="describe")
    assert (result.n, result.dropped, result.better, result.worse, result.equal) == (5, 1, 3, 1, 1)
    assert result.mean_difference == pytest.approx(0.08)
    assert np.isnan([result.ci_low, result.ci_high, result.p_value, result.p_interval, result.p_corrected]).all()
    assert result.verdict == "too few cases to test"
    assert result.sentence == (
        "candidate against baseline: 5 cases, one training of each, 1 case left out; mean 0.78 against 0.7, difference "
        "+0.08; 3 cases better and 1 worse by more than 0.01; worst 5 % from 0.62 against 0.52; worst 10 % from 0.64 "
        "against 0.54: too few cases to test. Caution: which cases are one subject is unknown, so every case counts as "
        "one: too short if some are. Caution: one training of each: the interval says how the difference varies with "
        "the subjects, not with the training, and nnU-Net is not deterministic."
    )


@pytest.mark.filterwarnings("error")
def test_a_class_that_is_absent_everywhere_is_described_as_well():
    result = one(np.full((3, 2), np.nan), np.full((3, 2), np.nan), few_subjects="describe")
    assert (result.n, result.dropped, result.verdict) == (0, 3, "too few cases to test")
    assert np.isnan([result.mean_difference, result.effect_size, *result.per_seed.values()]).all()
    assert result.sentence.startswith(
        "candidate against baseline: 0 cases, 2 seeds, 3 cases left out: too few cases to test. Caution: "
    )


def test_describing_changes_nothing_where_a_test_is_possible():
    gains = np.linspace(-0.01, 0.06, 7)
    assert same(of_differences(gains, few_subjects="describe"), of_differences(gains))


def test_the_sentence_of_a_tested_comparison():
    gains = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 2)
    result = of_differences(thrice(gains), subjects=np.repeat(range(6), 2))
    assert result.sentence == (
        "candidate against baseline: 6 subjects, 12 cases, 3 seeds, 0 cases left out; mean 0.35 against 0, difference "
        f"+0.35 (95 % CI over seeds and subjects {result.ci_low:+.4g} to {result.ci_high:+.4g}; a difference of "
        f"{result.smallest_difference:.4g} would have been seen in 80 % of repetitions); seed by seed +0.3465, +0.35, "
        "+0.3535; 12 cases better and 0 worse by more than 0.01; worst 5 % from 0.09975 against 0; worst 10 % from "
        f"0.1005 against 0; rank-biserial correlation +1.00; p = 0.031 (Wilcoxon), {result.p_interval:.2g} (interval), "
        "the larger after Holm 0.031: better. Caution: "
        "fewer than 50 subjects: another sample may say something else."
    )


def bad(change):
    return change(table({"x": np.zeros((7, 2)), "y": np.ones((7, 2))}))


def compared(values):
    return compare(values, "x", higher_is_better=True)


def ranked(values):
    return rank_distribution(values, higher_is_better=True)


@pytest.mark.parametrize("function", [compared, ranked])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v.drop(columns=["seed"]),
            "The table of values has no column 'seed', but needs 'arm', 'case', 'seed' and 'value': rename the "
            "columns, and with one training per arm write 0 as seed.",
        ),
        (
            lambda v: v.assign(seed=v["seed"].where(v["case"] != "case_001")),
            "The table has a row without arm, case or seed, but needs all three: fill them in.",
        ),
        (
            lambda v: pd.concat([v, v.iloc[[5]]]),
            "The table has several values for arm 'x', case 'case_002', seed '1', but needs exactly one: select one "
            "metric and one class, and check that every case is validated in one fold only.",
        ),
        (
            lambda v: v.assign(value="good"),
            "Column 'value' must hold numbers (could not convert string to float: 'good'): write NaN where a value is "
            "undefined.",
        ),
        (
            lambda v: v.assign(value=v["value"].where(v.index != 3, np.inf)),
            "The value for arm 'x', case 'case_001', seed '1' is infinite, so that no mean exists: replace it by a "
            "finite penalty, such as the diagonal of the image for a distance to a missed structure.",
        ),
        (
            lambda v: v.drop(index=[15, 20]),
            "There is no value for arm 'y', case 'case_000', seed '1' (2 missing in all), but every arm needs the same "
            "cases and seeds: run or evaluate that training, or leave the case or seed out of all arms.",
        ),
    ],
)
def test_a_malformed_table(function, change, message):
    with pytest.raises(InputError) as caught:
        function(bad(change))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "arms"),
    [
        (lambda v: v, "'x', 'y'"),
        (lambda v: v.replace("y", "z").query("arm == 'z'"), "'z'"),
        (lambda v: v[:0], "no arm"),
    ],
)
def test_a_missing_arm(change, arms):
    with pytest.raises(InputError) as caught:
        compare(bad(change), "z", higher_is_better=True)
    assert str(caught.value) == (
        f"A comparison needs the baseline 'z' and at least one other arm, but the table has {arms}: add the values of "
        "the missing arm, or name another baseline."
    )


def test_too_few_subjects():
    values = table({"x": [0, 0, 0, 0, 0, np.nan], "y": np.ones(6)})
    with pytest.raises(InputError) as caught:
        compare(values, "x", higher_is_better=True)
    assert str(caught.value) == (
        "The number of cases with a value for both 'y' and 'x' is 5, but a test needs 6, because with 5 the smallest "
        "possible two-sided Wilcoxon p is 0.0625: validate on more cases (all folds), or ask for the numbers without a "
        "test (few_subjects='describe')."
    )
    with pytest.raises(InputError) as caught:
        rank_distribution(values, higher_is_better=True)
    assert str(caught.value) == (
        "The number of cases with a value in all of 'x', 'y' is 5, but a distribution of ranks needs 6: validate on "
        "more cases (all folds), or leave out the arm whose values are missing."
    )


@pytest.mark.parametrize("dtype", ["Float64", "object"])
def test_missing_values_of_any_kind_are_nan(dtype):
    values = table({"x": np.zeros(8), "y": np.arange(8)})
    values["value"] = values["value"].astype(dtype)
    values.loc[3, "value"] = None
    values["arm"] = values["arm"].astype("category")
    result = compare(values, "x", higher_is_better=True)[0]
    assert (result.n, result.dropped, result.mean_difference) == (7, 1, pytest.approx(25 / 7))
