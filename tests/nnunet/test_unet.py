"""The walk over planned networks must be the planned network, wherever nobody visits a skip."""

import pytest
import torch
from torch import nn

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.unet import PlannedUNet
from tests import tiny

NETWORKS = {
    "plain 3D": {"dim": 3},
    "residual 3D": {"dim": 3, "residual": True},
    "plain 2D": {"dim": 2},
    "residual 2D": {"dim": 2, "residual": True},
    "anisotropic": {
        "dim": 3,
        "kernel_sizes": [[1, 3, 3], [1, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    },
    "two stages": {"dim": 3, "features": (4, 8)},
    "five stages": {
        "dim": 2,
        "features": (2, 3, 5, 7, 11),
        "strides": [[1, 1], [2, 2], [2, 2], [2, 2], [1, 2]],
    },
    "cascade input": {"dim": 3, "channels": 3},
}


@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS.keys())
def test_walking_equals_the_forward_pass_of_the_planned_network(kwargs, deep_supervision):
    network = tiny.network(**kwargs, deep_supervision=deep_supervision)
    planned = PlannedUNet(network)
    x = torch.randn(2, kwargs.get("channels", 1), *[16] * kwargs["dim"])
    walked = planned.logits(planned.decode(planned.encode(x)), deep_supervision)
    expected = network(x)
    expected = expected if deep_supervision else [expected]
    assert len(walked) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(walked, expected, strict=True))


@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS.keys())
def test_a_visitor_sees_every_skip_once_with_its_shape_and_its_stride(kwargs):
    planned = PlannedUNet(tiny.network(**kwargs))
    x = torch.randn(1, kwargs.get("channels", 1), *[16] * kwargs["dim"])
    seen = []

    def visit(stage, skip, upsampled):
        assert skip.shape == upsampled.shape
        assert skip.shape[1] == planned.channels[stage]
        assert list(skip.shape[2:]) == [16 // down for down in planned.downsampling(stage)]
        seen.append(stage)
        return skip

    planned.decode(planned.encode(x), visit)
    assert seen == list(range(planned.n_stages - 1))[::-1]


def test_what_a_visitor_returns_is_what_the_decoder_uses():
    planned = PlannedUNet(tiny.network())
    skips = planned.encode(torch.randn(1, 1, 16, 16, 16))
    zeroed = planned.decode(skips, lambda stage, skip, up: skip * 0)
    by_hand = planned.decode([*[skip * 0 for skip in skips[:-1]], skips[-1]])
    assert torch.equal(zeroed[0], by_hand[0])


@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS.keys())
def test_a_visitor_of_stages_sees_each_and_what_it_returns_goes_on(kwargs):
    planned = PlannedUNet(tiny.network(**kwargs))
    x = torch.randn(1, kwargs.get("channels", 1), *[16] * kwargs["dim"])
    seen = []
    features = planned.encode(x, lambda stage, feature: seen.append(stage) or feature)
    assert seen == list(range(planned.n_stages))
    assert all(torch.equal(a, b) for a, b in zip(features, planned.encode(x), strict=True))
    zeroed = planned.encode(x, lambda stage, feature: feature * 0 if stage == 0 else feature)
    assert not zeroed[0].any()
    assert not torch.equal(zeroed[1], features[1])


def test_scalar_kernel_sizes_and_strides_of_plans_are_read_per_axis():
    network = tiny.network(dim=2)
    network.encoder.kernel_sizes = [3, 3, 3]
    network.encoder.strides = [1, 2, 2]
    planned = PlannedUNet(network)
    assert planned.kernel_sizes[0] == [3, 3]
    assert planned.downsampling(2) == [4, 4]


def test_a_network_that_is_no_unet_gets_one_clear_sentence():
    class Primus(nn.Module):
        pass

    with pytest.raises(InputError, match=r"network Primus.*needs a U-Net.*use nnUNetPlans"):
        PlannedUNet(Primus())


def test_a_network_of_one_stage_gets_one_clear_sentence():
    network = tiny.network(features=(4, 8))
    network.encoder.output_channels = [4]
    with pytest.raises(InputError, match=r"1 stage.*at least 2 stages"):
        PlannedUNet(network)
