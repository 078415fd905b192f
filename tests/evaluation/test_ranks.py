"""How sure a ranking is: against a loop, with ties, and over subjects."""

import numpy as np
import pandas as pd

from nnunet_ext.evaluation.ranks import rank_distribution
from tests.evaluation.test_statistics import table


def test_the_distribution_of_ranks_equals_a_loop():
    arms = dict(zip("abc", np.random.default_rng(7).normal(0, 1, (3, 8, 2)), strict=True))
    result = rank_distribution(table(arms), higher_is_better=False, resamples=4000)
    values = np.stack(list(arms.values()))
    rng, counts = np.random.default_rng(0), np.zeros((3, 3))
    for _ in range(4000):
        resampled = values[:, rng.integers(0, 8, 8)][:, :, rng.integers(0, 2, 2)].mean(axis=(1, 2))
        for arm, rank in enumerate(np.argsort(np.argsort(resampled))):
            counts[arm, rank] += 1
    assert result.index.tolist() == ["a", "b", "c"]
    assert result.columns.tolist() == [1, 2, 3, "mean rank", "subjects"]
    np.testing.assert_allclose(result[[1, 2, 3]], counts / 4000, atol=0.04)
    np.testing.assert_allclose(result[[1, 2, 3]].sum(axis=1), 1)
    np.testing.assert_allclose(result["mean rank"], result[[1, 2, 3]] @ [1, 2, 3])
    assert (result["subjects"] == 8).all()


def test_equal_means_share_the_better_rank_and_only_common_cases_count():
    x = np.linspace(0.1, 0.77, 9)
    worst = x - 0.5
    worst[0] = np.nan
    result = rank_distribution(table({"a": x, "b": x, "c": worst}), higher_is_better=True)
    assert result[[1, 2, 3]].to_numpy().tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert (result["subjects"] == 8).all()
    flipped = rank_distribution(table({"a": x, "b": x, "c": worst}), higher_is_better=False)
    assert flipped["mean rank"].tolist() == [2, 2, 1]


def test_repeating_every_case_of_a_subject_changes_nothing():
    arms = dict(zip("abc", np.random.default_rng(7).normal(0, 1, (3, 8, 2)), strict=True))
    twice = {arm: np.repeat(values, 2, axis=0) for arm, values in arms.items()}
    pd.testing.assert_frame_equal(
        rank_distribution(table(arms, range(8)), higher_is_better=True),
        rank_distribution(table(twice, np.repeat(range(8), 2)), higher_is_better=True),
    )
