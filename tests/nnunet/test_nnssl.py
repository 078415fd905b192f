"""``-pretrained_weights`` with checkpoints of nnssl: names and shapes of that layout, with random weights."""

import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.nnssl import PLAN, encoder_of, stages_in_words
from nnunet_ext.nnunet.pretrained import load_pretrained_weights
from tests import tiny

RES_ENC = {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None}


def adaptation_plan(prefix="encoder", **changes):
    """The dict that nnssl writes beside the weights of a network whose encoder is called ``prefix``."""
    return {
        "architecture_plans": RES_ENC,
        "pretrain_plan": {"configurations": {"onemmiso": {"spacing": [1, 1, 1], "patch_size": [160, 160, 160]}}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [160, 160, 160],
        "key_to_encoder": f"{prefix}.stages",
        "key_to_stem": f"{prefix}.stem",
        "keys_to_in_proj": [f"{prefix}.stem.convs.0.conv", f"{prefix}.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
        **changes,
    }


def random_network(seed, **options):
    torch.manual_seed(seed)
    network = tiny.network(3, **{"residual": True, **options})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()  # also those that begin equal in every network
    return network


def pretrained(tmp_path, weights, plan=None):
    checkpoint = {"network_weights": weights, PLAN: plan or adaptation_plan(), "trainer_name": "BaseMAETrainer"}
    torch.save({**checkpoint, "init_args": {"fold": "all"}, "citations": []}, tmp_path / "nnssl.pth")
    return tmp_path / "nnssl.pth"


def encoder_alone(network, prefix="encoder"):
    """Weights as methods without a decoder save them."""
    return {f"{prefix}.{key}": value for key, value in network.encoder.state_dict().items()}


LAYOUTS = {
    "a whole network that reconstructs images": lambda network: (network.state_dict(), None),
    "an encoder alone, with heads": lambda network: (
        {**encoder_alone(network), "projector.weight": torch.ones(3, 3)},
        None,
    ),
    "an encoder with another name": lambda network: (
        encoder_alone(network, "online_encoder"),
        adaptation_plan("online_encoder"),
    ),
    "compiled": lambda network: ({f"_orig_mod.{key}": v for key, v in network.state_dict().items()}, None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_encoder_is_taken_and_the_rest_is_as_it_was(tmp_path, capsys, layout):
    source = random_network(1, heads=1, deep_supervision=False)
    file = pretrained(tmp_path, *LAYOUTS[layout](source))
    network = random_network(2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_pretrained_weights(network, file)
    for key, value in network.state_dict().items():
        name = key.removeprefix("decoder.")
        taken = name.startswith("encoder.")
        assert torch.equal(value, source.state_dict()[name] if taken else before[key]), key
        assert taken or not torch.equal(value, torch.zeros_like(value))
    number = 2 * len(source.encoder.state_dict())
    assert f"the encoder, {number} tensors by nnssl; the decoder and added modules keep" in capsys.readouterr().out


def test_a_trainer_with_added_modules_takes_it(make_trainer, tmp_path):
    plans = tiny.plans()
    plans["configurations"]["3d_fullres"] = tiny.configuration(3, residual=True)
    trainer = make_trainer("nnUNetTrainerPnPNet", plans=plans)
    source = random_network(1, heads=1)
    load_pretrained_weights(trainer.network, pretrained(tmp_path, source.state_dict()))
    weights = trainer.network.state_dict()
    assert all(torch.equal(weights[f"encoder.{key}"], value) for key, value in source.encoder.state_dict().items())


def test_a_plain_encoder_has_its_first_convolution_in_its_first_stage(tmp_path):
    source, network = random_network(1, residual=False), random_network(2, residual=False)
    plan = adaptation_plan(key_to_stem="encoder.stages.0", architecture_plans={"arch_class_name": "PlainConvUNet"})
    load_pretrained_weights(network, pretrained(tmp_path, encoder_alone(source), plan))
    assert all(torch.equal(network.encoder.state_dict()[k], v) for k, v in source.encoder.state_dict().items())


def test_every_channel_begins_with_the_one_of_the_pre_training(tmp_path, capsys):
    source, network = random_network(1), random_network(2, channels=3)
    load_pretrained_weights(network, pretrained(tmp_path, encoder_alone(source)), channels=["T1", "T2", "FLAIR"])
    (old,), (new,) = (
        [value for key, value in each.encoder.state_dict().items() if key == "stem.convs.0.conv.weight"]
        for each in (source, network)
    )
    assert torch.equal(new, old.expand_as(new))
    assert "input channel FLAIR: weights of the mean of all 1 channels" in capsys.readouterr().out


def test_another_encoder_is_refused_with_both_in_words(tmp_path):
    source = random_network(1, features=(4, 6, 8), kernel_sizes=[[3, 3, 3]] * 3)
    network = random_network(2, features=(4, 6), kernel_sizes=[[1, 3, 3], [3, 3, 3]])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_pretrained_weights(network, pretrained(tmp_path, source.state_dict()))
    assert "it has 3 stages of 4, 6, 8 features with kernels 3×3×3 and a stem" in str(caught.value)
    assert "this one has 2 stages of 4, 6 features with kernels 1×3×3 and 3×3×3 and a stem" in str(caught.value)
    assert "-pl nnUNetPlannerResEncL" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_volumes_do_not_go_into_slices(tmp_path):
    torch.manual_seed(0)
    network = tiny.network(2, residual=True)
    with pytest.raises(InputError, match="it is of a 3D network, and this one is 2D"):
        load_pretrained_weights(network, pretrained(tmp_path, random_network(1).state_dict()))


@pytest.mark.parametrize(
    "changes",
    [{"architecture_plans": {"arch_class_name": "PrimusM"}}, {"key_to_lpe": "eva.pos_embed", "key_to_encoder": "eva"}],
)
def test_transformers_are_refused(tmp_path, changes):
    file = pretrained(tmp_path, {"eva.pos_embed": torch.zeros(1, 8, 4)}, adaptation_plan(**changes))
    with pytest.raises(InputError, match="a transformer, but the planned network is a U-Net of convolutions"):
        load_pretrained_weights(random_network(1), file)


def test_a_checkpoint_whose_encoder_is_elsewhere_or_whose_plan_is_none_is_refused():
    with pytest.raises(InputError, match=r"no tensor whose name begins with encoder\.stages"):
        encoder_of({PLAN: adaptation_plan()}, {"backbone.weight": torch.zeros(1)}, "x.pth")
    with pytest.raises(InputError, match="nnssl_adaptation_plan is a list, but in a checkpoint of nnssl it is a dict"):
        encoder_of({PLAN: []}, {}, "x.pth")


def test_an_encoder_in_words():
    assert stages_in_words(random_network(1, residual=False).state_dict()) == (
        "3 stages of 4, 6, 8 features with kernels 3×3×3"
    )
