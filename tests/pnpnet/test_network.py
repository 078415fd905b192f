"""PnPNet on planned networks: every dimension, plan and label regime; what nnU-Net requires of a network."""

import copy
import shutil

import numpy as np
import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.pnpnet.blocks import Scale
from nnunet_ext.pnpnet.network import PnPNet, attachable_levels
from nnunet_ext.pnpnet.options import PnPNetOptions
from tests import tiny
from tests.nnunet.test_unet import NETWORKS
from tests.pnpnet import numpy_reference as reference

SMALL = {"dim": 8, "heads": 2, "width": 4}
OPTIONS = {
    "both": PnPNetOptions(push=True, **SMALL),
    "push": PnPNetOptions(push=True, pull=False),
    "pull": PnPNetOptions(**SMALL),
    "no atlas": PnPNetOptions(push=True, atlas_ratio=0, **SMALL),
    "paper": PnPNetOptions.as_published(),
}


def build(options=OPTIONS["both"], *, exclusive=True, patch_size=None, **network):
    return PnPNet(PlannedUNet(tiny.network(**network)), options, exclusive=exclusive, patch_size=patch_size)


def opened(net):
    """The network with factors that are not 0, as after a training."""
    for module in net.modules():
        if isinstance(module, Scale):
            torch.nn.init.uniform_(module.factor, 0.5 / module.gain, 1.0 / module.gain)
    return net


def supervised(pulled):
    """A number of all that the loss sees of the pulling branch."""
    found = pulled.maps if hasattr(pulled, "maps") else [pulled.centers]
    return sum(x.square().mean() for x in found)


def image(kwargs, batch=2):
    return torch.randn(batch, kwargs.get("channels", 1), *[16] * kwargs["dim"])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS.keys())
def test_shapes_are_those_of_the_planned_network_and_every_parameter_gets_a_gradient(kwargs, options):
    planned = tiny.network(**kwargs)
    expected = [tuple(logits.shape) for logits in planned(image(kwargs))]
    net = opened(PnPNet(PlannedUNet(planned), options).train())
    logits, pulled = net(image(kwargs))
    assert [tuple(x.shape) for x in logits] == expected
    assert (pulled is not None) == options.pull
    loss = sum(x.square().mean() for x in logits)
    if pulled is not None:
        loss = loss + supervised(pulled)
    loss.backward()
    without = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS.keys())
def test_a_fresh_network_is_the_planned_network_bit_for_bit(kwargs, exclusive):
    planned = tiny.network(**kwargs)
    x = image(kwargs)
    with torch.no_grad():
        expected = planned(x)
        logits, _ = PnPNet(PlannedUNet(planned), OPTIONS["both"], exclusive=exclusive).train()(x)
    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))


@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS.keys())
def test_after_one_step_the_gradient_of_the_logits_alone_reaches_every_parameter_of_both_branches(kwargs):
    torch.manual_seed(0)
    net, x = build(**kwargs).train(), image(kwargs)
    reference_logits = torch.randn(2, 3, *[16] * kwargs["dim"])
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (net(x)[0][0] - reference_logits).square().mean().backward()
        optimizer.step()
    untouched = [
        name
        for name, p in net.named_parameters()
        if name.startswith(("push.", "pull.")) and (p.grad is None or not p.grad.any())
    ]
    assert not untouched


@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS.keys())
def test_the_pull_maps_are_at_the_resolution_of_their_levels(kwargs):
    net = build(**kwargs).train()
    skips = net.planned.encode(image(kwargs))
    _, pulled = net(image(kwargs))
    assert [x.shape[2:] for x in pulled.maps] == [skips[level].shape[2:] for level in net.pull.levels]


def test_the_pulling_branch_sees_the_bottleneck():
    """The published code clusters the skips, which know nothing of it."""
    net = build(dim=2).train()
    with torch.no_grad():
        skips = net.planned.encode(image({"dim": 2}))
        maps = []
        for bottleneck in (skips[-1], torch.randn_like(skips[-1])):
            features = net.planned.decode([*skips[:-1], bottleneck], net._visit_skip)
            maps.append(net.pull(skips, features, net.planned.logits(features, False)[0])[1].maps[0])
    assert (maps[0] - maps[1]).abs().mean() > 0.01


