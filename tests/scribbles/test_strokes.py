"""Strokes: never outside their class, never empty without reason, of the shape that their description promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, label

from nnunet_ext.scribbles.strokes import EIGHT, MODES, border, interior, line, scribble_class, skeleton

STROKES = (interior, border, line, skeleton)
seeds = st.integers(0, 2**32 - 1)


def blobs(seed: int, shape: tuple[int, int], level: float = 0.5) -> np.ndarray:
    """Smooth random shapes, with several components and holes, that touch the edge of the image."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return noise > np.quantile(noise, level)


def disk(radius: int = 20, size: int = 50) -> np.ndarray:
    along = np.arange(size) - size // 2
    return np.hypot(along[:, None], along[None]) <= radius


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


masks = st.builds(
    blobs, seeds, st.tuples(st.integers(1, 40), st.integers(1, 40)), st.sampled_from([0.0, 0.3, 0.8, 0.97])
)


@settings(max_examples=60, deadline=None)
@given(masks, seeds, st.integers(1, 6))
def test_every_stroke_is_a_part_of_its_mask_and_empty_only_if_the_mask_is(mask, seed, thickness):
    for stroke in STROKES:
        drawn = stroke(mask, rng(seed), thickness)
        assert drawn.shape == mask.shape
        assert drawn.dtype == bool
        assert not (drawn & ~mask).any()
        assert drawn.any() == mask.any()


@settings(max_examples=40, deadline=None)
@given(masks, seeds, st.sampled_from(list(MODES)), st.integers(1, 60), st.sampled_from(["one", "all"]))
def test_scribbles_of_a_class(mask, seed, mode, min_area, components):
    drawn = scribble_class(mask, rng(seed), MODES[mode], min_area=min_area, components=components)
    assert not (drawn & ~mask).any()
    assert drawn.any() == (mask.sum() >= min_area)
    pieces, _ = label(mask, EIGHT)
    areas = np.bincount(pieces.ravel())
    touched = set(np.unique(pieces[drawn]).tolist())
    large = {int(piece) for piece in np.flatnonzero(areas >= min_area) if piece}
    if drawn.any() and components == "all":
        assert touched == (large or {int(np.argmax(areas[1:])) + 1})
    if drawn.any() and components == "one":
        assert len(touched) == 1
        assert touched <= (large or {int(np.argmax(areas[1:])) + 1})


@pytest.mark.parametrize("stroke", STROKES)
def test_the_generator_is_the_only_source_of_chance(stroke):
    mask = blobs(3, (60, 70))
    assert np.array_equal(stroke(mask, rng(5), 3), stroke(mask, rng(5), 3))
    assert any(not np.array_equal(stroke(mask, rng(5), 3), stroke(mask, rng(seed), 3)) for seed in range(6, 10))


@pytest.mark.parametrize("stroke", STROKES)
def test_a_stroke_is_one_piece(stroke):
    for seed in range(20):
        for thickness in (1, 2, 3, 5):
            assert label(stroke(disk(), rng(seed), thickness), EIGHT)[1] == 1


@pytest.mark.parametrize("thickness", [1, 2, 3, 4, 5])
def test_a_stroke_is_as_thick_as_asked(thickness):
    for seed in range(10):
        deepest = distance_transform_edt(line(disk(), rng(seed), thickness)).max()
        assert thickness / 2 - 1 <= deepest <= thickness / 2 + 1


def test_larger_components_are_chosen_more_often():
    mask = np.zeros((30, 60), bool)
    mask[5:25, 5:25] = mask[5:15, 40:50] = True  # 400 and 100 voxels
    large = sum(scribble_class(mask, rng(seed), MODES["line"])[:, :30].any() for seed in range(200))
    assert large == pytest.approx(160, abs=25)


def test_border_strokes_follow_the_border_and_interior_ones_do_not():
    depth = distance_transform_edt(disk())
    for seed in range(20):
        near = depth[border(disk(), rng(seed), 1)]
        assert near.max() - near.min() < 2.5
        assert 1 <= near.min() <= 5.5
    spread = [np.ptp(depth[interior(disk(), rng(seed), 1)]) for seed in range(20)]
    assert np.median(spread) > 5


def test_border_strokes_are_7_to_15_percent_of_the_contour():
    lengths = [border(disk(), rng(seed), 1).sum() for seed in range(40)]
    around = 2 * np.pi * 16
    assert 0.04 * around < min(lengths)
    assert max(lengths) < 0.2 * around


def test_the_edge_of_the_image_is_no_border():
    mask = ~disk(10, 60)
    for seed in range(20):
        drawn = np.argwhere(border(mask, rng(seed), 1))
        assert np.hypot(*(drawn - 30).T).max() < 18


def test_lines_are_straight():
    for seed in range(20):
        points = np.argwhere(line(disk(), rng(seed), 1)).astype(float)
        singular = np.linalg.svd(points - points.mean(0), compute_uv=False)
        assert singular[1] / np.sqrt(len(points)) < 0.6


def test_a_skeleton_is_one_path_without_branches():
    cross = np.zeros((41, 41), bool)
    cross[18:23, 2:39] = cross[2:39, 18:23] = True
    for seed in range(20):
        drawn = skeleton(cross, rng(seed), 1)
        assert label(drawn, EIGHT)[1] == 1
        arms = [drawn[:15].any(), drawn[26:].any(), drawn[:, :15].any(), drawn[:, 26:].any()]
        assert sum(arms) == 2


def test_the_skeleton_of_a_ring_goes_along_most_of_it():
    ring = disk(18) & ~disk(12)
    lengths = [skeleton(ring, rng(seed), 1).sum() for seed in range(10)]
    assert max(lengths) > 0.8 * min(2 * np.pi * 15, 90)


def test_large_masks_are_eroded_before_the_skeleton_so_that_it_varies():
    wide = blobs(1, (80, 90), 0.3)
    assert len({skeleton(wide, rng(seed), 1).tobytes() for seed in range(10)}) > 3
    assert not (skeleton(wide, rng(), 1) & ~binary_erosion(wide, border_value=1)).any()
