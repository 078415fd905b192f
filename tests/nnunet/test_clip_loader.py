"""Clips of nnU-Net's loader: every slice is seen as often as another, and padding is known as such."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.data.raw import open_dataset
from nnunet_ext.nnunet.clip_loader import GAP, SINGLE, ClipLoader, blank_padding, clip_loaders
from nnunet_ext.nnunet.loaders import SEAM
from tests import real_data, tiny

DRAWS = 20000


class Cases:
    """A data set of one volume, with foreground in all slices; its image is 1 everywhere."""

    identifiers = ("case",)

    def __init__(self, depth):
        self.shape = (depth, 12, 12)
        voxels = np.array([[0, z, 5, 6] for z in range(depth)])
        self.properties = {"class_locations": {1: voxels}, "spacing": [0.5, 7.0, 0.5]}

    def load_case(self, identifier):
        image, labels = np.ones((1, *self.shape), np.float32), np.ones((1, *self.shape), np.int16)
        return image, labels, None, self.properties


def loader(depth, length, ignore=False, transforms=None, foreground=0.33):
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=ignore)
    size = (length, 8, 8)
    return ClipLoader(Cases(depth), 6, size, size, labels, foreground, transforms=transforms, slice_axis=1)


def exposure(made, depth, forced):
    """How often each slice is in a window, as a multiple of the mean."""
    seen = np.zeros(depth)
    voxels = Cases(depth).properties["class_locations"][1]
    locations = {(-1, 0, 1): voxels, 1: voxels}
    for _ in range(DRAWS):
        lower, upper = made.get_bbox((depth, 12, 12), forced, locations)
        assert upper[0] - lower[0] == made.patch_size[0]
        assert 0 <= lower[1] <= 4
        seen[max(0, lower[0]) : upper[0]] += 1
    return seen / seen.mean()


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize(("depth", "length"), [(12, 4), (10, 3), (3, 4), (9, 1), (1, 4)])
def test_every_slice_is_seen_as_often_as_another(depth, length, forced):
    np.random.seed(0)
    found = exposure(loader(depth, length), depth, forced)
    assert np.abs(found - 1).max() < 0.1


def test_with_an_ignore_label_too():
    np.random.seed(0)
    assert np.abs(exposure(loader(12, 4, ignore=True), 12, False) - 1).max() < 0.1


class RealCases:
    """Every ``step``-th case of a data set, as nnU-Net preprocesses it for ``2d`` at this spacing in mm."""

    def __init__(self, name, spacing, step):
        raw, plans = open_dataset(real_data.dataset(name)), tiny.plans()
        plans["configurations"]["2d"]["spacing"] = [spacing] * 2
        plans["image_reader_writer"] = raw.reader().name
        manager = PlansManager(plans)
        configuration = manager.get_configuration("2d")
        preprocessor = configuration.preprocessor_class(verbose=False)
        self.labels, self.cases = manager.get_label_manager(raw.description), {}
        for case in raw.cases[::step]:
            files = [str(file) for file in case.images], str(case.label)
            image, target, properties = preprocessor.run_case(*files, manager, configuration, raw.description)
            foreground = self.labels.foreground_labels
            properties["class_locations"] = preprocessor._sample_foreground_locations(target, foreground)
            self.cases[case.name] = image.astype(np.float32), target, None, properties
        self.identifiers = tuple(self.cases)

    def load_case(self, identifier):
        return self.cases[identifier]


def ends_by_others(kind, real, foreground, batches=600, **options):
    """How often first and last slices are in the windows of a loader's batches, as a multiple of the other slices."""
    made = kind(real, 8, (4, 24, 24), (4, 24, 24), real.labels, foreground, **options)
    windows, stock = [], made.get_bbox

    def seen(shape, *args, **kwargs):
        lower, upper = stock(shape, *args, **kwargs)
        windows.append((shape[0], lower[0], upper[0]))
        return lower, upper

    made.get_bbox = seen
    for _ in range(batches):
        made.generate_train_batch()
    assert len(windows) == 8 * batches
    ratios = []
    for depth in {case[0].shape[1] for case in real.cases.values()}:
        counts = np.zeros(depth)
        for _, lower, upper in (window for window in windows if window[0] == depth):
            counts[max(0, lower) : upper] += 1
        ratios.append(counts[[0, -1]].mean() / counts[1:-1].mean())
    return np.mean(ratios)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(("name", "spacing", "step"), [("Dataset027_ACDC", 6.0, 50), ("Dataset038_CHAOST2", 8.0, 6)])
def test_first_and_last_slices_of_real_volumes_are_seen_but_for_the_foreground_as_often_as_others(name, spacing, step):
    np.random.seed(0)
    real, share = RealCases(name, spacing, step), 0.33
    assert abs(ends_by_others(ClipLoader, real, 0.0, slice_axis=0) - 1) < 0.1
    assert ends_by_others(nnUNetDataLoader, real, 0.0) < 0.5
    # windows around the foreground lie where that is, which may be in no end; the others know nothing of it
    assert ends_by_others(ClipLoader, real, share, slice_axis=0) > 0.85 * (1 - share)


