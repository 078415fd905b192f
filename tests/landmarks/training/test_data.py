"""Landmarks from files to batches, on a data set whose landmarks can be seen in its images."""

import inspect
import json
import multiprocessing
import pickle
import shutil
import warnings

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.base.basic_transform import SegOnlyTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy.ndimage import map_coordinates

from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.points import State
from nnunet_ext.landmarks.training.augmentation import _WithKeypoints
from nnunet_ext.landmarks.training.cases import (
    Annotation,
    DatasetWithLandmarks,
    find_landmarks,
    keep_copy,
    not_validated,
    read_cases,
)
from nnunet_ext.landmarks.training.data import LandmarkData
from nnunet_ext.landmarks.training.loader import KEYS, LandmarkDataLoader, _Patches, landmark_loaders
from nnunet_ext.nnunet.loaders import SEAM
from nnunet_ext.nnunet.trainer import CommonTrainer
from tests import tiny
from tests.landmarks.training import landmark_dataset
from tests.landmarks.training.landmark_dataset import BRIGHTNESS, KINDS, NAMES

PAIRS = [["left", "right"]]
KNOWN = {f"case_{index}" for index, kind in enumerate(KINDS) if kind.endswith("landmarks")}


class nnUNetTrainerWithLandmarks(LandmarkData, CommonTrainer):
    """All that a trainer has to do."""


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return landmark_dataset.write(tmp_path_factory.mktemp("landmarks"))


@pytest.fixture
def root(template, tmp_path, monkeypatch):
    """A copy of the data set; nnU-Net's variables point there."""
    shutil.copytree(template, tmp_path / "nnunet")
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / "nnunet" / name))
    return tmp_path / "nnunet"


def folder_of(root):
    return root / "preprocessed" / tiny.DATASET


def trainer(root, configuration="3d_fullres", fold=0, **landmarks):
    plans = {**json.loads((folder_of(root) / "nnUNetPlans.json").read_text()), "continue_training": False}
    plans["configurations"][configuration]["batch_size"] = 4
    made = nnUNetTrainerWithLandmarks(
        plans, configuration, fold, landmark_dataset.description(**landmarks), torch.device("cpu")
    )
    made.initialize()
    return made


def loader(root, configuration="3d_fullres", patch=(12, 12, 12), transforms=None, **options):
    made = trainer(root, configuration)
    cases = made.dataset_class(made.preprocessed_dataset_folder)
    dataset = DatasetWithLandmarks(cases, made.landmark_cases, patch)
    return LandmarkDataLoader(dataset, 4, patch, patch, made.label_manager, transforms=transforms, **options)


def value_at(patch, point):
    return patch[tuple(np.rint(point.numpy()).astype(int))].item()


def check_batch(batch, normalised):
    """Every present landmark is on its spot; spots of others are not in the patch. Returns how many were present."""
    present = 0
    for index, name in enumerate(batch["keys"]):
        image = batch["data"][index, 0]
        states, points = batch["landmark_states"][index], batch["landmarks"][index]
        known = name in KNOWN
        assert batch["landmark_case_states"][index].tolist() == ([1, 1, 1, 0] if known else [-1] * 4)
        assert (states != State.UNKNOWN).all() == known
        across = batch["landmark_across"][index]
        assert torch.equal(points.isfinite().all(1), (states == State.PRESENT) | (across > 0))
        assert not (across[states != State.ABSENT]).any()
        assert not known or states[3] == State.ABSENT
        for k in range(3):
            if states[k] == State.PRESENT:
                assert value_at(image, points[k]) == pytest.approx(normalised[name][k], rel=0.05)
                present += 1
    return present


@pytest.fixture
def normalised(root):
    """Brightness of the three landmarks in the preprocessed images, by case."""
    found = {}
    dataset = infer_dataset_class(str(folder_of(root) / "nnUNetPlans_3d"))(str(folder_of(root) / "nnUNetPlans_3d"))
    for seed, name in enumerate(sorted(dataset.identifiers)):
        image = dataset.load_case(name)[0][:][0]
        voxels = landmark_dataset.spots(seed) - landmark_dataset.BORDER
        found[name] = [image[tuple(voxel)] for voxel in voxels]
    return found


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_landmarks_of_a_batch_are_where_the_image_shows_them(root, normalised, configuration):
    np.random.seed(0)
    patch = (12, 12, 12) if configuration == "3d_fullres" else (16, 16)
    batches = loader(root, configuration, patch, oversample_foreground_percent=0.5)
    assert sum(check_batch(next(batches), normalised) for _ in range(20)) >= 20
    batch = next(batches)
    dim = len(patch)
    assert (batch["landmarks"].shape, batch["landmarks"].dtype) == ((4, 4, dim), torch.float32)
    for key in ("landmark_states", "landmark_case_states"):
        assert (batch[key].shape, batch[key].dtype) == ((4, 4), torch.int8)


