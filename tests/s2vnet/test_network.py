"""The network on tiny planned U-Nets: shapes, what influences what, gradients, and that it remembers nothing."""

import itertools

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.options import with_overrides
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.s2vnet.centroid_aggregation import Bank
from nnunet_ext.s2vnet.labels import LabelHeads
from nnunet_ext.s2vnet.network import SURE, S2VNet, slices_with_image
from nnunet_ext.s2vnet.options import S2VNetOptions
from nnunet_ext.s2vnet.prompts import Prompts
from tests import tiny

LABELS = LabelHeads(3)
REGIONS = LabelHeads(3, ((1, 2), (2,)))


def s2vnet(heads=LABELS, seed=0, propagates=True, deep_supervision=True, options=None, **network):
    torch.manual_seed(seed)
    count = len(heads.regions) if heads.regions else heads.num_labels
    planned = PlannedUNet(tiny.network(2, heads=count, deep_supervision=deep_supervision, **network))
    chosen = {"width": 8, "heads": 2, "embedding": 6, "state_dropout": 0.0, **(options or {})}
    made = S2VNet(planned, heads, S2VNetOptions(**chosen), propagates)
    with torch.no_grad():  # updates start as the identity; nothing of the mechanism would be tested
        for layer in made.layers:
            layer.update.weight.normal_()
    return made


