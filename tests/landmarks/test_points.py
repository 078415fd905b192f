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