def test_a_batch_says_what_is_drawn_where_the_target_does_not(root):
    """Patches reach beyond the image: there nnU-Net writes background, which looks as if somebody had drawn it."""
    made = trainer(root)
    ignore = made.label_manager.ignore_label
    transforms = made.get_training_transforms((24, 24, 24), 0, None, None, False, ignore_label=ignore)
    batches = loader(root, patch=(24, 24, 24), transforms=transforms)
    misleading = 0
    for _ in range(5):
        batch = next(batches)
        drawn = [KINDS[int(name.removeprefix("case_"))].startswith("segmentation") for name in batch["keys"]]
        assert batch["segmented"].tolist() == drawn
        looks_drawn = (batch["target"] != ignore).flatten(1).any(1)
        misleading += int((looks_drawn & ~batch["segmented"]).sum())
    assert misleading > 0


def test_in_2d_a_landmark_is_on_its_own_slice_only(root, normalised):
    np.random.seed(1)
    batches = loader(root, "2d", (22, 22), oversample_foreground_percent=0.5)
    for _ in range(20):
        batch = next(batches)
        for index, name in enumerate(batch["keys"]):
            for k in range(3):
                # the patch holds the slice as a whole, so the landmark is in it, or on another slice
                on_slice = batch["landmark_states"][index, k] == State.PRESENT
                visible = torch.isclose(
                    batch["data"][index, 0], torch.tensor(normalised[name][k]), rtol=1e-5, atol=0
                ).any()
                assert on_slice == (visible and name in KNOWN)


def test_in_2d_a_landmark_of_another_slice_is_known_by_its_place_and_its_distance(root):
    made = trainer(root, "2d")
    cases = DatasetWithLandmarks(made.dataset_class(made.preprocessed_dataset_folder), made.landmark_cases, (22, 22))
    np.random.seed(2)
    seen = set()
    for name in KNOWN:
        _, _, _, properties = cases.load_case(name)
        case = properties["class_locations"].case
        spacing = properties["spacing"][0]  # of this plan, slices are not resampled
        assert case.slice_mm == pytest.approx(spacing)
        patches = _Patches(None)
        for z in range(int(cases.load_case(name)[0].shape[1])):
            patches.begin(case, (z, -2, -3), flat=True)
            patches(torch.zeros(1, 40, 40), torch.zeros(1, 40, 40))
            batch = patches.collated()
            patches.done.clear()
            slices = np.abs(case.keypoints.voxels[:3, 0] - z).round()
            np.testing.assert_allclose(batch["landmark_across"][0, :3], slices * spacing, rtol=1e-6)
            assert torch.equal(batch["landmark_states"][0, :3] == State.PRESENT, torch.from_numpy(slices == 0))
            np.testing.assert_allclose(batch["landmarks"][0, :3], case.keypoints.voxels[:3, 1:] + (2, 3), rtol=1e-6)
            assert batch["landmarks"][0, 3].isnan().all()  # absent everywhere
            assert not batch["landmark_across"][0, 3]
            seen |= set(slices)
    assert {0, 1, 2} <= seen


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_a_trainer_that_lists_the_mix_in_gets_landmarks_in_augmented_batches(root, normalised, configuration, capsys):
    made = trainer(root, configuration, mirror_pairs=PAIRS)
    # only what moves voxels: brightness tells the landmarks
    made.get_training_transforms = lambda *args, **kwargs: _moving_only(
        LandmarkData.get_training_transforms(made, *args, **kwargs)
    )
    np.random.seed(2)
    torch.manual_seed(2)
    training, validation = made.get_dataloaders()
    found = [
        sum(check_batch_loosely(next(batches), normalised) for _ in range(15)) for batches in (training, validation)
    ]
    assert min(found) > 5
    dim = len(made.configuration_manager.patch_size)
    # the header's x axis points to the right, and the array's last axis is x
    assert made.landmark_mirroring.orders == {dim - 1: (1, 0, 2, 3)}
    assert made.inference_allowed_mirroring_axes == tuple(range(dim))
    log = capsys.readouterr().out
    assert "'segmentation': 2" in log
    assert "'landmarks': 3" in log
    assert "Mirroring is off" not in log
    assert trainer_module.nnUNetDataLoader is nnUNetDataLoader


