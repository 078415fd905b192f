"""``nnunet-ext unlabelled``: nnU-Net's own preprocessing, beside the labelled data, whatever kills it."""

import json
import pickle
import shutil
from pathlib import Path

import blosc2
import numpy as np
import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.findings import PRINTED
from nnunet_ext.unlabelled.prepared import NOTES, Notes, prepared_folder, read_prepared, recipe
from nnunet_ext.unlabelled.preprocess import prepare_unlabelled
from tests import tiny
from tests.killing import contents, killed_at_line, left_over
from tests.unlabelled.raw import labelled_image, write_image, write_images


@pytest.fixture
def root(nnunet_folders):
    root = nnunet_folders()
    write_images(root)
    return root


@pytest.fixture
def folder(root):
    return root / "preprocessed" / tiny.DATASET


def prepare(**settings):
    return prepare_unlabelled(901, configurations=["2d"], processes=1, **settings)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_an_image_becomes_what_nnunet_makes_of_it(root, folder, configuration):
    before = contents(folder)
    report = prepare_unlabelled(901, configurations=[configuration], processes=1)
    assert report.exit_code == 0
    place = prepared_folder(folder, f"nnUNetPlans_{configuration[:2]}")
    assert report.prepared == {place: (3, 0, 0)}
    plans = PlansManager(tiny.plans())
    file = root / "raw" / tiny.DATASET / "imagesUn" / "new_1_0000.nii.gz"
    settings = plans.get_configuration(configuration)
    image, outside, _ = DefaultPreprocessor(verbose=False).run_case(
        [str(file)], None, plans, settings, tiny.dataset_json()
    )
    assert np.array_equal(blosc2.open(str(place / "new_1.b2nd"))[:], image)
    assert np.array_equal(blosc2.open(str(place / "new_1_seg.b2nd"))[:], outside)
    # the labelled data, plans and folds are as they were
    assert {name: content for name, content in contents(folder).items() if not name.startswith("unlabelled/")} == before
    assert left_over(folder) == []


