"""Checkpoints of anybody: what is opened, what only if the user trusts it, and what not at all."""

import json
import os
import re
import zipfile
from codecs import encode

import numpy as np
import pytest
import torch

from nnunet_ext import cli
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.checkpoints import BEST, LATEST, read_checkpoint
from nnunet_ext.nnunet.models import Prediction
from nnunet_ext.nnunet.untrusted import TRUST, UntrustedCheckpoint, load_untrusted, trusting
from tests import tiny


class Call:
    """Object that an attacker writes: opening it calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


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
        found = load_untrusted(tmp_path / "other.pth")
        assert found["numbers"] == [1.5, 3, True]
        assert found["array"].tolist() == [0, 1, 2]


@pytest.fixture
def gift(tmp_path):
    """A checkpoint that makes a folder when it is opened."""
    torch.save({"network_weights": {}, "gift": Call(os.mkdir, str(tmp_path / "ran"))}, tmp_path / "c.pth")
    return tmp_path / "c.pth"


@pytest.mark.filterwarnings("ignore")
def test_what_can_run_code_is_refused_with_its_name_and_nothing_runs(gift, tmp_path):
    with pytest.raises(UntrustedCheckpoint) as refused:
        load_untrusted(gift)
    assert str(refused.value) == (
        f"{gift} can run code when it is opened: it holds more than weights and numbers, namely {os.mkdir.__module__}"
        ".mkdir; use --trust (in scripts NNUNET_EXT_TRUST=1) if you trust whoever wrote it, or ask for an export "
        "(nnunet-ext export)."
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", ["", "0", "yes"])
def test_the_variable_has_one_value_that_trusts(gift, tmp_path, monkeypatch, value):
    monkeypatch.setenv(TRUST, value)
    with pytest.raises(UntrustedCheckpoint):
        load_untrusted(gift)
    monkeypatch.setenv(TRUST, "1")
    assert load_untrusted(gift)["network_weights"] == {}
    assert (tmp_path / "ran").is_dir()


def test_trust_ends_with_the_command(gift, tmp_path, monkeypatch):
    with trusting(), trusting(False):
        load_untrusted(gift)
    assert TRUST not in os.environ
    monkeypatch.setenv(TRUST, "0")
    with trusting():
        assert os.environ[TRUST] == "1"
    assert os.environ[TRUST] == "0"


def test_the_last_checkpoint_is_not_passed_over_because_it_can_run_code(gift, tmp_path):
    gift.rename(tmp_path / LATEST)
    torch.save({"network_weights": {}}, tmp_path / BEST)
    with pytest.raises(UntrustedCheckpoint):
        read_checkpoint(tmp_path / LATEST)


@pytest.fixture
def model(gift, tmp_path):
    """A model folder around it."""
    folder = tmp_path / "nnUNetTrainerS2VNet__nnUNetPlans__2d"
    (folder / "fold_0").mkdir(parents=True)
    gift.rename(folder / "fold_0" / "checkpoint_final.pth")
    plans = {"configurations": {"2d": {}}, "dataset_name": "Dataset901_Tiny", "plans_name": "P"}
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text('{"labels": {}, "file_ending": ".nii.gz"}')
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["export", "MODEL", "--out", "OUT"],
        ["s2v", "predict", "-i", "OUT", "-o", "OUT", "-m", "MODEL", "-device", "cpu"],
        ["s2v", "interact", "-i", "x", "-o", "x", "--prompts", "x", "-m", "MODEL", "-device", "cpu"],
        ["s2v", "serve", "-i", "x", "-m", "MODEL", "-device", "cpu"],
        ["landmarks", "predict", "-i", "OUT", "-o", "OUT", "-m", "MODEL", "-device", "cpu"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_every_command_that_opens_a_model_refuses_it_and_takes_trust(model, tmp_path, capsys, command):
    command = [{"MODEL": str(model), "OUT": str(tmp_path / "out")}.get(word, word) for word in command]
    assert cli.main(command) == 2
    assert re.search(r"can run code .* mkdir|can run code .*\.mkdir; use --trust", capsys.readouterr().err)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(Exception) as stopped:  # noqa: PT011 (the model has no weights; how far each comes is its own)
        raise SystemError(cli.main([*command, "--trust"]))
    assert "can run code" not in capsys.readouterr().err + str(stopped.value)
    assert (tmp_path / "ran").is_dir()
    assert TRUST not in os.environ


def test_a_predictor_never_sees_a_checkpoint_that_can_run_code(model, tmp_path):
    class Predictor:
        def __init__(self, **settings):
            pass

        def initialize_from_trained_model_folder(self, *arguments):
            raise AssertionError

    with pytest.raises(UntrustedCheckpoint):
        Prediction(device="cpu").predictor(Predictor, model, {})
    assert not (tmp_path / "ran").exists()


def test_an_object_of_a_package_that_is_not_there_gets_one_sentence(tmp_path):
    torch.save({"network_weights": {}, "options": Call(os.mkdir, "x")}, tmp_path / "here.pth")
    renamed(tmp_path / "here.pth", tmp_path / "c.pth", os.mkdir.__module__.encode(), b"a_package_nobody_installed")
    with trusting(), pytest.raises(InputError, match=r"not installed here .*a_package_nobody"):
        load_untrusted(tmp_path / "c.pth")


CRAFTED = {
    "a size beyond memory": Call(np.zeros(0).__reduce__()[0], np.ndarray, (10**14,), b"b"),
    "a shape beyond memory": Call(np.ndarray, (10**6, 10**6, 100)),
    "too few arguments": Call(np.zeros(0).__reduce__()[0], "x", 3),
    "too many arguments": Call(np.dtype, "f8", 0, 1, 2, 3),
    "a tensor of a number": Call(torch._utils._rebuild_tensor_v2, 1, 2, 3, 4, 5, 6),
    "an unknown encoding": Call(encode, "a", "no_such_encoding"),
}


@pytest.mark.parametrize("name", CRAFTED)
@pytest.mark.parametrize("trust", [False, True])
def test_crafted_sizes_and_types_get_one_sentence(tmp_path, name, trust):
    torch.save({"network_weights": {}, "gift": CRAFTED[name]}, tmp_path / "c.pth")
    with trusting(trust), pytest.raises(InputError, match="it is damaged or no checkpoint"):
        load_untrusted(tmp_path / "c.pth")


def test_a_file_that_unpacks_to_more_than_it_is_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"network_weights": {"a": torch.zeros(10**6)}}, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    with pytest.raises(InputError, match=r"would unpack to 40\d+, but torch.save does not compress"):
        load_untrusted(tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"network_weights": [1]}, "network_weights is a list, but in a checkpoint of nnU-Net it is a dict"),
        ({"network_weights": {}, "trainer_name": 3}, "trainer_name is a int, but .* it is text"),
        ({"network_weights": {}, "init_args": "x"}, "init_args is a str, but .* it is a dict"),
        ({"network_weights": {"a": 10**30}}, "'a' in network_weights is a int, but a tensor"),
        ({"network_weights": {3: torch.zeros(1)}}, "3 in network_weights is a Tensor, but a tensor under a name"),
    ],
)
def test_other_types_than_those_of_nnunet_are_named(tmp_path, content, message):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(InputError, match=message):
        load_untrusted(tmp_path / "c.pth")


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
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
