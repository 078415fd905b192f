"""mm ↔ preprocessed voxels, against where nnU-Net's own preprocessing puts a blob."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.spatial.transform import Rotation

from nnunet_ext.data.geometry import Geometry
from nnunet_ext.data.preprocessed import PreprocessedGrid
from nnunet_ext.errors import InputError
from tests import tiny

DIRECTION = Rotation.from_euler("xyz", (25, -15, 40), degrees=True).as_matrix()


def read(spacing_zyx: tuple[float, ...]) -> dict:
    """The properties of an oblique image, as SimpleITKIO gives them."""
    stuff = {"spacing": spacing_zyx[::-1], "origin": (5.0, -60.0, 33.0), "direction": tuple(DIRECTION.ravel())}
    return {"sitk_stuff": stuff, "spacing": list(spacing_zyx)}


def blob(shape: tuple[int, ...], centre: np.ndarray, sigma: tuple[float, ...]) -> np.ndarray:
    """A Gaussian around a continuous index."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return np.exp(-(((grid - centre) / np.asarray(sigma)) ** 2).sum(-1) / 2)


def centroid(array: np.ndarray) -> np.ndarray:
    """Centre of the upper part of a blob, as a continuous index."""
    weights = np.clip(array - 0.02 * array.max(), 0, None)
    return np.array([(weights * axis).sum() / weights.sum() for axis in np.indices(array.shape)])


def preprocess(image: np.ndarray, properties: dict, plans: dict, configuration: str = "3d_fullres"):
    """nnU-Net's own preprocessing; ``NoNormalization`` keeps the zeros."""
    manager = PlansManager(plans)
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        image[None].astype(np.float32),
        None,
        properties,
        manager,
        manager.get_configuration(configuration),
        tiny.dataset_json(),
    )
    return data[0], properties


def planned(spacing: tuple[float, ...], transpose: tuple[int, ...], dim: int = 3, order: int = 3) -> dict:
    configuration = {**tiny.configuration(dim), "spacing": list(spacing), "normalization_schemes": ["NoNormalization"]}
    configuration["resampling_fn_data_kwargs"] = {
        "is_seg": False,
        "order": order,
        "order_z": 0,
        "force_separate_z": False,
    }
    name = "2d" if dim == 2 else "3d_fullres"
    return {**tiny.plans(**{name: configuration}), "transpose_forward": list(transpose)}


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("target", [(1.0, 1.0, 1.0), (1.7, 0.8, 1.2), (0.6, 1.3, 0.9)])
def test_a_blob_is_where_nnunet_puts_it(transpose, target):
    spacing = (1.1, 0.9, 1.3)
    shape, centre = (34, 37, 31), np.array([15.3, 20.8, 13.4])
    image = np.zeros(shape)
    # zeros around a box: nnU-Net crops to it
    box = (slice(3, 30), slice(4, 37), slice(2, 29))
    image[box] = 1e-3 + blob(shape, centre, (3, 3, 3))[box]
    properties = read(spacing)
    data, properties = preprocess(image, properties, planned(target, transpose))
    assert properties["bbox_used_for_cropping"][transpose.index(0)][0] == 3
    grid = PreprocessedGrid.from_properties(properties, {"transpose_forward": transpose}, data.shape)
    point = Geometry.from_properties(properties).to_mm(centre)
    np.testing.assert_allclose(grid.to_voxels(point), centroid(data - 1e-3), rtol=0, atol=0.02)
    np.testing.assert_allclose(grid.to_mm(grid.to_voxels(point)), point, rtol=0, atol=1e-3)


def test_slices_of_a_2d_configuration_stay_where_they_are():
    shape, centre = (9, 40, 36), np.array([4.0, 18.7, 17.2])
    properties = read((5.0, 0.8, 1.1))
    image = 1e-3 + blob(shape, centre, (1.5, 3, 3))
    data, properties = preprocess(image, properties, planned((1.0, 0.7), (0, 1, 2), dim=2), "2d")
    grid = PreprocessedGrid.from_properties(properties, {"transpose_forward": (0, 1, 2)}, data.shape)
    found = grid.to_voxels(Geometry.from_properties(properties).to_mm(centre))
    np.testing.assert_allclose(found, centroid(data - 1e-3), rtol=0, atol=0.02)
    assert found[0] == pytest.approx(4)


sizes = st.tuples(*[st.integers(1, 300)] * 3)


@settings(deadline=None)
@given(
    st.permutations([0, 1, 2]),
    sizes,
    sizes,
    st.tuples(*[st.integers(0, 50)] * 3),
    st.tuples(*[st.floats(0.1, 5)] * 3),
    st.tuples(*[st.floats(-300, 300)] * 3),
)
def test_there_and_back_is_the_same_point(transpose, cropped, shape, start, spacing, point):
    properties = {
        **read(spacing),
        "bbox_used_for_cropping": [[lower, lower + n] for lower, n in zip(start, cropped, strict=True)],
        "shape_after_cropping_and_before_resampling": cropped,
    }
    grid = PreprocessedGrid.from_properties(properties, {"transpose_forward": transpose}, shape)
    np.testing.assert_allclose(grid.to_mm(grid.to_voxels(point)), point, rtol=0, atol=1e-3)


def test_properties_that_were_not_preprocessed_are_refused():
    with pytest.raises(InputError, match="bbox_used_for_cropping"):
        PreprocessedGrid.from_properties(read((1.0, 1.0, 1.0)), {"transpose_forward": (0, 1, 2)}, (8, 10, 10))