@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS.keys())
def test_in_evaluation_the_network_returns_what_nnunets_predictor_expects(kwargs):
    net = build(**kwargs).eval()
    with torch.no_grad():
        listed = net(image(kwargs))
        net.decoder.deep_supervision = False
        single = net(image(kwargs))
    assert isinstance(listed, list)
    assert single.shape == (2, 3, *[16] * kwargs["dim"])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_model_trained_with_deep_supervision_loads_strictly_without_it(options):
    trained = opened(build(options, dim=3)).eval()
    rebuilt = build(options, dim=3, deep_supervision=False).eval()
    rebuilt.load_state_dict(trained.state_dict(), strict=True)
    x = image({"dim": 3})
    with torch.no_grad():
        assert torch.equal(trained(x)[0], rebuilt(x))


@pytest.mark.parametrize("kwargs", NETWORKS.values(), ids=NETWORKS.keys())
def test_the_planned_parameters_keep_their_names_and_values(kwargs):
    planned = tiny.network(**kwargs)
    before = {key: value.clone() for key, value in planned.state_dict().items()}
    after = PnPNet(PlannedUNet(planned), OPTIONS["both"]).state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(key.startswith(("push.", "pull.")) for key in after.keys() - before.keys())


def test_without_either_branch_it_is_the_planned_network():
    planned = tiny.network(deep_supervision=False).eval()
    net = PnPNet(PlannedUNet(copy.deepcopy(planned)), PnPNetOptions(push=False, pull=False)).eval()
    x = image({"dim": 3})
    with torch.no_grad():
        assert torch.equal(net(x), planned(x))


@pytest.mark.parametrize("dim", [2, 3])
def test_the_logits_are_the_planned_ones_plus_the_scaled_pull_logits(dim):
    net = opened(build(dim=dim).train())
    x = image({"dim": dim})
    with torch.no_grad():
        logits, pulled = net(x)
        planned = net.planned.logits(net.planned.decode(net.planned.encode(x), net._visit_skip), True)
    pull = reference.linear_resize(pulled.maps[0].numpy(), planned[0].shape[2:])
    factor = net.pull.scale.factor.detach().numpy().reshape(1, -1, *[1] * dim)
    np.testing.assert_allclose(logits[0].numpy(), planned[0].numpy() + factor * pull, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(logits[1:], planned[1:], strict=True))


def test_fusion_starts_as_the_mean_of_the_levels():
    net = build(**NETWORKS["five stages"])
    found = [torch.randn(1, 3, 4, 4) for _ in net.pull.levels]
    expected = torch.stack(found).mean(0)
    torch.testing.assert_close(net.pull._fuse(*found), expected - expected.mean(1, keepdim=True))


def test_weights_of_the_earlier_network_get_one_clear_sentence():
    weights = build().state_dict()
    old = {key: value for key, value in weights.items() if "scale.factor" not in key}
    with pytest.raises(InputError, match=r"weights are of an earlier PnPNet, .*CHANGELOG\.md\), or train again"):
        build().load_state_dict(old)
    paper = build(OPTIONS["paper"])
    paper.load_state_dict(build(OPTIONS["paper"]).state_dict())
    assert not any("scale.factor" in key for key in paper.state_dict())


def test_branches_grow_with_the_network_up_to_their_default_size():
    wide = build(PnPNetOptions(push=True), features=(32, 64, 128, 8))
    assert [wide.push[level].skip_difference.weight.shape[0] for level in "12"] == [32, 32]
    assert wide.pull.atlas.queries.shape[1] == 64
    narrow = build(PnPNetOptions(push=True), features=(16, 32, 64, 8))
    assert [narrow.push[level].skip_difference.weight.shape[0] for level in "12"] == [16, 32]
    assert narrow.pull.atlas.queries.shape[1] == 32
    assert build(PnPNetOptions(heads=3), features=(4, 8, 8)).pull.atlas.queries.shape[1] == 9  # heads divide it
    assert build(PnPNetOptions(push=True, width=64), features=(4, 8, 8)).push["1"].skip_difference.weight.shape[0] == 8


