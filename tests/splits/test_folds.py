"""Folds: every case placed once, no subject on both sides, few-shot subsets nested, order without effect."""

from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_ext.errors import InputError
from nnunet_ext.splits.folds import Fold, cross_validation, few_shot, stratified

subjects_of_cases = st.dictionaries(
    st.text("abcdef0123_", min_size=1, max_size=6), st.integers(0, 30).map("s{}".format), min_size=6, max_size=60
)
seeds = st.integers(0, 2**32 - 1)


def subjects(subject_of, cases) -> set[str]:
    return {subject_of[case] for case in cases}


@settings(max_examples=60, deadline=None)
@given(subjects_of_cases, st.integers(2, 6))
def test_every_case_is_validated_once_and_no_subject_is_on_both_sides(subject_of, count):
    assume(len(set(subject_of.values())) >= count)
    made = cross_validation(subject_of, count)
    assert len(made) == count
    assert sorted(case for fold in made for case in fold.val) == sorted(subject_of)
    for fold in made:
        assert sorted([*fold.train, *fold.val]) == sorted(subject_of)
        assert not subjects(subject_of, fold.train) & subjects(subject_of, fold.val)
    sizes = [len(subjects(subject_of, fold.val)) for fold in made]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=60, deadline=None)
@given(subjects_of_cases, st.lists(st.integers(1, 12), min_size=1, max_size=4), st.lists(seeds, min_size=1, max_size=3))
def test_few_shot_subsets_are_nested_and_share_one_validation_set(subject_of, numbers, chosen):
    assume(len(set(subject_of.values())) >= 2)
    base = cross_validation(subject_of, 2)[0]
    available = subjects(subject_of, base.train)
    numbers = [min(number, len(available)) for number in numbers]
    made = few_shot(subject_of, base, [*numbers, "all"], chosen)
    assert [(fold.shots, fold.seed) for fold in made] == [
        *((number, seed) for number in sorted(set(numbers)) for seed in dict.fromkeys(chosen)),
        ("all", None),
    ]
    assert made[-1].train == base.train
    for fold in made:
        assert fold.val == base.val
        if fold.shots != "all":
            assert len(subjects(subject_of, fold.train)) == fold.shots
        whole = [case for case in base.train if subject_of[case] in subjects(subject_of, fold.train)]
        assert sorted(fold.train) == sorted(whole)  # all cases of a chosen subject
        for other in made:
            if other.seed == fold.seed and other.shots != "all" and fold.shots != "all" and fold.shots <= other.shots:
                assert set(fold.train) <= set(other.train)


@settings(max_examples=40, deadline=None)
@given(subjects_of_cases, st.randoms(use_true_random=False), seeds)
def test_the_order_in_which_cases_are_found_does_not_matter(subject_of, random, seed):
    assume(len(set(subject_of.values())) >= 3)
    items = list(subject_of.items())
    random.shuffle(items)
    shuffled = dict(items)
    one, other = cross_validation(subject_of, 3), cross_validation(shuffled, 3)
    assert one == other
    mixed = Fold(tuple(random.sample(one[0].train, len(one[0].train))), one[0].val)
    assert few_shot(subject_of, one[0], [1], [seed]) == few_shot(shuffled, mixed, [1], [seed])


@settings(max_examples=40, deadline=None)
@given(subjects_of_cases, st.permutations(range(31)), seeds)
def test_what_subjects_are_called_does_not_matter(subject_of, names, seed):
    assume(len(set(subject_of.values())) >= 3)
    renamed = {case: f"other{names[int(subject[1:])]}" for case, subject in subject_of.items()}
    made = cross_validation(subject_of, 3)
    assert made == cross_validation(renamed, 3)
    assert few_shot(subject_of, made[0], [1], [seed]) == few_shot(renamed, made[0], [1], [seed])


def test_with_one_case_per_subject_these_are_nnunets_default_folds():
    cases = [f"case_{index:03d}" for index in range(57)]
    made = cross_validation({case: case for case in cases})
    expected = generate_crossval_split(cases, seed=12345, n_splits=5)
    assert [(list(fold.train), list(fold.val)) for fold in made] == [(s["train"], s["val"]) for s in expected]
    assert {type(case) for fold in made for case in (*fold.train, *fold.val)} == {str}


def test_seeds_choose_different_subsets_and_never_change_what_they_choose():
    subject_of = {f"c{index:02d}": f"s{index // 2:02d}" for index in range(40)}
    base = Fold(tuple(sorted(subject_of))[:30], tuple(sorted(subject_of))[30:])
    made = few_shot(subject_of, base, [3], range(10))
    assert len({fold.train for fold in made}) > 5
    # written down once: models that are trained on a subset must find it again
    assert made[0].train == ("c02", "c03", "c12", "c13", "c16", "c17")


# --- bad input --------------------------------------------------------------------------------------------------------

SUBJECT_OF = {f"c{index}": f"s{index // 2}" for index in range(8)}
BASE = Fold(("c0", "c1", "c2", "c3", "c4", "c5"), ("c6", "c7"))


@pytest.mark.parametrize("count", [-1, 0, 1, 5])
def test_a_number_of_folds_that_is_not_possible(count):
    with pytest.raises(InputError, match=rf"--folds is {count}, .* number of subjects, 4"):
        cross_validation(SUBJECT_OF, count)


@pytest.mark.parametrize("number", [-1, 0, 4])
def test_more_subjects_than_there_are(number):
    with pytest.raises(InputError, match=rf"--few-shot {number} .* there are 3"):
        few_shot(SUBJECT_OF, BASE, [2, number], [0])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_none(seed):
    with pytest.raises(InputError, match=f"--seeds {seed}"):
        few_shot(SUBJECT_OF, BASE, [2], [0, seed])


def test_a_fold_to_start_from_that_leaks():
    with pytest.raises(InputError, match=r"1 subjects \(s3\) are in training and validation"):
        few_shot(SUBJECT_OF, Fold((*BASE.train, "c6"), ("c7",)), [2], [0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=4), st.integers(2, 6))
def test_every_kind_and_neighbours_together_validate_equally_often_in_stratified_folds(sizes, count):
    kinds = [[f"{kind}_{index}" for index in range(size)] for kind, size in enumerate(sizes)]
    cases = sorted(case for kind in kinds for case in kind)
    assume(len(cases) >= count)
    made = stratified(kinds, count)
    assert made == stratified([kind[::-1] for kind in kinds], count)
    assert sorted(case for fold in made for case in fold.val) == cases
    assert all(sorted([*fold.train, *fold.val]) == cases for fold in made)
    for group in [*kinds, *(a + b for a, b in pairwise(kinds)), cases]:
        found = [len(set(group) & set(fold.val)) for fold in made]
        assert max(found) - min(found) <= 1


def test_stratified_folds_of_one_kind_are_those_of_nnunet():
    cases = [f"case_{index:03d}" for index in range(23)]
    assert [{"train": list(fold.train), "val": list(fold.val)} for fold in stratified([[], cases])] == (
        generate_crossval_split(cases)
    )


@pytest.mark.parametrize("kinds", [[["a", "b"], ["c"]], [["a", "b"]], []])
def test_more_stratified_folds_than_cases_are_refused(kinds):
    with pytest.raises(InputError, match="5 folds are not possible"):
        stratified(kinds)
