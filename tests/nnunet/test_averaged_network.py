"""The average of a network that a trainer keeps: its steps, its checkpoints, and where it is not."""

from typing import ClassVar

import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.averaged_network import AVERAGE, AveragedNetwork
from nnunet_ext.nnunet.trainer import CHECKPOINT_KEY
from tests import tiny


class Averaged(AveragedNetwork):
    """Keeps an average over about four steps."""

    momentum: ClassVar[float | None] = 0.75

    @property
    def average_momentum(self):
        return self.momentum


class NotAveraged(Averaged):
    """Keeps none."""

    momentum: ClassVar[float | None] = None


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_it_begins_as_the_mean_of_all_networks_so_far_and_then_forgets(make_trainer):
    trainer = make_trainer(Averaged, configuration="2d")
    trainer.network.train()
    expected = None
    for step in range(6):
        trainer.train_step(tiny.batch(trainer, step))
        now = weights(trainer.network)
        momentum = min(0.75, step / (step + 1))
        expected = now if expected is None else momentum * expected + (1 - momentum) * now
        torch.testing.assert_close(weights(trainer.average()), expected)
    assert not torch.equal(weights(trainer.average()), now)
    assert not any(p.requires_grad for p in trainer.average().parameters())


def test_it_is_restored_and_starts_as_a_copy_where_a_checkpoint_holds_none(make_trainer, tmp_path, capsys):
    trainer = make_trainer(Averaged, configuration="2d")
    trainer.network.train()
    for step in range(3):
        trainer.train_step(tiny.batch(trainer, step))
    trainer.save_checkpoint(str(tmp_path / "with.pth"))
    saved = torch.load(tmp_path / "with.pth", weights_only=False)
    assert saved["network_weights"].keys() == tiny.network(2).state_dict().keys()
    assert saved[CHECKPOINT_KEY]["aux"].keys() == {f"{AVERAGE}.network.{key}" for key in saved["network_weights"]}
    restored = make_trainer(Averaged, configuration="2d", seed=1)
    restored.load_checkpoint(str(tmp_path / "with.pth"))
    assert torch.equal(weights(restored.average()), weights(trainer.average()))
    del saved[CHECKPOINT_KEY]
    torch.save(saved, tmp_path / "without.pth")
    stock = make_trainer(Averaged, configuration="2d", seed=2)
    stock.load_checkpoint(str(tmp_path / "without.pth"))
    assert torch.equal(weights(stock.average()), weights(trainer.network))
    assert "holds no averaged network" in capsys.readouterr().out


def test_a_checkpoint_with_one_that_the_options_switched_off_is_one_sentence(make_trainer, tmp_path):
    make_trainer(Averaged, configuration="2d").save_checkpoint(str(tmp_path / "with.pth"))
    with pytest.raises(InputError, match=r"averaged network is only in the checkpoint; restore the options, or start"):
        make_trainer("nnUNetTrainerReference", configuration="2d").load_checkpoint(str(tmp_path / "with.pth"))


def test_a_checkpoint_of_another_trainer_is_one_sentence(make_trainer, tmp_path):
    make_trainer("nnUNetTrainerReference", kind="ignore", configuration="2d").save_checkpoint(str(tmp_path / "a.pth"))
    trainer = make_trainer("nnUNetTrainerMaskedCRF", kind="ignore", configuration="2d")
    with pytest.raises(InputError, match=r"is of another trainer: it holds no confidence, which"):
        trainer.load_checkpoint(str(tmp_path / "a.pth"))


def test_the_final_checkpoint_does_not_hold_it(make_trainer):
    trainer = make_trainer(Averaged, configuration="2d")
    trainer.logger.log("train_losses", 0.0, 0)
    trainer.output_folder = "unused"
    trainer.disable_checkpointing = True
    trainer.dataloader_train = trainer.dataloader_val = None
    trainer.on_train_end()
    assert AVERAGE not in trainer.aux


@pytest.mark.parametrize("trainer", [NotAveraged, "nnUNetTrainerReference"])
def test_without_a_momentum_there_is_none(make_trainer, trainer):
    made = make_trainer(trainer, configuration="2d")
    made.network.train()
    made.train_step(tiny.batch(made))
    assert AVERAGE not in made.aux
