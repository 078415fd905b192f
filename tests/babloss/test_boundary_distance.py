"""The boundary distance map against its definition in float64, and its invariances."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnunet_ext.babloss.boundary_distance import (
    boundary_distance,
    inner_boundary_distance,
    radius_steps,
    reach,
)
from nnunet_ext.babloss.published import distance_map, thin_boundary
from nnunet_ext.errors import InputError

CASES = [  # shape, levels, spacing
    ((9, 7), 3, (1.0, 1.0)),
    ((6, 11), 4, (2.0, 0.7)),
    ((6, 5, 7), 2, (1.0, 1.0, 1.0)),
    ((4, 7, 6), 3, (3.0, 1.0, 1.2)),
    ((3, 2, 4), 5, (1.0, 1.0, 1.0)),  # boxes larger than the volume
]


def brute_force(p, levels, spacing):
    """Every box of every voxel, as the docstring of the module says it."""
    result = np.zeros(p.shape)
    for v in np.ndindex(p.shape):
        for r in range(1, levels + 1):
            radius = [int(np.floor(r * min(spacing) / mm + 0.5)) for mm in spacing]
            box = p[tuple(slice(max(0, i - a), i + a + 1) for i, a in zip(v, radius, strict=True))]
            result[v] += (box.max() + (1 - box).max() - 1) / levels
    return result


def brute_force_inside(p, inside, levels, spacing):
    """The same of the voxels that are inside; 0 where a box has none."""
    result = np.zeros(p.shape)
    for v in np.ndindex(p.shape):
        for r in range(1, levels + 1):
            radius = [int(np.floor(r * min(spacing) / mm + 0.5)) for mm in spacing]
            place = tuple(slice(max(0, i - a), i + a + 1) for i, a in zip(v, radius, strict=True))
            box = p[place][inside[place]]
            result[v] += (box.max() - box.min()) / levels if box.size else 0
    return result


def padded(x, steps, value):
    """As much of a value around the last axes as the boxes reach."""
    return torch.nn.functional.pad(x, [n for r in reversed(reach(steps)) for n in (r, r)], value=value)


def sample(shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("shape", "levels", "spacing"), CASES)
def test_equals_its_definition(shape, levels, spacing):
    p = sample((2, *shape))
    found = boundary_distance(p, radius_steps(levels, spacing))
    for one, expected in zip(found.numpy(), p.numpy(), strict=True):
        np.testing.assert_allclose(one, brute_force(expected, levels, spacing), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("shape", "levels", "spacing"), CASES)
def test_voxels_that_are_not_inside_do_not_count(shape, levels, spacing):
    p, steps = sample((2, *shape)), radius_steps(levels, spacing)
    inside = sample((2, *shape), seed=1) < 0.3
    inside[1] = False
    found = inner_boundary_distance(padded(p, steps, 0.7), steps, padded(inside, steps, False))
    for one, own, where in zip(found.numpy(), p.numpy(), inside.numpy(), strict=True):
        np.testing.assert_allclose(one, brute_force_inside(own, where, levels, spacing), rtol=0, atol=1e-14)
    assert not found[1].any()
    everywhere = padded(torch.ones_like(inside), steps, False)
    torch.testing.assert_close(
        inner_boundary_distance(padded(p, steps, 0.7), steps, everywhere),
        boundary_distance(p, steps),
        rtol=0,
        atol=1e-14,
    )


@pytest.mark.parametrize("lead", [(), (2,), (2, 1, 3)])
def test_leading_axes_are_a_batch(lead):
    p, steps = sample((*lead, 5, 6)), radius_steps(2, (1.0, 1.0))
    found = boundary_distance(p, steps).view(-1, 5, 6)
    for one, alone in zip(found, p.view(-1, 5, 6), strict=True):
        assert torch.equal(one, boundary_distance(alone, steps))


@pytest.mark.parametrize("shape", [(20, 17), (11, 12, 10)])
def test_of_a_mask_it_falls_linearly_with_the_chessboard_distance_to_both_sides_of_the_boundary(shape):
    n = 4
    mask = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=shape), 2) > 0
    at_boundary = np.zeros(shape, bool)  # a voxel with one of the other kind among its neighbours
    for step in itertools.product((-1, 0, 1), repeat=len(shape)):
        here = tuple(slice(max(0, -s), -s if s > 0 else None) for s in step)
        there = tuple(slice(max(0, s), s if s < 0 else None) for s in step)
        at_boundary[here] |= mask[here] != mask[there]
    others = np.argwhere(at_boundary)
    d = np.array([np.abs(others - v).max(1).min() for v in np.ndindex(shape)]).reshape(shape)
    found = boundary_distance(torch.as_tensor(mask, dtype=torch.float64), radius_steps(n, (1.0,) * len(shape)))
    assert 0 in d
    assert d.max() >= n
    np.testing.assert_allclose(found, np.maximum(n - d, 0) / n, atol=1e-14)


def test_of_a_mask_it_is_the_published_map_but_for_the_thinning():
    n = 8
    voxels = np.indices((28, 28, 28)) - 14
    ball = (voxels**2).sum(0) <= 8**2
    ours = boundary_distance(torch.as_tensor(ball, dtype=torch.float64), radius_steps(n, (1.0, 1.0, 1.0))).numpy()
    published = distance_map(thin_boundary(ball), n)
    assert np.abs(ours - published).max() == pytest.approx(1 / n)


@pytest.mark.parametrize(("shape", "levels", "spacing"), CASES[:4])
def test_inside_of_a_larger_volume_it_is_the_same_map(shape, levels, spacing):
    steps = radius_steps(levels, spacing)
    p = sample([n + 2 * r for n, r in zip(shape, reach(steps), strict=True)])
    centre = tuple(slice(r, r + n) for n, r in zip(shape, reach(steps), strict=True))
    assert torch.equal(inner_boundary_distance(p, steps), boundary_distance(p, steps)[centre])


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_boxes_are_isotropic_in_mm():
    assert radius_steps(3, (1.0, 1.0)) == ((1, 1),) * 3
    # 1, 2, 3, 4 mm along slices of 2 mm are 0.5, 1, 1.5, 2 voxels: half up
    assert radius_steps(4, (2.0, 1.0, 1.0)) == ((1, 1, 1), (0, 1, 1), (1, 1, 1), (0, 1, 1))
    assert radius_steps(3, (0.3, 1.8)) == ((1, 0), (1, 0), (1, 1))  # 3 · 0.3 / 1.8 is a half
    assert reach(radius_steps(8, (5.0, 0.8, 1.0))) == (1, 8, 6)
    assert reach(radius_steps(8, (100.0, 1.0, 1.0))) == (0, 8, 8)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.lists(st.floats(0.1, 20), min_size=1, max_size=3))
def test_each_level_is_as_far_as_it_says_to_half_a_voxel_and_no_box_shrinks(levels, spacing):
    steps = radius_steps(levels, spacing)
    assert len(steps) == levels
    assert {step for level in steps for step in level} <= {0, 1}
    for r in range(1, levels + 1):
        for radius, mm in zip(reach(steps[:r]), spacing, strict=True):
            assert abs(radius * mm - r * min(spacing)) <= mm / 2 + 1e-4


@pytest.mark.parametrize(("levels", "spacing"), [(0, (1.0, 1.0)), (4, (1.0, 0.0)), (4, (1.0, -2.0)), (4, ())])
def test_a_map_without_reach_is_refused(levels, spacing):
    with pytest.raises(InputError, match="reaches nowhere"):
        radius_steps(levels, spacing)


# --- invariances ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(CASES), st.booleans())
def test_it_is_a_share_the_same_from_both_sides_and_turns_with_the_volume(seed, case, certain):
    shape, levels, spacing = case
    p, steps = sample(shape, seed), radius_steps(levels, spacing)
    p = p.round() if certain else p
    found = boundary_distance(p, steps)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-12
    torch.testing.assert_close(boundary_distance(1 - p, steps), found)
    for axis in range(len(shape)):
        assert torch.equal(boundary_distance(p.flip(axis), steps), found.flip(axis))
    turned = tuple(tuple(reversed(level)) for level in steps)
    order = tuple(reversed(range(len(shape))))
    torch.testing.assert_close(boundary_distance(p.permute(order), turned), found.permute(order))


def test_without_contrast_there_is_no_boundary():
    assert not boundary_distance(torch.full((5, 5), 0.3), radius_steps(3, (1.0, 1.0))).any()


# --- gradient ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "levels", "spacing"), CASES)
def test_gradient(shape, levels, spacing):
    p, steps = sample(shape).requires_grad_(), radius_steps(levels, spacing)
    assert torch.autograd.gradcheck(lambda p: boundary_distance(p, steps), (p,))


@pytest.mark.parametrize(("shape", "levels", "spacing"), [CASES[1], CASES[3]])
def test_gradient_with_voxels_that_are_not_inside(shape, levels, spacing):
    steps = radius_steps(levels, spacing)
    inside = padded(sample(shape, seed=1) < 0.4, steps, False)
    p = padded(sample(shape), steps, 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: inner_boundary_distance(x, steps, inside), p)
    (gradient,) = torch.autograd.grad(inner_boundary_distance(p, steps, inside).sum(), p)
    assert gradient[inside].any()
    assert not gradient[~inside].any()


def test_the_gradient_at_a_voxel_goes_to_the_extremes_of_its_boxes():
    p = torch.full((1, 9), 0.5, dtype=torch.float64)
    p[0, 6], p[0, 1] = 0.9, 0.2  # two and three voxels away from voxel 4
    p.requires_grad_()
    boundary_distance(p, radius_steps(4, (1.0, 1.0)))[0, 4].backward()
    assert p.grad[0, 6].item() == pytest.approx(3 / 4)  # levels 2, 3, 4
    assert p.grad[0, 1].item() == pytest.approx(-2 / 4)  # levels 3, 4
    assert p.grad.sum().item() == pytest.approx(3 / 4 - 2 / 4 - 1 / 4)  # level 2 has its minimum at some 0.5


def test_it_keeps_one_byte_per_voxel_and_pooling():
    kept = []
    steps = radius_steps(3, (1.0, 1.0, 1.0))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        boundary_distance(sample((8, 8, 8), dtype=torch.float32).requires_grad_(), steps)
    assert {x.dtype for x in kept} == {torch.int8}
    assert len(kept) == 9
    padded = 2 * 14**3
    assert sum(x.numel() for x in kept) < 9 * padded


def test_float32_of_a_saturated_softmax_is_finite():
    logits = (1e4 * torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(0))).requires_grad_()
    found = boundary_distance(logits.softmax(0), radius_steps(8, (1.0, 1.0)))
    found.sum().backward()
    assert found.isfinite().all()
    assert logits.grad.isfinite().all()
