"""From confidences on validation cases to thresholds."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.landmarks.calibration import DEFAULT_THRESHOLD, read_thresholds, threshold, write_thresholds
from nnunet_ext.landmarks.points import State

ANSWERS = st.lists(
    st.tuples(st.floats(0, 1, width=32), st.sampled_from([State.PRESENT, State.ABSENT, State.UNKNOWN])), max_size=12
)


def test_between_what_is_there_and_what_is_not():
    assert threshold([0.9, 0.8, 0.2, 0.1, 0.5], [1, 1, 0, 0, -1]) == 0.5


def test_without_one_of_both_there_is_no_threshold():
    assert threshold([0.9, 0.8], [1, 1]) is None
    assert threshold([0.9, 0.8], [0, -1]) is None


@given(ANSWERS)
def test_no_other_threshold_answers_more_correctly(answers):
    confidences, states = np.array([a for a, _ in answers]), np.array([s for _, s in answers])
    found = threshold(confidences, states)
    if found is None:
        assert not (states == State.PRESENT).any() or not (states == State.ABSENT).any()
        return

    def correct(t: float) -> float:
        return float((confidences[states == 1] >= t).mean() + (confidences[states == 0] < t).mean())

    assert all(correct(found) >= correct(t) - 1e-9 for t in np.linspace(0, 1, 41))


def test_folds_are_averaged_and_what_nobody_knows_has_the_default(tmp_path):
    folders = [tmp_path / "fold_0", tmp_path / "fold_1", tmp_path / "fold_2"]
    for folder in folders:
        folder.mkdir()
    write_thresholds(folders[0], ["tip", "end"], [0.2, None])
    write_thresholds(folders[1], ["tip", "end"], [0.4, None])
    tip, end = read_thresholds(folders, ["tip", "end"])
    assert math.isclose(tip, 0.3)
    assert end == DEFAULT_THRESHOLD
