"""TensorBoard and MLflow get every number that nnU-Net logs, and continue where a training continues."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet import loggers as module
from nnunet_ext.nnunet.loggers import VARIABLE, Forgiving, loggers, wanted_loggers
from tests import tiny


@pytest.fixture(autouse=True)
def local(tmp_path, monkeypatch):
    # the files of mlflow-skinny, which is enough for a client and has no database
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())


def never(line):
    raise AssertionError(line)


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
        [logger] = loggers([word], tmp_path, "run", resume=resume, say=never)
        logger.update_config({"fold": 0, "plans": {"long": "…"}})
        for epoch in epochs:
            logger.log("loss_segmentation", np.float32(epoch / 2), epoch)
        logger.log_summary("final_val/foreground_dice", 0.5)
        logger.log_summary("final_val/class_(1, 2)_dice", 0.5)  # of a region; MLflow takes no brackets
    assert VALUES[word](tmp_path, "loss_segmentation") == [(0, 0.0), (1, 0.5), (2, 1.0)]


@pytest.mark.parametrize("word", VALUES)
def test_a_training_that_begins_anew_does_not_add_to_the_old_one(tmp_path, word):
    for value in (1.0, 2.0):
        [logger] = loggers([word], tmp_path, "run", resume=False, say=never)
        logger.log("lrs", value, 0)
    assert VALUES[word](tmp_path, "lrs") == [(0, 2.0)]


@pytest.fixture
def trained(nnunet_folders, make_trainer, monkeypatch):
    """``trained()``: a new trainer of a fold that was trained for an epoch with both loggers."""
    nnunet_folders()
    monkeypatch.setenv(VARIABLE, "tensorboard, mlflow")
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        settings["nnunet_ext"]["schedule"] = {"epochs": 1, "iterations": 1, "validation_iterations": 1}

    def make():
        return make_trainer("nnUNetTrainerReference", configuration="2d", plans=plans)

    make().run_training()
    return make


def test_every_term_of_a_trainer_reaches_them(trained):
    folder = Path(trained().output_folder)
    [(epoch, value)] = tensorboard_values(folder, "loss_segmentation")
    assert epoch == 0
    assert mlflow_values(folder, "loss_segmentation") == [(0, pytest.approx(value))]


def test_a_validation_alone_and_a_start_that_is_refused_keep_what_was_logged(trained, monkeypatch):
    folder = Path(trained().output_folder)
    run, values = (folder / "mlflow_run.txt").read_text(), tensorboard_values(folder, "loss_segmentation")
    holder = "import sys; from pathlib import Path; from nnunet_ext.nnunet.results import alone_in\n"
    holder += "with alone_in(Path(sys.argv[1])): print('at work', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holder, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"at work\n"
        with pytest.raises(InputError, match="Another training is at work"):
            trained().run_training()
        other.stdin.close()
    validating = trained()
    validating.load_checkpoint(str(folder / "checkpoint_final.pth"))
    monkeypatch.setattr(
        nnUNetTrainer, "perform_actual_validation", lambda self, save: self.logger.log_summary("final_val/dice", 0.5)
    )
    validating.perform_actual_validation()
    assert (folder / "mlflow_run.txt").read_text() == run
    assert tensorboard_values(folder, "loss_segmentation") == values
    assert [value for _, value in tensorboard_values(folder, "final_val/dice")] == [0.5]
    assert [value for _, value in mlflow_values(folder, "final_val/dice")] == [0.5]


def test_a_fold_that_is_trained_anew_or_continued_logs_every_epoch_once(trained):
    trained().run_training()
    trainer = trained()
    folder = Path(trainer.output_folder)
    assert len(tensorboard_values(folder, "loss_segmentation")) == 1
    trainer.load_checkpoint(str(folder / "checkpoint_final.pth"))
    trainer.num_epochs = 2
    trainer.run_training()
    for values in VALUES.values():
        assert [epoch for epoch, _ in values(folder, "loss_segmentation")] == [0, 1]


class Server:
    """A logger that is away in some epochs."""

    def __init__(self, away):
        self.away, self.tried, self.known = away, [], []

    def log(self, key, value, step):
        self.tried.append((key, step))
        if step in self.away:
            raise ConnectionError("nobody answers\nafter many lines")
        self.known.append((key, step))


def test_a_server_that_is_away_for_some_epochs_does_not_end_a_training():
    server, said = Server(away={1, 2}), []
    logger = Forgiving(server, "mlflow", said.append)
    for epoch in range(4):
        for key in ("loss", "dice"):
            logger.log(key, 0.5, epoch)
    assert server.known == [(key, epoch) for epoch in (0, 3) for key in ("loss", "dice")]
    assert [entry for entry in server.tried if entry not in server.known] == [("loss", 1), ("loss", 2)]
    assert [line.split(" (")[0] for line in said] == [
        "WARNING: mlflow does not take the numbers of this training",
        "mlflow takes numbers again; those from epoch 1 to epoch 2 are missing there.",
    ]
    assert "(ConnectionError: nobody answers). The training goes on" in said[0]


def test_a_server_that_is_away_at_the_start_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        InputError, match=r"a run of experiment 'nnunet' cannot be made there .*check MLFLOW_TRACKING_URI"
    ):
        loggers(["mlflow"], tmp_path, "run", resume=False, say=never)
    assert not (tmp_path / "mlflow_run.txt").exists()


def test_a_word_that_is_not_known_and_a_package_that_is_missing(monkeypatch):
    monkeypatch.setenv(VARIABLE, "tensorbord")
    with pytest.raises(InputError, match="NNUNET_EXT_LOGGERS has 'tensorbord'; there are tensorboard and mlflow"):
        wanted_loggers()
    monkeypatch.setenv(VARIABLE, "mlflow")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="mlflow is not installed; run: pip install mlflow"):
        wanted_loggers()