def _moving_only(transforms):
    transforms.transforms = [t for t in transforms.transforms if isinstance(t, (_WithKeypoints, SegOnlyTransform))]
    spatial = transforms.transforms[0].transform
    spatial.p_rotation, spatial.p_scaling = 0.7, 0  # a spot that shrinks is not as bright
    return transforms


def check_batch_loosely(batch, normalised):
    """After interpolation and flips: a landmark is on a spot of its brightness, or on that of its partner."""
    present = 0
    for index, name in enumerate(batch["keys"]):
        image = batch["data"][index, 0]
        for k in torch.nonzero(batch["landmark_states"][index] == State.PRESENT).flatten().tolist():
            point = batch["landmarks"][index, k].numpy()
            value = map_coordinates(image.numpy(), point[:, None], order=1, mode="nearest")[0]
            assert any(0.65 < value / normalised[name][j] < 1.05 for j in ({0, 1} if k < 2 else {2}))
            present += 1
    return present


def test_left_and_right_are_exchanged_when_an_image_is_flipped(root):
    """The left landmark is at higher x than the right one, in every patch, flipped or not."""
    made = trainer(root, mirror_pairs=PAIRS)
    torch.manual_seed(0)
    np.random.seed(0)
    batches, _ = made.get_dataloaders()
    spatial = batches.data_loader.patches.transforms.transforms[0].transform
    spatial.p_rotation = spatial.p_scaling = 0
    spatial.patch_size = (16, 20, 22)
    made = batches.data_loader
    made.patch_size = made.final_patch_size = (16, 20, 22)
    made.need_to_pad = np.zeros(3, int)
    sides = []
    for _ in range(10):
        batch = next(batches)
        both = (batch["landmark_states"][:, :2] == State.PRESENT).all(1)
        sides += (batch["landmarks"][both, 0, 2] - batch["landmarks"][both, 1, 2]).tolist()
    assert len(sides) > 5
    assert min(sides) > 0


def test_without_pairs_mirroring_is_off_and_the_log_says_why(root, capsys):
    made = trainer(root)
    *_, axes = made.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert axes is None
    assert made.inference_allowed_mirroring_axes is None
    assert made.landmark_mirroring.orders == {}
    assert "Mirroring is off" in capsys.readouterr().out


def test_forced_foreground_is_at_landmarks_and_cases_without_labels_do_not_warn(root):
    np.random.seed(4)
    batches = loader(root, patch=(8, 8, 8), oversample_foreground_percent=1.0)
    anywhere = loader(root, patch=(8, 8, 8), oversample_foreground_percent=0.0)
    centres = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(12):
            batch = next(batches)
            only = [i for i, name in enumerate(batch["keys"]) if name in KNOWN - {"case_2"}]
            states = batch["landmark_states"][only] == State.PRESENT
            assert states.any(1).all()
            centres += batch["landmarks"][only][states].tolist()
            next(anywhere)
    # not always in the middle of the patch, and never close to its border unless the image ends there
    assert np.std(centres, axis=0).min() > 0.7


def test_of_cases_without_masks_a_share_of_the_other_patches_is_near_landmarks(root):
    counts = {}
    for share in (0.0, 0.5, 1.0):
        np.random.seed(6)
        batches = loader(root, patch=(8, 8, 8), oversample_foreground_percent=0.0, landmark_share=share)
        there = {True: [], False: []}
        for _ in range(25):
            batch = next(batches)
            present = (batch["landmark_states"] == State.PRESENT).any(1)
            for name, segmented, found in zip(batch["keys"], batch["segmented"], present, strict=True):
                if name in KNOWN:
                    there[bool(segmented)].append(bool(found))
        counts[share] = {kind: np.mean(found) for kind, found in there.items()}
    assert counts[1.0][False] == 1
    assert counts[0.0][False] + 0.1 < counts[0.5][False] < 0.95
    # patches of cases with masks are placed as before
    assert abs(counts[1.0][True] - counts[0.0][True]) < 0.4 < counts[1.0][False] - counts[1.0][True]