def clip(seed=0, batch=1, slices=4, size=16):
    return torch.randn(batch, 1, slices, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("heads", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("residual", [False, True])
def test_shapes_in_training_and_evaluation(residual, heads, deep_supervision):
    network = s2vnet(heads, residual=residual, features=(4, 6, 8, 8, 8), deep_supervision=deep_supervision)
    count = len(heads.regions) if heads.regions else 3
    x = clip(batch=2, slices=3, size=32)
    output, supervision = network.train()(x)
    shapes = [(2, count, 3, 32 // 2**s, 32 // 2**s) for s in range(4)]
    found = [o.shape for o in output] if deep_supervision else [output.shape]
    assert found == shapes[: 4 if deep_supervision else 1]
    assert [stage for stage, _ in supervision.clusters] == [3, 3, 2, 2, 1, 1]
    assert [z.shape for _, z in supervision.clusters] == [shapes[s] for s in (3, 3, 2, 2, 1, 1)]
    assert [a.shape for a in supervision.auxiliary] == shapes
    with torch.no_grad():
        evaluated = network.eval()(x)
    for a, b in zip(
        evaluated if deep_supervision else [evaluated], output if deep_supervision else [output], strict=True
    ):
        torch.testing.assert_close(a, b.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("features", [(4, 6), (4, 6, 8)])
def test_small_networks_cluster_what_they_have(features):
    network = s2vnet(features=features)
    assert network.stages == [1 if len(features) == 3 else 0]
    assert network.eval()(clip())[0].shape == (1, 3, 4, 16, 16)


def test_one_slice_without_an_axis_for_it():
    network = s2vnet().eval()
    x = clip(slices=1)
    with torch.no_grad():
        for a, b in zip(network(x[:, :, 0]), network(x), strict=True):
            assert torch.equal(a, b[:, :, 0])
    output, supervision = network.train()(x[:, :, 0])
    assert all(t.ndim == 4 for t in [*output, *supervision.auxiliary, *(z for _, z in supervision.clusters)])


def test_the_planned_network_is_unchanged():
    network = s2vnet()
    stock = tiny.network(2)
    missing, extra = network.load_state_dict(stock.state_dict(), strict=False)
    assert not extra
    assert not [key for key in missing if key.startswith(("encoder.", "decoder."))]
    x = clip(slices=2)
    _, supervision = network.train()(x)
    for t in range(2):
        for a, b in zip(supervision.auxiliary, stock(x[:, :, t]), strict=True):
            torch.testing.assert_close(a[:, :, t], b)


# --- propagation --------------------------------------------------------------------------------------------------


def changes(network, before, after):
    """Per slice: does the output differ?"""
    with torch.no_grad():
        a, b = network.eval()(before)[0], network(after)[0]
    return [not torch.equal(a[:, :, t], b[:, :, t]) for t in range(before.shape[2])]


def test_a_slice_is_influenced_by_those_before_it_and_by_no_other():
    x = clip()
    for index in range(4):
        other = x.clone()
        other[:, :, index] = clip(seed=9)[:, :, 0]
        assert changes(s2vnet(), x, other) == [t >= index for t in range(4)]
        assert changes(s2vnet(propagates=False), x, other) == [t == index for t in range(4)]


def test_only_the_last_slices_are_remembered():
    x = clip(slices=5)
    network = s2vnet(options={"bank": 1, "aggregation": "last"}).eval()
    with torch.no_grad():
        features = [network.features(s) for s in x.unbind(2)]
        bank = Bank()
        for f in features:
            one = network.cluster(f, bank, Prompts.none(1))
            bank = bank.remember(one.centres, torch.tensor([True]), 1)
            assert len(bank.centres) == 1
        torch.testing.assert_close(network.label_heads.head_logits(one.logits), network(x)[0][:, :, -1])


def test_a_click_reaches_its_slice_and_those_after_it():
    network, x = s2vnet().eval(), clip()
    there = slices_with_image(x)
    with torch.no_grad():
        plain = [one.logits for one in network.propagate(x.unbind(2), there)]
        clicked = [one.logits for one in network.propagate(x.unbind(2), there, Prompts.click([2, 5, 5], 1).on_slice)]
    assert [not torch.equal(a, b) for a, b in zip(plain, clicked, strict=True)] == [False, False, True, True]


def test_without_a_memory_a_slice_is_like_a_first_one():
    network = s2vnet(options={"state_dropout": 1.0}).train()
    x = clip()
    output, _ = network(x)
    alone, _ = network(x[:, :, 2:3])
    torch.testing.assert_close(output[0][:, :, 2:3], alone[0], atol=1e-4, rtol=1e-3)


def test_clips_of_single_slices_have_no_memory_and_others_keep_theirs():
    network = s2vnet(options={"mask_dropout": 0.0, "mask_corruption": 0.0}).train()
    with torch.no_grad():
        for memory in network.memory:
            memory.scale.fill_(1.0)
        x = clip(batch=2)
        mixed = network(x, single=torch.tensor([False, True]))[0][0]
        together = network(x)[0][0]
        alone = torch.stack([network(x[:, :, t])[0][0] for t in range(x.shape[2])], 2)
    assert torch.allclose(mixed[0], together[0], atol=1e-5)
    assert torch.allclose(mixed[1], alone[1], atol=1e-5)
    assert not torch.allclose(together[1, :, 1:], alone[1, :, 1:], atol=1e-2)


@pytest.mark.parametrize("training", [False, True])
def test_padding_is_background_and_does_not_count(training):
    network = s2vnet().train(training)
    x = clip(batch=2)
    x[0, :, [0, 3]] = 0
    assert slices_with_image(x).tolist() == [[False, True, True, False], [True] * 4]
    with torch.set_grad_enabled(training):
        output = network(x)[0][0] if training else network(x)[0]
        short = network(x[:1, :, 1:3])[0][0] if training else network(x[:1, :, 1:3])[0]
    torch.testing.assert_close(output[:1, :, 1:3], short, atol=1e-4, rtol=1e-4)
    for t in (0, 3):
        assert (output[0, 0, t] == SURE).all()
        assert (output[0, 1:, t] == -SURE).all()


def test_an_empty_slice_between_others_is_not_padding():
    x = clip()
    x[:, :, 1] = 0
    assert slices_with_image(x).all()
    with torch.no_grad():
        assert (s2vnet().eval()(torch.zeros_like(x))[0].argmax(1) == 0).all()
    output, _ = s2vnet().train()(torch.zeros_like(x))
    assert output[0].isfinite().all()


# --- no hidden state ----------------------------------------------------------------------------------------------


def test_nothing_is_kept_between_calls_whatever_was_called_before():
    """Case A then case B is case B alone, bit for bit, over flips, other sizes, training, and reloaded weights."""
    network = s2vnet(deep_supervision=False).eval()
    folds = [s2vnet(seed=s, deep_supervision=False).state_dict() for s in (1, 2)]
    a, b = clip(seed=1, slices=6), clip(seed=2)

    def predict(x):
        flips = [dims for n in range(4) for dims in itertools.combinations((2, 3, 4), n)]
        total = 0
        for fold in folds:
            network.load_state_dict(fold)
            for dims in flips:
                total = total + network(x.flip(dims)).flip(dims)
        return total

    with torch.inference_mode():
        alone = predict(b)
        predict(a)
        after_a = predict(b)
    assert torch.equal(alone, after_a)
    network.train()(a)
    with torch.inference_mode():
        network.eval()
        assert torch.equal(predict(b), alone)


# --- training -----------------------------------------------------------------------------------------------------


def total(output, supervision):
    parts = [*output, *supervision.auxiliary, *(z for _, z in supervision.clusters)]
    return sum(part.pow(2).mean() for part in parts)


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("propagates", [False, True])
@pytest.mark.parametrize("interactive", [False, True])
def test_every_parameter_has_a_gradient(interactive, propagates, deep_supervision):
    """Distributed training waits for all of them. Even if the memory is dropped at every slice."""
    options = {"state_dropout": 1.0}
    network = s2vnet(propagates=propagates, options=options, deep_supervision=deep_supervision).train()
    assert all(p.requires_grad for p in network.parameters())

    def interact(segment):
        labels = segment(Prompts.none(1))
        assert labels.shape == (1, 4, 16, 16)
        assert not labels.requires_grad
        return Prompts.click([1, 4, 4], 1)

    output, supervision = network(clip(), interact if interactive else None)
    total(output if deep_supervision else [output], supervision).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    clicked = network.prompting.clicked.grad.abs().sum()
    assert bool(clicked > 0) == interactive


def test_rounds_without_gradients_leave_gradients_in_mixed_precision():
    """Autocast keeps what it casts, and what it cast without gradients would have none."""
    network = s2vnet().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(clip(), lambda segment: Prompts.click([segment(Prompts.none(1)).shape[1] - 1, 2, 2], 1))
        loss = total(*output)
    loss.backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("propagates", [False, True])
def test_distributed_training_waits_for_nothing(propagates):
    """DistributedDataParallel complains in the next step about parameters that had no gradient in this one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        network = s2vnet(propagates=propagates, options={"state_dropout": 0.5}).train()
        wrapped = DistributedDataParallel(network)
        for interact in (None, lambda segment: Prompts.click([segment(Prompts.none(1)).shape[1] - 1, 2, 2], 1), None):
            network.zero_grad()
            total(*wrapped(clip(), interact)).backward()
        assert all(p.grad is not None for p in network.parameters())
    finally:
        distributed.destroy_process_group()


def test_several_centres_per_label():
    network = s2vnet(options={"centres": 2, "background_centres": 3})
    assert network.centres.shape == (7, 8)
    output, supervision = network.train()(clip())
    assert output[0].shape[1] == 3
    assert supervision.clusters[0][1].shape[1] == 3


def test_half_precision_stays_finite_and_of_one_size_over_many_slices():
    network = s2vnet(deep_supervision=False).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(clip(slices=256)).float()
    assert logits.isfinite().all()
    quarters = [part.abs().mean() for part in logits.chunk(4, 2)]
    assert max(quarters) < 1.2 * min(quarters)


@pytest.mark.parametrize("training", [False, True])
def test_the_backbone_compiles_and_the_rest_stays_eager(training):
    network = s2vnet().train(training)
    x = clip(slices=2)
    compiled = torch.compile(network, backend="aot_eager")
    with torch.set_grad_enabled(training):
        a, b = compiled(x), network(x)
    torch.testing.assert_close(a[0][0] if training else a[0], b[0][0] if training else b[0])


def test_a_3d_network_is_refused():
    with pytest.raises(InputError, match="train configuration 2d"):
        S2VNet(PlannedUNet(tiny.network(3)), LABELS, S2VNetOptions(), True)


@pytest.mark.parametrize("wrong", [{"clip": 0}, {"interactive": 1.5}, {"cluster_weight": 0}, {"jitter": -1}])
def test_options_out_of_range(wrong):
    with pytest.raises(InputError, match=f"s2vnet.{next(iter(wrong))} = "):
        with_overrides(S2VNetOptions(), wrong)
