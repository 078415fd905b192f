"""Damaged checkpoints: never half a file of ours, one sentence for others', and the best one instead of the latest."""

import os
import shutil

import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.checkpoints import BEST, FINAL, LATEST, read_checkpoint

GOOD = {"network_weights": {"w": torch.ones(2)}, "current_epoch": 3}


def cut_off(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


DAMAGES = {
    "cut off": cut_off,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint"),
    "something else": lambda path: torch.save([1, 2], path),
    "without weights": lambda path: torch.save({"epoch": 1}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_latest_checkpoint_is_replaced_by_the_best(tmp_path, damage):
    torch.save(GOOD, tmp_path / LATEST)
    torch.save({**GOOD, "current_epoch": 2}, tmp_path / BEST)
    assert read_checkpoint(tmp_path / LATEST)[0] == tmp_path / LATEST
    DAMAGES[damage](tmp_path / LATEST)
    path, checkpoint = read_checkpoint(tmp_path / LATEST)
    assert path == tmp_path / BEST
    assert checkpoint["current_epoch"] == 2


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["checkpoint_final.pth", LATEST])
def test_one_that_nothing_can_replace_gets_one_sentence(tmp_path, name, damage):
    torch.save(GOOD, tmp_path / name)
    DAMAGES[damage](tmp_path / name)
    if name != LATEST:
        torch.save(GOOD, tmp_path / BEST)
    with pytest.raises(
        InputError, match=f"{name} .*checkpoint.*; restore it from a copy, or delete it: then --c goes on from"
    ):
        read_checkpoint(tmp_path / name)


def test_a_training_goes_on_from_the_best_and_says_so(make_trainer, tmp_path, capsys):
    trainer = make_trainer("nnUNetTrainerCCM", configuration="2d")
    trainer.current_epoch = 4
    trainer.save_checkpoint(str(tmp_path / BEST))
    shutil.copy(tmp_path / BEST, tmp_path / LATEST)
    cut_off(tmp_path / LATEST)
    again = make_trainer("nnUNetTrainerCCM", configuration="2d", seed=1)
    again.load_checkpoint(str(tmp_path / LATEST))
    assert "is damaged; the training goes on from checkpoint_best.pth instead, after epoch 4" in capsys.readouterr().out
    assert again.current_epoch == 5
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[key], value)


def test_a_fold_that_is_trained_again_goes_on_from_where_it_was_stopped(make_trainer, tmp_path, capsys):
    """nnU-Net names the final checkpoint, which is that of the training before."""
    trainer = make_trainer("nnUNetTrainerReference", configuration="2d")
    for epoch, name, time in ((99, FINAL, 1000), (29, LATEST, 2000)):
        trainer.current_epoch = epoch
        trainer.save_checkpoint(str(tmp_path / name))
        os.utime(tmp_path / name, (time, time))

    def epoch_after(resume):
        trainer.logger.resume = resume
        trainer.load_checkpoint(str(tmp_path / FINAL))
        return trainer.current_epoch

    assert epoch_after(resume=True) == 30
    assert "is of an earlier training than checkpoint_latest.pth" in capsys.readouterr().out
    assert epoch_after(resume=False) == 100  # --val
    os.utime(tmp_path / LATEST, (500, 500))  # the training ended, and was killed before it could remove this one
    assert epoch_after(resume=True) == 100
    (tmp_path / LATEST).unlink()
    assert epoch_after(resume=True) == 100


def test_a_disk_that_is_full_leaves_the_checkpoint_before(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer("nnUNetTrainerReference", configuration="2d")
    trainer.save_checkpoint(str(tmp_path / LATEST))
    before = (tmp_path / LATEST).read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    trainer.current_epoch = 7
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(str(tmp_path / LATEST))
    assert (tmp_path / LATEST).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []
