"""Comparison of one arm with the baseline: numbers, a verdict, and a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Literal

import numpy as np

from nnunet_ext.evaluation.intervals import POWER

Verdict = Literal[
    "better",
    "worse",
    "no difference shown",
    "one training: no verdict",
    "too few subjects to test",
    "too few cases to test",
]

MIN_SUBJECTS = 6
"""Smallest number of subjects to test. With 5 pairs the smallest two-sided p of the Wilcoxon test is 2 / 2⁵ = 0.0625,
so no outcome could be significant."""

ENOUGH_SUBJECTS = 50
"""With about this many subjects, intervals for segmentation metrics have reliable coverage (arXiv 2601.17103)."""

TAILS = (0.05, 0.1)
"""Shares of the cases that count as the bad end, see :class:`Tail`."""


@dataclasses.dataclass(frozen=True)
class Tail:
    """The value at the bad end of a metric: ``share`` of all predictions are worse, so low for Dice, high for mm."""

    share: float
    candidate: float
    baseline: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One arm against the baseline. Differences are arm − baseline, in the unit of the metric.

    Statistics are over subjects: cases of one subject are averaged first. If subjects are unknown, every case counts as
    its own subject. With fewer than :data:`MIN_SUBJECTS` subjects the interval, the smallest difference and all p
    values are NaN; without any case the means are NaN as well.
    """

    arm: str
    baseline: str
    higher_is_better: bool
    unit: str
    """``subject``, or ``case`` if subjects are unknown."""
    n: int
    """Number of subjects."""
    cases: int
    """Number of cases with a value in both arms and all seeds."""
    seeds: int
    """Number of trainings per arm and fold."""
    dropped: int
    """Number of cases left out, because a value is NaN (class absent in both masks) in one of the two arms."""
    mean_candidate: float
    """Mean over subjects and seeds, like the next two."""
    mean_baseline: float
    mean_difference: float
    ci_low: float
    """Low end of the interval of the mean difference, over seeds and subjects; with one seed only over subjects. See
    :mod:`nnunet_ext.evaluation.intervals`."""
    ci_high: float
    smallest_difference: float
    """The true difference that would be shown in 80 % of all repetitions, without Holm's correction."""
    p_value: float
    """p value of the two-sided Wilcoxon signed-rank test on the subjects' means over seeds, uncorrected."""
    p_interval: float
    """p value of the interval: 1 − the confidence at which it ends at zero."""
    p_corrected: float
    """The larger of both p values, corrected by Holm over the family given to
    :func:`~nnunet_ext.evaluation.statistics.correct`."""
    effect_size: float
    """Matched-pairs rank-biserial correlation in [-1, 1]: the share of the rank sum with a positive difference minus
    the share with a negative one, without zeros (Kerby 2014). 0 if all differences are zero. For a distance, negative
    is good."""
    better: int
    """Number of subjects in which the arm is better, by ``higher_is_better``; ``better + worse + equal = n``."""
    worse: int
    equal: int
    point: float
    """Size of a point: 0.01 for Dice, 1 mm for distances."""
    cases_better: int
    """Number of cases that are better by more than a point, averaged over seeds."""
    cases_worse: int
    tails: tuple[Tail, ...]
    """Tails of the single predictions, every case and seed."""
    per_seed: Mapping[Hashable, float]
    """Mean difference over the subjects, by seed."""
    sd_between_subjects: float
    """Standard deviation (n − 1) of the differences per subject, after averaging over seeds."""
    sd_between_seeds: float
    """Standard deviation (seeds − 1) of ``per_seed``; NaN with one seed."""
    confidence: float = 0.95
    alpha: float = 0.05

    @property
    def verdict(self) -> Verdict:
        """The verdict: better or worse only if the corrected test, the interval, the ranks and every seed agree.

        One training per arm gets no verdict, because two trainings of the same arm differ, too.
        """
        if self.n < MIN_SUBJECTS:
            return "too few subjects to test" if self.unit == "subject" else "too few cases to test"
        if self.seeds == 1:
            return "one training: no verdict"
        signs = {np.sign(x) for x in (self.ci_low, self.ci_high, self.effect_size, *self.per_seed.values())}
        if self.p_corrected < self.alpha and signs in ({1}, {-1}):
            return "better" if (self.mean_difference > 0) == self.higher_is_better else "worse"
        return "no difference shown"

    @property
    def counted(self) -> str:
        """The text ``16 subjects, 32 cases``, or ``32 cases`` if subjects are unknown."""
        cases = _count(self.cases, "case")
        return f"{_count(self.n, 'subject')}, {cases}" if self.unit == "subject" else cases

    @property
    def cautions(self) -> tuple[str, ...]:
        """Cautions to read before the numbers are quoted."""
        found = []
        if self.unit == "case":
            found.append("which cases are one subject is unknown, so every case counts as one: too short if some are")
        if MIN_SUBJECTS <= self.n < ENOUGH_SUBJECTS:
            found.append(f"fewer than {ENOUGH_SUBJECTS} {self.unit}s: another sample may say something else")
        if self.seeds == 1:
            found.append(
                "one training of each: the interval says how the difference varies with the subjects, not with the "
                "training, and nnU-Net is not deterministic"
            )
        return tuple(found)

    @property
    def sentence(self) -> str:
        """The result as one sentence: counts, numbers, verdict, cautions."""
        seeds = f"{self.seeds} seeds" if self.seeds > 1 else "one training of each"
        parts = [
            f"{self.arm} against {self.baseline}: {self.counted}, {seeds}, {_count(self.dropped, 'case')} left out"
        ]
        tested = self.n >= MIN_SUBJECTS
        if self.n:
            difference = f"difference {self.mean_difference:+.4g}"
            if tested:
                over = "seeds and subjects" if self.seeds > 1 else "subjects"
                difference += (
                    f" ({100 * self.confidence:g} % CI over {over} {self.ci_low:+.4g} to {self.ci_high:+.4g}; a "
                    f"difference of {self.smallest_difference:.4g} would have been seen in {100 * POWER:g} % of "
                    "repetitions)"
                )
            parts.append(f"mean {self.mean_candidate:.4g} against {self.mean_baseline:.4g}, {difference}")
            if self.seeds > 1:
                parts.append("seed by seed " + ", ".join(f"{x:+.4g}" for x in self.per_seed.values()))
            parts.append(
                f"{_count(self.cases_better, 'case')} better and {self.cases_worse} worse by more than {self.point:g}"
            )
            parts += [
                f"worst {100 * tail.share:g} % from {tail.candidate:.4g} against {tail.baseline:.4g}"
                for tail in self.tails
            ]
        if tested:
            parts.append(f"rank-biserial correlation {self.effect_size:+.2f}")
            parts.append(
                f"p = {self.p_value:.2g} (Wilcoxon), {self.p_interval:.2g} (interval), the larger after Holm "
                f"{self.p_corrected:.2g}"
            )
        return "; ".join(parts) + f": {self.verdict}." + "".join(f" Caution: {each}." for each in self.cautions)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
