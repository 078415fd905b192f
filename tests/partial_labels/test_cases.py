"""Declarations of dataset.json, and what follows for the heads of a network and the scores of a validation."""

import math

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.partial_labels.cases import AnnotatedHeads
from nnunet_ext.partial_labels.declaration import annotated_labels, keys_like_ours

LABELS = {"spleen": 2, "background": 0, "liver": 1, "ignore": 3}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}


def heads(annotated, labels=LABELS, has_regions=False):
    content = {"labels": labels, "annotated_labels": annotated}
    return AnnotatedHeads.from_dataset_json(content, has_regions=has_regions)


def test_annotated_labels_by_case():
    content = {"labels": LABELS, "annotated_labels": {"a": ["liver"], "b": [], "c": "spleen"}}
    assert annotated_labels(content) == {"a": {"liver"}, "b": frozenset(), "c": {"spleen"}}
    assert annotated_labels({"labels": LABELS}) == {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["a"], r"'annotated_labels' is \['a'\], but it must be an object such as"),
        ({"a": ["lever"]}, r"annotated_labels of a names \['lever'\], but dataset.json declares \['spleen', 'liver'\]"),
        ({"a": ["background"]}, "correct the spelling"),
        ({"a": 1}, "must be a list of names"),
    ],
)
def test_a_wrong_entry_is_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        annotated_labels({"labels": LABELS, "annotated_labels": wrong})


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("annotated_label", "'annotated_label' (did you mean 'annotated_labels'?)"),
        ("landmark_organ", "'landmark_organ' (did you mean 'landmarks'?)"),
        ("surfaceof", "'surfaceof' (did you mean 'surface_of'?)"),
        ("surface_of", "'surface_of' (it belongs into 'landmarks')"),
    ],
)
def test_keys_that_look_like_ours_are_named(key, said):
    assert keys_like_ours({"labels": LABELS, "landmarks": ["tip"], key: {}}) == f"nobody reads {said}"


def test_keys_of_nnunet_and_of_others_are_left_alone():
    nnunet = ("channel_names", "labels", "numTraining", "file_ending", "dataset", "regions_class_order", "modality")
    more = ("overwrite_image_reader_writer", "name", "description", "reference", "licence", "license", "release")
    own = ("tensorImageSize", "numTest", "training", "test", "label_names", "annotator", "converted_by")
    assert keys_like_ours(dict.fromkeys((*nnunet, *more, *own, "landmarks", "annotated_labels"))) == ""


def test_rows_of_classes_are_in_the_order_of_the_label_values_and_begin_with_the_background():
    rows = heads({"a": ["liver"], "b": ["spleen"], "c": []}).rows(["b", "d", "a", "c"])
    assert rows.tolist() == [[True, False, True], [True, True, True], [True, True, False], [True, False, False]]


def test_rows_of_regions_are_in_the_order_of_dataset_json():
    found = heads({"a": ["core"], "b": []}, REGIONS, has_regions=True)
    assert (found.names, found.keys) == (("whole", "core"), ("(1, 2)", "2"))
    assert found.rows(["a", "b", "c"]).tolist() == [[False, True], [False, False], [True, True]]


def test_without_entries_and_with_entries_of_no_case_the_message_says_what_to_do():
    with pytest.raises(InputError, match=r'add for example "annotated_labels": \{"case_007": \["liver"\]\}'):
        heads({}).require_entries("nnUNetTrainerX", "dataset.json")
    with pytest.raises(InputError, match=r"does not say which \(nobody reads 'annotated'\); add for example"):
        heads({}).require_entries("nnUNetTrainerX", "dataset.json", "nobody reads 'annotated'")
    found = heads({"a": [], "b.nii.gz": []})
    found.require_entries("nnUNetTrainerX", "dataset.json")
    found.require_cases(["a", "b.nii.gz", "c"], "dataset.json")
    with pytest.raises(InputError, match=r"entries for case b\.nii\.gz, but there is no case of that name"):
        found.require_cases(["a", "b"], "dataset.json")


def test_scores_of_labels_that_nobody_annotated_are_left_out():
    def entry(case, liver, spleen):
        scores = {"1": {"Dice": liver, "FP": 10.0}, "2": {"Dice": spleen, "FP": 20.0}}
        return {"prediction_file": f"/somewhere/{case}.nii.gz", "metrics": scores}

    summary = {
        "mean": {"1": {"Dice": 0.0, "FP": 0.0}, "2": {"Dice": 0.0, "FP": 0.0}},
        "metric_per_case": [entry("a.1", 0.8, 0.0), entry("b", 0.6, 0.5), entry("c", math.nan, 0.7)],
    }
    own = heads({"a.1": ["liver"]}).without_unannotated(summary, ".nii.gz")
    assert own["cases"] == {"1": 3, "2": 2}
    assert own["mean"]["1"]["Dice"] == pytest.approx(0.7)  # nnU-Net's nan, an empty pair, is left out as nnU-Net does
    assert own["mean"]["2"] == pytest.approx({"Dice": 0.6, "FP": 20.0})
    assert own["foreground_mean"]["Dice"] == pytest.approx(0.65)
    nowhere = heads({case: ["liver"] for case in ("a.1", "b", "c")}).without_unannotated(summary, ".nii.gz")
    assert math.isnan(nowhere["mean"]["2"]["Dice"])
    assert nowhere["foreground_mean"]["Dice"] == pytest.approx(0.7)
