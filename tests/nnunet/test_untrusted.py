"""Checkpoints of anybody: what is opened silently, what with a warning, and what not at all."""

import os
import warnings
import zipfile

import numpy as np
import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.untrusted import UntrustedCheckpoint, load_untrusted
from tests import tiny


class Touch:
    """What an attacker writes: opening it runs a function."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return os.mkdir, (self.file,)


def train_a_step(trainer):
    trainer.on_train_epoch_start()
    trainer.train_step(tiny.batch(trainer))
    for key in ("mean_fg_dice", "train_losses", "val_losses"):
        trainer.logger.log(key, np.float32(0.5), 0)
    trainer.logger.log("ema_fg_dice", np.float64(0.5), 0)
    trainer._best_ema = np.float32(0.5)


@pytest.mark.parametrize("name", ["nnUNetTrainerReference", "nnUNetTrainerMedContext", "nnUNetTrainerPnPNetPaper"])
def test_checkpoints_of_our_trainers_are_opened_without_running_anything(make_trainer, tmp_path, name):
    trainer = make_trainer(name, configuration="2d")
    train_a_step(trainer)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrustedCheckpoint)
        content = load_untrusted(tmp_path / "c.pth")
    assert content["logging"]["train_losses"] == [0.5]
    assert isinstance(content["_best_ema"], np.float32)
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(content["network_weights"][key], value)


def renamed(source, target, old, new):
    """A copy of a checkpoint in which a global name is another one, as another version would have written it."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name.endswith("data.pkl"):
                assert old in content
                content = content.replace(old, new)
            after.writestr(name, content)


def test_numbers_that_another_numpy_wrote_are_numbers(tmp_path):
    content = {"network_weights": {}, "numbers": [np.float32(1.5), np.int64(3), np.bool_(True)], "array": np.arange(3)}
    torch.save(content, tmp_path / "own.pth")
    names = [b"numpy.core.multiarray", b"numpy._core.multiarray"]
    here = np.float32(0).__reduce__()[0].__module__.encode()
    for name in names:
        renamed(tmp_path / "own.pth", tmp_path / "other.pth", here, name)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UntrustedCheckpoint)
            found = load_untrusted(tmp_path / "other.pth")
        assert found["numbers"] == [1.5, 3, True]
        assert found["array"].tolist() == [0, 1, 2]


def test_what_can_run_code_is_named_in_a_warning_before_it_is_opened(tmp_path):
    torch.save({"network_weights": {}, "gift": Touch(tmp_path / "ran")}, tmp_path / "c.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrustedCheckpoint)
        with pytest.raises(
            UntrustedCheckpoint, match=r"more than weights and numbers \(\w+\.mkdir\), so opening it can"
        ):
            load_untrusted(tmp_path / "c.pth")
    assert not (tmp_path / "ran").exists()
    with pytest.warns(UntrustedCheckpoint, match="people you trust"):
        load_untrusted(tmp_path / "c.pth")
    assert (tmp_path / "ran").is_dir()


def test_an_object_of_a_package_that_is_not_there_gets_one_sentence(tmp_path):
    torch.save({"network_weights": {}, "options": Touch("x")}, tmp_path / "here.pth")
    renamed(tmp_path / "here.pth", tmp_path / "c.pth", os.mkdir.__module__.encode(), b"a_package_nobody_installed")
    with (
        pytest.warns(UntrustedCheckpoint),
        pytest.raises(InputError, match=r"not installed here .*a_package_nobody"),
    ):
        load_untrusted(tmp_path / "c.pth")


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
@pytest.mark.filterwarnings("ignore::nnunet_ext.nnunet.untrusted.UntrustedCheckpoint")
def test_a_damaged_file_gets_one_sentence(tmp_path, damage):
    file = tmp_path / "c.pth"
    torch.save({"network_weights": {"a": torch.zeros(1000)}}, file)
    content = {"cut": file.read_bytes()[:2000], "text": b"not found", "empty": b""}[damage]
    file.write_bytes(content)
    with pytest.raises(InputError, match="it is damaged or no checkpoint"):
        load_untrusted(file)


def test_what_is_no_checkpoint_gets_one_sentence(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds a list, but a checkpoint of nnU-Net holds a dict"):
        load_untrusted(tmp_path / "list.pth")
    with pytest.raises(InputError, match="There is no checkpoint"):
        load_untrusted(tmp_path / "missing.pth")