def test_a_share_of_segmented_cases_holds_in_every_batch_of_the_training_alone(root):
    np.random.seed(5)
    for share, least in ((0.75, 3), (1.0, 4)):
        batches = loader(root, segmented_share=share)
        kinds = dict(zip(batches.indices, batches.annotations, strict=True))
        for _ in range(20):
            assert sum(kinds[name].segmentation for name in batches.get_indices()) >= least
    made = trainer(root)
    cases = made.dataset_class(made.preprocessed_dataset_folder)
    dataset = DatasetWithLandmarks(cases, made.landmark_cases, (12, 12, 12))
    with landmark_loaders(1.0, 0.5):
        build = trainer_module.nnUNetDataLoader
        built = [build(dataset, 4, (12, 12, 12), (12, 12, 12), made.label_manager) for _ in range(2)]
    assert built[0].shares is not None
    assert built[1].shares is None
    assert [each.landmark_share for each in built] == [0.5, 0.0]


def test_batches_hold_both_kinds(root):
    np.random.seed(5)
    batches = loader(root)
    for _ in range(20):
        names = set(batches.get_indices())
        assert len(names) == 4
        assert names & KNOWN
        assert names - (KNOWN - {"case_2"})


def test_loaders_and_transforms_can_be_sent_to_another_process(root):
    made = trainer(root, mirror_pairs=PAIRS)
    batches, _ = made.get_dataloaders()
    again = pickle.loads(pickle.dumps(batches.data_loader))
    assert type(again) is LandmarkDataLoader
    assert again.patches is again.transforms
    assert next(again)["landmarks"].shape == (4, 4, 3)


