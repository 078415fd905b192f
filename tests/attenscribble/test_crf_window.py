"""Which window the CRF loss has: by default, by options, and as published."""

import numpy as np
import pytest

from nnunet_ext.attenscribble.crf_window import ResolvedWindow, crf_loss, crf_weight
from nnunet_ext.attenscribble.options import AttenScribbleOptions


def reach(loss) -> list[int]:
    return [max(abs(offset[axis]) for offset in loss.window.offsets) for axis in range(len(loss.window.offsets[0]))]


@pytest.mark.parametrize(
    ("spacing", "radius", "sigma", "offsets"),
    [
        ((1.3, 1.3), [3, 3], 2, 24),
        ((3, 3), [3, 3], 2, 24),
        ((5, 1.5, 1.5), [0, 3, 3], 2, 24),
        ((1.5, 1.5, 5), [3, 3, 0], 2, 24),
        ((1, 1, 1.2), [1, 1, 1], 2 / 3, 13),
    ],
)
def test_defaults(spacing, radius, sigma, offsets):
    loss = crf_loss(spacing, AttenScribbleOptions())
    assert reach(loss) == radius
    assert len(loss.window.offsets) == offsets
    assert loss.downsample is None
    assert loss.intensity_sigma == 0.1
    assert ResolvedWindow.of(spacing, AttenScribbleOptions()).sigma == pytest.approx(sigma)


@pytest.mark.parametrize("spacing", [(3.6, 1.2, 1.2), (2.4, 0.8, 0.8), (1.2, 0.4, 0.4), (3, 1, 1)])
def test_spacings_that_files_round_do_not_change_the_loss(spacing):
    rounded = tuple(map(float, np.array(spacing, np.float32)))
    for one in (spacing, rounded):
        assert ResolvedWindow.of(one, AttenScribbleOptions()).axes == (False, True, True)
        assert crf_weight(one, AttenScribbleOptions()) == 9.2


def test_the_published_window():
    """Radius 5 and σ 6 pixels; as far in isotropic volumes, at half of the resolution."""
    published = AttenScribbleOptions.as_published()
    loss = crf_loss((1.3, 1.3), published)
    assert (loss.window.mass, loss.downsample) == (pytest.approx(92.0, abs=0.05), None)
    loss = crf_loss((5, 1.5, 1.5), published)
    assert (reach(loss), loss.downsample) == ([0, 5, 5], None)
    loss = crf_loss((1, 1, 1.2), published)
    assert (reach(loss), loss.downsample) == ([3, 3, 3], (2, 2, 2))


def test_options():
    options = AttenScribbleOptions(crf_radius=4, crf_sigma=1.5, crf_intensity_sigma=0.2, crf_downsample=2)
    loss = crf_loss((5, 1.5, 1.5), options)
    assert reach(loss) == [0, 2, 2]
    assert loss.downsample == (1, 2, 2)
    assert loss.intensity_sigma == 0.2
    weights = dict(zip(loss.window.offsets, loss.window.weights, strict=True))
    assert weights[(0, 0, 1)] == pytest.approx(0.4111122905)  # exp(−1/2 · (2/1.5)²)
    assert str(ResolvedWindow.of((5, 1.5, 1.5), options)) == "radius 4, σ 1.5 voxels, pooled by 2"
    assert str(ResolvedWindow.of((1, 1), AttenScribbleOptions(crf_radius=2))) == "radius 2, σ 1.33 voxels"
    assert crf_loss((1, 1, 1), AttenScribbleOptions(crf_radius=4)).downsample == (2, 2, 2)
    assert crf_loss((1, 1, 1), AttenScribbleOptions(crf_radius=3)).downsample is None
    assert crf_loss((1, 1, 1), AttenScribbleOptions(crf_radius=4, crf_downsample=1)).downsample is None
    assert not crf_loss((1, 1), AttenScribbleOptions(), exclusive=False).exclusive


def test_the_weight_is_larger_in_isotropic_volumes_and_as_the_plans_say():
    assert [crf_weight(spacing, AttenScribbleOptions()) for spacing in ((1, 1), (5, 1, 1), (1, 1, 1))] == [9.2, 9.2, 30]
    assert crf_weight((1, 1, 1), AttenScribbleOptions(crf_weight=0.0)) == 0
    assert crf_weight((1, 1, 1), AttenScribbleOptions.as_published()) == 9.2
