"""One view of classes, regions and the ignore label."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_ext.nnunet.labels import LabelView


def random_target(view: LabelView, seed: int, shape=(2, 5, 6)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    ignore = view.ignore_label is not None
    if view.has_regions:
        return torch.rand(shape[0], view.num_heads + ignore, *shape[1:], generator=generator) < 0.4
    return torch.randint(0, view.num_heads + ignore, (shape[0], 1, *shape[1:]), generator=generator).short()


VIEWS = st.sampled_from([LabelView(3, False), LabelView(3, False, 3), LabelView(2, True), LabelView(2, True, 3)])


@given(VIEWS, st.integers(0, 1000))
def test_one_hot_is_zero_exactly_where_the_target_says_ignore(view, seed):
    target = random_target(view, seed)
    one_hot, annotated = view.one_hot(target), view.annotated(target)
    assert one_hot.shape == (2, view.num_heads, 5, 6)
    assert not one_hot[~annotated.expand_as(one_hot)].any()
    if not view.has_regions:
        assert torch.equal(one_hot.sum(1, keepdim=True), annotated.float())


@given(VIEWS, st.integers(0, 1000))
def test_flipping_the_target_flips_the_one_hot(view, seed):
    target = random_target(view, seed)
    assert torch.equal(view.one_hot(target.flip(2)), view.one_hot(target).flip(2))


def test_resizing_never_invents_a_label():
    view = LabelView(3, False, ignore_label=3)
    target = random_target(view, 0, shape=(2, 8, 8, 8))
    small = view.resize(target, (4, 4, 4))
    assert small.dtype == target.dtype
    assert set(small.unique().tolist()) <= set(target.unique().tolist())
    assert torch.equal(small, view.resize(target, [4, 4, 4]))
    # nearest-exact picks the voxel at the centre of each 2×2×2 block, rounded up
    assert torch.equal(small, target[:, :, 1::2, 1::2, 1::2])


def test_heads_are_found_by_the_names_of_labels_and_regions():
    classes = {"background": 0, "left": 1, "right": 2, "ignore": 3}
    assert LabelView(3, False, 3).heads_of(["right", "left"], classes) == [2, 1]
    regions = {"background": 0, "whole": [1, 2], "right": 2, "ignore": 3}
    assert LabelView(2, True, 3).heads_of(["right"], regions) == [1]


def test_a_label_may_be_a_list_of_one_or_text_as_for_nnunet():
    labels = {"background": 0, "right": [2], "left": "1", "ignore": 3}
    manager = LabelManager(labels, None)
    assert not manager.has_regions
    assert LabelView.head_names(labels) == ["background", "left", "right"]
    regions = {"background": 0, "right": [2], "whole": [1, 2], "left": 1, "ignore": 3}
    manager = LabelManager(regions, [2, 1, 1])
    assert [regions[name] for name in LabelView.head_names(regions)] == [[2], [1, 2], 1]
    assert manager.foreground_regions == [(2,), (1, 2), 1]
