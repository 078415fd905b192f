"""The blocks of ``dataset.json``: what they may say, and one sentence about what they may not."""

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.dataset import Declaration

LABELS = {"background": 0, "femur": 1, "whole": [1, 2], "ignore": 3}
FULL = {
    "names": ["medial", "lateral", "centre"],
    "surface_of": {"medial": ["femur"], "lateral": "whole", "centre": []},
    "mirror_pairs": [["medial", "lateral"]],
    "spans": {"femur": [["medial", "lateral"]]},
}


def declared(block, **more) -> Declaration:
    return Declaration.from_dataset_json({"labels": LABELS, "landmarks": block, **more})


def test_a_full_block():
    found = declared(FULL)
    assert found.names == ("medial", "lateral", "centre")
    assert found.surface_of == {"medial": ("femur",), "lateral": ("whole",)}
    assert found.mirror_pairs == {"right-left": (("medial", "lateral"),)}
    assert found.spans == {"femur": (("medial", "lateral"),)}
    assert found.mirrored_order("right-left") == [1, 0, 2]


def test_pairs_may_name_their_direction():
    found = declared({**FULL, "mirror_pairs": {"anterior-posterior": [["medial", "centre"]], "right-left": []}})
    assert found.mirror_pairs == {"anterior-posterior": (("medial", "centre"),)}
    assert found.mirrored_order("anterior-posterior") == [2, 1, 0]
    assert found.mirrored_order("right-left") == [0, 1, 2]


def test_names_are_enough():
    assert declared({"names": ["a", "b"]}) == declared(["a", "b"]) == Declaration(("a", "b"))
    assert declared(["a", "b"]).mirrored_order("right-left") == [0, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": []}, ("names",)),
        ({"names": ["a", "a"]}, ("['a']", "twice")),
        ({"names": "a"}, ("list",)),
        ({"surface_of": {"medal": ["femur"]}}, ("medal", "spelling")),
        ({"surface_of": {"medial": ["tibia"]}}, ("medial", "tibia", "femur")),
        ({"surface_of": {"medial": ["background"]}}, ("medial", "background")),
        ({"surface_of": {"medial": 1}}, ("medial", "list of names")),
        ({"surface_of": []}, ("surface_of", "object")),
        ({"mirror_pairs": [["medial"]]}, ("pair", "two")),
        ({"mirror_pairs": [["medial", "medial"]]}, ("pair", "two")),
        ({"mirror_pairs": [["medial", "lateral"], ["medial", "centre"]]}, ("medial", "several pairs")),
        ({"mirror_pairs": "medial"}, ("mirror_pairs", "list of pairs")),
        (
            {"mirror_pairs": {"medial": "lateral"}},
            ("mirror_pairs", "['medial']", "known are right-left"),
        ),
        ({"mirror_pairs": {"right-left": "medial"}}, ("mirror_pairs right-left", "list of pairs")),
        ({"spans": {"tibia": [["medial", "lateral"]]}}, ("spans", "tibia")),
        ({"mirror_pair": []}, ("unknown keys 'mirror_pair' (did you mean 'mirror_pairs'?)",)),
        ({"surfaceof": {}, "centre": 1}, ("'surfaceof' (did you mean 'surface_of'?)", "'centre'", "known are names")),
    ],
)
def test_a_contradiction_gets_one_sentence(change, words):
    with pytest.raises(InputError) as error:
        declared({**FULL, **change})
    assert all(word in str(error.value) for word in ("dataset.json", *words)), error.value


def test_a_missing_block_says_what_to_add():
    with pytest.raises(InputError, match=r"'landmarks'; add for example .*surface_of"):
        Declaration.from_dataset_json({"labels": LABELS})
    with pytest.raises(
        InputError, match=r"'landmarks' \(nobody reads 'landmark' \(did you mean 'landmarks'\?\)\); add"
    ):
        Declaration.from_dataset_json({"labels": LABELS, "landmark": FULL})
    with pytest.raises(InputError, match="must be an object"):
        declared("tip")
