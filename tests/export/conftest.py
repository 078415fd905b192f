"""Results of trainings that never happened: the files of a trained model, with random weights."""

import json
from pathlib import Path

import pytest

from tests import tiny

CASES = {"dataset": {"tiny_0": {"images": ["/home/somebody/tiny_0.nii.gz"]}}, "annotated_labels": {"tiny_0": ["left"]}}
LANDMARKS = {"names": ["tip"], "surface_of": {"tip": ["left"]}}


@pytest.fixture
def trained(make_trainer, monkeypatch, tmp_path):
    """``trained(name, …)`` → the results folder of a trainer with random weights, and its trainers by fold."""
    stock = tiny.dataset_json
    monkeypatch.setattr(tiny, "dataset_json", lambda kind="classes": {**stock(kind), **CASES, "landmarks": LANDMARKS})

    def made(name, configuration="2d", kind="classes", folds=(0,), plans=None):
        trainers = {}
        for fold in folds:
            trainers[fold] = trainer = make_trainer(
                name, configuration=configuration, kind=kind, seed=len(trainers), plans=plans
            )
            trainer.inference_allowed_mirroring_axes = (0,)
            folder = Path(trainer.output_folder_base)
            (folder / f"fold_{fold}").mkdir(exist_ok=True, parents=True)
            trainer.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))
            (folder / f"fold_{fold}" / "debug.json").write_text('{"hostname": "mine"}')
            (folder / f"fold_{fold}" / "landmark_thresholds.json").write_text('{"tip": 0.3}')
        (folder / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
        (folder / "dataset.json").write_text(json.dumps(trainer.dataset_json))
        return folder, trainers

    return made
