"""Label maps and images from files: one value per voxel, whole files, nnU-Net's numbers."""

import gzip
import json
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from PIL import Image

from nnunet_ext.cli import main
from nnunet_ext.data.headers import require_whole
from nnunet_ext.data.reading import Reader
from nnunet_ext.errors import InputError

ARRAY = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)  # z, y, x


def nifti(path: Path, array: np.ndarray = ARRAY) -> Path:
    nibabel.save(nibabel.Nifti1Image(array.T, np.diag([0.5, 1.5, 3, 1])), path)
    return path


def itk(path: Path, array: np.ndarray = ARRAY, *, vector: bool = False, compress: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path), compress)
    return path


def picture(path: Path, mode: str, **options: object) -> Path:
    Image.fromarray(ARRAY[0]).convert(mode).save(path, **options)
    return path


def palette(path: Path) -> Path:
    image = Image.fromarray(ARRAY[0]).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(path)
    return path


def pages(path: Path, array: np.ndarray = ARRAY, **options: object) -> Path:
    tifffile.imwrite(path, array, **options)
    return path


# file: how it is written, the reader, and what the sentence must say
SEVERAL = {
    "frames.nii.gz": (lambda p: nifti(p, np.stack([ARRAY] * 2)), "SimpleITKIO", "holds 2 frames"),
    "frames.nii": (lambda p: nifti(p, np.stack([ARRAY] * 2)), "NibabelIO", "holds 2 frames"),
    "five.nii.gz": (lambda p: nifti(p, np.stack([ARRAY] * 3)[:, None]), "SimpleITKIO", "holds 3 frames"),
    "frames.nrrd": (lambda p: itk(p, np.stack([ARRAY] * 3)), "SimpleITKIO", "holds 3 frames"),
    "layers.nrrd": (lambda p: itk(p, np.stack([ARRAY] * 2, -1), vector=True), "SimpleITKIO", "holds 2 layers"),
    "layers.mha": (lambda p: itk(p, np.stack([ARRAY] * 4, -1), vector=True), "SimpleITKIO", "holds 4 layers"),
    "flat.nrrd": (lambda p: itk(p, np.stack([ARRAY[0]] * 3, -1), vector=True), "SimpleITKIO", "holds 3 layers"),
    "complex.nrrd": (lambda p: itk(p, ARRAY.astype(np.complex64)), "SimpleITKIO", "complex numbers"),
    "rgb.png": (lambda p: picture(p, "RGB"), "NaturalImage2DIO", "holds 3 colours"),
    "rgba.png": (lambda p: picture(p, "RGBA"), "NaturalImage2DIO", "holds 4 colours"),
    "alpha.png": (lambda p: picture(p, "LA"), "NaturalImage2DIO", "holds 2 colours"),
    "palette.png": (palette, "NaturalImage2DIO", "colours of a palette"),
    "grey_palette.png": (lambda p: picture(p, "P"), "NaturalImage2DIO", "colours of a palette"),
    "palette.bmp": (palette, "NaturalImage2DIO", "colours of a palette"),
    "animated.png": (
        lambda p: picture(p, "L", save_all=True, append_images=[Image.fromarray(ARRAY[1])]),
        "NaturalImage2DIO",
        "holds 2 frames",
    ),
    "rgb.tif": (lambda p: picture(p, "RGB"), "NaturalImage2DIO", "holds 3 colours"),
    "rgb_as_volume.tif": (lambda p: picture(p, "RGB"), "Tiff3DIO", "holds 3 colours"),
    "pages.tif": (lambda p: pages(p, ARRAY, photometric="minisblack"), "NaturalImage2DIO", "holds 5 pages"),
    "four_pages.tif": (lambda p: pages(p, ARRAY[:4]), "NaturalImage2DIO", "holds 4"),
    "channels.tif": (lambda p: pages(p, imagej=True, metadata={"axes": "CYX"}), "Tiff3DIO", "its axes are CYX"),
    "times.tif": (lambda p: pages(p, imagej=True, metadata={"axes": "TYX"}), "Tiff3DIO", "its axes are TYX"),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_a_label_map_with_more_than_one_value_per_voxel_is_refused_with_what_to_export(tmp_path, name):
    write, reader, said = SEVERAL[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name} holds .*, but a label map has one value per voxel; \w+") as error:
        Reader(reader).labels(tmp_path / name)
    assert said in str(error.value)


ONE = {
    "one_frame.nii.gz": (lambda p: nifti(p, ARRAY[None]), "SimpleITKIO"),
    "volume.nii": (nifti, "NibabelIO"),
    "volume.nrrd": (itk, "SimpleITKIO"),
    "packed.nrrd": (lambda p: itk(p, compress=True), "SimpleITKIO"),
    "packed.mha": (lambda p: itk(p, compress=True), "SimpleITKIO"),
    "volume.gipl": (itk, "SimpleITKIO"),
    "grey.png": (lambda p: picture(p, "L"), "NaturalImage2DIO"),
    "black_and_white.png": (lambda p: Image.fromarray(ARRAY[0] > 0).save(p), "NaturalImage2DIO"),
    "grey.bmp": (lambda p: picture(p, "L"), "NaturalImage2DIO"),
    "grey.tif": (lambda p: picture(p, "L"), "NaturalImage2DIO"),
    "stack.tif": (pages, "Tiff3DIO"),
    "imagej.tif": (lambda p: pages(p, imagej=True, metadata={"axes": "ZYX"}), "Tiff3DIO"),
    "four_slices.tif": (lambda p: pages(p, ARRAY[:4], compression="zlib"), "Tiff3DIO"),  # as nnU-Net writes them
}


@pytest.mark.parametrize("name", ONE)
def test_a_label_map_has_the_numbers_that_nnunet_reads(tmp_path, name):
    write, reader = ONE[name]
    write(tmp_path / name)
    theirs = recursive_find_reader_writer_by_name(reader)().read_seg(str(tmp_path / name))[0][0]
    ours = Reader(reader).labels(tmp_path / name)
    np.testing.assert_array_equal(ours.array, theirs.reshape(ours.array.shape))
    assert ours.array.any()


@pytest.mark.parametrize("name", [name for name in ONE if not name.endswith(("png", "bmp"))])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_is_cut_off_is_refused_in_whatever_format(tmp_path, name, share):
    write, reader = ONE[name]
    write(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=f"{name} .*not complete"):
        Reader(reader).labels(tmp_path / name)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_the_gzip_of_half_a_nifti_is_refused_in_every_command(tmp_path, ending, capsys):
    for folder in ("gt", "pred"):
        (tmp_path / folder).mkdir()
        file = nifti(tmp_path / folder / "case.nii")
        half = file.read_bytes()[: 352 + ARRAY.size // 2]
        content = half if folder == "pred" else file.read_bytes()
        file.unlink()
        (tmp_path / folder / f"case{ending}").write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    command = ["evaluate", str(tmp_path / "gt"), str(tmp_path / "pred"), "--labels", "a=1", "--processes", "1"]
    assert main(command) == 2
    assert f"case{ending} is not complete: its header claims 210 bytes" in capsys.readouterr().err


@pytest.mark.parametrize("size", [32767, 0, -5])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_with_absurd_sizes_is_refused_before_memory_is_asked_for(tmp_path, size, ending):
    file = nifti(tmp_path / "case.nii")
    content = bytearray(file.read_bytes())
    content[42:48] = struct.pack("<3h", size, size, size)
    path = tmp_path / f"absurd{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    with pytest.raises(InputError, match=r"absurd.* claims"):
        require_whole(path)


def test_more_bytes_than_the_header_claims_are_passed_over_as_nnunet_does(tmp_path):
    file = nifti(tmp_path / "case.nii")
    file.write_bytes(file.read_bytes() + b"\0" * 100)
    np.testing.assert_array_equal(Reader("NibabelIO").labels(file).array, ARRAY)


def test_numbers_that_single_precision_rounds_are_no_labels(tmp_path):
    file = itk(tmp_path / "ids.nrrd", np.full((2, 3, 4), 2**24 + 1, np.uint32))
    with pytest.raises(InputError, match=r"ids\.nrrd: 24 voxels hold no whole number"):
        Reader("SimpleITKIO").labels(file)


def test_an_image_whose_channels_lie_in_its_voxels_is_refused(tmp_path):
    file = itk(tmp_path / "rgb.nrrd", np.stack([ARRAY] * 3, -1), vector=True)
    with pytest.raises(InputError, match=r"rgb\.nrrd holds 3 layers .* one file per channel"):
        Reader("SimpleITKIO").image(file)


def test_a_4d_image_lies_where_its_3d_label_map_lies(tmp_path):
    from nnunet_ext.data.geometry import Geometry
    from nnunet_ext.data.reading import require_same_geometry

    image = Reader("SimpleITKIO").image(nifti(tmp_path / "image.nii.gz", np.stack([ARRAY] * 2)))
    labels = Reader("SimpleITKIO").labels(nifti(tmp_path / "labels.nii.gz"))
    require_same_geometry("case", labels, image)
    np.testing.assert_array_equal(Geometry.from_volume(image).matrix, Geometry.from_volume(labels).matrix)


def test_hidden_files_are_no_cases(tmp_path, capsys):
    for folder in ("gt", "pred"):
        (tmp_path / folder).mkdir()
        nifti(tmp_path / folder / "case.nii.gz")
        (tmp_path / folder / "._case.nii.gz").write_bytes(b"Mac OS X")
        (tmp_path / folder / ".DS_Store").write_bytes(b"Bud1")
    content = {"labels": {"background": "0", "a": 1.0, "b": "2"}, "file_ending": ".nii.gz"}
    (tmp_path / "gt" / "dataset.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    command = ["evaluate", str(tmp_path / "gt"), str(tmp_path / "pred"), "--processes", "1"]
    assert main(command) == 0
    assert "1 cases" in capsys.readouterr().out


@pytest.mark.parametrize("line", [b"NDims = -3", b"NDims = 300", b"NDims = 3.5", b"NDims = 2", b"no line"])
def test_a_header_at_which_itk_crashes_is_refused(tmp_path, line):
    file = itk(tmp_path / "case.mha")
    file.write_bytes(file.read_bytes().replace(b"NDims = 3", line))
    with pytest.raises(InputError, match=r"case\.mha is damaged or not complete \(its header has"):
        Reader("SimpleITKIO").labels(file)
