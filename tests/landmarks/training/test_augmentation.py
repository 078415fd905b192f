"""Points move as voxels do, in nnU-Net's own augmentation."""

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy.ndimage import map_coordinates

from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.mirroring import Mirroring
from nnunet_ext.landmarks.training.augmentation import follow, with_keypoints

MOVING = {
    "p_rotation": 1,
    "rotation": (-0.6, 0.6),
    "p_scaling": 1,
    "scaling": (0.7, 1.4),
    "p_synchronize_scaling_across_axes": 0.5,
}
CASES = {  # shape of the image, of the patch, dummy 2D
    "2d": ((46, 51), (40, 37), False),
    "3d": ((40, 43, 38), (32, 34, 36), False),
    "dummy 2d": ((10, 46, 51), (10, 40, 37), True),
}


def seed_all(seed: int) -> np.random.Generator:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def blobs(points: np.ndarray, shape: tuple[int, ...], sigma: float = 1.5) -> torch.Tensor:
    """One channel for each point."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return torch.tensor(np.stack([np.exp(-((grid - p) ** 2).sum(-1) / (2 * sigma**2)) for p in points])).float()


def centroids(channels: torch.Tensor) -> np.ndarray:
    return np.array([[(c * axis).sum() / c.sum() for axis in np.indices(c.shape)] for c in channels.double().numpy()])


def moving(patch: tuple[int, ...], dummy: bool, **more) -> ComposeTransforms:
    plane = patch[1:] if dummy else patch
    options = {"patch_center_dist_from_border": 0, "random_crop": False, **MOVING, **more}
    steps = [SpatialTransform(plane, **options)]
    if dummy:
        steps = [Convert3DTo2DTransform(), *steps, Convert2DTo3DTransform()]
    return ComposeTransforms([*steps, MirrorTransform(tuple(range(len(patch))))])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "options", [{}, {"p_scaling": 0}, {"p_rotation": 0, "p_scaling": 0}, {"align_corners": True}], ids=str
)
def test_points_are_where_blobs_are(case, options):
    shape, patch, dummy = CASES[case]
    errors = []
    for seed in range(6):
        points = np.array(shape) / 2 + seed_all(seed).uniform(-4, 4, (3, len(shape))) * ([0.2, 1, 1] if dummy else 1)
        image = blobs(points, shape)
        if dummy:  # narrow in the axis that stays, so that it ends inside of the image
            image = blobs(points * (3, 1, 1), (30, *shape[1:]))[:, ::3]
        found = with_keypoints(moving(patch, dummy, **options))(image=image, keypoints=torch.tensor(points).float())
        errors += [np.linalg.norm(centroids(found["image"]) - found["keypoints"].numpy(), axis=1)]
    assert np.mean(errors) <= 0.02
    assert np.max(errors) <= 0.06


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("case", ["2d", "3d"])
def test_points_follow_a_random_crop(case, turned):
    shape, patch, _ = CASES[case]
    patch = tuple(size - 8 for size in patch)
    for seed in range(4):
        points = np.array(shape) / 2 + seed_all(seed).uniform(-2, 2, (3, len(shape)))
        crop = moving(
            patch, False, random_crop=True, patch_center_dist_from_border=18, p_rotation=turned, p_scaling=turned
        )
        found = with_keypoints(crop)(image=blobs(points, shape), keypoints=torch.tensor(points).float())
        near = (np.abs(found["keypoints"].numpy() - np.array(patch) / 2) < np.array(patch) / 2 - 7).all(1)
        error = np.abs(centroids(found["image"][near]) - found["keypoints"].numpy()[near])
        assert error.max(initial=0) <= 0.06


@pytest.mark.parametrize("case", CASES)
def test_points_follow_an_elastic_deformation(case):
    shape, patch, dummy = CASES[case]
    # each voxel holds its own index, so the new image says where it was taken from
    image = torch.tensor(np.indices(shape)).float()
    for seed in range(4):
        points = np.array(shape) / 2 + seed_all(seed).uniform(-4, 4, (5, len(shape)))
        points[4] = np.nan
        deform = moving(
            patch, dummy, p_elastic_deform=1, elastic_deform_scale=(0.15, 0.3), elastic_deform_magnitude=(2.0, 4.0)
        )
        found = with_keypoints(deform)(image=image, keypoints=torch.tensor(points).float())
        moved = found["keypoints"].double().numpy()
        assert np.isnan(moved[4]).all()
        assert np.isfinite(moved[:4]).all()
        taken_from = np.stack([map_coordinates(c.numpy(), moved[:4].T, order=1) for c in found["image"]], 1)
        np.testing.assert_allclose(taken_from, points[:4], rtol=0, atol=0.02)


def test_a_point_outside_of_the_patch_stays_outside_of_it_and_at_its_distance():
    np.random.seed(0)
    only_turned = moving((20, 20), False, p_scaling=0)
    points = torch.tensor([[2.0, 3.0], [38.0, 1.0], [19.5, 19.5]])
    found = with_keypoints(only_turned)(image=torch.zeros(1, 40, 40), keypoints=points)["keypoints"]
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(points, points), rtol=0, atol=1e-3)
    torch.testing.assert_close(found[2], torch.tensor([9.5, 9.5]), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("size", "dummy"), [((24, 24), False), ((16, 16, 16), False), ((6, 24, 24), True)])
def test_image_and_segmentation_are_bit_for_bit_those_of_stock_nnunet(size, dummy):
    dim = len(size)
    stock = nnUNetTrainer.get_training_transforms(
        size,
        (-0.5, 0.5),
        [[1.0] * dim, [0.5] * dim],
        tuple(range(dim)),
        dummy,
        use_mask_for_norm=[True],
        is_cascaded=True,
        foreground_labels=[1, 2],
        ignore_label=3,
    )
    ours = with_keypoints(stock, Mirroring(tuple(range(dim)), {0: (1, 0)}))
    bigger = (size[0], *(n + 6 for n in size[1:])) if dummy else tuple(n + 6 for n in size)
    moved = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        image = torch.tensor(rng.normal(size=(1, *bigger))).float()
        labels = torch.tensor(rng.integers(-1, 3, (2, *bigger))).short()
        points = torch.tensor(rng.uniform(4, 12, (2, dim))).float()
        seed_all(seed)
        # a copy for every call: nnU-Net's transforms of a cascade shuffle a list that they keep
        expected = deepcopy(stock)(image=image.clone(), segmentation=labels.clone())
        seed_all(seed)
        found = deepcopy(ours)(image=image.clone(), segmentation=labels.clone(), keypoints=points)
        seed_all(seed)
        without = deepcopy(ours)(image=image.clone(), segmentation=labels.clone())
        assert torch.equal(found["image"], expected["image"])
        assert torch.equal(without["image"], expected["image"])
        assert set(found) == {"image", "segmentation", "keypoints"}
        assert set(without) == {"image", "segmentation"}
        for a, b in zip(found["segmentation"], expected["segmentation"], strict=True):
            assert torch.equal(a, b)
        moved += not torch.equal(found["keypoints"], points)
    assert moved


def test_after_a_flip_left_is_left_again():
    pair = Mirroring((0, 1), {1: (1, 0, 2)})
    flip = with_keypoints(MirrorTransform((0, 1)), pair)
    image = torch.arange(20.0).reshape(1, 4, 5)
    points = torch.tensor([[1.0, 0.0], [2.0, 4.0], [0.0, 2.0]])
    states = torch.tensor([[1], [-1], [0]], dtype=torch.int8)
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        found = flip(image=image, keypoints=points, keypoint_states=states)
        exchanged = found["image"][0, 0, 0] % 5 == 4
        order = [1, 0, 2] if exchanged else [0, 1, 2]
        values = [found["image"][0, y, x].item() for y, x in found["keypoints"].long().tolist()]
        assert values == [image[0, y, x].item() for y, x in points[order].long().tolist()]
        assert torch.equal(found["keypoint_states"], states[order])
        # the left one is left of the right one, before and after
        assert found["keypoints"][0, 1] < found["keypoints"][1, 1]
        seen.add(found["image"][0, 0, 0].item())
    assert len(seen) == 4


@pytest.mark.parametrize(
    "wrap",
    [lambda t: t, lambda t: RandomTransform(t, 0.1), lambda t: OneOfTransform([t, t])],
    ids=["alone", "at random", "one of"],
)
def test_what_is_not_known_to_move_points_is_refused(wrap):
    unknown = ComposeTransforms([MirrorTransform((0,)), wrap(Rot90Transform(1))])
    with pytest.raises(InputError, match="Rot90Transform"):
        with_keypoints(unknown)


# --- inverting a sampling grid ----------------------------------------------------------------------------------------


def grid_of(shape: tuple[int, ...], old: tuple[int, ...], matrix: np.ndarray, shift: np.ndarray, aligned: bool):
    """Sampling positions of ``old index = matrix @ index + shift``, in the units of ``grid_sample``."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ matrix.T + shift
    size = np.array(old)
    unit = 2 * index / (size - 1) - 1 if aligned else (2 * index + 1) / size - 1
    return unit[..., ::-1]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([2, 3]), st.booleans())
