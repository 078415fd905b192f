"""Labels of dataset.json, against nnU-Net's LabelManager."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_ext.data.label_definitions import ScoredLabels, declared_labels
from nnunet_ext.errors import InputError


def scored(labels: Any) -> ScoredLabels:
    return ScoredLabels.from_dataset_json({"labels": labels})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a=1", "a=2"], "names 'a' twice"),
        (["a=1", "ignore=2", "ignore=3"], "names 'ignore' twice"),
        (["a=1", "ignore=2,3"], "'ignore=2,3' ignores 2 labels, but it can be only one"),
    ],
)
def test_words_that_would_be_lost_or_scored_as_something_else(words, said):
    with pytest.raises(InputError, match=said):
        ScoredLabels.from_words(words)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": "0", "organ": "1"},
        {"background": 0.0, "organ": 1.0},
        {"background": 0, "organ": [1]},
        {"background": 0, "organ": ["1"]},
        {"background": 0, "organ": " 1 "},
        {"background": 0, "organ": 1, "ignore": None},
    ],
)
def test_what_nnunet_takes_for_a_number_is_one(labels):
    assert scored(labels).values == {"organ": 1}
    assert LabelManager(labels, None).foreground_labels == [1]


def test_regions_of_floats_are_regions():
    labels = {"background": 0, "whole": [1.0, 2.0], "core": 2}
    assert scored(labels).values == {"whole": (1, 2), "core": 2}
    assert LabelManager(labels, [1, 2]).foreground_regions == [(1, 2), 2]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"0": "background", "1": "organ"}, "version 1"),
        ({"organ": 1}, "lack 'background'"),
        ({"background": 1, "organ": 2}, "the background is 1"),
        ({"background": [0], "organ": 1}, r"the background is \[0\]"),
        ({"background": 0, "organ": None}, "'organ' is None"),
        ({"background": None, "organ": 1}, "'background' is None"),
        ({"background": 0, "organ": "liver"}, "'organ' is 'liver'"),
        ({"background": 0, "organ": "1.0"}, r"'organ' is '1\.0'"),
        ({"background": 0, "organ": 1.5}, r"'organ' is 1\.5"),  # nnU-Net cuts it to 1
        ({"background": 0, "organ": float("nan")}, "'organ' is nan"),
        ({"background": 0, "organ": []}, r"'organ' is \[\]"),
        ({"background": 0, "organ": [[1, 2]]}, r"'organ' is \[1, 2\]"),
        ({"background": 0, "organ": {"value": 1}}, "'organ' is"),
        ({"background": 0, "whole": ["1", "2"]}, "'whole' is '1'"),  # nnU-Net finds no voxel of it
        ({"background": 0, "whole": [1, 2], "core": "2"}, "'core' is '2'"),  # the same
        ({"background": 0, "organ": 1, "ignore": [2]}, r"ignore label is \[2\]"),
        ({"background": 0, "organ": 1, "ignore": "2"}, "ignore label is '2'"),
        ({"background": 0, "organ": 1, "ignore": 2.0}, r"ignore label is 2\.0"),
        ({}, "lack 'background'"),
        (["background", "organ"], "has no labels"),
        (None, "has no labels"),
    ],
)
def test_what_nnunet_refuses_or_never_finds_is_one_sentence(labels, said):
    with pytest.raises(InputError, match=f"^dataset.json.*{said}.*[.;].*$") as error:
        scored(labels)
    assert "\n" not in str(error.value)


single = st.one_of(
    st.integers(0, 4),
    st.integers(0, 4).map(float),
    st.integers(0, 4).map(str),
    st.sampled_from([None, 1.5, "x", True, {}, float("inf")]),
)
values = st.one_of(single, st.lists(single, max_size=3))


@settings(max_examples=600, deadline=None)
@given(st.dictionaries(st.sampled_from(["background", "a", "b", "ignore"]), values))
def test_what_is_accepted_means_the_same_to_nnunet(labels):
    try:
        ours = declared_labels({"labels": labels})
    except InputError:
        return
    theirs = LabelManager(labels, None, force_use_labels=True) if fits(ours) else None
    numbers = {n for name, v in ours.items() if name != "ignore" for n in (v if isinstance(v, tuple) else (v,))}
    if theirs is not None:
        assert set(map(int, theirs.all_labels)) == numbers
        assert theirs.ignore_label == ours.get("ignore")


def fits(labels: dict[str, Any]) -> bool:
    """nnU-Net only takes an ignore label that is the highest plus one; to score, any will do."""
    rest = [n for name, v in labels.items() if name != "ignore" for n in (v if isinstance(v, tuple) else (v,))]
    return labels.get("ignore", max(rest) + 1) == max(rest) + 1
