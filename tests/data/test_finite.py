"""NaN and infinite voxels: what nnU-Net makes of them, and that the checks before a training say so."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.cli import main
from nnunet_ext.data.finite import not_finite
from tests import tiny
from tests.landmarks import raw as boxes
from tests.scribbles import raw as scribbled


def spoil(file, value, voxel=(3, 4, 5)) -> None:
    image = sitk.ReadImage(str(file))
    image[voxel[::-1]] = value
    sitk.WriteImage(image, str(file))


def preprocessed(value: float, scheme: str, spacing: float) -> np.ndarray:
    """An image with one such voxel after nnU-Net's preprocessing to a spacing of 1 mm."""
    configuration = {**tiny.configuration(3), "normalization_schemes": [scheme], "spacing": [1.0, 1.0, 1.0]}
    order = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}  # as nnU-Net plans it
    configuration["resampling_fn_data_kwargs"] = order
    statistics = {"mean": 0, "std": 1.0, "percentile_00_5": -3, "percentile_99_5": 3, "median": 0, "min": -5, "max": 5}
    plans = {
        **tiny.plans(**{"3d_fullres": configuration}),
        "foreground_intensity_properties_per_channel": {"0": statistics},
    }
    image = np.random.default_rng(0).normal(size=(1, 12, 16, 16)).astype(np.float32)
    image[0, 6, 8, 8] = value
    manager = PlansManager(plans)
    properties = {"spacing": [spacing, 1.0, 1.0]}
    with np.errstate(invalid="ignore"):
        return DefaultPreprocessor(verbose=False).run_case_npy(
            image, None, properties, manager, manager.get_configuration("3d_fullres"), tiny.dataset_json()
        )[0]


@pytest.mark.parametrize(
    ("value", "scheme", "spacing", "share"),
    [
        (np.nan, "ZScoreNormalization", 1.0, 1),
        (np.inf, "ZScoreNormalization", 1.0, 1),
        (np.nan, "CTNormalization", 1.0, 1 / (12 * 16 * 16)),
        (np.nan, "CTNormalization", 1.3, 1),
        (np.inf, "CTNormalization", 1.3, 0),
    ],
)
def test_nnunet_spreads_one_such_voxel_as_the_documentation_says(value, scheme, spacing, share):
    assert (~np.isfinite(preprocessed(value, scheme, spacing))).mean() == pytest.approx(share)


def test_the_channel_and_the_counts_are_said():
    image = np.zeros((2, 3, 4, 5))
    assert not_finite(image) is None
    image[1, 0, 0, :2] = np.nan, -np.inf
    assert not_finite(image).startswith("channel 1 of the image has 1 NaN and 1 infinite among its 60 voxels")
    assert not_finite(image[1:]).startswith("the image has 1 NaN and 1 infinite")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("reader", "severity", "said"),
    [("NibabelIO", "fatal", "the loss becomes NaN"), ("SimpleITKIO", "warning", "for 0")],
)
def test_scribbles_check_names_the_image(tmp_path, capsys, value, reader, severity, said):
    labels = {case: np.where(scribbled.dense(seed) == 0, 3, scribbled.dense(seed)) for seed, case in enumerate("ab")}
    for array in labels.values():
        array[1, :3] = 0
    folder = scribbled.write_dataset(
        tmp_path / "Dataset138_Boxes", labels, {**scribbled.LABELS, "ignore": 3}, overwrite_image_reader_writer=reader
    )
    spoil(folder / "imagesTr/b_0000.nii.gz", value)
    code = main(["scribbles", "check", str(folder), "--processes", "1", "-o", str(tmp_path / "out")])
    assert code == int(severity == "fatal")
    found = json.loads((tmp_path / "out" / "check.json").read_text())["findings"]
    assert [(one["severity"], one["case"]) for one in found if one["kind"] == "not finite"] == [(severity, "b")]
    assert said in capsys.readouterr().out


def test_landmarks_check_looks_at_every_channel(tmp_path, capsys):
    cases = {name: (boxes.Case(number), "both") for number, name in enumerate("ab")}
    folder = boxes.write_dataset(tmp_path, cases)
    description = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**description, "channel_names": {"0": "T1", "1": "T2"}}))
    for name in cases:
        content = (folder / f"imagesTr/{name}_0000.nii.gz").read_bytes()
        (folder / f"imagesTr/{name}_0001.nii.gz").write_bytes(content)
    for name in cases:
        image = sitk.ReadImage(str(folder / f"imagesTr/{name}_0001.nii.gz"))
        sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32), str(folder / f"imagesTr/{name}_0001.nii.gz"))
    spoil(folder / "imagesTr/a_0001.nii.gz", np.nan)
    command = ["landmarks", "check", str(folder), "--processes", "1", "-o", str(tmp_path / "out")]
    assert main(command) == 0
    assert "a: a_0001.nii.gz has 1 NaN among its" in capsys.readouterr().out
    reader = {"channel_names": {"0": "T1", "1": "T2"}, "overwrite_image_reader_writer": "NibabelIO"}
    (folder / "dataset.json").write_text(json.dumps({**description, **reader}))
    assert main(command) == 1
    assert "a: channel 1 of the image has 1 NaN among its" in capsys.readouterr().out
