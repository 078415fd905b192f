"""Surfaces and the distances between them, against surface-distance, closed forms and brute force."""

import itertools
import math
import warnings

import numpy as np
import pytest

from nnunet_ext.evaluation import surfaces

SPACINGS = {2: [(1.0, 1.0), (0.7, 2.5)], 3: [(1.0, 1.0, 1.0), (3.0, 0.5, 0.75)]}


def blob(shape, radius, seed=0):
    """A ragged ball in the middle."""
    noise = np.random.default_rng(seed).normal(0, 0.7, shape)
    axes = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    return np.sqrt(sum(axis**2 for axis in axes)) + noise < radius


@pytest.mark.parametrize("spacing", SPACINGS[2] + SPACINGS[3])
def test_the_weight_of_every_neighbour_code_equals_the_lookup_table_of_surface_distance(spacing):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # surface-distance 0.1 uses old names of scipy
        from surface_distance import lookup_tables
    create = {
        2: lookup_tables.create_table_neighbour_code_to_contour_length,
        3: lookup_tables.create_table_neighbour_code_to_surface_area,
    }[len(spacing)]
    bits = 2 ** len(spacing)
    reversed_bits = [int(f"{code:0{bits}b}"[::-1], 2) for code in range(2**bits)]  # their first corner is the last bit
    np.testing.assert_allclose(
        surfaces.surface_weights(spacing), create(spacing)[reversed_bits], rtol=1e-14, atol=1e-14
    )


@pytest.mark.parametrize(
    ("corners", "area"),
    [
        ([(0, 0, 0)], math.sqrt(3) / 8),
        ([(0, 0, 0), (0, 0, 1)], math.sqrt(2) / 2),
        ([(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)], 1.0),
        ([(0, 0, 0), (1, 1, 1)], math.sqrt(3) / 4),
        ([(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)], 6 * math.sqrt(3) / 8),
    ],
)
def test_areas_that_can_be_worked_out_by_hand(corners, area):
    table = surfaces.surface_weights((1.0, 1.0, 1.0))
    code = sum(1 << (4 * i + 2 * j + k) for i, j, k in corners)
    assert table[code] == pytest.approx(area, rel=1e-14)
    assert table[255 - code] == pytest.approx(area, rel=1e-14)


@pytest.mark.parametrize("dim", [2, 3])
def test_only_corners_between_equal_voxels_have_no_surface(dim):
    table = surfaces.surface_weights((1.0,) * dim)
    assert set(np.flatnonzero(table == 0)) == {0, len(table) - 1}


@pytest.mark.parametrize("dim", [2, 3])
def test_neighbour_codes_and_borders_equal_loops_over_voxels(dim):
    mask = np.pad(blob((5, 6, 4)[:dim], 2), 1)
    offsets = list(itertools.product((0, 1), repeat=dim))
    codes = surfaces.neighbour_codes(mask)
    for index in np.ndindex(codes.shape):
        voxels = [mask[tuple(np.add(index, offset))] for offset in offsets]
        assert codes[index] == sum(int(voxel) << bit for bit, voxel in enumerate(voxels))
    steps = [sign * step for sign in (-1, 1) for step in np.eye(dim, dtype=int)]
    borders = surfaces.border(mask)
    for index in np.argwhere(mask):
        assert borders[tuple(index)] == (not all(mask[tuple(index + step)] for step in steps))
    assert not borders[~mask].any()


def test_the_surface_of_a_box_is_its_faces_with_cut_edges_and_corners():
    surface = surfaces.find_surface(np.ones((4, 5, 6), bool), (1.0, 1.0, 1.0), "surface")
    inner = 2 * (3 * 4 + 3 * 5 + 4 * 5)  # corners of voxels inside the faces
    edges, corners = 4 * (3 + 4 + 5) * math.sqrt(2) / 2, 8 * math.sqrt(3) / 8
    assert surface.weights.sum() == pytest.approx(inner + edges + corners)


@pytest.mark.parametrize("definition", ["surface", "voxel"])
@pytest.mark.parametrize("spacing", SPACINGS[2] + SPACINGS[3])
def test_distances_equal_brute_force(definition, spacing):
    shape = (9, 12, 10)[: len(spacing)]
    masks = blob(shape, 3.5, seed=1), np.roll(blob(shape, 3, seed=2), 2, 1)
    found = [surfaces.find_surface(mask, spacing, definition) for mask in masks]
    directed = surfaces.surface_distances(*masks, spacing, definition)
    for start, end, result in [(*found, directed[0]), (*found[::-1], directed[1])]:
        every = np.linalg.norm((start.points[:, None] - end.points[None]) * spacing, axis=2).min(1)
        np.testing.assert_allclose(np.sort(result.distances), np.sort(every[every > 0]), rtol=1e-14)
        assert result.shared == pytest.approx(start.weights[every == 0].sum(), rel=1e-14)
        assert result.total == pytest.approx(start.weights.sum(), rel=1e-14)
        assert result.distances @ result.weights == pytest.approx(every @ start.weights, rel=1e-12)


@pytest.mark.parametrize("spacing", [*SPACINGS[2], *SPACINGS[3], (9.0, 0.3, 0.3)])
def test_steps_tree_and_distance_transform_find_the_same_distances(spacing, monkeypatch):
    shape = (20, 18, 16)[: len(spacing)]
    ends = [surfaces.find_surface(blob(shape, radius, seed=radius), spacing, "surface") for radius in (7, 4)]
    results = [surfaces.directed_distances(*ends, spacing).distances]
    monkeypatch.setattr(surfaces, "_steps", lambda spacing: np.zeros((1, len(spacing)), int))
    for voxels_per_query in (0, 10**9):  # always the tree, always the distance transform
        monkeypatch.setattr(surfaces, "VOXELS_PER_QUERY", voxels_per_query)
        results.append(surfaces.directed_distances(*ends, spacing).distances)
    for result in results[1:]:
        np.testing.assert_array_max_ulp(result, results[0], maxulp=2)  # of several nearest elements any may be found


def test_steps_are_complete_up_to_the_longest():
    for spacing in [(1.0, 1.0), (2.0, 0.8, 0.8), (9.0, 0.3, 0.3)]:
        lengths = np.linalg.norm(surfaces._steps(spacing) * spacing, axis=1)
        every = np.array(list(itertools.product(range(-9, 10), repeat=len(spacing))))
        every = np.sort(np.linalg.norm(every * spacing, axis=1))
        np.testing.assert_allclose(lengths, every[: len(lengths)], rtol=1e-12)


def test_a_whole_number_of_steps_is_a_distance_without_rounding():
    one, other = np.zeros((9, 3), bool), np.zeros((9, 3), bool)
    one[:1], other[:8] = True, True
    _, back = surfaces.surface_distances(one, other, (0.1, 1.0), "voxel")
    assert back.distances.max() == 7 * 0.1
