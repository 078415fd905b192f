"""mm ↔ voxels, against what the images themselves say, for every reader, oblique directions and 2D."""

from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from scipy.spatial.transform import Rotation

from nnunet_ext.data.geometry import Geometry, inside, to_lps
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError

READERS_3D = ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient")
SHAPE = (4, 5, 6)  # z, y, x

angles = st.tuples(*[st.floats(-180, 180, allow_subnormal=False)] * 3)
spacings = st.tuples(*[st.floats(0.1, 5)] * 3)
origins = st.tuples(*[st.floats(-500, 500)] * 3)
axes = st.permutations([0, 1, 2])
signs = st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)


def write(path: Path, spacing, origin, direction, voxel) -> None:
    """An image with one bright voxel ``(z, y, x)``."""
    array = np.zeros(SHAPE, np.float32)
    array[voxel] = 1
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(np.asarray(direction).ravel())
    sitk.WriteImage(image, str(path))


@settings(max_examples=15, deadline=None)
@given(angles, spacings, origins, axes, signs, st.data())
def test_a_voxel_is_where_simpleitk_says_for_every_reader_and_direction(angle, spacing, origin, order, sign, data):
    direction = Rotation.from_euler("xyz", angle, degrees=True).as_matrix() @ (np.eye(3)[order] * sign)
    voxel = tuple(data.draw(st.integers(0, n - 1)) for n in SHAPE)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "image.nii.gz"
        write(file, spacing, origin, direction, voxel)
        # what the file holds: its header has single precision
        truth = np.array(sitk.ReadImage(str(file)).TransformIndexToPhysicalPoint(voxel[::-1]))
        for name in READERS_3D:
            array, properties = recursive_find_reader_writer_by_name(name)().read_images([str(file)])
            index = np.argwhere(array[0] == 1)[0]  # in the array that a reader delivers, reoriented or not
            geometry = Geometry.from_properties(properties)
            tolerance = 1e-3
            np.testing.assert_allclose(geometry.to_mm(index), truth, rtol=0, atol=tolerance)
            np.testing.assert_allclose(geometry.to_index(truth), index, rtol=0, atol=tolerance / min(spacing))
            np.testing.assert_allclose(geometry.spacing_mm, properties["spacing"], rtol=1e-4)
            there_and_back = geometry.to_mm(geometry.to_index(truth + 0.37))
            np.testing.assert_allclose(there_and_back, truth + 0.37, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", READERS_3D)
def test_our_reader_gives_the_same_geometry_as_the_properties(tmp_path, name):
    direction = Rotation.from_euler("xyz", (20, -30, 130), degrees=True).as_matrix()
    write(tmp_path / "image.nii.gz", (0.5, 1.5, 3.0), (3.0, -40.0, 70.0), direction, (1, 2, 3))
    _, properties = recursive_find_reader_writer_by_name(name)().read_images([str(tmp_path / "image.nii.gz")])
    ours = Geometry.from_volume(Reader(name).image(tmp_path / "image.nii.gz"))
    theirs = Geometry.from_properties(properties)
    np.testing.assert_array_equal(ours.matrix, theirs.matrix)
    np.testing.assert_array_equal(ours.origin_mm, theirs.origin_mm)


def test_a_sheared_affine_is_followed_to_the_letter(tmp_path):
    affine = np.array([[1.0, 0.2, 0, 5], [0, 2.0, 0.3, -7], [0, 0, 1.5, 11], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE[::-1], np.float32), affine), tmp_path / "image.nii.gz")
    _, properties = recursive_find_reader_writer_by_name("NibabelIO")().read_images([str(tmp_path / "image.nii.gz")])
    ijk = np.array([3.0, 1.0, 2.0])
    ras = nibabel.affines.apply_affine(affine, ijk)
    np.testing.assert_allclose(Geometry.from_properties(properties).to_mm(ijk[::-1]), to_lps(ras, "RAS"), atol=1e-5)


def test_a_2d_image_is_one_slice(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((5, 6), np.float32))
    image.SetSpacing((0.5, 2.0))
    image.SetOrigin((10.0, -20.0))
    image.SetDirection((0.0, -1.0, 1.0, 0.0))
    sitk.WriteImage(image, str(tmp_path / "image.mha"))
    volume = Reader("SimpleITKIO").image(tmp_path / "image.mha")
    _, properties = recursive_find_reader_writer_by_name("SimpleITKIO")().read_images([str(tmp_path / "image.mha")])
    truth = [*image.TransformIndexToPhysicalPoint((4, 3)), 0.0]
    for geometry in (Geometry.from_volume(volume), Geometry.from_properties(properties)):
        np.testing.assert_allclose(geometry.to_mm((0, 3, 4)), truth)
        np.testing.assert_allclose(geometry.to_index(truth), (0, 3, 4), atol=1e-9)


def test_formats_without_geometry_count_pixels():
    png = Geometry.from_properties({"spacing": (999, 1, 1)})
    np.testing.assert_allclose(png.to_mm((0, 3, 4)), (4, 3, 0))
    tif = Geometry.from_properties({"spacing": (3.0, 0.5, 0.25)})
    np.testing.assert_allclose(tif.to_mm((1, 2, 4)), (1, 1, 3))


def test_points_that_are_unknown_stay_unknown():
    assert np.isnan(Geometry.from_properties({"spacing": (1, 1, 1)}).to_index([np.nan] * 3)).all()


def test_a_header_that_spans_no_space_is_refused():
    with pytest.raises(InputError, match="span no space"):
        Geometry.from_properties({"spacing": (1.0, 0.0, 1.0)})


def test_inside_counts_whole_voxels():
    found = inside([(-0.5, 0, 0), (-0.6, 0, 0), (3.5, 4.5, 5.5), (3, 4, 5.6), (np.nan, 0, 0)], SHAPE)
    assert found.tolist() == [True, False, True, False, False]
