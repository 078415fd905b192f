"""The synthetic data set of the demo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from nnunet_ext.benchmark import synthetic
from nnunet_ext.benchmark.synthetic import LABELS, SPACING, make_case, write_dataset
from nnunet_ext.errors import InputError

SEED = 900


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("raw"), cases=6, held_out=2)


def voxels(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.rglob("*.nii.gz"))
    return {
        str(file.relative_to(folder)): sitk.GetArrayFromImage(sitk.ReadImage(str(file))).tobytes() for file in files
    }


def touching_pairs(labels: np.ndarray, first: int, second: int) -> int:
    """Number of voxel faces between two labels."""
    faces = 0
    for axis in range(labels.ndim):
        for a, b in ((first, second), (second, first)):
            one, other = np.moveaxis(labels, axis, 0)[1:], np.moveaxis(labels, axis, 0)[:-1]
            faces += int(((one == a) & (other == b)).sum())
    return faces


def test_a_case_depends_on_seed_and_index_alone():
    alone = make_case(SEED, 3)
    make_case(SEED, 0)
    again = make_case(SEED, 3)
    assert np.array_equal(alone.image, again.image)
    assert np.array_equal(alone.labels, again.labels)
    for other in (make_case(SEED, 4), make_case(SEED + 1, 3)):
        assert alone.image.tobytes() != other.image.tobytes()


def test_the_same_seed_gives_the_same_voxels_however_many_cases_are_written(dataset, tmp_path):
    more = voxels(write_dataset(tmp_path, cases=8, held_out=0))
    for name, content in voxels(dataset).items():
        assert more[name.replace("Ts/", "Tr/")] == content


@pytest.mark.parametrize("index", range(15))
def test_in_every_case_the_structures_touch_and_have_the_labels_of_dataset_json(index):
    image, labels = make_case(SEED, index)
    assert image.shape == labels.shape
    assert np.isfinite(image).all()
    assert sorted(np.unique(labels)) == sorted(LABELS.values())
    assert touching_pairs(labels, 1, 2) > 150
    for value in (1, 2):
        assert (labels == value).sum() > 500


@pytest.mark.parametrize("index", range(15))
def test_there_is_no_edge_between_the_structures_but_a_difference_further_away(index):
    """Across a face of the interface the brightness changes by far less than between the structures."""
    image, labels = make_case(SEED, index)
    means = [image[labels == value].mean() for value in (1, 2)]
    steps = []
    for axis in (1, 2):
        brightness, label = np.moveaxis(image, axis, 0), np.moveaxis(labels, axis, 0).astype(int)
        rises = (label[1:] == 2) & (label[:-1] == 1)
        falls = (label[1:] == 1) & (label[:-1] == 2)
        change = brightness[1:] - brightness[:-1]
        steps += [*change[rises], *-change[falls]]
    assert means[1] - means[0] > 100
    assert np.mean(steps) < 0.6 * (means[1] - means[0])
    assert np.std(steps) > 2 * np.mean(steps)


def test_images_and_labels_have_the_spacing(dataset):
    for file in dataset.rglob("*.nii.gz"):
        assert sitk.ReadImage(str(file)).GetSpacing() == pytest.approx(SPACING[::-1])


def test_nnunet_finds_nothing_wrong_with_it(dataset):
    verify_dataset_integrity(str(dataset), 1)
    for part, count in (("Tr", 6), ("Ts", 2)):
        assert len(list((dataset / f"images{part}").iterdir())) == count
        assert len(list((dataset / f"labels{part}").iterdir())) == count


def test_it_is_written_once(dataset):
    before = {file: file.stat().st_mtime_ns for file in dataset.rglob("*")}
    assert write_dataset(dataset.parent, cases=6, held_out=2) == dataset
    assert {file: file.stat().st_mtime_ns for file in dataset.rglob("*")} == before


def test_other_parameters_or_another_generator_write_it_anew(tmp_path, monkeypatch):
    folder = write_dataset(tmp_path, cases=1, held_out=1)
    first = voxels(folder)
    write_dataset(tmp_path, cases=1, held_out=1, seed=1)
    second = voxels(folder)
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)
    monkeypatch.setattr(synthetic, "GENERATOR_VERSION", synthetic.GENERATOR_VERSION + 1)
    write_dataset(tmp_path, cases=1, held_out=1, seed=1)
    assert json.loads((folder / synthetic.STAMP).read_text())["generator_version"] == synthetic.GENERATOR_VERSION


def test_a_data_set_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / synthetic.DATASET).mkdir()
    with pytest.raises(InputError, match="was not written by nnunet-ext"):
        write_dataset(tmp_path)
    assert not list((tmp_path / synthetic.DATASET).iterdir())
