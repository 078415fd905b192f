"""A chain can be left and continued anywhere, and the share of each chain is fair."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.s2vnet.chain import Column, Known, share_of_upward
from nnunet_ext.s2vnet.feature_cache import FeatureCache
from nnunet_ext.s2vnet.packed import Packed
from nnunet_ext.s2vnet.prompts import Prompts
from tests.s2vnet.test_network import clip, s2vnet


@pytest.mark.parametrize("order", [range(9), range(9)[::-1]], ids=["up", "down"])
@torch.no_grad()
def test_a_chain_goes_on_from_what_is_known_to_the_last_bit(order):
    """With a memory of masks, a short bank, prompts, two flips, and slices without image at both ends."""
    network = s2vnet(deep_supervision=False, options={"bank": 2}).eval()
    for memory in network.memory:
        torch.nn.init.normal_(memory.scale, std=5.0)
    x = clip(slices=9)[0]
    x[:, [0, 1, 8]] = 0
    column = Column(network, lambda index: x[:, index], 9, [(), (1,)], 2.5, FeatureCache(10**6))

    def prompts(index):
        one = Prompts.click([0, 5, 5], index % 3)
        return Prompts(*(torch.cat((part, part)) for part in vars(one).values()))

    whole = list(column.walk(order, prompts=prompts))
    known, last = {}, None
    for index, passed in zip(order, whole, strict=True):
        assert (passed.clustered is None) == (index in {0, 1, 8})
        if passed.clustered:
            known[index] = last = Known.of(passed.clustered, last)
            found = column.logits(index, last, column.features(index))
        else:
            found = column.logits(index, None, ())
        assert torch.equal(found, passed.logits[0] + passed.logits[1].flip(1))
    seen = list(known)
    for first in range(len(seen)):
        past = [known[index] for index in seen[:first]]
        again = column.walk(seen[first:], past, prompts)
        for index, passed in zip(seen[first:], again, strict=True):
            assert torch.equal(passed.logits, whole[order.index(index)].logits)


@torch.no_grad()
def test_slices_computed_together_keep_their_flips_apart():
    network = s2vnet(deep_supervision=False).eval()
    x = clip(slices=7)[0]

    def passed(together):
        flips = [(), (1,), (2,), (1, 2)]
        column = Column(network, lambda index: x[:, index], 7, flips, 2.5, FeatureCache(0), together=together)
        return torch.stack([one.logits for one in column.walk(range(7))])

    torch.testing.assert_close(passed(3), passed(1), atol=1e-5, rtol=1e-5)


def test_without_marks_each_chain_counts_as_much_as_it_has_seen():
    assert [share_of_upward(t, 4, ()) for t in range(4)] == [0.2, 0.4, 0.6, 0.8]


def test_shares_between_marks_are_linear_and_beyond_them_the_nearer_chain_counts_alone():
    found = [share_of_upward(t, 10, (2, 6)) for t in range(10)]
    assert found == [0, 0, 0.5, 0.75, 0.5, 0.25, 0.5, 1, 1, 1]


@given(st.integers(1, 20), st.sets(st.integers(0, 19)))
def test_shares_are_symmetric(depth, marked):
    """A volume that is turned over exchanges the chains."""
    marked = sorted(index for index in marked if index < depth)
    turned = sorted(depth - 1 - index for index in marked)
    for index in range(depth):
        up, down = share_of_upward(index, depth, marked), share_of_upward(depth - 1 - index, depth, turned)
        assert up + down == pytest.approx(1)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16])
def test_packed_labels_come_back(kind):
    labels = np.random.default_rng(0).integers(0, 5, (7, 9)).astype(kind)
    packed = Packed.of(labels.T)
    assert packed == Packed.of(labels.T.copy())
    found = packed.unpacked()
    assert found.dtype == kind
    np.testing.assert_array_equal(found, labels.T)
