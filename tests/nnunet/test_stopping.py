"""Ending a training before its last epoch: by a file, or by a time limit."""

from pathlib import Path

import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet import stopping
from nnunet_ext.nnunet.stopping import StopRule, limit_from_environment, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("11h", 39600), ("90m", 5400), ("1h30m", 5400), ("2H5m10s", 7510), ("0.5h", 1800), ("7s", 7)]
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["11", "h", "11 h", "1m1h", "-1h", "tomorrow", " "])
def test_what_is_no_duration(text):
    with pytest.raises(InputError, match=r"NNUNET_EXT_STOP_AFTER is .* which is no duration; write"):
        seconds_of(text)


def test_the_variable(monkeypatch):
    monkeypatch.delenv(stopping.VARIABLE, raising=False)
    assert limit_from_environment() is None
    monkeypatch.setenv(stopping.VARIABLE, "2h")
    assert limit_from_environment() == 7200


def test_a_wrong_limit_is_refused_before_anything_is_written(make_trainer, monkeypatch, tmp_path):
    monkeypatch.setenv(stopping.VARIABLE, "soon")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    with pytest.raises(InputError, match="NNUNET_EXT_STOP_AFTER is 'soon'"):
        make_trainer("nnUNetTrainerReference")
    assert not (tmp_path / "results").exists()


def test_the_file_is_obeyed_once(tmp_path):
    rule = StopRule(tmp_path)
    rule.epoch_ended()
    assert rule.reason() is None
    (tmp_path / "STOP").touch()
    assert str(tmp_path / "STOP") in (rule.reason() or "")
    assert rule.reason() is None


def test_a_request_that_comes_too_late_is_none_for_the_next_training(make_trainer):
    trainer = make_trainer("nnUNetTrainerReference", configuration="2d")
    trainer.logger.log("train_losses", 0.0, 0)
    trainer.dataloader_train = trainer.dataloader_val = None
    trainer.current_epoch = 1
    trainer.disable_checkpointing = True
    file = Path(trainer.output_folder) / "STOP"
    file.touch()
    trainer.on_train_end()
    assert not file.exists()


def test_without_checkpoints_nothing_is_said_about_going_on(make_trainer):
    trainer = make_trainer("nnUNetTrainerReference", configuration="2d")
    trainer.dataloader_train = trainer.dataloader_val = None
    trainer.disable_checkpointing = True
    (Path(trainer.output_folder) / "STOP").touch()
    with pytest.raises(stopping.Stopped):
        trainer._stop_if_asked()
    log = Path(trainer.log_file).read_text()
    assert "Stopped after 0 of" in log
    assert "--c goes on" not in log


def test_a_training_ends_while_the_longest_epoch_still_fits(tmp_path, monkeypatch):
    times = iter([0.0, 30.0, 40.0, 70.0])
    monkeypatch.setattr(stopping.time, "monotonic", lambda: next(times))
    rule = StopRule(tmp_path, 80.0)
    assert rule.epoch_ended() == 30  # and 30 more are 60
    assert rule.reason() is None
    assert rule.epoch_ended() == 20
    assert rule.reason() is None  # the longest took 30 seconds: 40 + 30 fit into 80
    rule.epoch_ended()
    assert "allows 80 seconds" in (rule.reason() or "")
