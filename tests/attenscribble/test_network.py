"""Which stage is attended to, over which window, and that the planned network stays the planned network."""

import math

import pytest
import torch
from torch import nn

from nnunet_ext.attenscribble.attentive_similarity import AttentiveSimilarity
from nnunet_ext.attenscribble.network import (
    AttendedUNet,
    AttenScribbleOptions,
    default_stage,
    similarity_window,
    token_grid,
)
from nnunet_ext.attenscribble.similarity import inside
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.unet import PlannedUNet
from tests import tiny

ANISO = {
    "dim": 3,
    "features": (2, 2, 2, 2, 2, 2),
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]],
}
DEEP_2D = {"dim": 2, "features": (2,) * 7}
DEEP_3D = {"dim": 3, "features": (2,) * 6}


def attended(place: str, seed: int = 0, **network) -> AttendedUNet:
    torch.manual_seed(seed)
    planned = PlannedUNet(tiny.network(**network))
    own = {"asl_weight": 0.0} if place == "off" else {"attention": place, "asl_weight": 1.0}
    options = AttenScribbleOptions(max_tokens=70, **own)
    return AttendedUNet(planned, options, [16] * network.get("dim", 3))


@pytest.mark.parametrize(
    ("network", "patch", "stage", "tokens"),
    [
        (DEEP_2D, (256, 224), 2, 3584),
        (DEEP_2D, (512, 512), 3, 4096),
        (DEEP_2D, (64, 64), 0, 4096),
        (DEEP_3D, (128, 128, 128), 3, 4096),
        (ANISO, (20, 256, 224), 3, 4480),
        (DEEP_3D, (48, 192, 224), 3, 4032),
        (DEEP_3D, (96, 192, 192), 4, 864),
    ],
)
def test_the_shallowest_stage_with_few_enough_tokens(network, patch, stage, tokens):
    planned = PlannedUNet(tiny.network(**network))
    assert default_stage(planned, patch, 5000) == stage
    assert torch.tensor(token_grid(planned, stage, patch)).prod() == tokens
    assert default_stage(planned, patch, 0) == planned.n_stages - 1


def test_stages_can_be_named():
    planned = PlannedUNet(tiny.network(dim=2))
    network = AttendedUNet(planned, AttenScribbleOptions(stages=[2, 1, 2], asl_weight=1.0), (16, 16))
    assert network.stages == (1, 2)
    _, seen = network.train()(torch.randn(1, 1, 16, 16))
    assert list(seen) == ["1", "2"]


def test_heads_in_the_trunk_must_divide_the_channels_of_their_stage():
    planned = PlannedUNet(tiny.network(dim=2, features=(4, 6, 8)))
    own = {"attention": "trunk", "asl_weight": 1.0, "heads": 3}
    with pytest.raises(InputError, match=r"heads = 3, but stage 2 of their network has 8 channels; .* divisor"):
        AttendedUNet(planned, AttenScribbleOptions(stages=[1, 2], **own), (16, 16))
    AttendedUNet(planned, AttenScribbleOptions(stages=[1], **own), (16, 16))(torch.randn(1, 1, 16, 16))
    beside = AttenScribbleOptions(stages=[2], **{**own, "attention": "side"})
    AttendedUNet(planned, beside, (16, 16))(torch.randn(1, 1, 16, 16))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("place", ["side", "off", "trunk"])
def test_the_planned_network_is_unchanged(place, dim, residual):
    """In side mode and without attention parameter for parameter; in the trunk the block starts as the identity."""
    stock = tiny.network(dim=dim, residual=residual)
    ours = attended(place, dim=dim, residual=residual)
    missing, extra = ours.load_state_dict(stock.state_dict(), strict=False)
    if place == "trunk":
        assert not extra
        assert all(key.startswith("attention.") for key in missing)
    else:
        assert ours.state_dict().keys() == stock.state_dict().keys()
    x = torch.randn(2, 1, *[16] * dim)
    for a, b in zip(ours.eval()(x), stock.eval()(x), strict=True):
        torch.testing.assert_close(a, b)
    output, seen = ours.train()(x)
    assert len(output) == len(stock(x))
    assert len(seen) == (place != "off")


