"""The file in which nnU-Net keeps the spacing of a 3D tif: where its reader and writer look, and what it holds."""

import json
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_ext.data.spacing_files import is_spacing_file, spacing_file


@pytest.mark.parametrize("ending", [".tif", ".tiff"])
def test_it_is_where_nnunet_writes_and_reads_it(tmp_path, ending):
    label = tmp_path / f"a{ending}"
    Tiff3DIO().write_seg(np.zeros((2, 3, 4), np.uint8), str(label), {"spacing": [3.0, 0.5, 0.25]})
    assert is_spacing_file(spacing_file(label))
    image = label.rename(tmp_path / f"a_0000{ending}")
    assert spacing_file(image, image=True) == spacing_file(label)
    _, properties = Tiff3DIO().read_images([str(image)])
    assert properties["spacing"] == [3.0, 0.5, 0.25]


def test_other_formats_have_none():
    assert spacing_file(Path("a.nii.gz")) is None
    assert spacing_file(Path("a_0000.png"), image=True) is None


@pytest.mark.parametrize("content", ['{"spacing": [1, 1, 1], "tip": [1, 2, 3]}', '{"tip": [1, 2, 3]}', "[1]", "{", ""])
def test_other_content_is_no_spacing(tmp_path, content):
    file = tmp_path / "a.json"
    file.write_text(content)
    assert not is_spacing_file(file)
    assert not is_spacing_file(tmp_path / "missing.json")
    (tmp_path / "a.csv").write_text(json.dumps({"spacing": [1]}))
    assert not is_spacing_file(tmp_path / "a.csv")
