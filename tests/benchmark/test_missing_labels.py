"""Data sets in which labels of every subject are missing."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.benchmark.missing_labels import ABOUT, remove_labels, removed_from
from nnunet_ext.benchmark.spec import MissingLabels
from nnunet_ext.errors import InputError
from nnunet_ext.partial_labels.declaration import annotated_labels
from tests import tiny

ONE = MissingLabels(removed=[1])


@pytest.fixture
def root(nnunet_folders):
    return nnunet_folders()


def label_map(folder, case):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / f"{case}.nii.gz")))


def test_how_many_and_which_labels_are_removed_is_drawn_evenly():
    drawn = [removed_from(f"patient{n}", (1, 2, 3), MissingLabels()) for n in range(3000)]
    assert {len(own) for own in drawn} == {1, 2}
    assert np.mean([len(own) for own in drawn]) == pytest.approx(1.5, abs=0.05)
    for label in (1, 2, 3):
        assert np.mean([label in own for own in drawn]) == pytest.approx(0.5, abs=0.05)
    other = [removed_from(f"patient{n}", (1, 2, 3), MissingLabels(seed=1)) for n in range(3000)]
    assert other != drawn


def test_removed_labels_are_background_and_the_entry_says_what_is_annotated(root):
    source = root / "raw" / tiny.DATASET
    folder = remove_labels(901, 327, ONE, "case", processes=1)
    assert folder.name == "Dataset327_TinyMissingLabels"
    content = json.loads((folder / "dataset.json").read_text())
    values = content["labels"]
    annotated = annotated_labels(content)
    assert len(annotated) == 6
    for case, names in annotated.items():
        kept = [values[name] for name in names]
        assert len(kept) == len(values) - 2  # without background, and one removed
        before, after = label_map(source, case), label_map(folder, case)
        assert (after == np.where(np.isin(before, kept), before, 0)).all()
        assert (after != before).any()
    first = content["dataset"]["tiny_0"]["images"][0]
    assert (folder / first).resolve() == (source / "imagesTr" / "tiny_0_0000.nii.gz").resolve()
    assert json.loads((folder / ABOUT).read_text())["options"] == {"removed": [1], "seed": 0}


def test_all_cases_of_a_subject_lack_the_same_labels(root):
    folder = remove_labels(901, 327, MissingLabels(removed=[1], seed=1), "pairs-from-0", processes=1)
    annotated = json.loads((folder / "dataset.json").read_text())["annotated_labels"]
    for even in (0, 2, 4):
        assert annotated[f"tiny_{even}"] == annotated[f"tiny_{even + 1}"]


def test_too_many_labels_are_refused(root):
    with pytest.raises(InputError, match=r"removes 9 labels, but Dataset901_Tiny has \d; at least one must stay"):
        remove_labels(901, 327, MissingLabels(removed=[9]), "case")
    assert not list((root / "raw").glob("Dataset327*"))


def test_a_label_that_nobody_would_have_is_refused(root, monkeypatch):
    monkeypatch.setattr("nnunet_ext.benchmark.missing_labels.removed_from", lambda *_: frozenset({1}))
    with pytest.raises(InputError, match="left would be left in no case"):
        remove_labels(901, 327, ONE, "case")
    assert not list((root / "raw").glob("Dataset327*"))


def test_regions_are_refused(nnunet_folders):
    root = nnunet_folders("regions")
    with pytest.raises(InputError, match=re.escape("has regions, but missing_labels needs labels that are classes")):
        remove_labels(next(p.name for p in (root / "raw").iterdir()), 327, ONE, "case")
