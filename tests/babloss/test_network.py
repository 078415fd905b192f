"""Two decoders on one encoder, of which the segmentation's is what nnU-Net planned."""

import pytest
import torch

from nnunet_ext.babloss.network import LandmarkUNet
from nnunet_ext.nnunet.unet import PlannedUNet
from tests import tiny

NETWORKS = [
    {"dim": 2},
    {"dim": 3},
    {"dim": 3, "residual": True},
    {"dim": 3, "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]], "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]},
]


@pytest.fixture(params=NETWORKS, ids=["2D", "3D", "residual", "anisotropic"])
def pair(request):
    torch.manual_seed(0)
    planned = tiny.network(**request.param)
    x = torch.randn(2, 1, *[16] * request.param["dim"])
    return planned, LandmarkUNet(PlannedUNet(planned), 5), x


def test_the_segmentation_is_that_of_the_planned_network(pair):
    planned, network, x = pair
    for training in (True, False):
        expected = planned.train(training)(x)
        output = network.train(training)(x, landmarks=False)
        for a, b in zip(expected, output, strict=True):
            assert torch.equal(a, b)


def test_landmarks_come_in_training_and_on_request(pair):
    _, network, x = pair
    segmentation, landmarks = network.train()(x)
    assert landmarks.shape == (2, 5, *x.shape[2:])
    assert isinstance(segmentation, list)
    assert not isinstance(network.eval()(x), tuple)
    assert network(x, landmarks=True)[1].shape == landmarks.shape


def test_the_decoders_share_no_weights_and_start_differently(pair):
    planned, network, x = pair
    own = set(map(id, network.landmark_decoder.parameters()))
    assert not own & set(map(id, planned.parameters()))
    first, second = planned.decoder.transpconvs[0].weight, network.landmark_decoder.transpconvs[0].weight
    assert not torch.equal(first, second)
    network.train()(x)[1].sum().backward()
    # nnU-Net's decoder also holds the encoder
    drawing = [p for name, p in planned.decoder.named_parameters() if not name.startswith("encoder.")]
    assert drawing
    assert all(p.grad is None for p in drawing)
    assert all(p.grad is not None for p in network.landmark_decoder.parameters())
    assert all(p.grad is not None for p in planned.encoder.parameters())


def test_without_the_landmark_decoder_the_state_is_that_of_the_planned_network(pair):
    planned, network, _ = pair
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("landmark_decoder.")}
    assert state.keys() == planned.state_dict().keys()
