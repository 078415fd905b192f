"""Paired comparison of trainers on the same validation subjects: difference, interval, test, and a verdict.

The input is a table of tidy rows (``arm, seed, subject, case, value``); the output is a
:class:`~.comparison.Comparison` for every arm (a trainer) against the baseline. It holds:

1. *Difference per seed and subject*, arm − baseline. The **subject is the unit**: its cases are averaged first, because
   two time points of one patient are one patient. Doubling every case changes nothing. In a cross-validation every
   subject is validated in exactly one fold, so the subjects of several folds are simply more subjects.
2. *Mean of these differences*, with an interval over **seeds and subjects**, and the smallest difference that would
   have been seen: :mod:`nnunet_ext.evaluation.intervals`. nnU-Net is not deterministic, and two trainings of one
   trainer often differ by more than two methods, so one training never gets a verdict.
3. *Wilcoxon signed-rank test* on the subjects' means over seeds, two-sided. Differences of zero are left out (Wilcoxon
   1945). The test is exact up to 50 subjects without ties and up to 13 with ties; otherwise it uses the normal
   approximation with tie correction (scipy's rule). Unlike the interval, it treats the trainings as fixed.
4. *Holm's correction* (1979) over all comparisons that are reported together. It corrects the larger of two p values:
   Wilcoxon's, which bounds the influence of single subjects, and the interval's, which accounts for the variation of
   trainings.
5. *Matched-pairs rank-biserial correlation* as effect size (Kerby 2014).
6. Details that a mean hides: cases that are better or worse by more than a point, and the bad end of the distribution.

Why the mean and not the median? An outlier should count, because a missed structure is a result. The Wilcoxon test
bounds its influence, and if mean and ranks point in opposite directions, no difference is claimed.

Sources: Wilcoxon, Biometrics Bulletin 1945; Holm, Scandinavian Journal of Statistics 1979; Kerby, Comprehensive
Psychology 2014.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.comparison import MIN_SUBJECTS, TAILS, Comparison, Tail
from nnunet_ext.evaluation.intervals import interval
from nnunet_ext.evaluation.tidy import Table, listed, read, subject_means

Array = NDArray[np.floating[Any]]


def compare(
    rows: pd.DataFrame,
    baseline: str,
    *,
    higher_is_better: bool,
    point: float = 0.01,
    confidence: float = 0.95,
    alpha: float = 0.05,
    few_subjects: Literal["raise", "describe"] = "raise",
) -> list[Comparison]:
    """Compare every other arm with the baseline, sorted by name, with Holm's correction over these comparisons.

    Args:
        rows: one metric of one class, with columns ``arm``, ``case``, ``seed`` (repetition of the training), ``value``
            and, if known, ``subject``. Rows may come in any order; every arm needs every case and seed. Without
            ``subject`` every case is its own subject. NaN means that the metric is undefined (class absent in both
            masks) and removes the case from the pair; a missed class is a bad value, not NaN.
        baseline: arm to compare the others with.
        higher_is_better: True for Dice, False for distances.
        point: difference per case that is worth counting: 0.01 for Dice, 1 for mm.
        confidence: confidence of the interval.
        alpha: level of the corrected test in the verdict.
        few_subjects: treatment of fewer than :data:`~.comparison.MIN_SUBJECTS` pairs: ``"raise"``, or ``"describe"``
            for means, difference and counts without interval and test.

    Raises:
        InputError: the table is malformed or unbalanced, the baseline or another arm is missing, or there are too few
            pairs.
    """
    table = read(rows)
    if baseline not in table.arms or len(table.arms) == 1:
        raise InputError(
            f"A comparison needs the baseline '{baseline}' and at least one other arm, but the table has "
            f"{listed(table.arms)}: add the values of the missing arm, or name another baseline."
        )
    comparisons = []
    for arm in table.arms:
        if arm == baseline:
            continue
        comparison = _compare(table, arm, baseline, higher_is_better, point, confidence)
        if comparison.n < MIN_SUBJECTS and few_subjects == "raise":
            raise InputError(
                f"The number of {table.unit}s with a value for both '{arm}' and '{baseline}' is {comparison.n}, but a "
                f"test needs {MIN_SUBJECTS}, because with 5 the smallest possible two-sided Wilcoxon p is 0.0625: "
                f"validate on more {table.unit}s (all folds), or ask for the numbers without a test "
                "(few_subjects='describe')."
            )
        comparisons.append(dataclasses.replace(comparison, confidence=confidence, alpha=alpha))
    return correct(comparisons)


def correct(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Apply Holm's correction over all given comparisons, for example all arms × all classes of a report."""
    comparisons = list(comparisons)
    p_corrected = holm([max(c.p_value, c.p_interval) for c in comparisons])
    return [dataclasses.replace(c, p_corrected=p) for c, p in zip(comparisons, p_corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's corrected p values; NaN (not tested) stays NaN and is not part of the family."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # argsort puts NaN last
    corrected = np.full_like(p, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected.tolist()


def round_off(x: Array, values: Array) -> Array:
    """Remove rounding errors of arithmetic with ``values``, so that equal differences are ties and equal means give 0.

    Otherwise 0.9 − 0.8 and 0.4 − 0.3 would have different ranks. Twelve digits of the largest value are kept.
    """
    largest = np.abs(values).max(initial=0.0)
    return np.round(x, 11 - math.floor(math.log10(largest))) if largest > 0 else x


# --- parts ------------------------------------------------------------------------------------------------------------


def _compare(
    table: Table, arm: str, baseline: str, higher_is_better: bool, point: float, confidence: float
) -> Comparison:
    """Compare one arm with the baseline, without Holm's correction."""
    pair = np.stack([table.values[table.arms.index(name)] for name in (arm, baseline)])
    complete = ~np.isnan(pair).any(axis=(0, 2))
    values, subjects = pair[:, complete], table.subjects[complete]
    by_case = round_off(values[0] - values[1], values)  # (cases, seeds)
    by_unit = round_off(subject_means(by_case, subjects), values)  # (subjects, seeds)
    means = [subject_means(each, subjects) for each in values]
    n, seeds = by_unit.shape
    difference = round_off(by_unit.mean(axis=1), values)
    per_seed = round_off(by_unit.mean(axis=0), values) if n else np.full(seeds, np.nan)
    sign = 1 if higher_is_better else -1
    gain_of_case = sign * round_off(by_case.mean(axis=1), values)
    low = high = smallest = p_value = p_interval = math.nan
    if n >= MIN_SUBJECTS:
        found, p_value = interval(by_unit.T, confidence), _wilcoxon(difference)
        p_interval = found.p_value
        low, high, smallest = round_off(np.array([found.low, found.high, found.smallest_difference]), values).tolist()
    return Comparison(
        arm=arm,
        baseline=baseline,
        higher_is_better=higher_is_better,
        unit=table.unit,
        n=n,
        cases=len(by_case),
        seeds=seeds,
        dropped=int(np.count_nonzero(~complete)),
        mean_candidate=_mean(means[0]),
        mean_baseline=_mean(means[1]),
        mean_difference=float(round_off(np.array(_mean(difference)), values)),
        ci_low=low,
        ci_high=high,
        smallest_difference=smallest,
        p_value=p_value,
        p_interval=p_interval,
        p_corrected=math.nan,
        effect_size=_rank_biserial(difference),
        better=int(np.count_nonzero(sign * difference > 0)),
        worse=int(np.count_nonzero(sign * difference < 0)),
        equal=int(np.count_nonzero(difference == 0)),
        point=point,
        cases_better=int(np.count_nonzero(gain_of_case > point)),
        cases_worse=int(np.count_nonzero(gain_of_case < -point)),
        tails=tuple(Tail(share, *(_bad_end(each, share, higher_is_better) for each in values)) for share in TAILS),
        per_seed=dict(zip(table.seeds, per_seed.tolist(), strict=True)),
        sd_between_subjects=_sd(difference),
        sd_between_seeds=_sd(per_seed),
    )


def _mean(x: Array) -> float:
    return float(x.mean()) if x.size else math.nan


def _sd(x: Array) -> float:
    return float(x.std(ddof=1)) if x.size > 1 else math.nan


def _bad_end(values: Array, share: float, higher_is_better: bool) -> float:
    return float(np.quantile(values, share if higher_is_better else 1 - share)) if values.size else math.nan


def _rank_biserial(difference: Array) -> float:
    if not difference.any():
        return 0.0 if difference.size else math.nan
    signed = difference[difference != 0]
    ranks = stats.rankdata(np.abs(signed))
    return float((np.sign(signed) * ranks).sum() / ranks.sum())


def _wilcoxon(difference: Array) -> float:
    # without zeros, because scipy uses the exact distribution only if there are none
    signed = difference[difference != 0]
    return float(stats.wilcoxon(signed).pvalue) if signed.size else 1.0