def test_trunk_returns_queries_and_keys_and_side_the_feature():
    x = torch.randn(1, 1, 16, 16)
    [[queries, keys]] = attended("trunk", dim=2).train()(x)[1].values()
    assert queries.shape == keys.shape == (1, 1, 64, 8, 8)
    [[feature]] = attended("side", dim=2).train()(x)[1].values()
    assert feature.shape == (1, 6, 8, 8)
    assert feature.requires_grad


def test_without_deep_supervision_the_output_is_a_tensor():
    network = attended("side", dim=2)
    network.decoder.deep_supervision = False
    assert network.eval()(torch.randn(1, 1, 16, 16)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("place", ["trunk", "side"])
def test_the_network_compiles_in_one_graph(place):
    network = attended(place, dim=2).train()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(compiled(x)[0][0], network(x)[0][0])


class Constant(nn.Module):
    """A similarity that is the same for all pairs."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward(self, projected, window):
        grid = tuple(projected.queries.shape[3:])
        logits = torch.full((len(projected.queries), len(window.offsets), *grid), self.logit)
        return logits.where(inside(window, grid), 0)


@pytest.mark.parametrize(("logit", "mean"), [(-40.0, 0.0), (0.0, 0.5), (40.0, 1.0)])
def test_the_mean_similarity_counts_pairs_in_the_grid_only(logit, mean):
    network = attended("side", dim=2).train()
    [(stage, seen)] = network(torch.randn(2, 1, 16, 16))[1].items()
    similarity = AttentiveSimilarity(network, network_options(), (1.0, 1.0), exclusive=True)
    similarity.affinity[stage] = Constant(logit)
    probabilities = torch.randn(2, 3, 16, 16).softmax(1)
    assert similarity(probabilities, torch.ones(2), {stage: seen})[1].item() == pytest.approx(mean, abs=1e-6)


def network_options():
    return AttenScribbleOptions(max_tokens=70, attention="side", asl_weight=1.0)


# --- windows ----------------------------------------------------------------------------------------------------------


def test_in_2d_the_window_of_the_similarity_is_the_published_one():
    planned = PlannedUNet(tiny.network(**DEEP_2D))
    window = similarity_window(planned, 2, (0.8, 0.8))  # stride 4
    assert len(window.offsets) == 60
    assert window.mass == pytest.approx(92.0, abs=0.05)  # radius 5, sigma 6 tokens


def test_the_window_of_the_similarity_can_be_as_small_as_asked():
    """Radius 2 and σ 4/3 tokens; along axes of coarser tokens fewer of them."""
    planned = PlannedUNet(tiny.network(**DEEP_2D))
    window = similarity_window(planned, 2, (0.8, 0.8), 2)
    assert len(window.offsets) == 12
    expected = sum(math.exp(-(y * y + x * x) / (2 * (4 / 3) ** 2)) for y in range(-2, 3) for x in range(-2, 3)) - 1
    assert window.mass == pytest.approx(expected)
    assert {offset[1] for offset in similarity_window(planned, 2, (0.8, 1.6), 2).offsets} == {-1, 0, 1}
    options = AttenScribbleOptions(max_tokens=70, asl_weight=1.0, asl_radius=1)
    network = AttendedUNet(PlannedUNet(tiny.network(2)), options, (16, 16))
    [used] = AttentiveSimilarity(network, options, (1.0, 1.0), exclusive=True).windows.values()
    assert len(used.offsets) == 4


@pytest.mark.parametrize(("stage", "radius"), [(2, 5), (3, 2), (4, 2)])
def test_coarser_tokens_have_smaller_windows(stage, radius):
    window = similarity_window(PlannedUNet(tiny.network(**DEEP_3D)), stage, (1, 1, 1))
    assert max(max(offset) for offset in window.offsets) == radius


def test_in_anisotropic_volumes_the_window_of_the_similarity_reaches_the_next_slice():
    planned = PlannedUNet(tiny.network(**ANISO))
    window = similarity_window(planned, 2, (10, 1, 1))  # tokens of 20 × 4 × 4 voxels
    assert {offset[0] for offset in window.offsets} == {0, 1}
