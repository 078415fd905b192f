"""Uncertainty of the ranking of arms: ranks by the mean, in bootstrap samples (challengeR).

Source: Wiesenfarth et al., Scientific Reports 2021.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.comparison import MIN_SUBJECTS
from nnunet_ext.evaluation.statistics import round_off
from nnunet_ext.evaluation.tidy import listed, read, subject_means


def rank_distribution(
    rows: pd.DataFrame, *, higher_is_better: bool, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Return how often each arm has each rank in bootstrap samples of the seeds and of the subjects.

    Three seeds drawn with replacement vary less than three new trainings, so the ranking is somewhat less certain than
    it looks. The verdicts do not depend on it.

    Args:
        rows: as in :func:`~nnunet_ext.evaluation.statistics.compare`; only cases with a value in all arms count.
        higher_is_better: as there.
        resamples: number of bootstrap samples.
        seed: seed of the bootstrap; the same seed gives the same numbers.

    Returns:
        One row per arm. The columns 1 to the number of arms hold the fraction of samples in which the arm has that rank
        (equal means share the better rank); then come ``mean rank`` and ``subjects``, the number of subjects.

    Raises:
        InputError: the table is malformed or unbalanced, or fewer than six subjects count.
    """
    table = read(rows)
    complete = ~np.isnan(table.values).any(axis=(0, 2))
    values = np.stack([subject_means(of_arm, table.subjects[complete]) for of_arm in table.values[:, complete]])
    _, n, seeds = values.shape
    if n < MIN_SUBJECTS:
        raise InputError(
            f"The number of {table.unit}s with a value in all of {listed(table.arms)} is {n}, but a distribution of "
            f"ranks needs {MIN_SUBJECTS}: validate on more {table.unit}s (all folds), or leave out the arm whose "
            "values are missing."
        )
    rng = np.random.default_rng(seed)
    of_subject = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n  # how often each is drawn
    of_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    resampled = round_off(np.einsum("rn,ans,rs->ra", of_subject, values, of_seed, optimize=True), values)
    ranks = stats.rankdata(-resampled if higher_is_better else resampled, method="min", axis=1)
    places = np.arange(1, len(table.arms) + 1)
    fractions = (ranks[:, :, None] == places).mean(axis=0)
    frame = pd.DataFrame(fractions, index=pd.Index(table.arms, name="arm"), columns=places.tolist())
    return frame.assign(**{"mean rank": ranks.mean(axis=0), "subjects": n})
