"""Paired comparison of trainers on the same validation cases: difference, interval, test, and one of three verdicts.

What is computed, per arm (a trainer) against the baseline:

1. *Difference per case*, arm − baseline, averaged over seeds. The case is the unit; repeated trainings of the same arm
   see the same patients, so pooling them as further cases would feign evidence. In a cross-validation every case is
   validated in exactly one fold, so the cases of several folds are simply more cases.
2. *Mean of these differences*, with a BCa bootstrap interval over cases (Efron 1987).
3. *Wilcoxon signed-rank test*, two-sided. Differences of zero are left out (Wilcoxon 1945). Exact up to 50 cases
   without ties and up to 13 with ties, normal approximation with tie correction otherwise (scipy's rule).
4. *Holm's correction* (1979) over all comparisons that are reported together.
5. *Matched-pairs rank-biserial correlation* as effect size (Kerby 2014).

What the interval does not cover: run-to-run variance. nnU-Net is not deterministic, two trainings of the same trainer
differ, and the interval says how the mean would vary with other cases, not with other trainings. Hence the differences
seed by seed beside it, and "better" only when all seeds agree. With two or three seeds a variance of trainings cannot
be estimated well enough to widen the interval by it.

Why the mean and not the median: BCa takes its acceleration from the jackknife, which fails for the median
(Efron 1979), and the bootstrapped median of few cases takes few values, so its interval jumps between them. An outlier
case enters the mean as it should: a missed structure is a result. The Wilcoxon test bounds its influence, and where
mean and ranks point in opposite directions, no difference is claimed.

Why no mixed model: in the balanced design, which is enforced, the intercept of the model "difference = intercept +
random case + noise" is the mean of the case means and its standard error is their standard deviation / √n. The model
would add the assumption of normality and nothing else.

Sources: Wilcoxon, Biometrics Bulletin 1945; Efron, Annals of Statistics 1979 and JASA 1987; Holm, Scandinavian Journal
of Statistics 1979; Kerby, Comprehensive Psychology 2014; Wiesenfarth et al., Scientific Reports 2021 (challengeR), for
the distribution of ranks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nnunet_ext.errors import InputError

Array = NDArray[np.floating[Any]]
Verdict = Literal["better", "worse", "no difference shown", "too few cases to test"]

MIN_CASES = 6
"""With 5 pairs the smallest two-sided p of the Wilcoxon test is 2 / 2⁵ = 0.0625: no outcome could be significant."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One arm against the baseline. Differences are arm − baseline, in the unit of the metric.

    Below :data:`MIN_CASES` cases the interval and both p values are NaN; without any case the means are NaN as well.
    """

    arm: str
    baseline: str
    higher_is_better: bool
    n: int
    """Cases with a value in both arms and all seeds; everything below is about these."""
    seeds: int
    """Trainings per arm and fold."""
    dropped: int
    """Cases left out, because a value is NaN (class absent in both masks) in one of the two arms."""
    mean_candidate: float
    mean_baseline: float
    mean_difference: float
    ci_low: float
    """BCa bootstrap over cases of the mean difference."""
    ci_high: float
    p_value: float
    """Wilcoxon signed-rank, two-sided, uncorrected."""
    p_corrected: float
    """Holm, over the family given to :func:`compare` or :func:`correct`."""
    effect_size: float
    """Matched-pairs rank-biserial correlation in [-1, 1]: the share of the rank sum with a positive difference minus
    the share with a negative one, zeros left out (Kerby 2014). 0 when all differences are zero. For a distance,
    negative is good."""
    better: int
    """Cases in which the arm is better, in the sense of ``higher_is_better``; ``better + worse + equal = n``."""
    worse: int
    equal: int
    per_seed: Mapping[Hashable, float]
    """Mean difference over the cases, seed by seed."""
    sd_between_cases: float
    """Standard deviation (n − 1) of the differences per case, after averaging over seeds."""
    sd_between_seeds: float
    """Standard deviation (seeds − 1) of ``per_seed``; NaN with one seed."""
    confidence: float = 0.95
    alpha: float = 0.05
    unit: str = "case"

    @property
    def verdict(self) -> Verdict:
        """Better or worse only where the corrected test, the interval, the ranks and every single seed say so."""
        if self.n < MIN_CASES:
            return "too few cases to test"
        signs = {np.sign(x) for x in (self.ci_low, self.ci_high, self.effect_size, *self.per_seed.values())}
        if self.p_corrected < self.alpha and signs in ({1}, {-1}):
            return "better" if (self.mean_difference > 0) == self.higher_is_better else "worse"
        return "no difference shown"

    @property
    def sentence(self) -> str:
        """The result in words, with n, its unit, and what it does not cover."""
        seeds = f"averaged over {self.seeds} seeds" if self.seeds > 1 else "one seed"
        parts = [f"{self.arm} against {self.baseline}, n = {self.n} ({self.unit}s, {seeds}, {self.dropped} left out)"]
        tested = self.n >= MIN_CASES
        if self.n:
            difference = f"difference {self.mean_difference:+.4g}"
            if tested:
                difference += f" ({100 * self.confidence:g} % CI {self.ci_low:+.4g} to {self.ci_high:+.4g})"
            parts.append(f"mean {self.mean_candidate:.4g} against {self.mean_baseline:.4g}, {difference}")
            if self.seeds > 1:
                parts.append("seed by seed " + ", ".join(f"{x:+.4g}" for x in self.per_seed.values()))
            parts.append(f"better in {self.better}, worse in {self.worse}, equal in {self.equal}")
        if tested:
            parts.append(f"rank-biserial correlation {self.effect_size:+.2f}")
            parts.append(f"Wilcoxon p = {self.p_value:.2g}, after Holm {self.p_corrected:.2g}")
        text = "; ".join(parts) + f": {self.verdict}."
        if self.seeds == 1:
            text += (
                " This is about these two trainings only: nnU-Net is not deterministic, and an interval over cases "
                "does not describe trainings."
            )
        return text


def compare(
    values: pd.DataFrame,
    baseline: str,
    *,
    higher_is_better: bool,
    confidence: float = 0.95,
    alpha: float = 0.05,
    resamples: int = 9999,
    seed: int = 0,
    few_cases: Literal["raise", "describe"] = "raise",
) -> list[Comparison]:
    """Every other arm against the baseline, sorted by name, with Holm's correction over exactly these comparisons.

    Args:
        values: one metric of one class: columns ``arm``, ``case``, ``seed`` (which repetition of the training) and
            ``value``, in any order of rows; every arm with every case and seed. NaN means that the metric is undefined
            (class absent in both masks) and takes the case out of the pair; a missed class is a bad value, not NaN.
        baseline: the arm that the others are compared with.
        higher_is_better: True for Dice, False for distances.
        confidence: of the interval.
        alpha: level of the corrected test in the verdict.
        resamples: of the bootstrap.
        seed: of the bootstrap; the same seed gives the same numbers.
        few_cases: below :data:`MIN_CASES` pairs: ``"raise"`` or ``"describe"``: means, difference and counts without
            interval and test.

    Raises:
        InputError: the table is malformed or unbalanced, the baseline or another arm is missing, or too few pairs.
    """
    table = _read(values)
    if baseline not in table.arms or len(table.arms) == 1:
        raise InputError(
            f"A comparison needs the baseline '{baseline}' and at least one other arm, but the table has "
            f"{_listed(table.arms)}: add the values of the missing arm, or name another baseline."
        )
    reference = table.values[table.arms.index(baseline)]
    comparisons = []
    for arm, candidate in zip(table.arms, table.values, strict=True):
        if arm == baseline:
            continue
        pair = np.stack([candidate, reference])
        comparison = _describe(arm, baseline, pair, table.seeds, higher_is_better)
        if comparison.n >= MIN_CASES:
            difference = _differences(_complete(pair))
            low, high = _interval(difference, confidence, resamples, seed)
            comparison = dataclasses.replace(comparison, ci_low=low, ci_high=high, p_value=_wilcoxon(difference))
        elif few_cases == "raise":
            raise InputError(
                f"The number of cases with a value for both '{arm}' and '{baseline}' is {comparison.n}, but a test "
                f"needs {MIN_CASES}, because with 5 the smallest possible two-sided Wilcoxon p is 0.0625: validate on "
                "more cases (all folds), or ask for the numbers without a test (few_cases='describe')."
            )
        comparisons.append(dataclasses.replace(comparison, confidence=confidence, alpha=alpha))
    return correct(comparisons)


def correct(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """The same comparisons with Holm's correction over all of them, e.g. all arms × all classes of a report."""
    comparisons = list(comparisons)
    p_corrected = holm([c.p_value for c in comparisons])
    return [dataclasses.replace(c, p_corrected=p) for c, p in zip(comparisons, p_corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p values; NaN (not tested) stays NaN and does not count as a member of the family."""
    corrected = np.asarray(p_values, dtype=float).copy()
    tested = ~np.isnan(corrected)
    if tested.sum() > 1:  # multipletests collects garbage at every call, which takes longer than the rest
        corrected[tested] = multipletests(corrected[tested], method="holm")[1]
    return corrected.tolist()


def rank_distribution(
    values: pd.DataFrame, *, higher_is_better: bool, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """How sure is the ranking of the arms? Ranks by the mean in bootstrap samples of the cases (challengeR).

    Like the interval, it varies the cases, not the trainings.

    Args:
        values, higher_is_better, seed: as in :func:`compare`; only cases that have a value in all arms count.
        resamples: of the bootstrap.

    Returns:
        One row per arm; columns 1 to the number of arms: fraction of the samples in which the arm has that rank (equal
        means share the better rank), ``mean rank``, and ``cases``: n.

    Raises:
        InputError: the table is malformed or unbalanced, or fewer than :data:`MIN_CASES` cases count.
    """
    table = _read(values)
    means = table.values.mean(axis=2)
    means = means[:, ~np.isnan(means).any(axis=0)]
    n = means.shape[1]
    if n < MIN_CASES:
        raise InputError(
            f"The number of cases with a value in all of {_listed(table.arms)} is {n}, but a distribution of ranks "
            f"needs {MIN_CASES}: validate on more cases (all folds), or leave out the arm whose values are missing."
        )
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)  # how often each case
    resampled = _round_off(drawn @ means.T / n, means)  # (resamples, arms)
    ranks = stats.rankdata(-resampled if higher_is_better else resampled, method="min", axis=1)
    places = np.arange(1, len(table.arms) + 1)
    fractions = (ranks[:, :, None] == places).mean(axis=0)
    frame = pd.DataFrame(fractions, index=pd.Index(table.arms, name="arm"), columns=places.tolist())
    return frame.assign(**{"mean rank": ranks.mean(axis=0), "cases": n})


class _Table(NamedTuple):
    """A balanced table; names sorted, so that the order of rows does not matter."""

    arms: list[str]
    seeds: list[Hashable]
    values: Array
    """``(arms, cases, seeds)``."""


def _read(values: pd.DataFrame) -> _Table:
    keys = ["arm", "case", "seed"]
    if absent := [name for name in (*keys, "value") if name not in values.columns]:
        raise InputError(
            f"The table of values has no column {_listed(absent)}, but needs 'arm', 'case', 'seed' and 'value': rename "
            "the columns, and with one training per arm write 0 as seed."
        )
    if values[keys].isna().any(axis=None):
        raise InputError("The table has a row without arm, case or seed, but needs all three: fill them in.")
    index = pd.MultiIndex.from_frame(values[keys])
    if index.has_duplicates:
        raise InputError(
            f"The table has several values for {_row(index[index.duplicated()][0])}, but needs exactly one: select one "
            "metric and one class, and check that every case is validated in one fold only."
        )
    try:
        flat = values["value"].to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Column 'value' must hold numbers ({error}): write NaN where a value is undefined."
        ) from error
    if np.isinf(flat).any():
        raise InputError(
            f"The value for {_row(index[np.isinf(flat)][0])} is infinite, so that no mean exists: replace it by a "
            "finite penalty, such as the diagonal of the image for a distance to a missed structure."
        )
    full = pd.MultiIndex.from_product([sorted(index.unique(key)) for key in keys], names=keys)
    if len(lacking := full.difference(index)):
        raise InputError(
            f"There is no value for {_row(lacking[0])} ({len(lacking)} missing in all), but every arm needs the same "
            "cases and seeds: run or evaluate that training, or leave the case or seed out of all arms."
        )
    arms, _, seeds = (level.tolist() for level in full.levels)
    cube = pd.Series(flat, index=index).reindex(full).to_numpy().reshape(full.levshape)
    return _Table(arms, seeds, cube)


def _row(key: tuple[Hashable, ...]) -> str:
    arm, case, seed = key
    return f"arm '{arm}', case '{case}', seed '{seed}'"


def _listed(names: Iterable[Hashable]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "no arm"


def _round_off(x: Array, values: Array, digits: int = 12) -> Array:
    """Removes the rounding errors of arithmetic with ``values``: equal differences shall be ties, equal means zero.

    Otherwise 0.9 − 0.8 and 0.4 − 0.3 would have different ranks. ``digits`` of the largest value are kept.
    """
    largest = np.abs(values).max(initial=0.0)
    return np.round(x, digits - 1 - math.floor(math.log10(largest))) if largest > 0 else x


def _complete(pair: Array) -> Array:
    """``(2, cases, seeds)`` → ``(2, n, seeds)``: without the cases that have a NaN."""
    return pair[:, ~np.isnan(pair).any(axis=(0, 2))]


def _differences(pair: Array) -> Array:
    """``(2, n, seeds)`` → ``(n,)``, averaged over seeds."""
    return _round_off((pair[0] - pair[1]).mean(axis=1), pair)


def _describe(arm: str, baseline: str, pair: Array, seeds: list[Hashable], higher_is_better: bool) -> Comparison:
    """Everything that needs no inference; interval and p values NaN."""
    complete = _complete(pair)
    n = complete.shape[1]
    difference = _differences(complete)
    gain = difference if higher_is_better else -difference
    by_seed = np.full(len(seeds), np.nan)
    if n:
        by_seed = _round_off(complete[0].mean(axis=0) - complete[1].mean(axis=0), complete)
    return Comparison(
        arm=arm,
        baseline=baseline,
        higher_is_better=higher_is_better,
        n=n,
        seeds=len(seeds),
        dropped=pair.shape[1] - n,
        mean_candidate=_mean(complete[0]),
        mean_baseline=_mean(complete[1]),
        mean_difference=_mean(difference),
        ci_low=math.nan,
        ci_high=math.nan,
        p_value=math.nan,
        p_corrected=math.nan,
        effect_size=_rank_biserial(difference),
        better=int((gain > 0).sum()),
        worse=int((gain < 0).sum()),
        equal=int((gain == 0).sum()),
        per_seed=dict(zip(seeds, by_seed.tolist(), strict=True)),
        sd_between_cases=_sd(difference),
        sd_between_seeds=_sd(by_seed),
    )


def _mean(x: Array) -> float:
    return float(x.mean()) if x.size else math.nan


def _sd(x: Array) -> float:
    return float(x.std(ddof=1)) if x.size > 1 else math.nan


def _rank_biserial(difference: Array) -> float:
    if not difference.any():
        return 0.0 if difference.size else math.nan
    signed = difference[difference != 0]
    ranks = stats.rankdata(np.abs(signed))
    return float((np.sign(signed) * ranks).sum() / ranks.sum())


def _wilcoxon(difference: Array) -> float:
    # without its zeros, because scipy takes the exact distribution only when it gets none
    signed = difference[difference != 0]
    return float(stats.wilcoxon(signed).pvalue) if signed.size else 1.0


def _interval(difference: Array, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    if np.ptp(difference) == 0:  # BCa divides by the spread
        return _mean(difference), _mean(difference)

    # BCa counts the resampled means below and at the observed one, which rounding errors would change
    def mean(x: Array, axis: int) -> Array:
        return _round_off(x.mean(axis=axis), difference, digits=7)

    result = stats.bootstrap(
        (difference,), mean, n_resamples=resamples, confidence_level=confidence, method="BCa", rng=seed
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
