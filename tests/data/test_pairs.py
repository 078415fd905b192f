"""Cases with a reference and a prediction are scored; those with only one of them are refused or left out."""

import pytest

from nnunet_ext.data.pairs import beside, matched
from nnunet_ext.errors import InputError


def test_cases_of_one_side_are_refused_or_left_out():
    assert matched("ab", {"b": 1, "a": 2}, "gt", "pred", False) == (["a", "b"], ())
    assert matched("abd", "cba", "gt", "pred", True) == (["a", "b"], ("d", "c"))
    with pytest.raises(InputError, match=r"^pred has no prediction for case d; add what is missing.*--common\.$"):
        matched("abd", "cba", "gt", "pred", False)
    with pytest.raises(InputError, match=r"^gt has no reference for case c; "):
        matched("ab", "cba", "gt", "pred", False)
    with pytest.raises(InputError, match=r"^gt and pred have no case in common"):
        matched("ab", "cd", "gt", "pred", True)


def test_a_file_is_given_or_lies_beside_the_folders(tmp_path):
    deep, other = tmp_path / "a" / "b" / "c", tmp_path / "other"
    for folder in (deep, other):
        folder.mkdir(parents=True)
    assert beside(None, "dataset.json", deep, other) is None
    (tmp_path / "dataset.json").touch()  # three folders above the first, one above the second
    assert beside(None, "dataset.json", deep) is None
    assert beside(None, "dataset.json", deep, other) == tmp_path.resolve() / "dataset.json"
    (deep / "dataset.json").touch()
    assert beside(None, "dataset.json", deep, other) == deep / "dataset.json"
    assert beside(str(tmp_path / "dataset.json"), "dataset.json", deep) == tmp_path / "dataset.json"
    with pytest.raises(InputError, match=r"There is no file .*mine\.json"):
        beside(tmp_path / "mine.json", "dataset.json", deep)