def test_a_second_run_makes_only_what_changed(root, folder):
    prepare()
    place = prepared_folder(folder, "nnUNetPlans_2d")
    first = contents(place)
    assert list(prepare().prepared.values()) == [(0, 3, 0)]
    assert contents(place) == first
    images = root / "raw" / tiny.DATASET / "imagesUn"
    (images / "new_0_0000.nii.gz").unlink()
    write_image(images / "new_1_0000.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    report = prepare()
    assert list(report.prepared.values()) == [(1, 1, 1)]
    assert f"{place}: 1 preprocessed, 1 were there, 1 removed that have no image any more" in report.report()
    assert sorted(read_prepared(place)) == ["new_1", "new_2"]
    now = contents(place)
    assert now["new_2.b2nd"] == first["new_2.b2nd"]
    assert now["new_1.b2nd"] != first["new_1.b2nd"]
    assert not [name for name in now if "new_0" in name]


def test_the_spacing_beside_a_tif_is_a_source_and_no_other_file(tmp_path):
    image, spacing = tmp_path / "u0_0000.tif", tmp_path / "u0.json"
    image.touch()
    alone = Notes.for_files("recipe", [image], [])
    spacing.write_text('{"spacing": [1, 1, 1]}')
    before = Notes.for_files("recipe", [image], [])
    assert [Path(file).name for file, _, _ in before.sources] == ["u0_0000.tif", "u0.json"]
    assert alone.sources == before.sources[:1]
    spacing.write_text('{"spacing": [3.5, 1, 1]}')
    assert Notes.for_files("recipe", [image], []) != before


def test_an_image_that_nnunet_cannot_preprocess_is_named(root):
    images = root / "raw" / tiny.DATASET / "imagesUn"
    write_image(images / "metres_0000.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)), spacing=(1e-3,) * 3)
    with pytest.raises(InputError, match=r"metres_0000.nii.gz could not be preprocessed for 2d: .* its spacing right"):
        prepare()


def test_other_plans_of_the_same_name_make_all_anew(folder):
    prepare()
    plans = tiny.plans()
    own = recipe(plans, "2d")
    plans["configurations"]["2d"]["batch_size"] = 7
    assert recipe(plans, "2d") == own  # nothing that an image depends on
    plans["configurations"]["2d"]["spacing"] = [2.0, 2.0]
    assert recipe(plans, "2d") != own
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    assert list(prepare().prepared.values()) == [(3, 0, 0)]


def test_older_plans_have_their_grey_values_under_another_key():
    older = tiny.plans()
    grey = older.pop("foreground_intensity_properties_per_channel")
    older["foreground_intensity_properties_by_modality"] = grey
    assert recipe(older, "2d") == recipe(tiny.plans(), "2d")
    older["foreground_intensity_properties_by_modality"] = {"0": {**grey["0"], "mean": -1.0}}
    assert recipe(older, "2d") != recipe(tiny.plans(), "2d")


def voxels(place):
    """Contents of a folder, of images their voxels: blosc2 may compress the same ones to other bytes."""
    return {
        name: blosc2.open(str(place / name))[:].tobytes() if name.endswith(".b2nd") else content
        for name, content in contents(place).items()
    }


def test_killed_at_any_moment_the_next_run_ends_with_the_same_files(root, folder):
    """Killed before every 13th line of ours that is run, a case is whole or not there, and a second run completes."""
    prepare()
    place = prepared_folder(folder, "nnUNetPlans_2d")
    expected = voxels(place)
    names = {"new_0", "new_1", "new_2"}
    number = 1
    seen = []
    while True:
        for file in place.iterdir():
            if file.name.startswith("new_1"):
                file.unlink()
        killed = killed_at_line(lambda: prepare(), number, {"preprocess.py", "beside.py", "prepared.py"})
        there = read_prepared(place)
        assert names - {"new_1"} <= set(there) <= names
        if "new_1" in there:
            assert voxels(place) == expected
        seen.append("new_1" in there)
        if not killed:
            break
        number += 13
    assert seen[0] is False
    assert seen[-1] is True
    prepare()
    assert voxels(place) == expected


def test_fatal_findings_stop_it_and_check_alone_writes_nothing(root, folder, capsys):
    before = contents(folder)
    assert main(["unlabelled", "901", "--check", "-np", "1"]) == 0
    shown = capsys.readouterr().out
    assert "imagesUn: 3 images without labels; findings: 0 fatal, 0 warning, 1 note" in shown
    write_image(root / "raw" / tiny.DATASET / "imagesUn" / "flat_0000.nii.gz", np.ones((4, 5, 6)))
    assert main(["unlabelled", "901", "-c", "2d", "-np", "1"]) == 1
    shown = capsys.readouterr().out
    assert "fatal    flat: all voxels of channel 0 are 1" in shown
    assert "Nothing was preprocessed; correct or remove what is fatal first." in shown
    for number in range(PRINTED):
        write_image(root / "raw" / tiny.DATASET / "imagesUn" / f"flat_{number}_0000.nii.gz", np.ones((4, 5, 6)))
    assert main(["unlabelled", "901", "--check", "-np", "1"]) == 1
    assert capsys.readouterr().out.count("fatal    flat") == PRINTED + 1  # there is no file to look others up in
    assert contents(folder) == before


def test_images_of_another_folder_are_taken_and_copies_are_noted(root, folder):
    place = write_images(root, ["x"], folder="elsewhere")
    write_image(place / "copy_0000.nii.gz", labelled_image(root, "tiny_4"))
    report = prepare(images=place)
    assert report.cases == 2
    notes = read_prepared(prepared_folder(folder, "nnUNetPlans_2d"))
    assert {name: note.same_as for name, note in notes.items()} == {"copy": ("tiny_4",), "x": ()}
    assert "left out of fold 0" in report.report()


def test_images_of_several_folders_add_up_until_they_are_gone(root, folder):
    prepare()
    elsewhere = write_images(root, ["x"], folder="elsewhere")
    place = prepared_folder(folder, "nnUNetPlans_2d")
    assert prepare(images=elsewhere).prepared == {place: (1, 3, 0)}
    assert sorted(read_prepared(place)) == ["new_0", "new_1", "new_2", "x"]
    plans = tiny.plans()
    plans["configurations"]["2d"]["spacing"] = [2.0, 2.0]
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    assert prepare().prepared == {place: (4, 0, 0)}  # for these plans, wherever the images lie
    assert {notes.recipe for notes in read_prepared(place).values()} == {recipe(plans, "2d")}
    (elsewhere / "x_0000.nii.gz").unlink()
    assert prepare().prepared == {place: (0, 3, 1)}


def test_what_copies_of_labelled_cases_are_is_asked_again_also_of_another_folder(root, folder):
    place, prepared = root / "raw" / tiny.DATASET / "imagesTr", prepared_folder(folder, "nnUNetPlans_2d")
    elsewhere = write_images(root, ["scan_17"], folder="elsewhere")
    prepare(images=elsewhere)
    assert read_prepared(prepared)["scan_17"].same_as == ()
    shutil.copy(elsewhere / "scan_17_0000.nii.gz", place / "tiny_4_0000.nii.gz")
    prepare()
    assert read_prepared(prepared)["scan_17"].same_as == ("tiny_4",)
    assert list(prepare().prepared.values()) == [(0, 4, 0)]
    write_image(elsewhere / "scan_17_0000.nii.gz", np.ones((4, 5, 6)))
    with pytest.raises(
        InputError, match=r"scan_17_0000\.nii\.gz, preprocessed before: all voxels .* are 1; correct or"
    ):
        prepare()


def test_two_folders_with_an_image_of_the_same_name_are_refused(root, folder):
    prepare()
    before = contents(folder)
    elsewhere = write_images(root, ["x", "new_1"], folder="elsewhere", seed=1)
    with pytest.raises(InputError, match=r"has the case new_1 of .*imagesUn, and .*elsewhere has .*; rename one"):
        prepare(images=elsewhere)
    assert contents(folder) == before


def test_a_cascade_shares_the_images_of_the_full_resolution(root, folder):
    plans = tiny.plans()
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    report = prepare_unlabelled(901, processes=1)
    assert {path.name: counts for path, counts in report.prepared.items()} == {
        "nnUNetPlans_3d": (3, 0, 0),
        "nnUNetPlans_2d": (3, 0, 0),
    }


def test_without_configurations_all_that_are_preprocessed_are_meant(root, folder):
    report = prepare_unlabelled(901, processes=1)
    assert [path.name for path in report.prepared] == ["nnUNetPlans_3d", "nnUNetPlans_2d"]


def test_what_is_not_there_is_refused(root, folder):
    with pytest.raises(InputError, match="has no configuration '3d'; it has: 3d_fullres, 2d"):
        prepare_unlabelled(901, configurations=["3d"])
    (folder / "nnUNetPlans_2d").rename(folder / "gone")
    with pytest.raises(InputError, match=r"2d is not preprocessed .* nnUNetv2_preprocess -d 901 -plans_name nnUNetPl"):
        prepare()


@pytest.mark.parametrize("damage", [b"", pickle.dumps({"spacing": 1}), pickle.dumps({NOTES: {"recipe": 1}})])
def test_files_of_somebody_else_are_refused(folder, damage):
    prepare()
    place = prepared_folder(folder, "nnUNetPlans_2d")
    (place / "new_1.pkl").write_bytes(damage)
    with pytest.raises(InputError, match=r"new_1.pkl is damaged, or was not written by nnunet-ext unlabelled; delete"):
        prepare()