def test_an_affine_map_is_inverted_inside_and_outside_of_the_patch(seed, dim, aligned):
    rng = np.random.default_rng(seed)
    shape, old = tuple(rng.integers(3, 9, dim)), tuple(rng.integers(3, 12, dim))
    matrix = np.eye(dim) + rng.uniform(-0.3, 0.3, (dim, dim))
    shift, points = rng.uniform(-5, 5, dim), rng.uniform(-20, 20, (4, dim))
    grid = grid_of(shape, old, matrix, shift, aligned)
    found = follow(points, grid, old, matrix, aligned)
    np.testing.assert_allclose(found, (points - shift) @ np.linalg.inv(matrix).T, rtol=0, atol=1e-6)


def test_a_rough_guess_of_the_affine_part_is_enough():
    true = np.array([[0.9, 0.2], [-0.2, 1.1]])
    grid = grid_of((30, 30), (30, 30), true, np.zeros(2), False)
    found = follow([[12.0, 14.0]], grid, (30, 30), np.eye(2), False)
    np.testing.assert_allclose(found @ true.T, [[12, 14]], rtol=0, atol=0.01)


def test_where_space_is_folded_there_is_no_answer():
    # one column of voxels is taken from far away on the other side
    grid = grid_of((9, 9), (9, 9), np.eye(2), np.zeros(2), False)
    grid[:, 4:6, 0] *= -8
    grid[:, 3, 0] += 1.5
    found = follow([[4.0, 3.9], [4.0, 1.0], [np.nan, 1.0]], grid, (9, 9), np.eye(2), False)
    np.testing.assert_allclose(found[1], [4, 1], rtol=0, atol=1e-3)
    assert np.isnan(found[[0, 2]]).all()


def test_an_axis_of_one_voxel_and_no_points():
    grid = grid_of((1, 6), (3, 6), np.eye(2), np.array([1.0, 0.0]), False)
    np.testing.assert_allclose(follow([[2.0, 3.5]], grid, (3, 6), np.eye(2), False), [[1.0, 3.5]], rtol=0, atol=1e-6)
    assert follow(np.zeros((0, 2)), grid, (3, 6), np.eye(2), False).shape == (0, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_precision_is_that_of_the_grid(dtype):
    grid = grid_of((64, 64), (512, 512), np.eye(2), np.array([300.0, 100.0]), False).astype(dtype)
    found = follow([[331.25, 131.5]], grid, (512, 512), np.eye(2), False)
    np.testing.assert_allclose(found, [[31.25, 31.5]], rtol=0, atol=1e-3)
