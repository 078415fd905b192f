"""Memory of the previous slice's mask: what it adds, what it does not touch, and how masks are spoiled in training."""

from dataclasses import replace

import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.s2vnet.centroid_aggregation import Bank
from nnunet_ext.s2vnet.labels import LabelHeads
from nnunet_ext.s2vnet.mask_memory import MaskMemory, corrupted, soft_mask
from nnunet_ext.s2vnet.memory_test import Volume, memory_test
from nnunet_ext.s2vnet.network import is_older
from nnunet_ext.s2vnet.prompts import Prompts
from tests.s2vnet.test_network import clip, s2vnet

EXACT = {"mask_dropout": 0.0, "mask_corruption": 0.0}


def awake(network):
    """The network with masks that count."""
    with torch.no_grad():
        for memory in network.memory:
            memory.scale.fill_(4.0)
    return network


def masks(batch=1, labels=3, size=9, seed=0):
    torch.manual_seed(seed)
    return soft_mask(3 * torch.randn(batch, labels, 2 * size, 2 * size), (size, size))


def test_a_label_that_is_gone_leaves_background_also_where_both_were_half():
    mask = soft_mask(torch.zeros(1, 2, 4, 4), (4, 4))
    assert int(mask.sum(1, dtype=torch.int).max()) == 256
    torch.manual_seed(0)
    gone = [one for one in (corrupted(mask, 1.0) for _ in range(30)) if not one[0, 1].any()]
    assert any((one[0, 0] == 255).all() for one in gone)
    assert all(one[0, 0].any() for one in gone)


def test_a_new_network_is_the_one_without_masks():
    """Added through a scale of zero: the same logits, in training and in evaluation."""
    new, without = s2vnet(), s2vnet(options={"mask_memory": False})
    without.load_state_dict({k: v for k, v in new.state_dict().items() if not k.startswith("memory.")})
    with torch.no_grad():
        assert torch.equal(new.eval()(clip())[0], without.eval()(clip())[0])
        assert torch.equal(new.train()(clip())[0][0], without.train()(clip())[0][0])


def test_the_mask_of_the_slice_before_counts_and_no_other():
    network = awake(s2vnet()).eval()
    with torch.no_grad():
        features = network.features(clip()[:, :, 0])
        known = torch.tensor([True])
        bank = Bank().remember(network.centres[None], known, 8, masks(size=8))
        plain = network.cluster(features, bank, Prompts.none(1)).logits
        other = network.cluster(features, replace(bank, mask=masks(size=8, seed=1)), Prompts.none(1)).logits
        assert not torch.equal(plain, other)
        emptied = network.cluster(features, bank.without(known), Prompts.none(1)).logits
        assert torch.equal(emptied, network.cluster(features, Bank(), Prompts.none(1)).logits)
        wider = network.cluster(features, replace(bank, gap=torch.tensor([9.0])), Prompts.none(1)).logits
        assert torch.equal(wider, plain)  # the gap starts as zero, too
        network.memory[-1].gap.fill_(1.0)
        wider = network.cluster(features, replace(bank, gap=torch.tensor([9.0])), Prompts.none(1)).logits
        planned = network.cluster(features, replace(bank, gap=torch.tensor([1.0])), Prompts.none(1)).logits
    assert torch.equal(planned, plain)
    assert not torch.equal(wider, plain)


def test_final_logits_of_known_centres_are_those_of_the_slice():
    """A session computes them again, with the mask that the slice was segmented with."""
    network = awake(s2vnet()).eval()
    with torch.no_grad():
        features = network.features(clip()[:, :, 0])
        bank = Bank().remember(network.centres[None], torch.tensor([True]), 8, masks(size=8))
        one = network.cluster(features, bank, Prompts.none(1))
        assert torch.equal(network.slice_logits(one.centres, features, bank), one.logits)
    assert torch.equal(one.mask, soft_mask(one.logits, (8, 8)))


def test_a_clip_in_training_equals_the_chain_of_inference():
    network, x = awake(s2vnet(options=EXACT)), clip(batch=2)
    with torch.no_grad():
        trained, evaluated = network.train()(x)[0][0], network.eval()(x)[0]
    torch.testing.assert_close(trained, evaluated, atol=1e-3, rtol=1e-3)


def test_without_the_mask_nothing_of_it_is_left():
    network, x = awake(s2vnet(options={**EXACT, "mask_dropout": 1.0})).train(), clip()
    without = s2vnet(options={"mask_memory": False}).train()
    without.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("memory.")})
    torch.testing.assert_close(network(x)[0][0], without(x)[0][0])


