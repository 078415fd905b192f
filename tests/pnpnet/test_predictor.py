"""One branch off after training: in a network for a while, and in a checkpoint for good."""

import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.pnpnet.network import PnPNet
from nnunet_ext.pnpnet.options import PnPNetOptions
from nnunet_ext.pnpnet.predictor import without, write_without
from tests import tiny
from tests.pnpnet.test_network import OPTIONS, build, image, opened

OTHER = {"push": "pull", "pull": "push"}


@pytest.mark.parametrize("branch", OTHER)
def test_the_network_computes_what_it_would_without_the_branch_and_is_itself_again(branch):
    net = opened(build(dim=2, deep_supervision=False)).eval()
    x = image({"dim": 2})
    alone = PnPNet(net.planned, PnPNetOptions(**{"push": True, branch: False}, dim=8, heads=2, width=4)).eval()
    alone.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith(branch)})
    with torch.no_grad():
        before = net(x)
        with without(net, branch):
            torch.testing.assert_close(net(x), alone(x), rtol=0, atol=0)
        assert torch.equal(net(x), before)
        assert not torch.equal(alone(x), before)


def test_with_both_branches_off_it_is_the_planned_network():
    planned = tiny.network(dim=2, deep_supervision=False)
    net = opened(build(dim=2, deep_supervision=False))
    net.encoder.load_state_dict(planned.encoder.state_dict())
    net.decoder.load_state_dict(planned.decoder.state_dict(), strict=False)
    x = image({"dim": 2})
    with torch.no_grad(), without(net, "push"), without(net, "pull"):
        assert torch.equal(net.eval()(x), planned.eval()(x))


def test_an_error_inside_leaves_the_network_as_it_was():
    net = opened(build(dim=2))
    before = net.pull.scale.factor.clone()
    with pytest.raises(ZeroDivisionError), without(net, "pull"):
        raise ZeroDivisionError
    assert torch.equal(net.pull.scale.factor, before)


@pytest.mark.parametrize(
    ("options", "branch", "sentence"),
    [
        ("both", "decoder", "no branch 'decoder'; there are push and pull"),
        ("push", "pull", "has no branch 'pull'; only networks that were trained with it"),
        ("paper", "push", "cannot be switched off: it is that of nnUNetTrainerPnPNetPaper"),
    ],
)
def test_what_cannot_be_switched_off_gets_one_clear_sentence(options, branch, sentence):
    with pytest.raises(InputError, match=sentence), without(build(OPTIONS[options]), branch):
        pass


@pytest.mark.parametrize("branch", OTHER)
def test_a_checkpoint_without_a_branch_loads_strictly_and_keeps_everything_else(make_trainer, tmp_path, branch):
    plans = tiny.plans()
    plans["configurations"]["2d"]["nnunet_ext"] = {"pnpnet": {"push": True}}
    trainer = make_trainer("nnUNetTrainerPnPNet", configuration="2d", plans=plans)
    opened(trainer.network)
    trainer.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    written = write_without(tmp_path / "checkpoint_final.pth", branch)
    assert written == tmp_path / f"checkpoint_final_without_{branch}.pth"
    saved = torch.load(written, weights_only=False)
    x = torch.randn(1, 1, 16, 16)
    network = trainer.network.eval()
    with torch.no_grad():
        with without(network, branch):
            expected = network(x)
        network.load_state_dict(saved["network_weights"], strict=True)
        assert all(torch.equal(a, b) for a, b in zip(network(x), expected, strict=True))
    assert saved["trainer_name"] == "nnUNetTrainerPnPNet"
    with pytest.raises(InputError, match="no checkpoint"):
        write_without(tmp_path / "none.pth", branch)
