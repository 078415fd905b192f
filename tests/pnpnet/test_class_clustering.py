"""The pulling branch against NumPy, and the invariances of clustering."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.pnpnet.class_clustering import (
    CenterAtlas,
    CenterTransformer,
    ClassClusteringModule,
    assign_and_update,
)
from tests.pnpnet import helpers
from tests.pnpnet import numpy_reference as reference


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("update", ["mean", "sum"])
@pytest.mark.parametrize("dim", [2, 3])
def test_assignment_and_update_equal_numpy(dim, update, exclusive):
    centers = helpers.random(2, 3, 4, seed=1)
    key, value = helpers.random(2, 4, *[3] * dim, seed=2), helpers.random(2, 4, *[3] * dim, seed=3)
    got = assign_and_update(centers, key, value, temperature=1.7, update=update, exclusive=exclusive)
    expected = reference.cluster(
        centers.numpy(),
        key.numpy(),
        value.numpy(),
        temperature=1.7,
        update=update,
        assignment="softmax" if exclusive else "sigmoid",
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(helpers.array(a), b, atol=1e-12)


def test_every_voxel_is_shared_among_the_classes():
    assignment, _ = assign_and_update(
        torch.randn(2, 3, 4),
        torch.randn(2, 4, 5, 5),
        torch.randn(2, 4, 5, 5),
        temperature=2,
        update="mean",
        exclusive=True,
    )
    torch.testing.assert_close(assignment.sum(1), torch.ones(2, 5, 5))


@given(st.integers(0, 1000), st.integers(2, 3))
@settings(max_examples=20, deadline=None)
def test_the_mean_update_does_not_depend_on_how_often_the_patch_is_tiled(seed, tiles):
    centers, key, value = (
        helpers.random(*s, seed=seed + i) for i, s in enumerate([(1, 3, 4), (1, 4, 3, 3), (1, 4, 3, 3)])
    )

    def update(rule, repeats):
        tiled = [x.repeat(1, 1, repeats, 1) for x in (key, value)]
        return assign_and_update(centers, *tiled, temperature=2, update=rule, exclusive=True)[1]

    torch.testing.assert_close(update("mean", 1), update("mean", tiles), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(update("sum", tiles) - centers, tiles * (update("sum", 1) - centers))


@given(st.permutations(range(4)), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_permuting_the_classes_permutes_assignment_and_centres(order, seed):
    centers, key, value = (helpers.random(*s, seed=seed + i) for i, s in enumerate([(2, 4, 3), (2, 3, 5), (2, 3, 5)]))
    plain = assign_and_update(centers, key, value, temperature=1, update="mean", exclusive=True)
    permuted = assign_and_update(centers[:, order], key, value, temperature=1, update="mean", exclusive=True)
    for a, b in zip(plain, permuted, strict=True):
        torch.testing.assert_close(a[:, order], b)


def test_a_sum_over_a_large_patch_stays_finite_under_half_precision_autocast():
    """64³ voxels × 0.5 × 0.5 = 65536 overflows float16, and autocast casts matrix products down to it."""
    key = torch.zeros(1, 4, 64, 64, 64, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.float16):
        _, centers = assign_and_update(
            torch.zeros(1, 2, 4), key, torch.full_like(key, 0.5), temperature=1, update="sum", exclusive=True
        )
    assert centers.dtype == torch.float32
    torch.testing.assert_close(centers, torch.full((1, 2, 4), 65536.0))


@pytest.mark.parametrize("heads", [1, 2])
def test_the_transformer_over_the_centres_equals_numpy(heads):
    module = helpers.randomise(CenterTransformer(3, 4, heads, 8, 0.0))
    centers = helpers.random(2, 3, 4, seed=5)
    expected = reference.attention_block(
        centers.numpy(),
        norm1_gamma=helpers.array(module.norm1.weight),
        norm1_beta=helpers.array(module.norm1.bias),
        qkv_weight=helpers.array(module.qkv.weight),
        qkv_bias=helpers.array(module.qkv.bias),
        position=helpers.array(module.position),
        out_weight=helpers.array(module.out.weight),
        out_bias=helpers.array(module.out.bias),
        norm2_gamma=helpers.array(module.norm2.weight),
        norm2_beta=helpers.array(module.norm2.bias),
        fc1_weight=helpers.array(module.mlp[0].weight),
        fc1_bias=helpers.array(module.mlp[0].bias),
        fc2_weight=helpers.array(module.mlp[3].weight),
        fc2_bias=helpers.array(module.mlp[3].bias),
        final_gamma=helpers.array(module.norm.weight),
        final_beta=helpers.array(module.norm.bias),
        heads=heads,
    )
    np.testing.assert_allclose(helpers.array(module(centers)), expected, atol=1e-10)


def test_heads_that_do_not_divide_the_centre_get_one_clear_sentence():
    with pytest.raises(ValueError, match="length 64 cannot be split into 5 heads"):
        CenterTransformer(3, 64, 5, 8, 0.0)


def test_the_atlas_equals_numpy_and_has_more_vectors_than_classes():
    atlas = helpers.randomise(CenterAtlas(3, 4, 6))
    assert len(atlas.vectors) > len(atlas.queries)
    expected = reference.center_atlas(
        helpers.array(atlas.vectors),
        helpers.array(atlas.queries),
        query_weight=helpers.array(atlas.query.weight),
        key_weight=helpers.array(atlas.key.weight),
        value_weight=helpers.array(atlas.value.weight),
    )
    np.testing.assert_allclose(helpers.array(atlas())[0], expected, atol=1e-12)


def test_without_an_atlas_the_centres_themselves_are_learned():
    atlas = CenterAtlas(3, 4, 0)
    assert [name for name, _ in atlas.named_parameters()] == ["queries"]
    assert torch.equal(atlas()[0], atlas.queries)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_level_of_the_published_code_equals_numpy(dim):
    """Two residual blocks with BatchNorm and ReLU, √K temperature, sum update."""
    kernel_size = [3] * dim
    module = helpers.randomise(
        ClassClusteringModule(
            helpers.dialect(dim, batch_norm=True),
            2,
            3,
            kernel_size,
            dim=4,
            heads=2,
            mlp_dim=8,
            temperature=math.sqrt(3),
            update="sum",
            shared_trunk=False,
        )
    )
    feature, centers = helpers.random(2, 2, *[4] * dim, seed=1), helpers.random(1, 3, 4, seed=2)

    def block(x, residual):
        return reference.res_block(x, **helpers.residual_weights(residual), norm=reference.batch_norm)

    refined = np.repeat(helpers.array(module.transformer(centers)), 2, axis=0)
    value = block(feature.numpy(), module.value)
    assignment, expected_centers = reference.cluster(
        refined, block(feature.numpy(), module.key), value, temperature=math.sqrt(3), update="sum", assignment="softmax"
    )
    expected_pull = assignment + block(block(assignment, module.refine[0]), module.refine[1])
    got = module(feature, centers)
    np.testing.assert_allclose(helpers.array(got.pull), expected_pull, atol=1e-8)
    np.testing.assert_allclose(helpers.array(got.centers), expected_centers, atol=1e-8)
    np.testing.assert_allclose(helpers.array(got.values), value, atol=1e-8)
    assert (got.values >= 0).all()


@pytest.mark.parametrize("dim", [2, 3])
def test_gradcheck(dim):
    module = helpers.randomise(ClassClusteringModule(helpers.dialect(dim), 2, 2, [3] * dim, dim=2, heads=1, mlp_dim=2))
    inputs = [helpers.random(1, 2, *[3] * dim, seed=1).requires_grad_(), helpers.random(1, 2, 2).requires_grad_()]
    assert torch.autograd.gradcheck(lambda f, c: tuple(module(f, c)), inputs)


def test_shared_trunk_keys_and_values_are_signed():
    """Non-negative values drive all centres into one direction; see the module's docstring."""
    torch.manual_seed(0)
    module = ClassClusteringModule(helpers.dialect(2), 3, 4, [3, 3], dim=16, heads=4, mlp_dim=16)
    values = module(torch.randn(2, 3, 8, 8), torch.randn(1, 4, 16)).values
    assert (values < 0).any()
    assert (values > 0).any()
