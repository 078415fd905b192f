"""From centres to labels and heads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.errors import InputError
from nnunet_ext.s2vnet.labels import LabelHeads

REGIONS = LabelHeads(4, ((1, 2, 3), (2, 3), (3,)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
def test_the_sigmoid_of_a_region_is_the_softmax_of_its_labels(seed, scale):
    logits = scale * torch.randn(2, 4, 2, 3, 3, generator=torch.Generator().manual_seed(seed)).double()
    found = REGIONS.head_logits(logits).sigmoid()
    softmax = logits.softmax(1)
    for head, region in enumerate(REGIONS.regions):
        torch.testing.assert_close(found[:, head], softmax[:, list(region)].sum(1))


def test_labels_are_their_own_heads():
    logits = torch.randn(1, 3, 2, 2)
    assert LabelHeads(3).head_logits(logits) is logits
    assert LabelHeads(3).label_logits(logits, [0, 1, 2]) is logits


def test_several_centres_of_a_label_are_summed_as_probabilities():
    heads = LabelHeads(3)
    owners = heads.owners(per_label=2, background=3)
    assert owners == [0, 0, 0, 1, 1, 2, 2]
    logits = torch.randn(2, 7, 3, 3).double()
    softmax = logits.softmax(1)
    found = heads.label_logits(logits, owners).softmax(1)
    torch.testing.assert_close(found[:, 0], softmax[:, :3].sum(1))
    torch.testing.assert_close(found[:, 2], softmax[:, 5:].sum(1))


def test_the_label_map_of_a_target():
    labels = torch.tensor([[[0, 1], [2, 3]]])
    annotated = torch.tensor([[[[True, True], [False, True]]]])
    assert LabelHeads(4).label_map(labels[:, None].short(), annotated).tolist() == [[[0, 1], [-1, 3]]]
    target = torch.stack([torch.isin(labels, torch.tensor(region)) for region in REGIONS.regions], 1)
    with_ignore = torch.cat((target, ~annotated), 1)
    assert REGIONS.label_map(with_ignore, annotated).tolist() == [[[0, 1], [-1, 3]]]
    merged = LabelHeads(4, ((1, 2, 3), (3,)))  # nothing tells 1 and 2 apart
    assert merged.label_map(target[:, [0, 2]], annotated | True).tolist() == [[[0, 1], [1, 3]]]


@pytest.mark.parametrize("region", [(), (0, 1, 2), (1, 7)])
def test_a_region_must_split_the_labels(region):
    with pytest.raises(InputError, match="split the 3 labels"):
        LabelHeads(3, (region,))
