"""The landmarks of one case in voxels of the preprocessed array."""

import numpy as np
from scipy.spatial.transform import Rotation

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.data.preprocessed import PreprocessedGrid
from nnunet_ext.landmarks.points import ABSENT, Keypoints, State, present


def test_keypoints_in_the_order_of_the_names_and_unknown_outside_of_the_crop():
    oblique = Geometry(Rotation.from_euler("xyz", (25, -15, 40), degrees=True).as_matrix(), np.array((5.0, -60, 33)))
    grid = PreprocessedGrid(oblique, transpose=(0, 1, 2), start=(2, 0, 0), cropped=(8, 10, 10), shape=(8, 10, 10))
    in_crop, cut_off = (tuple(grid.geometry.to_mm(index)) for index in ((5, 4, 3), (1, 4, 3)))
    found = Keypoints.of({"a": present(cut_off), "b": present(in_crop), "c": ABSENT}, ["c", "b", "nobody", "a"], grid)
    assert found.states.tolist() == [State.ABSENT, State.PRESENT, State.UNKNOWN, State.UNKNOWN]
    assert found.outside == ("a",)
    np.testing.assert_allclose(found.voxels[1], (3, 4, 3), atol=1e-5)
    assert np.isnan(found.voxels[[0, 2, 3]]).all()
    assert (found.voxels.dtype, found.states.dtype) == (np.float32, np.int8)


def test_a_landmark_on_the_face_of_the_crop_stays_in_spite_of_rounding():
    rng = np.random.default_rng(0)
    oblique = Geometry(Rotation.random(random_state=1).as_matrix() * (0.7, 1.3, 0.9), np.array((5.0, -60, 33)))
    grid = PreprocessedGrid(oblique, transpose=(2, 0, 1), start=(2, 3, 1), cropped=(8, 10, 10), shape=(7, 12, 10))
    faces = rng.uniform(-0.5, np.array(grid.shape) - 0.5, (60, 3))
    axis = rng.integers(0, 3, 60)
    faces[np.arange(60), axis] = np.where(rng.random(60) < 0.5, -0.5, np.array(grid.shape)[axis] - 0.5)
    names = [str(number) for number in range(60)]
    written = np.round(grid.to_mm(faces), 6)  # as files have them
    found = Keypoints.of(dict(zip(names, map(present, map(tuple, written)), strict=True)), names, grid)
    assert found.outside == ()
    np.testing.assert_allclose(found.voxels, faces, atol=1e-4)
    assert (found.voxels >= -0.5).all()
    assert (found.voxels <= np.array(grid.shape) - 0.5).all()
