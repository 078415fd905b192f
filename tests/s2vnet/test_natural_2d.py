"""Natural 2D images, of which every one is a volume of one slice: T is 1, and everything else is nnU-Net's own path."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from skimage import io

from nnunet_ext.catalogue import resolve
from nnunet_ext.discovery import discovery_folder
from nnunet_ext.s2vnet.predictor import S2VPredictor
from tests import tiny

DATASET = "Dataset902_Photos"
SIZE = (20, 30)


def write_photos(root: Path) -> tuple[dict, dict]:
    """Three grey PNG images with their labels, raw and preprocessed; returns plans and dataset.json."""
    raw, folder = root / "raw" / DATASET, root / "preprocessed" / DATASET
    for place in (raw / "imagesTr", raw / "labelsTr", folder / "gt_segmentations", folder / "nnUNetPlans_2d"):
        place.mkdir(parents=True)
    description = {**tiny.dataset_json(), "numTraining": 3, "file_ending": ".png"}
    plans = tiny.plans(**{"2d": tiny.configuration(2)})
    plans |= {
        "dataset_name": DATASET,
        "image_reader_writer": "NaturalImage2DIO",
        "original_median_shape_after_transp": [1, *SIZE],
        "original_median_spacing_after_transp": [999.0, 1.0, 1.0],
    }
    plans["configurations"]["2d"]["nnunet_ext"] = {
        "s2vnet": {"width": 8, "heads": 2, "embedding": 4},
        "schedule": {"epochs": 1, "iterations": 2, "validation_iterations": 1},
    }
    manager, rng = PlansManager(plans), np.random.default_rng(0)
    for index in range(3):
        label = np.zeros(SIZE, np.uint8)
        label[4:14, 3 + index : 12] = 1
        label[4:14, 12 : 22 + index] = 2
        image = (60 * label + rng.integers(0, 40, SIZE)).astype(np.uint8)
        files = raw / "imagesTr" / f"photo_{index}_0000.png", raw / "labelsTr" / f"photo_{index}.png"
        for file, content in zip(
            (*files, folder / "gt_segmentations" / files[1].name), (image, label, label), strict=True
        ):
            io.imsave(file, content, check_contrast=False)
        DefaultPreprocessor(verbose=False).run_case_save(
            str(folder / "nnUNetPlans_2d" / f"photo_{index}"),
            [str(files[0])],
            str(files[1]),
            manager,
            manager.get_configuration("2d"),
            description,
        )
    splits = [{"train": ["photo_0", "photo_1"], "val": ["photo_2"]}]
    for name, content in {
        "dataset": description,
        "nnUNetPlans": plans,
        "splits_final": splits,
        "dataset_fingerprint": {},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return plans, description


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_extTrainer", str(discovery_folder()))
    return tmp_path


def test_natural_images_are_trained_validated_and_predicted(root):
    plans, description = write_photos(root)
    torch.manual_seed(0)
    trainer = resolve("nnUNetTrainerS2VNet")(
        {**plans, "continue_training": False}, "2d", 0, description, torch.device("cpu")
    )
    trainer.run_training()
    assert trainer.clip == 1
    assert trainer.network.aggregation is None
    trainer.perform_actual_validation()
    (model,) = (root / "results" / DATASET).iterdir()
    assert json.loads((model / "plans.json").read_text())["configurations"]["2d"]["patch_size"] == [1, 16, 16]
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    assert np.isfinite(summary["foreground_mean"]["Dice"])
    found = {}
    for kind in (nnUNetPredictor, S2VPredictor):
        predictor = kind(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), [0])
        assert predictor.allowed_mirroring_axes == (1, 2)
        image = root / "raw" / DATASET / "imagesTr" / "photo_2_0000.png"
        predictor.predict_from_files_sequential([[str(image)]], [str(root / kind.__name__)])
        found[kind] = io.imread(root / f"{kind.__name__}.png")
        assert found[kind].shape == SIZE
        assert set(np.unique(found[kind])) <= {0, 1, 2}
    # accumulated in half precision there, in single precision here
    assert (found[nnUNetPredictor] == found[S2VPredictor]).mean() > 0.98
