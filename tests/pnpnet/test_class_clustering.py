"""The pulling branch against NumPy, and the invariances of clustering."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.pnpnet.class_clustering import (
    CenterAtlas,
    CenterTransformer,
    ClassClusteringModule,
    assigned,
    centred,
    evidence,
    moved,
)
from tests.pnpnet import helpers
from tests.pnpnet import numpy_reference as reference


def one_iteration(centers, key, value, *, temperature, update, exclusive=True):
    assignment = assigned(evidence(centers, key, temperature), exclusive)
    return assignment, moved(centers, assignment, value, update)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("update", ["mean", "sum"])
@pytest.mark.parametrize("dim", [2, 3])
def test_assignment_and_update_equal_numpy(dim, update, exclusive):
    centers = helpers.random(2, 3, 4, seed=1)
    key, value = helpers.random(2, 4, *[3] * dim, seed=2), helpers.random(2, 4, *[3] * dim, seed=3)
    got = one_iteration(centers, key, value, temperature=1.7, update=update, exclusive=exclusive)
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
    assignment = assigned(evidence(torch.randn(2, 3, 4), torch.randn(2, 4, 5, 5), 2), True)
    torch.testing.assert_close(assignment.sum(1), torch.ones(2, 5, 5))


def test_centring_changes_no_assignment_of_classes_and_no_evidence_of_regions():
    found = helpers.random(2, 3, 4, 4)
    torch.testing.assert_close(centred(found, True).sum(1), torch.zeros(2, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(centred(found, True).softmax(1), found.softmax(1))
    assert torch.equal(centred(found, False), found)


@given(st.integers(0, 1000), st.integers(2, 3))
@settings(max_examples=20, deadline=None)
def test_the_mean_update_does_not_depend_on_how_often_the_patch_is_tiled(seed, tiles):
    centers, key, value = (
        helpers.random(*s, seed=seed + i) for i, s in enumerate([(1, 3, 4), (1, 4, 3, 3), (1, 4, 3, 3)])
    )

    def update(rule, repeats):
        tiled = [x.repeat(1, 1, repeats, 1) for x in (key, value)]
        return one_iteration(centers, *tiled, temperature=2, update=rule)[1]

    torch.testing.assert_close(update("mean", 1), update("mean", tiles), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(update("sum", tiles) - centers, tiles * (update("sum", 1) - centers))


@given(st.permutations(range(4)), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_permuting_the_classes_permutes_assignment_and_centres(order, seed):
    centers, key, value = (helpers.random(*s, seed=seed + i) for i, s in enumerate([(2, 4, 3), (2, 3, 5), (2, 3, 5)]))
    plain = one_iteration(centers, key, value, temperature=1, update="mean")
    permuted = one_iteration(centers[:, order], key, value, temperature=1, update="mean")
    for a, b in zip(plain, permuted, strict=True):
        torch.testing.assert_close(a[:, order], b)


def test_a_sum_over_a_large_patch_stays_finite_under_half_precision_autocast():
    """64³ voxels × 0.5 × 0.5 = 65536 overflows float16, and autocast casts matrix products down to it."""
    key = torch.zeros(1, 4, 64, 64, 64, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.float16):
        assignment = assigned(evidence(torch.zeros(1, 2, 4), key, 1), True)
        centers = moved(torch.zeros(1, 2, 4), assignment, torch.full_like(key, 0.5), "sum")
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


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("dim", [2, 3])
def test_a_level_equals_numpy(dim, exclusive):
    options = {"dim": 4, "heads": 2, "mlp_dim": 8, "exclusive": exclusive}
    module = helpers.randomise(ClassClusteringModule(helpers.dialect(dim), 2, 3, **options))
    feature, centers = helpers.random(2, 2, *[4] * dim, seed=1), helpers.random(1, 3, 4, seed=2)
    refined = np.repeat(helpers.array(module.transformer(centers)), 2, axis=0)
    block = helpers.conv_norm(module.trunk, "trunk")
    trunk = reference.relu(
        reference.instance_norm(
            reference.conv(feature.numpy(), block["trunk_weight"]), block["trunk_gamma"], block["trunk_beta"]
        )
    )
    key, value = (
        reference.conv(trunk, helpers.array(head.weight), helpers.array(head.bias))
        for head in (module.key, module.value)
    )
    scores = np.einsum("bkd,bd...->bk...", refined, key) / 2
    _, expected_centers = reference.cluster(
        refined, key, value, temperature=2, assignment="softmax" if exclusive else "sigmoid"
    )
    got, got_centers = module(feature, centers)
    expected = scores - scores.mean(1, keepdims=True) if exclusive else scores
    np.testing.assert_allclose(helpers.array(got), expected, atol=1e-9)
    np.testing.assert_allclose(helpers.array(got_centers), expected_centers, atol=1e-9)


def test_the_last_level_moves_no_centres_and_has_no_values():
    module = ClassClusteringModule(helpers.dialect(2), 3, 4, dim=8, heads=2, mlp_dim=8, last=True)
    assert not [name for name, _ in module.named_parameters() if name.startswith("value")]
    centers = torch.randn(1, 4, 8)
    torch.testing.assert_close(module(torch.randn(2, 3, 6, 6), centers)[1][:1], module.transformer(centers))


@pytest.mark.parametrize("dim", [2, 3])
def test_gradcheck(dim):
    module = helpers.randomise(ClassClusteringModule(helpers.dialect(dim), 2, 2, dim=2, heads=1, mlp_dim=2))
    inputs = [helpers.random(1, 2, *[3] * dim, seed=1).requires_grad_(), helpers.random(1, 2, 2).requires_grad_()]
    assert torch.autograd.gradcheck(lambda f, c: tuple(module(f, c)), inputs)


def test_how_sure_an_assignment_is_reaches_the_evidence():
    """A norm per class would undo it; see the module's docstring."""
    torch.manual_seed(0)
    module = ClassClusteringModule(helpers.dialect(2), 3, 4, dim=16, heads=4, mlp_dim=16)
    feature, centers = torch.randn(2, 3, 8, 8), torch.randn(1, 4, 16)
    sure = module(feature, centers)[0]
    with torch.no_grad():
        module.key.weight *= 0.1
        module.key.bias *= 0.1
    torch.testing.assert_close(module(feature, centers)[0], 0.1 * sure)


def test_values_are_signed():
    """Non-negative values drive all centres into one direction; see the module's docstring."""
    torch.manual_seed(0)
    module = ClassClusteringModule(helpers.dialect(2), 3, 4, dim=16, heads=4, mlp_dim=16)
    values = module.value(module.trunk(torch.randn(2, 3, 8, 8)))
    assert (values < 0).any()
    assert (values > 0).any()
