"""Labels of which one border is moved at random."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.benchmark.moved_borders import ABOUT, move_border, move_borders
from nnunet_ext.benchmark.spec import MovedBorders
from nnunet_ext.errors import InputError
from tests import tiny

OPTIONS = MovedBorders(between=("left", "right"))


def halves(shape, spacing):
    """Labels 1 and 2 side by side along the last axis, within a frame of background; label 3 in a corner."""
    labels = np.zeros(shape, np.uint8)
    inner = tuple(slice(2, -2) for _ in shape)
    labels[inner] = 1
    labels[(*inner[:-1], slice(shape[-1] // 2, -2))] = 2
    labels[(slice(0, 2),) * len(shape)] = 3
    return labels


@pytest.mark.parametrize(("shape", "spacing"), [((60, 64), (1.0, 0.8)), ((30, 60, 64), (2.0, 1.0, 0.8))])
def test_only_this_border_moves_and_both_labels_together_stay(shape, spacing):
    labels = halves(shape, spacing)
    moved = move_border(labels, spacing, (1, 2), OPTIONS, np.random.default_rng(0))
    assert (np.isin(moved, (1, 2)) == np.isin(labels, (1, 2))).all()
    assert (moved[labels == 3] == 3).all()
    changed = moved != labels
    assert changed.any()
    # 4 standard deviations
    from_border = np.abs(np.arange(shape[-1]) + 0.5 - shape[-1] // 2) * spacing[-1]
    assert from_border[changed.any(tuple(range(len(shape) - 1)))].max() < 4 * OPTIONS.sd_mm + spacing[-1]


@pytest.mark.parametrize("sd_mm", [1.0, 3.0])
def test_the_border_moves_by_what_is_asked_for_and_to_both_sides(sd_mm):
    spacing, options = (1.0, 0.25), MovedBorders(between=("a", "b"), sd_mm=sd_mm, smooth_mm=3)
    labels = halves((200, 160), spacing)
    where = []
    for seed in range(40):
        moved = move_border(labels, spacing, (1, 2), options, np.random.default_rng(seed))
        where.append((moved == 1)[20:-20].sum(1) * spacing[1] - (labels == 1)[20:-20].sum(1) * spacing[1])
    assert np.std(where) == pytest.approx(sd_mm, rel=0.15)
    assert abs(np.mean(where)) < 0.15 * sd_mm
    # smooth: neighbouring rows differ by far less
    assert np.abs(np.diff(where, axis=1)).mean() < 0.4 * sd_mm


def test_without_one_of_the_labels_nothing_changes():
    labels = np.zeros((8, 8), np.uint8)
    labels[2:6] = 1
    assert (move_border(labels, (1.0, 1.0), (1, 2), OPTIONS, np.random.default_rng(0)) == labels).all()


def test_one_slice_is_smoothed_in_its_plane():
    labels = halves((60, 64), (1.0, 1.0))[None]
    moved = move_border(labels, (5.0, 1.0, 1.0), (1, 2), OPTIONS, np.random.default_rng(1))
    alone = move_border(labels[0], (1.0, 1.0), (1, 2), OPTIONS, np.random.default_rng(1))
    assert (moved[0] == alone).all()


def test_a_data_set_is_written_with_the_images_of_the_source(nnunet_folders, monkeypatch):
    root = nnunet_folders()
    monkeypatch.setenv("nnUNet_raw", str(root / "raw"))
    source = root / "raw" / tiny.DATASET
    names = list(json.loads((source / "dataset.json").read_text())["labels"])[1:3]
    options = MovedBorders(between=names, smooth_mm=2)
    folder = move_borders(901, 304, options, processes=1)
    assert folder.name == "Dataset304_TinyMovedBorder"
    about = json.loads((folder / ABOUT).read_text())
    assert about["options"]["between"] == names
    for case, changed in about["changed_voxels"].items():
        before, after = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(place / "labelsTr" / f"{case}.nii.gz")))
            for place in (source, folder)
        )
        assert (before != after).sum() == changed
    assert sum(about["changed_voxels"].values()) > 0
    content = json.loads((folder / "dataset.json").read_text())
    first = content["dataset"]["tiny_0"]["images"][0]
    assert (folder / first).resolve() == (source / "imagesTr" / "tiny_0_0000.nii.gz").resolve()


def test_a_label_that_does_not_exist_is_one_sentence(nnunet_folders, monkeypatch):
    root = nnunet_folders()
    monkeypatch.setenv("nnUNet_raw", str(root / "raw"))
    sentence = "drawn, 304: borders between heart and background, but Dataset901_Tiny has no label 'heart'; it has back"
    with pytest.raises(InputError, match=sentence):
        move_borders(901, 304, MovedBorders(between=("heart", "background")))
    assert not list((root / "raw").glob("Dataset304*"))
