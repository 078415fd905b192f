"""Kinds of cases, and batches of them."""

from collections import Counter

import numpy as np
import pytest

from nnunet_ext.landmarks.points import State
from nnunet_ext.landmarks.training.cases import Annotation, has_landmarks, systematic_sample, with_segmented_share
from nnunet_ext.nnunet.annotated import is_segmented

SEG, BOTH, LM, NONE = Annotation


@pytest.mark.parametrize(
    ("locations", "segmented"),
    [
        ({1: [], 2: []}, True),  # no ignore label: all is background
        ({1: [], (-1, 0, 1, 2): []}, False),
        ({1: [], (-1, 0, 1, 2): [[0, 1, 1, 1]]}, True),
        ({(1, 2): [], (-1, 0, 1, 2): []}, False),
        ({(1, 2): []}, True),
    ],
)
def test_a_case_is_segmented_unless_all_is_ignored(locations, segmented):
    assert is_segmented(locations) is segmented


def test_a_case_has_landmarks_if_anything_is_known_about_one():
    assert not has_landmarks([State.UNKNOWN, State.UNKNOWN])
    assert has_landmarks([State.UNKNOWN, State.ABSENT])
    assert [Annotation.of(s, m) for s in (True, False) for m in (True, False)] == [BOTH, SEG, LM, NONE]
    assert [kind for kind in Annotation if kind.segmentation] == [SEG, BOTH]
    assert [kind for kind in Annotation if kind.landmarks] == [BOTH, LM]


@pytest.mark.parametrize(
    "kinds", [[SEG] * 5 + [LM] * 5, [LM, SEG] * 3 + [SEG, LM], [SEG] * 3 + [BOTH] * 2 + [LM] * 4, [SEG] * 9 + [LM] * 9]
)
@pytest.mark.parametrize("number", [2, 3, 7])
def test_every_batch_holds_both_kinds(kinds, number):
    np.random.seed(0)
    for _ in range(50):
        found = [kinds[index] for index in systematic_sample(kinds, number)]
        assert len(found) == number
        for has in ("segmentation", "landmarks"):
            share = np.mean([getattr(kind, has) for kind in kinds]) * number
            count = sum(getattr(kind, has) for kind in found)
            assert np.floor(share + 1e-9) <= count <= np.ceil(share - 1e-9)
            assert count >= 1


def test_a_rare_kind_comes_as_often_as_its_share_and_never_twice_in_a_batch():
    np.random.seed(1)
    kinds = [SEG] * 9 + [LM]
    with_landmarks = [sum(kinds[i] is LM for i in systematic_sample(kinds, 2)) for _ in range(1000)]
    assert max(with_landmarks) == 1
    assert np.mean(with_landmarks) == pytest.approx(0.2, abs=0.04)


def test_every_case_comes_equally_often_with_every_other_at_every_place():
    np.random.seed(2)
    kinds = [SEG, SEG, SEG, LM, LM]
    batches = [systematic_sample(kinds, 2).tolist() for _ in range(4000)]
    shares = np.bincount(np.ravel(batches), minlength=5) / len(batches)
    np.testing.assert_allclose(shares, 0.4, atol=0.03)
    first = np.bincount([batch[0] for batch in batches], minlength=5) / len(batches)
    np.testing.assert_allclose(first, 0.2, atol=0.03)
    pairs = Counter(tuple(sorted(batch)) for batch in batches)
    assert {(a, b) for a in (0, 1, 2) for b in (3, 4)} <= set(pairs)
    assert (3, 4) not in pairs


def test_other_probabilities_are_kept():
    np.random.seed(3)
    found = np.concatenate([systematic_sample([SEG, LM, LM], 2, [0.5, 0.5, 0]) for _ in range(50)])
    assert np.bincount(found, minlength=3).tolist() == [50, 50, 0]


def test_few_segmented_cases_may_have_a_share_of_every_batch():
    np.random.seed(4)
    kinds = [LM] * 8 + [SEG, BOTH]
    shares = with_segmented_share(kinds, 0.5)
    assert shares.sum() == pytest.approx(1)
    assert shares[8:].tolist() == pytest.approx([0.25, 0.25])
    for _ in range(50):
        assert sum(kinds[index].segmentation for index in systematic_sample(kinds, 4, shares)) == 2
    given = with_segmented_share([LM, LM, SEG], 0.5, [3, 1, 1])
    assert given.tolist() == pytest.approx([0.375, 0.125, 0.5])


@pytest.mark.parametrize(
    ("kinds", "share"), [([SEG, LM], 0.5), ([SEG] * 9 + [LM], 0.5), ([LM] * 4, 0.5), ([SEG, LM, LM], 0.0)]
)
def test_a_share_that_they_have_or_cannot_have_changes_nothing(kinds, share):
    assert with_segmented_share(kinds, share) is None
    own = np.arange(1, len(kinds) + 1)
    if not 0 < (own * [kind.segmentation for kind in kinds]).sum() / own.sum() < share:
        np.testing.assert_allclose(with_segmented_share(kinds, share, own), own / own.sum())