def test_a_window_around_a_voxel_holds_it():
    np.random.seed(0)
    for depth, length in ((12, 4), (2, 5), (1, 1)):
        made = loader(depth, length)
        for z in range(depth):
            for _ in range(50):
                lower, upper = made.get_bbox((depth, 12, 12), True, {1: np.array([[0, z, 5, 6]])})
                assert lower[0] <= z < upper[0]


def test_batches_know_the_distance_of_slices_and_padding_is_zero_after_augmentation():
    np.random.seed(0)
    torch.manual_seed(0)
    transforms = nnUNetTrainer.get_training_transforms((4, 8, 8), (0.0, 0.0), None, (0, 1, 2), True)
    blank_padding(transforms)
    made, padding = loader(5, 4, transforms=transforms), 0
    for _ in range(60):
        batch = made.generate_train_batch()
        assert batch[GAP].tolist() == [7.0] * 6
        # the volume has label 1 in all voxels, so slices without it lie outside
        outside = ~(batch["target"] == 1).flatten(3).any(3).any(1)
        assert torch.equal((batch["data"] == 0).flatten(3).all(3).all(1), outside)
        padding += int(outside.sum())
    assert padding > 100


class Numbered(Cases):
    """Two volumes; every slice has a grey value of its own, as its label too, and a and b share none."""

    identifiers = ("a", "b")

    def load_case(self, identifier):
        depth = self.shape[0]
        values = (1 + np.arange(depth) + depth * self.identifiers.index(identifier))[:, None, None]
        image = np.broadcast_to(values, self.shape)[None]
        return image.astype(np.float32), image.astype(np.int16), None, self.properties


class Several:
    """Transforms that give two targets, as those of deep supervision do."""

    def __call__(self, image, segmentation):
        return {"image": image, "segmentation": [segmentation, segmentation[..., ::2, ::2]]}


def mixed(share, clips=6, transforms=None):
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    size = (4, 8, 8)
    return ClipLoader(
        Numbered(20), clips, size, size, labels, 0.33, transforms=transforms, slice_axis=1, single_slices=share
    )


def slices_of(data):
    """The grey value of each slice of each clip; 0 outside of the volume."""
    assert (data.amax((1, 3, 4)) == data.amin((1, 3, 4))).all()
    return data[:, 0, :, 0, 0]


def test_half_of_a_batch_may_be_single_slices_from_anywhere():
    np.random.seed(0)
    made, alike, known = mixed(0.5), 0, np.zeros(41)
    for _ in range(50):
        batch = made.generate_train_batch()
        assert batch[SINGLE].tolist() == [False] * 3 + [True] * 3
        assert batch["data"].shape == batch["target"].shape == (6, 1, 4, 8, 8)
        assert torch.equal(batch["data"] * (batch["target"] > 0), batch["target"].clamp(min=0).float())
        assert batch[GAP].tolist() == [7.0] * 6
        assert len(batch["keys"]) == 6
        values = slices_of(batch["data"])
        for clip in values[:3].tolist():
            inside = [value for value in clip if value]
            assert inside == list(range(int(inside[0]), int(inside[0]) + len(inside)))
        assert (values[3:] > 0).all()
        alike += int((values[3:].diff(dim=1) == 1).sum())
        np.add.at(known, values[3:].int().flatten().numpy(), 1)
    assert alike < 0.1 * 50 * 9
    assert (known[1:] > 0).all()


def test_single_slices_are_as_many_as_asked_for_on_average_and_have_all_targets():
    np.random.seed(0)
    made = mixed(0.25, clips=2, transforms=Several())
    batches = [made.generate_train_batch() for _ in range(400)]
    assert abs(np.mean([batch[SINGLE].float().mean().item() for batch in batches]) - 0.25) < 0.03
    for batch in batches:
        assert [tuple(one.shape) for one in batch["target"]] == [(2, 1, 4, 8, 8), (2, 1, 4, 4, 4)]
        assert torch.equal(batch["target"][0][..., ::2, ::2], batch["target"][1])
    assert {tuple(batch[SINGLE].tolist()) for batch in batches} == {(False, False), (False, True)}
    assert all(batch[SINGLE].all() for batch in [mixed(1.0).generate_train_batch()])


def test_only_the_loader_of_the_training_has_single_slices():
    with clip_loaders(1, 0.5):
        build = getattr(trainer_module, SEAM)
        labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
        made = [build(Numbered(20), 4, (4, 8, 8), (4, 8, 8), labels) for _ in range(2)]
    assert [one.single_slices for one in made] == [0.5, 0.0]


def test_a_moved_seam_of_nnunet_is_said():
    stock = getattr(trainer_module, SEAM)
    with pytest.raises(RuntimeError, match="built 0 loaders"), clip_loaders(0):
        pass
    assert getattr(trainer_module, SEAM) is stock
    with pytest.raises(RuntimeError, match="in 0 places"):
        blank_padding(ComposeTransforms([]))
