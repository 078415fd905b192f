"""How many files a case has, by nnU-Net's rule, in every command in which its trainers work."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from nnunet_ext.cli import main
from nnunet_ext.data.raw import open_dataset, training_images
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.models import require_images

RGB = {"0": "R", "1": "G", "2": "B"}


def disc(x: int, size: int = 48) -> np.ndarray:
    y, other = np.ogrid[:size, :size]
    return ((y - 24) ** 2 + (other - x) ** 2 < 100).astype(np.uint8)


def dataset(root: Path, mode: str = "RGB", channels: dict[str, str] | None = None, **more: object) -> Path:
    folder = root / "Dataset510_Colours"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(5):
        labels = disc(20 + number)
        grey = Image.fromarray(
            labels * 90 + np.random.default_rng(number).integers(0, 50, labels.shape).astype(np.uint8)
        )
        grey.convert(mode).save(folder / f"imagesTr/img_{number}_0000.png")
        Image.fromarray(labels).save(folder / f"labelsTr/img_{number}.png")
    content = {
        "channel_names": channels or RGB,
        "labels": {"background": 0, "disc": 1},
        "numTraining": 5,
        "file_ending": ".png",
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_one_png_holds_three_channels(tmp_path):
    folder = dataset(tmp_path)
    raw = open_dataset(folder)
    assert [len(case.images) for case in raw.cases] == [1] * 5
    assert raw.reader().channels(raw.cases[0].images).array.shape == (3, 1, 48, 48)
    assert training_images(folder, raw.description, "img_3") == (folder / "imagesTr/img_3_0000.png",)


def test_colours_and_grey_images_make_four_channels(tmp_path):
    folder = dataset(tmp_path, channels={**RGB, "3": "infrared"})
    for number in range(5):
        Image.fromarray(disc(5)).save(folder / f"imagesTr/img_{number}_0001.png")
    assert [len(case.images) for case in open_dataset(folder).cases] == [2] * 5


def test_a_4d_nifti_holds_as_many_channels_as_frames(tmp_path):
    folder = tmp_path / "Dataset511_Frames"
    for name, array in {"imagesTr/a_0000": np.ones((6, 5, 4, 2)), "labelsTr/a": np.ones((6, 5, 4))}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), np.eye(4)), folder / f"{name}.nii.gz")
    content = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    assert len(open_dataset(folder).cases[0].images) == 1


@pytest.mark.parametrize(
    ("mode", "channels", "said"),
    [
        ("L", RGB, r"has no img_0_0001\.png, but dataset\.json describes images with 3 channels"),
        ("RGB", {"0": "photo"}, r"img_0_0000\.png holds 3 channels, but dataset\.json names 1 \(photo\)"),
        ("RGBA", RGB, r"img_0_0000\.png holds 4 channels, but dataset\.json names 3 \(R, G, B\)"),
        ("RGB", {"0": "R", "1": "G"}, r"holds 3 channels, but dataset\.json names 2"),
    ],
)
def test_other_channels_than_declared_are_refused(tmp_path, mode, channels, said):
    with pytest.raises(InputError, match=f"Case img_0: .*{said}"):
        open_dataset(dataset(tmp_path, mode, channels))


def test_one_case_with_other_colours_is_named(tmp_path):
    folder = dataset(tmp_path)
    Image.fromarray(disc(9)).save(folder / "imagesTr/img_2_0000.png")
    with pytest.raises(InputError, match=r"Case img_2: .* has no img_2_0001\.png"):
        open_dataset(folder)


def test_a_channel_in_between_is_missing(tmp_path):
    folder = dataset(tmp_path, "L", {"0": "a", "1": "b"})
    for number in range(5):
        Image.fromarray(disc(5)).save(folder / f"imagesTr/img_{number}_0002.png")
    with pytest.raises(InputError, match=r"Case img_0: .*imagesTr has no img_0_0001\.png; add the file"):
        open_dataset(folder)


def test_hidden_files_beside_images_are_passed_over(tmp_path):
    folder = dataset(tmp_path)
    for name in ("imagesTr/._img_0_0000.png", "labelsTr/._img_0.png", "imagesTr/.DS_Store"):
        (folder / name).write_bytes(b"Mac OS X")
    assert len(open_dataset(folder).cases) == 5


@pytest.mark.parametrize("channels", [["MRI"], "MRI", 3])
def test_channel_names_that_are_no_object(tmp_path, channels):
    with pytest.raises(InputError, match=r"channel_names is no object"):
        open_dataset(dataset(tmp_path, channels=channels))


def test_an_older_data_set_names_its_channels_by_modality(tmp_path):
    folder = dataset(tmp_path)
    content = json.loads((folder / "dataset.json").read_text())
    content["modality"] = content.pop("channel_names")
    (folder / "dataset.json").write_text(json.dumps(content))
    assert len(open_dataset(folder).cases) == 5
    (folder / "dataset.json").write_text(json.dumps({**content, "modality": "MRI"}))
    with pytest.raises(InputError, match=r"modality is no object such as"):
        open_dataset(folder)
    del content["modality"]
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"has no 'channel_names', which nnU-Net's format requires"):
        open_dataset(folder)


@pytest.mark.parametrize("entry", [{}, [], {"images": ["a.png"]}, {"label": "a.png"}, {"images": [], "label": "a.png"}])
def test_cases_that_are_listed_without_their_files(tmp_path, entry):
    with pytest.raises(InputError, match=r"entry of case img_0 has no 'images' or no 'label'"):
        open_dataset(dataset(tmp_path, dataset={"img_0": entry}))


def test_the_commands_work_with_colours(tmp_path, monkeypatch, capsys):
    landmarks = {"landmarks": {"names": ["tip"], "surface_of": {"tip": ["disc"]}}}
    folder = dataset(tmp_path, **landmarks)
    (folder / "landmarksTr").mkdir()
    for number in range(5):
        (folder / f"landmarksTr/img_{number}.json").write_text(json.dumps({"tip": [20.0 + number, 14.0, 0.0]}))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for command in (
        "scribbles generate 510 --new-dataset 610 --processes 1",
        "scribbles check 610 --processes 1",
        "landmarks check 510 --processes 1",
        "splits 510 --check --no-images",
    ):
        code = main(command.split())
        assert code != 2, (command, capsys.readouterr().err)
    assert (tmp_path / "Dataset610_ColoursScribble" / "scribbles.png").is_file()


def test_images_to_predict_may_be_colours(tmp_path):
    folder = dataset(tmp_path)
    description = json.loads((folder / "dataset.json").read_text())
    found = require_images(folder / "imagesTr", description)
    assert found == {f"img_{n}": [folder / f"imagesTr/img_{n}_0000.png"] for n in range(5)}
    Image.fromarray(disc(9)).save(folder / "imagesTr/img_2_0000.png")
    with pytest.raises(InputError, match=r"Case img_2: .* has no img_2_0001\.png, but .* with 3 channels"):
        require_images(folder / "imagesTr", description)


@pytest.mark.parametrize("name", ["._img_0_0000.png", "photo.png"])
def test_a_file_that_nnunet_would_take_for_an_image_is_named_before_a_prediction(tmp_path, name):
    folder = dataset(tmp_path)
    (folder / "imagesTr" / name).write_bytes(b"Mac OS X")
    description = json.loads((folder / "dataset.json").read_text())
    with pytest.raises(InputError, match=rf"holds {name}, which nnU-Net takes for an image.*remove or rename it"):
        require_images(folder / "imagesTr", description)
    assert len(require_images(folder / "imagesTr", description, ["img_1"])) == 5