def test_weights_with_branches_of_another_size_name_the_options_that_fit():
    earlier = build(PnPNetOptions(push=True, width=32, dim=64), features=(16, 32, 64, 8))
    today = build(PnPNetOptions(push=True), features=(16, 32, 64, 8))
    with pytest.raises(
        InputError, match=r'another size .*"pnpnet": \{"width": 32, "dim": 64\} to "nnunet_ext"'
    ) as error:
        today.load_state_dict(earlier.state_dict())
    assert "\n" not in str(error.value)
    build(PnPNetOptions(push=True, width=32, dim=64), features=(16, 32, 64, 8)).load_state_dict(earlier.state_dict())


@pytest.mark.parametrize(
    ("there", "here", "words", "advice"),
    [
        ("both", "pull", "the pushing branch and the pulling branch, .* the plans has the pulling branch", (1, 1)),
        ("push", "pull", "the pushing branch, .* the plans has the pulling branch", (1, 0)),
        ("pull", "both", "the pulling branch, .* the plans has the pushing branch and the pulling branch", (0, 1)),
    ],
)
def test_weights_with_other_branches_name_the_options_that_fit(there, here, words, advice):
    weights, (push, pull) = build(OPTIONS[there]).state_dict(), (["false", "true"][on] for on in advice)
    needed = rf'"pnpnet": \{{"push": {push}, "pull": {pull}\}} to "nnunet_ext"'
    with pytest.raises(InputError, match=rf"^These weights have {words}\. Add {needed} .*\.$"):
        build(OPTIONS[here]).load_state_dict(weights)


def test_levels_are_those_the_network_has():
    five = PlannedUNet(tiny.network(**NETWORKS["five stages"]))
    assert attachable_levels(five, (1, 2, 3)) == [1, 2, 3]
    assert attachable_levels(five, (2, 3, 4)) == [2, 3]  # 4 is the bottleneck
    assert attachable_levels(five, (3, 1, 1)) == [1, 3]
    assert attachable_levels(PlannedUNet(tiny.network(features=(4, 8))), (1, 2, 3)) == [0]
    assert attachable_levels(five, (1, 2, 3), patch_size=(8, 8)) == [1, 2]  # stage 3 would be a single voxel


def test_patches_with_a_single_voxel_at_a_level_still_train():
    net = build(dim=2, features=(4, 6, 8, 8), strides=[[1, 1], [2, 2], [4, 4], [1, 1]], patch_size=(8, 8))
    assert list(net.push) == ["1"]


def test_one_class_gets_one_clear_sentence_and_one_region_does_not():
    with pytest.raises(InputError, match="has 1 class, so there is nothing to tell apart"):
        build(heads=1)
    net = build(heads=1, exclusive=False).train()
    assert net(image({"dim": 3}))[0][0].shape[1] == 1


def test_regions_are_assigned_independently():
    net = build(exclusive=False, heads=2, dim=3)
    assert all(not module.exclusive for module in net.pull.clustering.values())
    assert not net.pull.exclusive


def test_labels_are_never_needed_and_samples_do_not_influence_each_other():
    net = opened(build(dim=3, deep_supervision=False)).eval()
    x = image({"dim": 3})
    with torch.no_grad():
        torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-4)


def test_two_calls_share_no_state():
    net = build(dim=3, deep_supervision=False).eval()
    a, b = image({"dim": 3}), image({"dim": 3})
    with torch.no_grad():
        alone = net(b)
        net(a)
        assert torch.equal(net(b), alone)


@pytest.mark.parametrize("dim", [2, 3])
def test_half_precision_autocast_is_finite(dim):
    net = opened(build(dim=dim).train())
    with torch.autocast("cpu", dtype=torch.float16):
        logits, pulled = net(10 * image({"dim": dim}))
    assert all(x.isfinite().all() for x in [*logits, *pulled.maps])
    assert logits[0].dtype == logits[1].dtype


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler; install g++"),
            ],
        ),
    ],
)
def test_the_compiled_network_is_one_graph_with_the_same_gradients(dim, backend):
    """nnU-Net compiles on CUDA by default."""
    net, x = opened(build(dim=dim).train()), image({"dim": dim})

    def gradients(network):
        net.zero_grad()
        logits, pulled = network(x)
        (sum(level.square().mean() for level in logits) + supervised(pulled)).backward()
        return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}

    eager = gradients(net)
    torch._dynamo.reset()
    compiled = gradients(torch.compile(net, fullgraph=True, backend=backend))
    for name, gradient in eager.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-3, atol=1e-4)
