"""``nnunet-ext scribbles generate``: what is drawn and what that depends on, what is written, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from scipy.ndimage import gaussian_filter
from skimage import io as skimage_io

from nnunet_ext.errors import InputError
from nnunet_ext.scribbles import generate
from nnunet_ext.scribbles.generate import generate_dataset
from nnunet_ext.scribbles.label_map import Options, chosen_slices, scribble_label_map
from nnunet_ext.scribbles.strokes import MODES
from tests.scribbles.raw import LABELS, SPACING, dense, read, write_dataset

CASES = ("a", "b", "c")
OUT = "Dataset138_BoxesScribble"


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    """``nnUNet_raw`` with three dense cases."""
    root = tmp_path / "raw"
    write_dataset(root / "Dataset038_Boxes", {case: dense(seed) for seed, case in enumerate(CASES)})
    monkeypatch.setenv("nnUNet_raw", str(root))
    return root


def made(raw: Path, out: str | int = 138, **options) -> Path:
    return generate_dataset(38, out, Options(**options), processes=1).folder


# --- one label map ----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(list(MODES)),
    st.sampled_from(["one", "all"]),
    st.integers(1, 30),
    st.floats(0.05, 1),
    st.integers(0, 2),
)
def test_scribbles_are_part_of_their_class_and_every_class_of_a_chosen_slice_has_one(
    seed, mode, components, min_area, fraction, axis
):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(5, 24, 27)), (0, 2, 2))
    labels = np.moveaxis(np.digitize(noise, [0.0, 0.12]), 0, axis)
    np.moveaxis(labels, axis, 0)[0] = 0  # a view: one slice without foreground
    spacing = np.ones(3)
    spacing[axis] = 3
    options = Options(mode, fraction, 3, min_area, components, seed=seed)
    drawn = scribble_label_map(labels, spacing, [0, 1, 2], 3, "case", options)
    assert set(np.unique(drawn)) <= {0, 1, 2, 3}
    assert np.array_equal(drawn[drawn != 3], labels[drawn != 3])  # so no false background either
    slices, truth = np.moveaxis(drawn, axis, 0), np.moveaxis(labels, axis, 0)
    chosen = chosen_slices((truth > 0).any((1, 2)), "case", options)
    for index, (one, other) in enumerate(zip(slices, truth, strict=True)):
        for value in range(3):
            expected = index in chosen and (other == value).sum() >= min_area
            assert (one == value).any() == expected


def test_slices_lie_along_the_coarsest_axis():
    labels = np.moveaxis(dense(), 0, 2)
    moved = scribble_label_map(labels, (1.0, 0.8, 4.0), LABELS.values(), 3, "a", Options())
    assert np.array_equal(
        np.moveaxis(moved, 2, 0), scribble_label_map(dense(), SPACING, LABELS.values(), 3, "a", Options())
    )


def test_one_slice_is_one_slice_however_thin_it_is():
    """A single slice of 1 mm with pixels of 1.5 mm."""
    one = dense()[dense().shape[0] // 2][None]
    drawn = [scribble_label_map(one, mm, LABELS.values(), 3, "a", Options()) for mm in ((4, 1.5, 1.5), (1, 1.5, 1.5))]
    assert np.array_equal(*drawn)
    with pytest.raises(InputError, match="Case a has one slice"):
        scribble_label_map(one, (1, 1.5, 1.5), LABELS.values(), 3, "a", Options(slice_fraction=0.5))


def test_the_share_of_slices_holds_for_those_with_foreground_and_empty_ones():
    with_foreground = np.arange(40) < 20
    half = chosen_slices(with_foreground, "a", Options(slice_fraction=0.5))
    assert (np.sum(np.array(half) < 20), len(half)) == (10, 20)
    assert set(half) < set(chosen_slices(with_foreground, "a", Options(slice_fraction=0.8)))
    few = chosen_slices(with_foreground, "a", Options(slice_fraction=0.001))
    assert (np.sum(np.array(few) < 20), len(few)) == (1, 2)
    assert few != chosen_slices(with_foreground, "b", Options(slice_fraction=0.001))


def test_the_share_of_slices_is_one_of_those_that_the_source_labels():
    labels = np.full((60, 12, 12), 3)
    labels[20:26] = 0
    labels[20:26, 3:9, 3:9] = 1
    for case in "abcdefgh":
        drawn = scribble_label_map(labels, (5, 1, 1), (0, 1), 3, case, Options(slice_fraction=0.1))
        assert (drawn == 1).any(), case
    nothing = scribble_label_map(np.full((6, 5, 5), 3), (5, 1, 1), (0, 1), 3, "a", Options(slice_fraction=0.5))
    assert (nothing == 3).all()


def test_seed_case_slice_and_class_decide_and_nothing_else():
    volume = np.stack([dense()[1]] * 3)
    drawn = scribble_label_map(volume, SPACING, LABELS.values(), 3, "a", Options())
    assert not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn, scribble_label_map(volume, SPACING, LABELS.values(), 3, "a", Options()))
    for case, options in (("b", Options()), ("a", Options(seed=1))):
        assert not np.array_equal(drawn, scribble_label_map(volume, SPACING, LABELS.values(), 3, case, options))
    without_right = np.where(volume == 2, 0, volume)
    other = scribble_label_map(without_right, SPACING, LABELS.values(), 3, "a", Options())
    assert np.array_equal(other == 1, drawn == 1)


def test_without_background():
    drawn = scribble_label_map(dense(), SPACING, LABELS.values(), 3, "a", Options(background=False))
    assert set(np.unique(drawn)) == {1, 2, 3}
    assert (drawn[0] == 3).all()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"mode": "curve"}, "interior"),
        ({"components": "two"}, "all"),
        ({"slice_fraction": 0.0}, "above 0"),
        ({"slice_fraction": 1.1}, "not above 1"),
        ({"thickness": 0}, "1 voxel"),
        ({"min_area": 0}, "1 voxel"),
    ],
)
def test_options_that_make_no_sense(wrong, word):
    with pytest.raises(InputError, match=word):
        Options(**wrong)


# --- a data set -------------------------------------------------------------------------------------------------------


def test_the_data_set_passes_nnunets_own_check_and_the_images_are_found(raw):
    folder = made(raw)
    assert folder == raw / OUT
    verify_dataset_integrity(str(folder), 1)
    listed = get_filenames_of_train_images_and_targets(str(folder))
    for case in CASES:
        assert listed[case]["images"] == [str(raw / "Dataset038_Boxes" / "imagesTr" / f"{case}_0000.nii.gz")]
        assert listed[case]["label"] == str(folder / "labelsTr" / f"{case}.nii.gz")
    description = json.loads((folder / "dataset.json").read_text())
    assert description["labels"] == {**LABELS, "ignore": 3}
    assert description["dataset"]["a"]["images"] == ["../Dataset038_Boxes/imagesTr/a_0000.nii.gz"]


def test_files_statistics_and_picture(raw):
    folder = made(raw)
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json",
        "labelsTr",
        "labelsTr_dense",
        "scribbles.json",
        "scribbles.png",
    ]
    content = json.loads((folder / "scribbles.json").read_text())
    assert content["options"]["mode"] == "interior+border"
    scribbles = read(folder / "labelsTr" / "b.nii.gz")
    truth = read(folder / "labelsTr_dense" / "b.nii.gz")
    assert np.array_equal(truth, dense(1))
    numbers = content["cases"]["b"]
    assert numbers["annotated_fraction"]["all"] == pytest.approx((scribbles != 3).mean())
    assert numbers["annotated_fraction"]["left"] == pytest.approx((scribbles == 1).sum() / (truth == 1).sum())
    assert (numbers["annotated_slices"], numbers["slices"]) == (6, 6)
    assert skimage_io.imread(folder / "scribbles.png").std() > 5


def test_geometry_is_copied(raw):
    folder = made(raw)
    before = sitk.ReadImage(str(raw / "Dataset038_Boxes" / "labelsTr" / "a.nii.gz"))
    after = sitk.ReadImage(str(folder / "labelsTr" / "a.nii.gz"))
    for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(after, name)() == pytest.approx(getattr(before, name)())


def test_neither_processes_nor_other_cases_change_a_case(raw):
    one = made(raw)
    two = generate_dataset(38, 139, Options(), processes=2).folder
    (raw / "Dataset038_Boxes" / "labelsTr" / "a.nii.gz").unlink()
    alone = made(raw, 140)
    for case in CASES:
        file = f"labelsTr/{case}.nii.gz"
        assert np.array_equal(read(one / file), read(two / file))
        if case != "a":
            assert np.array_equal(read(one / file), read(alone / file))


def test_two_dimensional_images(raw):
    folder = raw / "Dataset039_Flat"
    for place in ("imagesTr", "labelsTr"):
        (folder / place).mkdir(parents=True)
    for seed, case in enumerate(CASES):
        flat = dense(seed, (40, 48))
        skimage_io.imsave(folder / "imagesTr" / f"{case}_0000.png", flat * 90, check_contrast=False)
        skimage_io.imsave(folder / "labelsTr" / f"{case}.png", flat, check_contrast=False)
    description = {"channel_names": {"0": "photo"}, "labels": LABELS, "numTraining": 3, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(description))
    out = generate_dataset("Dataset039_Flat", "Dataset139_FlatScribble", processes=1).folder
    verify_dataset_integrity(str(out), 1)
    drawn, truth = skimage_io.imread(out / "labelsTr" / "b.png"), dense(1, (40, 48))
    assert set(np.unique(drawn)) == {0, 1, 2, 3}
    assert np.array_equal(drawn[drawn != 3], truth[drawn != 3])


@pytest.mark.parametrize("flat", [dense()[1], dense()[1:2]], ids=["2D", "one slice"])
def test_a_share_of_one_slice_is_refused(flat):
    spacing = SPACING[-flat.ndim :]
    with pytest.raises(InputError, match=r"Case a has one slice, so a share of 0\.1 of the slices .* --slice-fraction"):
        scribble_label_map(flat, spacing, LABELS.values(), 3, "a", Options(slice_fraction=0.1))
    assert (scribble_label_map(flat, spacing, LABELS.values(), 3, "a", Options()) == 1).any()


def test_regions_keep_their_labels(raw):
    declared = {"background": 0, "whole": [1, 2], "right": 2}
    write_dataset(raw / "Dataset040_Regions", {"a": dense(0)}, declared, regions_class_order=[1, 2])
    result = generate_dataset(40, 140, processes=1)
    verify_dataset_integrity(str(result.folder), 1)
    description = json.loads((result.folder / "dataset.json").read_text())
    assert description["labels"] == {**declared, "ignore": 3}
    assert description["regions_class_order"] == [1, 2]
    assert set(np.unique(read(result.folder / "labelsTr" / "a.nii.gz"))) == {0, 1, 2, 3}
    assert set(result.statistics()["annotated_fraction"]) == {"all", "background", "label 1", "right"}


def test_an_ignore_label_of_the_source_stays_and_is_not_drawn_on(raw):
    masked = dense(0)
    masked[:, :, :20] = 3
    write_dataset(raw / "Dataset041_Masked", {"a": masked}, {**LABELS, "ignore": 3})
    folder = generate_dataset(41, 141, processes=1).folder
    drawn = read(folder / "labelsTr" / "a.nii.gz")
    assert (drawn[:, :, :20] == 3).all()
    assert (drawn[:, :, 20:] != 3).any()


def test_a_folder_outside_nnunet_raw_is_named_by_its_whole_path(raw, tmp_path):
    elsewhere = write_dataset(tmp_path / "elsewhere", {"a": dense(0)})
    folder = generate_dataset(elsewhere, "Dataset142_Elsewhere", processes=1).folder
    listed = json.loads((folder / "dataset.json").read_text())["dataset"]["a"]["images"]
    assert listed == [str(elsewhere / "imagesTr" / "a_0000.nii.gz")]
    shutil.copytree(folder / "labelsTr_dense", folder / "labelsTr", dirs_exist_ok=True)
    again = generate_dataset(142, 143, processes=1).folder  # a source that itself only names its images
    assert json.loads((again / "dataset.json").read_text())["dataset"]["a"]["images"] == listed


def test_what_is_printed(raw):
    printed = generate_dataset(38, 138, Options(background=False), processes=1).report()
    for words in ("left", "%", "scribbles check 138", "nnUNetv2_plan_and_preprocess -d 138", "background has no"):
        assert words in printed


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(raw: Path, *words: str, dataset: str | int = 38, out: str | int = 138) -> None:
    before = sorted(path.name for path in raw.iterdir())
    with pytest.raises(InputError) as error:
        generate_dataset(dataset, out, processes=1)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert sorted(path.name for path in raw.iterdir()) == before  # nothing is left behind


def test_a_number_that_is_taken(raw, tmp_path, monkeypatch):
    refused(raw, "taken", "Dataset038_Boxes", out=38)
    (tmp_path / "results" / "Dataset138_Old").mkdir(parents=True)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    refused(raw, "taken", "Dataset138_Old")


@pytest.mark.parametrize("out", ["0", "1000", "Dataset000_Liver", "Liver", "Dataset1_Liver", "Dataset138_../x"])
def test_a_name_that_nnunet_would_not_find(raw, out):
    refused(raw, "--new-dataset", out=out)


@pytest.mark.parametrize("dataset", [7, "Dataset007_None", "/nowhere/at/all"])
def test_a_data_set_that_is_not_there(raw, dataset):
    refused(raw, "not in nnUNet_raw", dataset=dataset)


def test_nnunet_raw_is_not_set(raw, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(InputError, match="nnUNet_raw is not set"):
        generate_dataset(38, 138)


def test_a_missing_image(raw):
    (raw / "Dataset038_Boxes" / "imagesTr" / "b_0000.nii.gz").unlink()
    refused(raw, "Case b", "b_0000.nii.gz")


def test_no_cases_and_no_dataset_json(raw):
    for path in (raw / "Dataset038_Boxes" / "labelsTr").iterdir():
        path.unlink()
    refused(raw, "no training cases")
    (raw / "Dataset038_Boxes" / "dataset.json").unlink()
    refused(raw, "no dataset.json")


def test_a_source_that_has_scribbles_itself(raw):
    generate_dataset(38, 138, processes=1)
    refused(raw, "labelsTr", "holds scribbles; give dense labels", dataset=138, out=139)


def test_labels_of_a_small_region_or_of_some_slices_are_no_scribbles(raw):
    for name, place in {"a": np.s_[:, 4:9, 3:9], "b": np.s_[::3], "c": np.s_[2:4, 5:7, 5:9]}.items():
        labels = np.full_like(dense(0), 3)
        labels[place] = dense(0)[place]
        folder = write_dataset(raw / "Dataset040_Parts", {name: labels}, {**LABELS, "ignore": 3})
        generate_dataset(folder, 140, processes=1)
        shutil.rmtree(raw / "Dataset140_PartsScribble")
        shutil.rmtree(folder)


def test_an_unknown_label_in_the_last_case_leaves_nothing_behind(raw):
    wrong = dense(2)
    wrong[3, 3, 3] = 9
    write_dataset(raw / "Dataset038_Boxes", {"a": dense(0), "b": dense(1), "c": wrong})
    refused(raw, "c.nii.gz", "[9]")


def test_a_failure_at_the_very_end_leaves_nothing_behind(raw, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "draw_panels", fail)
    with pytest.raises(KeyboardInterrupt):
        made(raw)
    assert [path.name for path in raw.iterdir()] == ["Dataset038_Boxes"]
