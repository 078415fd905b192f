"""The pushing branch against NumPy, and what its kernel does and does not respond to."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nnunet_ext.pnpnet.semantic_difference import (
    GAIN,
    DifferentialConv,
    SemanticDifferenceModule,
    explicit_stencil,
    replicate,
)
from tests.pnpnet import helpers
from tests.pnpnet import numpy_reference as reference

KERNELS = {"2D": [3, 3], "3D": [3, 3, 3], "anisotropic": [1, 3, 3], "large": [3, 5], "point": [1, 1, 1]}


@pytest.mark.parametrize("kernel_size", KERNELS.values(), ids=KERNELS.keys())
def test_the_explicit_part_is_the_corner_stencil(kernel_size):
    stencil = explicit_stencil(kernel_size).numpy()
    np.testing.assert_array_equal(stencil, reference.corner_stencil(kernel_size))


def test_the_corner_stencil_of_3x3x3_by_hand():
    stencil = explicit_stencil([3, 3, 3])
    assert stencil[0, 0, 0] == -1
    assert stencil[2, 2, 2] == 1
    assert stencil[0, 0, 2] == 1
    assert stencil[0, 2, 2] == -1
    assert stencil.abs().sum() == 8


def test_the_corner_stencil_is_a_mixed_third_derivative():
    x, y, z = torch.meshgrid(*[torch.arange(-1.0, 2)] * 3, indexing="ij")
    stencil = explicit_stencil([3, 3, 3])
    assert (stencil * x * y * z).sum() == 8
    for blind in (torch.ones_like(x), x, x * y, x**2, (x > 0).float()):
        assert (stencil * blind).sum() == 0


@pytest.mark.parametrize("padding", [(1, 1), (0, 2), (1, 1, 1), (0, 1, 2)])
def test_replicated_borders_equal_torch(padding):
    x = helpers.random(2, 3, *[4] * len(padding))
    widths = [width for size in reversed(padding) for width in (size, size)]
    assert torch.equal(replicate(x, padding), nn.functional.pad(x, widths, mode="replicate"))


def test_an_even_kernel_gets_one_clear_sentence():
    with pytest.raises(ValueError, match=r"needs odd sizes to have a centre, got \[2, 3\]"):
        explicit_stencil([2, 3])


@pytest.mark.parametrize("padding_mode", ["replicate", "zeros"])
@pytest.mark.parametrize("kernel_size", KERNELS.values(), ids=KERNELS.keys())
def test_the_depthwise_convolution_equals_numpy(kernel_size, padding_mode):
    dim = len(kernel_size)
    conv = DifferentialConv(helpers.CONV[dim], 3, kernel_size, padding_mode=padding_mode).double()
    x = helpers.random(2, 3, *[5] * dim)
    expected = reference.conv(x.numpy(), helpers.array(conv.weight), groups=3, padding_mode=padding_mode)
    np.testing.assert_allclose(helpers.array(conv(x)), expected, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [[3, 3], [3, 3, 3], [1, 3, 3], [3, 5], [3, 1, 1], [1, 1, 3], [1, 3]])
def test_unit_kernels_do_not_respond_to_a_constant_and_have_unit_norm(kernel_size):
    conv = DifferentialConv(helpers.CONV[len(kernel_size)], 4, kernel_size)
    assert conv(torch.full((1, 4, *[6] * len(kernel_size)), 7.0)).abs().max() < 1e-5
    torch.testing.assert_close(conv.weight.flatten(1).norm(dim=1), torch.ones(4))


def test_unit_kernels_keep_the_corner_pattern_up_to_scale():
    kernel = DifferentialConv(nn.Conv3d, 2, [3, 3, 3]).weight[:, 0]
    corners = kernel[:, ::2, ::2, ::2]
    pattern = explicit_stencil([3, 3, 3])[::2, ::2, ::2]
    torch.testing.assert_close(corners, pattern * corners[:, -1:, -1:, -1:])


def test_randn_kernels_are_those_of_the_published_code():
    kernel = DifferentialConv(nn.Conv3d, 2000, [3, 3, 3], init="randn").weight[:, 0]
    stencil = explicit_stencil([3, 3, 3])
    assert torch.equal(kernel[:, stencil != 0], stencil[stencil != 0].expand(2000, 8))
    implicit = kernel[:, stencil == 0]
    assert abs(implicit.mean()) < 0.02
    assert abs(implicit.std() - 1) < 0.02


@pytest.mark.parametrize("width", [2, 5])
@pytest.mark.parametrize("kernel_size", [[3, 3], [3, 3, 3], [1, 3, 3]])
def test_the_module_equals_numpy(kernel_size, width):
    dim = len(kernel_size)
    module = helpers.randomise(SemanticDifferenceModule(helpers.dialect(dim), 3, kernel_size, width=width))
    assert module.skip_difference.weight.shape[0] == min(width, 3)
    skip, guide = helpers.random(2, 3, *[4] * dim, seed=1), helpers.random(2, 3, *[4] * dim, seed=2)
    expected = reference.bounded_difference(
        skip.numpy(),
        guide.numpy(),
        reduce_weight=helpers.array(module.reduce.weight),
        **helpers.conv_norm(module.guide, "guide"),
        **helpers.conv_norm(module.mix, "mix"),
        skip_kernel=helpers.array(module.skip_difference.weight),
        guide_kernel=helpers.array(module.guide_difference.weight),
        factor=GAIN * helpers.array(module.scale.factor),
        norm=reference.instance_norm,
    )
    np.testing.assert_allclose(helpers.array(module(skip, guide)), expected, atol=1e-9)


def test_under_autocast_the_skip_keeps_its_precision():
    module = SemanticDifferenceModule(helpers.dialect(2), 4, [3, 3]).float()
    skip, guide = torch.rand(2, 1, 4, 8, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(skip, guide).dtype == torch.bfloat16


@pytest.mark.parametrize("dim", [2, 3])
def test_gradcheck(dim):
    module = helpers.randomise(SemanticDifferenceModule(helpers.dialect(dim), 2, [3] * dim))
    inputs = [helpers.random(1, 2, *[3] * dim, seed=s).requires_grad_() for s in (1, 2)]
    assert torch.autograd.gradcheck(module, inputs)


def test_a_fresh_module_is_the_identity_and_its_factors_learn():
    module = SemanticDifferenceModule(helpers.dialect(3), 4, [3, 3, 3])
    skip, guide = torch.randn(2, 4, 4, 4, 4), torch.randn(2, 4, 4, 4, 4)
    refined = module(skip, guide)
    assert torch.equal(refined, skip)
    refined.square().sum().backward()
    assert (module.scale.factor.grad != 0).all()


def test_without_a_difference_in_the_guide_nothing_passes():
    """The conductivity is 0 where the decoder sees no boundary."""
    module = SemanticDifferenceModule(helpers.dialect(2), 3, [3, 3]).double()
    flat = torch.ones(1, 3, 6, 6, dtype=torch.float64)
    assert module._difference(helpers.random(1, 3, 6, 6), flat).abs().max() < 1e-9


def test_the_difference_never_exceeds_that_of_the_skip():
    module = SemanticDifferenceModule(helpers.dialect(2), 3, [3, 3]).double()
    skip, guide = helpers.random(1, 3, 6, 6), 100 * helpers.random(1, 3, 6, 6, seed=1)
    assert (module._difference(skip, guide).abs() <= module.skip_difference(skip).abs()).all()


@given(st.integers(0, 100), st.sampled_from([(2,), (3,), (2, 3)]))
@settings(max_examples=10, deadline=None)
def test_flipping_the_input_and_the_kernels_flips_the_output(seed, axes):
    module = helpers.randomise(SemanticDifferenceModule(helpers.dialect(2), 2, [3, 3]), seed)
    skip, guide = helpers.random(1, 2, 4, 5, seed=seed), helpers.random(1, 2, 4, 5, seed=seed + 1)
    expected = module(skip, guide).flip(axes)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 4:
                parameter.copy_(parameter.flip(axes))
    torch.testing.assert_close(module(skip.flip(axes), guide.flip(axes)), expected)


def test_large_half_precision_features_stay_finite():
    torch.manual_seed(0)
    module = SemanticDifferenceModule(helpers.dialect(3), 4, [3, 3, 3])
    nn.init.constant_(module.guide.norm.weight, 100.0)
    nn.init.constant_(module.scale.factor, 1 / GAIN)
    skip, guide = 100 * torch.randn(1, 4, 6, 6, 6), torch.randn(1, 4, 6, 6, 6)
    full = module(skip, guide)
    with torch.autocast("cpu", dtype=torch.float16):
        half = module(skip, guide)
    assert half.isfinite().all()
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.5)
