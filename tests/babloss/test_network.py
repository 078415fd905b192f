"""Two decoders on one encoder, of which the segmentation's is what nnU-Net planned."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from nnunet_ext.babloss.network import LandmarkUNet
from nnunet_ext.babloss.options import BaBLossOptions
from nnunet_ext.landmarks.heatmaps import decode, heatmaps
from nnunet_ext.landmarks.points import State
from nnunet_ext.nnunet.unet import PlannedUNet
from tests import tiny

NETWORKS = [
    {"dim": 2},
    {"dim": 3},
    {"dim": 3, "residual": True},
    {"dim": 3, "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]], "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]]},
]


@pytest.fixture(params=[0, 1], ids=["full", "half"])
def stage(request):
    return request.param


@pytest.fixture(params=NETWORKS, ids=["2D", "3D", "residual", "anisotropic"])
def pair(request, stage):
    torch.manual_seed(0)
    planned = tiny.network(**request.param)
    x = torch.randn(2, 1, *[16] * request.param["dim"])
    return planned, LandmarkUNet(PlannedUNet(planned), 5, stage), x


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


def test_logits_of_a_coarser_stage_are_interpolated_at_the_centres_of_the_voxels(pair, stage):
    planned, network, x = pair
    network.double().eval()
    coarse = []
    network.landmark_decoder.head.register_forward_hook(lambda module, args, output: coarse.append(output))
    with torch.no_grad():
        logits = network(x.double(), landmarks=True)[1].numpy()
    [coarse] = coarse
    factors = PlannedUNet(planned).downsampling(stage)
    assert list(coarse.shape[2:]) == [n // f for n, f in zip(x.shape[2:], factors, strict=True)]
    axes = [(np.arange(n) + 0.5) / f - 0.5 for n, f in zip(x.shape[2:], factors, strict=True)]
    where = np.meshgrid(*axes, indexing="ij")
    for sample in range(2):
        for landmark in range(5):
            expected = map_coordinates(coarse[sample, landmark].numpy(), where, order=1, mode="nearest")
            np.testing.assert_allclose(logits[sample, landmark], expected, atol=1e-12)


def test_a_network_of_two_stages_is_decoded_to_full_resolution():
    planned = tiny.network(3, features=(4, 6))
    decoder = LandmarkUNet(PlannedUNet(planned), 5, 1).landmark_decoder
    assert (decoder.stage, len(decoder.stages)) == (0, 1)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_landmarks_gradient_reaches_the_encoder(share):
    """Landmarks change their decoder fully, the encoder by that share, and the segmentation changes both as before."""

    def gradients(share):
        torch.manual_seed(0)
        network = LandmarkUNet(PlannedUNet(tiny.network(2)), 5, 1, share).double().train()
        segmentation, landmarks = network(torch.randn(2, 1, 16, 16, dtype=torch.float64))
        found = []
        for output in (landmarks, segmentation[0]):
            network.zero_grad()
            output.square().mean().backward(retain_graph=True)
            parameters = dict(network.named_parameters())
            found.append({n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in parameters.items()})
        return landmarks.detach(), found

    whole, (of_landmarks, of_segmentation) = gradients(1.0)
    output, (scaled, same) = gradients(share)
    assert torch.equal(whole, output)
    assert any(name.startswith("encoder.") for name in scaled)
    for name, expected in of_landmarks.items():
        factor = share if name.startswith("encoder.") else 1.0
        torch.testing.assert_close(scaled[name], factor * expected)
        torch.testing.assert_close(same[name], of_segmentation[name])


@pytest.mark.parametrize("dim", [2, 3])
def test_the_compiled_network_is_one_graph_with_the_same_gradients(dim):
    """nnU-Net compiles on CUDA by default."""
    torch.manual_seed(0)
    network = LandmarkUNet(PlannedUNet(tiny.network(dim)), 5, 1, BaBLossOptions().encoder_gradient).train()
    x = torch.randn(2, 1, *[16] * dim)

    def gradients(run):
        network.zero_grad()
        segmentation, landmarks = run(x)
        (landmarks.square().mean() + sum(level.square().mean() for level in segmentation)).backward()
        return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}

    eager = gradients(network)
    torch._dynamo.reset()
    compiled = gradients(torch.compile(network, fullgraph=True, backend="aot_eager"))
    for name, gradient in eager.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-3, atol=1e-5)


@given(point=st.lists(st.floats(8, 23), min_size=3, max_size=3))
def test_half_of_the_resolution_is_enough_for_a_heatmap(point):
    """A perfect heatmap of the default width, interpolated from stage 1, is decoded to 0.05 voxels."""
    coarse = (torch.tensor([[point]], dtype=torch.float64) + 0.5) / 2 - 0.5
    perfect = heatmaps(coarse, torch.full((1, 1), int(State.PRESENT)), (16,) * 3, (2.0,) * 3)
    logits = perfect.clamp(1e-6, 1 - 1e-6).logit()
    interpolated = torch.nn.functional.interpolate(logits, (32,) * 3, mode="trilinear").sigmoid()
    assert np.abs(decode(interpolated[0])[0][0] - point).max() < 0.05
