"""Simulated clicks: where they are, which label they have, and what a user does in several rounds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from nnunet_ext.s2vnet.click_simulation import (
    ClickRules,
    SimulatedUser,
    correcting_clicks,
    eroded,
    first_clicks,
    interior_pixels,
    uniform_pixel,
)

ALWAYS = ClickRules(first=1.0, border=0.0, jitter=0)


def blobs(seed, shape=(4, 12, 14), share=0.7):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def discs(labels=3, slices=3, size=20):
    """``(1, T, H, W)``: label 1 is a small disc in slices 0 and 1, label 2 a larger one in slice 2."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    volume = torch.zeros(1, slices, size, size, dtype=torch.long)
    volume[0, :2][:, (y - 5) ** 2 + (x - 6) ** 2 < 9] = 1
    volume[0, 2, (y - 12) ** 2 + (x - 12) ** 2 < 25] = 2
    return volume


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_erosion_is_scipys(seed):
    masks = blobs(seed)
    for mask, found in zip(masks, eroded(masks), strict=True):
        expected = binary_erosion(mask.numpy(), torch.ones(3, 3).numpy(), border_value=1)
        assert (found.numpy() == expected).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), jitter=st.integers(0, 3), border=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_click_is_on_its_mask(seed, jitter, border):
    masks = blobs(seed, share=0.3)
    torch.manual_seed(seed)
    for mask, (y, x) in zip(masks, interior_pixels(masks, border, jitter), strict=True):
        assert mask[y, x] or not mask.any()


def test_a_click_is_as_deep_as_the_object_allows():
    masks = discs()[0, 2:] == 2
    masks[0, 2:4, 2:4] = True  # a smaller part elsewhere
    torch.manual_seed(0)
    deepest = torch.stack([eroded(eroded(eroded(masks)))])[0]
    for _ in range(20):
        y, x = interior_pixels(masks)[0]
        assert deepest[0, y, x]


def test_clicks_at_the_border_are_at_the_border():
    masks = discs()[0, 2:] == 2
    rim = masks & ~eroded(masks)
    torch.manual_seed(0)
    assert all(rim[0, y, x] for y, x in (interior_pixels(masks, border=1.0)[0] for _ in range(20)))


def test_jitter_moves_clicks_but_not_far():
    masks = torch.zeros(1, 21, 21, dtype=torch.bool)
    masks[0, 4:17, 4:17] = True
    torch.manual_seed(0)
    found = torch.cat([interior_pixels(masks, jitter=2) for _ in range(60)])
    assert (found - 10).abs().max() == 2


def test_every_pixel_is_drawn_as_often():
    mask = torch.tensor([[[True, False], [True, True]]])
    torch.manual_seed(0)
    drawn = uniform_pixel(mask.expand(3000, -1, -1))
    counts = torch.bincount(2 * drawn[:, 0] + drawn[:, 1], minlength=4).tolist()
    assert counts[1] == 0
    assert all(850 < counts[i] < 1150 for i in (0, 2, 3))


def test_first_clicks_are_on_labels_that_occur_with_their_label():
    labels = discs().expand(8, -1, -1, -1)
    torch.manual_seed(0)
    clicks = first_clicks(labels, 4, ALWAYS)
    assert clicks.weight.sum(0).tolist() == [0, 8, 8, 0]  # neither background nor what is not there
    for b in range(8):
        for place, label, weight in zip(clicks.position[b].long(), clicks.label[b], clicks.weight[b], strict=True):
            if weight:
                assert labels[b][tuple(place)] == label
    assert set(clicks.position[:, 1, 0].tolist()) == {0, 1}
    many = first_clicks(discs().expand(400, -1, -1, -1), 3, ClickRules(first=0.7))
    assert many.weight[:, 1:].mean() == pytest.approx(0.7, abs=0.06)


def test_a_correction_is_where_the_label_is_missed_most():
    labels = discs()
    predicted = labels.clone()
    predicted[0, 1][labels[0, 1] == 1] = 2  # label 1 is missed in slice 1
    predicted[0, 0, 15:, 15:] = 1  # and background in slice 0
    torch.manual_seed(0)
    clicks = correcting_clicks(labels, predicted, 3, ALWAYS)
    assert clicks.weight.tolist() == [[1, 1, 0]]
    assert clicks.position[0, :2, 0].tolist() == [0, 1]
    for place, label in zip(clicks.position[0, :2].long(), (0, 1), strict=True):
        assert labels[0][tuple(place)] == label
        assert predicted[0][tuple(place)] != label


def test_nobody_clicks_what_is_not_annotated():
    labels = torch.full((2, 2, 6, 6), -1)
    assert first_clicks(labels, 3, ALWAYS).weight.sum() == 0
    assert correcting_clicks(labels, torch.zeros_like(labels), 3, ALWAYS).weight.sum() == 0


def test_a_user_corrects_what_the_network_does_and_leaves_other_clips_alone():
    labels = discs().expand(6, -1, -1, -1)
    asked = []

    def segment(prompts):
        asked.append(prompts)
        return torch.zeros_like(labels)  # misses everything

    torch.manual_seed(3)
    for _ in range(10):
        prompts = SimulatedUser(labels, 3, share=0.5, rounds=3, rules=ALWAYS)(segment)
        rounds = prompts.label.shape[1] // 3
        assert prompts.age.max() == rounds - 1
        clicked = prompts.weight.sum(1)
        assert set(clicked.tolist()) <= {0.0, 2.0 * rounds}  # both foreground labels in each round
    assert 0 < len(asked) < 20
    assert SimulatedUser(labels, 3, share=0.0, rounds=3)(segment).weight.sum() == 0
