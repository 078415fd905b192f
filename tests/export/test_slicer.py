"""An export of ours is a model for the nnU-Net extension of 3D Slicer, by the rules of its folders."""

import zipfile

import pytest

from nnunet_ext.export.write import export_model
from tests import tiny
from tests.export import slicer


def unpacked(file, folder):
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def model(trained, tmp_path):
    """The zip file of a model with two folds, unpacked."""
    folder, _ = trained("nnUNetTrainerMedContext", folds=(0, 3))
    export_model(folder, tmp_path / "model.zip")
    return unpacked(tmp_path / "model.zip", tmp_path / "unpacked")


def test_an_unpacked_zip_file_is_taken_wherever_one_points(model):
    inside = model / tiny.DATASET / "nnUNetTrainerMedContext__nnUNetPlans__2d"
    for chosen in (model, model / tiny.DATASET, inside, inside / "fold_0"):
        assert slicer.model_folder(chosen) == inside
        assert slicer.problem(chosen) is None
        arguments, results = slicer.command(chosen, model / "in", model / "out")
        assert results == model
        assert arguments[4:12] == [
            "-d",
            tiny.DATASET,
            "-tr",
            "nnUNetTrainerMedContext",
            "-p",
            "nnUNetPlans",
            "-c",
            "2d",
        ]
    assert slicer.problem(model, folds=(0, 3)) is None
    assert slicer.problem(model, folds=(1,)) == "missing folds [1]"


def test_segments_get_the_names_of_the_labels_and_of_landmarks_none(model):
    assert slicer.segments(model) == {"Segment_0": "background", "Segment_1": "left", "Segment_2": "right"}


def test_a_folder_must_have_the_names_that_a_zip_file_gives(trained, tmp_path):
    folder, _ = trained("nnUNetTrainerMedContext")
    export_model(folder, tmp_path / "anything")
    assert slicer.problem(tmp_path / "anything") == "configuration folder anything"
    named = tmp_path / "Dataset901_Tiny" / "nnUNetTrainer__nnUNetPlans__2d"
    named.parent.mkdir()
    export_model(folder, named)
    assert slicer.problem(named.parent) is None
