"""TensorBoard and MLflow get every number that nnU-Net logs, and continue where a training continues."""

import numpy as np
import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet import loggers as module
from nnunet_ext.nnunet.loggers import VARIABLE, loggers, wanted_loggers


@pytest.fixture(autouse=True)
def local(tmp_path, monkeypatch):
    # the files of mlflow-skinny, which is enough for a client and has no database
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())


def tensorboard_values(folder, key):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(key)]


def mlflow_values(folder, key):
    from mlflow.tracking import MlflowClient

    history = MlflowClient().get_metric_history((folder / "mlflow_run.txt").read_text(), key)
    return [(metric.step, metric.value) for metric in history]


VALUES = {"tensorboard": tensorboard_values, "mlflow": mlflow_values}


@pytest.mark.parametrize("word", VALUES)
def test_numbers_are_logged_by_epoch_and_a_continued_training_adds_to_them(tmp_path, word):
    for resume, epochs in ((False, (0, 1)), (True, (2,))):
        [logger] = loggers([word], tmp_path, "run", resume=resume)
        logger.update_config({"fold": 0, "plans": {"long": "…"}})
        for epoch in epochs:
            logger.log("loss_segmentation", np.float32(epoch / 2), epoch)
        logger.log_summary("final_val/foreground_dice", 0.5)
    assert VALUES[word](tmp_path, "loss_segmentation") == [(0, 0.0), (1, 0.5), (2, 1.0)]


@pytest.mark.parametrize("word", VALUES)
def test_a_training_that_begins_anew_does_not_add_to_the_old_one(tmp_path, word):
    for value in (1.0, 2.0):
        [logger] = loggers([word], tmp_path, "run", resume=False)
        logger.log("lrs", value, 0)
    assert VALUES[word](tmp_path, "lrs") == [(0, 2.0)]


def test_every_term_of_a_trainer_reaches_them(make_trainer, monkeypatch):
    monkeypatch.setenv(VARIABLE, "tensorboard, mlflow")
    trainer = make_trainer("nnUNetTrainerReference")
    kinds = [type(logger).__name__ for logger in trainer.logger.loggers]
    assert kinds == ["TensorBoardLogger", "MLflowLogger"]
    trainer.on_train_epoch_end([{"loss": np.float32(1.0), "loss_segmentation": np.float32(1.0)}])
    from pathlib import Path

    folder = Path(trainer.output_folder)
    assert tensorboard_values(folder, "loss_segmentation") == mlflow_values(folder, "loss_segmentation") == [(0, 1.0)]


def test_a_word_that_is_not_known_and_a_package_that_is_missing(monkeypatch):
    monkeypatch.setenv(VARIABLE, "tensorbord")
    with pytest.raises(InputError, match="NNUNET_EXT_LOGGERS has 'tensorbord'; there are tensorboard and mlflow"):
        wanted_loggers()
    monkeypatch.setenv(VARIABLE, "mlflow")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="mlflow is not installed; run: pip install mlflow"):
        wanted_loggers()