def test_the_augmenter_of_nnunet_works_with_one_process(root, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    training, validation = trainer(root).get_dataloaders()
    try:
        assert isinstance(training, NonDetMultiThreadedAugmenter)
        for batches in (training, validation):
            batch = next(batches)
            assert set(batch) - {"data", "target", "keys"} == set(KEYS)
    finally:
        training._finish()
        validation._finish()


# nnU-Net's augmenter is stopped while its thread still reads
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_augmenter_of_nnunet_works_where_processes_are_spawned(root):
    batches = loader(root, transforms=None)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    augmenter = NonDetMultiThreadedAugmenter(batches, None, 1, num_cached=1, wait_time=0.01)
    try:
        assert next(augmenter)["landmarks"].shape == (4, 4, 3)
    finally:
        augmenter._finish()
        multiprocessing.set_start_method(before, force=True)


# -- the seam --------------------------------------------------------------------------------------------------------


def test_nnunet_still_names_its_loader_as_a_global_that_it_calls_twice():
    source = inspect.getsource(nnUNetTrainer.get_dataloaders)
    assert getattr(trainer_module, SEAM) is nnUNetDataLoader
    assert source.count(f"{SEAM}(") == 2
    assert source.count("transforms=tr_transforms") == source.count("transforms=val_transforms") == 1


def test_nnunets_loader_still_has_the_hooks_that_are_overridden():
    source = inspect.getsource(nnUNetDataLoader.generate_train_batch)
    assert "self.get_indices()" in source
    assert "self._data.load_case(i)" in source
    assert "self.get_bbox(shape, force_fg, properties['class_locations'])" in source
    assert "self.transforms(**{'image': data_cropped, 'segmentation': seg_cropped})" in source
    assert "not self.has_ignore" in inspect.getsource(nnUNetDataLoader.get_bbox)


def test_a_moved_seam_is_an_error_and_the_global_is_restored(monkeypatch):
    with pytest.raises(RuntimeError, match="built 0 loaders"), landmark_loaders():
        pass
    with pytest.raises(KeyError), landmark_loaders():
        raise KeyError
    assert trainer_module.nnUNetDataLoader is nnUNetDataLoader


# -- folds -----------------------------------------------------------------------------------------------------------


def test_folds_are_written_by_kind_and_a_file_of_the_user_is_kept(root, capsys):
    made = trainer(root, fold=1)
    training, validation = made.do_split()
    path = folder_of(root) / "splits_final.json"
    folds = json.loads(path.read_text())
    assert len(folds) == 5
    assert (training, validation) == (folds[1]["train"], folds[1]["val"])
    assert sorted(case for fold in folds for case in fold["val"]) == [f"case_{index}" for index in range(6)]

    capsys.readouterr()
    path.write_text(json.dumps([{"train": ["case_0", "case_1"], "val": ["case_4"]}]))
    before = path.read_bytes()
    assert trainer(root).do_split() == (["case_0", "case_1"], ["case_4"])
    assert path.read_bytes() == before
    assert "No validation case of this fold has segmentation," in capsys.readouterr().out


def test_folds_with_unknown_cases_are_refused(root):
    (folder_of(root) / "splits_final.json").write_text(json.dumps([{"train": ["case_0", "gone"], "val": ["case_4"]}]))
    with pytest.raises(InputError, match="such as gone"):
        trainer(root).do_split()


def test_all_cases_train_and_validate_without_folds(root):
    training, validation = trainer(root, fold="all").do_split()
    assert sorted(training) == sorted(validation) == [f"case_{index}" for index in range(6)]
    assert not (folder_of(root) / "splits_final.json").exists()


def test_only_what_is_trained_must_be_validated():
    seg, both, landmarks = {Annotation.SEGMENTATION: ["a"]}, {Annotation.BOTH: ["b"]}, {Annotation.LANDMARKS: ["c"]}
    assert not_validated(seg, seg) is None
    assert not_validated(both, seg | landmarks) is None
    assert "landmarks" in not_validated(seg, seg | landmarks)
    assert "segmentation or landmarks" in not_validated({Annotation.NOTHING: ["d"]}, both)


# -- files -----------------------------------------------------------------------------------------------------------


def test_without_a_declaration_the_trainer_stops_before_it_writes(root):
    plans = {**tiny.plans(), "continue_training": False}
    with pytest.raises(InputError, match=r"dataset\.json of Dataset901_Tiny has no 'landmarks'"):
        nnUNetTrainerWithLandmarks(plans, "3d_fullres", 0, tiny.dataset_json(), torch.device("cpu"))
    assert not list((root / "results").iterdir())


def test_the_copy_follows_the_original_and_counts_only_without_it(root, monkeypatch):
    raw, preprocessed = root / "raw" / tiny.DATASET / "landmarksTr", folder_of(root)
    copy = preprocessed / "landmarksTr"
    assert find_landmarks(tiny.DATASET, preprocessed) == raw
    assert keep_copy(raw, preprocessed) is None
    assert {f.name: f.read_bytes() for f in copy.iterdir()} == {f.name: f.read_bytes() for f in raw.iterdir()}
    (raw / "case_1.mrk.json").unlink()
    (raw / "case_2.mrk.json").write_text((raw / "case_4.mrk.json").read_text())
    assert find_landmarks(tiny.DATASET, preprocessed) == raw
    keep_copy(raw, preprocessed)
    assert {f.name: f.read_bytes() for f in copy.iterdir()} == {f.name: f.read_bytes() for f in raw.iterdir()}
    monkeypatch.delenv("nnUNet_raw")
    assert find_landmarks(tiny.DATASET, preprocessed) == copy
    assert keep_copy(copy, preprocessed) is None
    shutil.rmtree(copy)
    with pytest.raises(InputError, match="nnUNet_raw is not set"):
        find_landmarks(tiny.DATASET, preprocessed)


def test_a_copy_that_cannot_be_written_is_a_sentence(root):
    (folder_of(root) / "landmarksTr").write_text("in the way")
    assert "no copy" in keep_copy(root / "raw" / tiny.DATASET / "landmarksTr", folder_of(root))


def test_landmarks_outside_of_the_crop_are_unknown_and_in_the_log(root, capsys):
    file = root / "raw" / tiny.DATASET / "landmarksTr" / "case_1.mrk.json"
    content = json.loads(file.read_text())
    content["markups"][0]["controlPoints"][0]["position"] = [500.0, 0.0, 0.0]
    file.write_text(json.dumps(content))
    cases = trainer(root).landmark_cases
    assert cases["case_1"].keypoints.states.tolist() == [-1, 1, 1, 0]
    assert capsys.readouterr().out.count("count as unknown: left of case_1.") == 1
    assert [case.annotation.value for _, case in sorted(cases.items())] == list(KINDS)


def test_names_that_no_file_knows_are_an_error(root):
    made = trainer(root)
    dataset = made.dataset_class(made.preprocessed_dataset_folder)
    with pytest.raises(InputError, match="says nothing about the landmarks Left"):
        read_cases(dataset, root / "raw" / tiny.DATASET / "landmarksTr", ["Left"], made.plans_manager.plans, {})


def test_the_spots_of_the_data_set_can_be_told_apart():
    assert len(NAMES) == len(BRIGHTNESS) + 1
    assert (np.diff(BRIGHTNESS) / BRIGHTNESS[1:]).min() > 0.3
