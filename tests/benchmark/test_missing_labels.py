"""Data sets in which labels of every subject are missing."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.benchmark.missing_labels import ABOUT, one_label, remove_labels, removed_from
from nnunet_ext.benchmark.spec import MissingLabels
from nnunet_ext.errors import InputError
from nnunet_ext.partial_labels.declaration import annotated_labels
from nnunet_ext.splits.files import NAME, read_folds
from nnunet_ext.splits.folds import Fold
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


def test_one_label_alone_is_known_everywhere_and_trains_on_the_subjects_that_were_annotated_for_it(root):
    source = root / "raw" / tiny.DATASET
    annotated = annotated_labels(
        json.loads((remove_labels(901, 327, ONE, "case", processes=1) / "dataset.json").read_text())
    )
    cases = sorted(annotated)
    folds = [Fold(tuple(cases[:4]), tuple(cases[4:]))]
    options = MissingLabels(removed=[1], alone="right")
    folder = one_label(901, 337, options, "case", folds, processes=1)
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "right": 1}
    for case in cases:
        assert (label_map(folder, case) == (label_map(source, case) == 2)).all()
    (fold,) = read_folds(folder / NAME)
    assert list(fold.train) == [case for case in cases[:4] if "right" in annotated[case]]
    assert 0 < len(fold.train) < 4
    assert list(fold.val) == cases[4:]


def test_an_error_while_folds_are_written_leaves_no_data_set(root, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("nnunet_ext.benchmark.missing_labels.write_folds", fail)
    folds = [Fold(tuple(f"tiny_{n}" for n in range(4)), ("tiny_4", "tiny_5"))]
    with pytest.raises(OSError, match="disk full"):
        one_label(901, 337, MissingLabels(removed=[1], alone="right"), "case", folds, processes=1)
    assert not list((root / "raw").glob("Dataset337*"))


def test_a_label_alone_that_does_not_exist_is_refused(root):
    with pytest.raises(InputError, match="alone: Dataset901_Tiny has no label 'aorta'; it has "):
        one_label(901, 337, MissingLabels(removed=[1], alone="aorta"), "case", [Fold(("tiny_0",), ("tiny_1",))])
    assert not list((root / "raw").glob("Dataset337*"))


def test_a_fold_without_any_subject_that_has_the_label_is_refused(root):
    lacking = [f"tiny_{n}" for n in range(6) if 1 in removed_from(f"tiny_{n}", (1, 2), ONE)]
    assert lacking
    with pytest.raises(InputError, match="a fold would have no training case with left"):
        one_label(901, 337, MissingLabels(removed=[1], alone="left"), "case", [Fold(tuple(lacking), ("tiny_1",))])
    assert not list((root / "raw").glob("Dataset337*"))


def test_ignored_voxels_stay_ignored(nnunet_folders):
    root = nnunet_folders("ignore")
    source = next((root / "raw").iterdir())
    several = remove_labels(source.name, 327, ONE, "case", processes=1)
    options = MissingLabels(removed=[1], alone="right")
    cases = tuple(f"tiny_{n}" for n in range(6))
    alone = one_label(source.name, 337, options, "case", [Fold(cases, cases[:1])], processes=1)
    assert json.loads((alone / "dataset.json").read_text())["labels"]["ignore"] == 2
    ignored = 0
    for case in cases:
        expected = label_map(source, case) == 3
        ignored += expected.sum()
        assert ((label_map(several, case) == 3) == expected).all()
        assert ((label_map(alone, case) == 2) == expected).all()
    assert ignored > 0
