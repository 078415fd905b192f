"""Prompts: how they move centres, against loops in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import grid_sample

from nnunet_ext.errors import InputError
from nnunet_ext.s2vnet.prompts import PromptedCentres, Prompts, bilinear
from tests.s2vnet.test_clustering import layer_norm, randomised

SIZE = (8, 6)


def some_prompts(seed=0, batch=2, number=5, labels=3):
    generator = torch.Generator().manual_seed(seed)
    position = torch.rand(batch, number, 3, generator=generator).double() * torch.tensor([1, *SIZE])
    label = torch.randint(labels, (batch, number), generator=generator)
    weight = torch.rand(batch, number, generator=generator).double()
    age = torch.randint(4, (batch, number), generator=generator).double()
    return Prompts(position, label, weight, age)


def features(seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, 3, 4, 3, generator=generator).double(),
        torch.randn(batch, 2, 2, 3, generator=generator).double(),
    ]


def test_bilinear_is_that_of_grid_sample():
    feature = features()[0]
    position = torch.rand(2, 7, 2).double() * torch.tensor(SIZE) - 0.5
    grid = (position.flip(-1) + 0.5) / torch.tensor(SIZE[::-1]) * 2 - 1
    expected = grid_sample(feature, grid[:, None], padding_mode="border", align_corners=False)[:, :, 0].transpose(1, 2)
    torch.testing.assert_close(bilinear(feature, position, SIZE), expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_bilinear_is_exact_on_the_grid_and_inside_of_its_neighbours(seed):
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(1, 1, *SIZE, generator=generator)
    y, x = (int(torch.randint(n, (), generator=generator)) for n in SIZE)
    torch.testing.assert_close(bilinear(feature, torch.tensor([[[y, x]]]), SIZE)[0, 0, 0], feature[0, 0, y, x])
    anywhere = bilinear(feature, 20 * torch.randn(1, 9, 2, generator=generator), SIZE)
    assert feature.min() - 1e-6 <= anywhere.min() <= anywhere.max() <= feature.max() + 1e-6


def test_centres_move_as_the_formulas_say():
    module = randomised(PromptedCentres([3, 2], 4, [0, 1, 2], decay=0.5))
    centres, prompts = torch.randn(2, 3, 4).double(), some_prompts()
    with torch.no_grad():
        found = module(centres, features(), prompts, SIZE)
        for b in range(2):
            for label in range(3):
                total, pooled = 0.0, torch.zeros(4).double()
                for j in range(5):
                    if prompts.label[b, j] != label:
                        continue
                    w = float(prompts.weight[b, j]) * 0.5 ** float(prompts.age[b, j])
                    total += w
                    for project, feature in zip(module.project, features(), strict=True):
                        e = bilinear(feature[b : b + 1], prompts.position[b : b + 1, j : j + 1, 1:], SIZE)[0, 0]
                        pooled += w * (project.weight @ e + project.bias)
                expected = centres[b, label].clone()
                if total > 0:
                    message = layer_norm(pooled / total, module.norm) + module.clicked
                    expected += min(1.0, total) * message
                torch.testing.assert_close(found[b, label], expected)


def test_without_prompts_nothing_moves_but_every_parameter_has_a_gradient():
    module = randomised(PromptedCentres([3, 2], 4, [0, 1], decay=0.5))
    centres = torch.randn(2, 2, 4).double()
    found = module(centres, features(), Prompts.none(2), SIZE)
    assert torch.equal(found, centres)
    found.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_a_newer_click_is_stronger_than_an_older_one_of_another_label():
    module = PromptedCentres([3, 2], 4, [0, 1], decay=0.5).double()
    old, new = Prompts.click([0, 2, 2], 0), Prompts.click([0, 2, 2], 1)
    centres = torch.zeros(1, 2, 4).double()
    with torch.no_grad():
        moved = module(centres, features(batch=1), old.joined(new), SIZE)[0]
    torch.testing.assert_close(moved[0], 0.5 * moved[1])


def test_with_several_centres_only_the_nearest_one_moves():
    torch.manual_seed(0)
    module = PromptedCentres([3, 2], 4, [0, 0, 0, 1], decay=0.5).double()
    centres = torch.randn(1, 4, 4).double()
    for label, candidates in ((0, {0, 1, 2}), (1, {3})):
        with torch.no_grad():
            moved = module(centres, features(batch=1), Prompts.click([0, 3, 3], label), SIZE) - centres
        changed = {n for n in range(4) if moved[0, n].abs().sum() > 0}
        assert len(changed) == 1
        assert changed < candidates or changed == candidates


def test_prompts_of_other_slices_do_not_count():
    prompts = Prompts.click([0, 1, 1], 1).joined(Prompts.click([3, 2, 2], 0))
    assert prompts.on_slice(3).weight.tolist() == [[0.0, 1.0]]
    assert prompts.on_slice(1).weight.tolist() == [[0.0, 0.0]]
    assert prompts.age.tolist() == [[1.0, 0.0]]


def test_a_mask_has_the_weight_of_a_click():
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[2:4, 1:5] = True
    prompts = Prompts.mask(mask, 3, 2)
    assert prompts.position.shape == (1, 8, 3)
    assert prompts.on_slice(3).weight.sum() == pytest.approx(1.0)
    assert Prompts.mask(mask, 3, 2, weight=0.5).weight.sum() == pytest.approx(0.5)
    assert all(mask[int(y), int(x)] for _, y, x in prompts.position[0])
    with pytest.raises(InputError, match="no pixel"):
        Prompts.mask(~mask & mask, 0, 1)


def test_gradients():
    module = randomised(PromptedCentres([3, 2], 4, [0, 1, 2], decay=0.5))
    centres = torch.randn(2, 3, 4).double().requires_grad_()
    inputs = [f.requires_grad_() for f in features()]
    prompts = some_prompts()
    assert torch.autograd.gradcheck(lambda c, *f: module(c, f, prompts, SIZE), (centres, *inputs))