def test_evidence_is_bounded_zero_without_a_slice_before_and_has_gradients():
    torch.manual_seed(0)
    memory = MaskMemory(4, 3)
    feature, mask = 1e4 * torch.randn(2, 4, 6, 6), masks(2, size=6)
    known = torch.tensor([True, False])
    assert not memory(feature, mask, known, torch.zeros(2)).any()
    with torch.no_grad():
        memory.scale.copy_(torch.tensor([3.0, 1e6, -2.0]))
    found = memory(feature, mask, known, torch.tensor([0.5, 0.0]))
    assert not found[1].any()
    assert found[0].abs().amax((1, 2)).tolist() == pytest.approx([3, 50, 2], rel=0.05)
    memory(feature / 1e4, mask, known, torch.tensor([0.5, 0.0])).pow(2).sum().backward()
    assert all(p.grad.any() for p in memory.parameters())


def test_gradients_of_the_evidence_are_right():
    torch.manual_seed(1)
    memory = MaskMemory(2, 2).double()
    with torch.no_grad():
        memory.scale.fill_(1.5)
    mask, known, gap = masks(1, 2, 4), torch.tensor([True]), torch.tensor([0.3], dtype=torch.float64)
    feature = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: memory(f, mask, known, gap), feature)


@pytest.mark.parametrize("seed", range(12))
def test_spoiled_masks_stay_masks(seed):
    torch.manual_seed(seed)
    before = masks(4, size=9, seed=seed)
    found = corrupted(before, 1.0)
    assert (found.dtype, found.shape) == (torch.uint8, before.shape)
    sums = found.int().sum(1)
    assert int(sums.max()) <= 258  # of values that were rounded one by one
    assert not torch.equal(found, before)
    assert torch.equal(corrupted(before, 0.0), before)


# --- weights from before positions and masks ----------------------------------------------------------------------


def test_weights_from_before_predict_as_they_did():
    old = s2vnet(seed=3, options={"position": False, "mask_memory": False}, deep_supervision=False).eval()
    new = awake(s2vnet(deep_supervision=False)).eval()  # as after another fold
    assert is_older(old.state_dict(), new)
    assert not is_older(new.state_dict(), new)
    new.load_state_dict(old.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(new(clip()), old(clip()))


# --- the memory test ----------------------------------------------------------------------------------------------


def volumes(number=3):
    return [
        Volume(clip(seed=seed, slices=4 + seed)[0], torch.randint(3, (4 + seed, 16, 16)), 2.0) for seed in range(number)
    ]


def test_own_none_and_other_memory_are_what_their_names_say():
    torch.manual_seed(0)
    network, given = awake(s2vnet(deep_supervision=False)), volumes()
    found = memory_test(network, given)
    assert [len(scores) for scores in found] == [3, 3, 3]
    # a network without memory makes of each slice what the test without memory makes of it
    alone = s2vnet(deep_supervision=False, propagates=False)
    shared = alone.state_dict().keys()
    alone.load_state_dict({k: v for k, v in network.state_dict().items() if k in shared})
    with torch.no_grad():
        masks_ = [alone.eval()(one.image[None]).argmax(1)[0] for one in given]
    for mask, one, score in zip(masks_, given, found.none, strict=True):
        by_hand = [
            2 * ((mask == k) & (one.labels == k)).sum() / ((mask == k).sum() + (one.labels == k).sum()) for k in (1, 2)
        ]
        assert score == pytest.approx(float(sum(by_hand)) / 2, abs=1e-6)
    twice = memory_test(network, [given[0], given[0]])
    assert twice.own == twice.other  # the other patient is the same one
    assert found.own != found.other


def test_what_the_memory_test_refuses():
    network = s2vnet(deep_supervision=False)
    with pytest.raises(InputError, match="built without propagation"):
        memory_test(s2vnet(propagates=False), volumes())
    with pytest.raises(InputError, match="needs a network of labels"):
        memory_test(s2vnet(LabelHeads(3, ((1, 2), (2,)))), volumes())
    with pytest.raises(InputError, match="got 1 volumes"):
        memory_test(network, volumes(1))
    with pytest.raises(InputError, match="one size"):
        memory_test(network, [*volumes(1), Volume(clip(size=32)[0], torch.ones(4, 32, 32).long())])
    with pytest.raises(InputError, match="no foreground"):
        memory_test(network, [Volume(one.image, 0 * one.labels) for one in volumes()])
