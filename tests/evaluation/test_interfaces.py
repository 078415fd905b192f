"""The interface between two labels: against loops over all pairs of faces, and by hand."""

import itertools
import math

import numpy as np
import pytest

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.interfaces import BAND_MM, interface_metrics, label_pairs

LABELS = {"left": 1, "right": 2, "top": 3}
SPACINGS = [(1.0, 1.0), (0.7, 2.5), (1.0, 1.0, 1.0), (3.0, 0.5, 0.8), (5.0, 4.0, 4.5)]


def voronoi(seed, dim):
    """Labels that touch each other everywhere, with some background."""
    rng = np.random.default_rng(seed)
    shape = (11, 13, 9)[:dim]
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    centres = rng.uniform(0, shape, (5, dim))
    nearest = np.linalg.norm(grid[..., None, :] - centres, axis=-1).argmin(-1)
    return np.where(nearest == 4, 0, nearest)


def faces_by_loop(labels, spacing, one, other, ignored):
    """Centre in mm and area of every face, the slow way."""
    found = []
    for index in np.ndindex(labels.shape):
        for axis in range(labels.ndim):
            next_ = tuple(i + (a == axis) for a, i in enumerate(index))
            if next_[axis] >= labels.shape[axis] or ignored[index] or ignored[next_]:
                continue
            if (labels[index], labels[next_]) in ((one, other), (other, one)):
                centre = (np.array(index) + np.array(next_)) / 2 * spacing
                found.append((centre, math.prod(spacing) / spacing[axis], index, next_))
    return found


def by_loop(prediction, reference, spacing, one, other, ignored, tolerance):
    there, here = (faces_by_loop(each, spacing, one, other, ignored) for each in (prediction, reference))
    percentiles, within, total = [], 0.0, 0.0
    for faces, others in ((there, here), (here, there)):
        distances = np.array([min(np.linalg.norm(c - d) for d, *_ in others) for c, *_ in faces])
        areas = np.array([area for _, area, *_ in faces])
        order = np.argsort(distances)
        share = np.cumsum(areas[order]) / areas.sum()
        percentiles.append(distances[order][np.searchsorted(share, 0.95 - 1e-9)])
        within += areas[distances <= tolerance + 1e-9].sum()
        total += areas.sum()
    touching = {index for _, _, *both in here for index in both}
    confused = []
    for index in zip(*np.nonzero(np.isin(reference, (one, other)) & ~ignored), strict=True):
        centre = np.array(index) * spacing
        if index in touching or min(np.linalg.norm(centre - c) for c, *_ in here) <= BAND_MM + 1e-9:
            confused.append(prediction[index] == (other if reference[index] == one else one))
    return max(percentiles), within / total, np.mean(confused)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("ignore", [False, True])
def test_every_number_is_that_of_a_loop_over_all_faces(spacing, ignore):
    compared = 0
    for seed in (1, 3, 5):
        prediction, reference = voronoi(seed, len(spacing)), voronoi(seed + 1, len(spacing))
        ignored = np.zeros(reference.shape, bool)
        if ignore:
            ignored[2:5, 3:6] = True
            reference = np.where(ignored, 4, reference)
        found = interface_metrics(
            prediction, reference, spacing, LABELS, ignore_label=4 if ignore else None, nsd_tolerances_mm=(1.5,)
        )
        for (one, other), metrics in found.items():
            if metrics.status != "both":
                continue
            expected = by_loop(prediction, reference, spacing, LABELS[one], LABELS[other], ignored, 1.5)
            assert (metrics.hd95_mm, metrics.nsd[1.5], metrics.confusion) == pytest.approx(expected)
            areas = [
                sum(area for _, area, *_ in faces_by_loop(each, spacing, LABELS[one], LABELS[other], ignored))
                for each in (prediction, reference)
            ]
            assert (metrics.size_prediction, metrics.size_reference) == pytest.approx(areas)
            compared += 1
    assert compared >= 3


def stripes(border):
    """Label 1 up to a border along the second axis, then label 2, between margins of background."""
    labels = np.zeros((10, 12), int)
    labels[1:-1, 1:border] = 1
    labels[1:-1, border:-1] = 2
    return labels


def test_a_border_that_is_moved_by_two_pixels():
    found = interface_metrics(stripes(8), stripes(6), (1, 3), {"a": 1, "b": 2}, nsd_tolerances_mm=(5, 6))["a", "b"]
    assert (found.hd95_mm, found.nsd) == (6, {5: 0, 6: 1})
    assert (found.size_reference, found.size_prediction) == (8, 8)  # eight edges of 1 mm
    assert found.confusion == 0.5  # of the two columns at the border, the right one


def test_only_the_interface_counts():
    reference, prediction = stripes(6), stripes(6)
    prediction[:4] = 0  # the outer surface is wrong, the interface that is left is not
    found = interface_metrics(prediction, reference, (1, 1), {"a": 1, "b": 2}, nsd_tolerances_mm=(0,))["a", "b"]
    assert found.confusion == 0
    assert (found.size_prediction, found.size_reference) == (5, 8)
    assert found.nsd[0] == pytest.approx(10 / 13)


def test_a_perfect_prediction():
    truth = voronoi(3, 3)
    for metrics in interface_metrics(truth, truth, (2, 1, 1), LABELS).values():
        if metrics.status == "both":
            assert (metrics.hd95_mm, metrics.nsd[1.0], metrics.confusion) == (0, 1, 0)


def test_a_tolerance_that_is_met_exactly_counts():
    found = interface_metrics(stripes(7), stripes(6), (1, 0.1), {"a": 1, "b": 2}, nsd_tolerances_mm=(0.1,))
    assert found["a", "b"].nsd[0.1] == 1


def test_the_band_is_the_same_where_a_file_rounded_the_spacing():
    for mm in (0.8, float(np.float32(0.8))):  # the third column from the border is 2 mm away
        found = interface_metrics(stripes(9), stripes(6), (1, mm), {"a": 1, "b": 2})["a", "b"]
        assert found.confusion == 0.5


@pytest.mark.parametrize(
    ("rule", "touching", "distance", "share"),
    [
        ("diagonal", "prediction", math.hypot(10, 24), 0),
        ("diagonal", "reference", math.hypot(10, 24), 0),
        ("diagonal", "neither", math.nan, math.nan),
        ("zero", "prediction", 0, 0),
        ("zero", "reference", 0, 0),
        ("zero", "neither", 0, 0),
    ],
)
def test_labels_that_do_not_touch_follow_the_rule_for_empty_masks(rule, touching, distance, share):
    apart = stripes(6)
    apart[:, 6] = 0
    images = {"prediction": (stripes(6), apart), "reference": (apart, stripes(6)), "neither": (apart, apart)}[touching]
    found = interface_metrics(*images, (1, 2), {"a": 1, "b": 2}, empty=rule)["a", "b"]
    assert (found.hd95_mm, found.nsd[1.0]) == pytest.approx((distance, share), nan_ok=True)
    assert (
        found.status
        == {
            "prediction": "reference empty",
            "reference": "prediction empty",
            "neither": "both empty",
        }[touching]
    )
    assert math.isnan(found.confusion) == (touching != "reference")  # without a border there is no band around it


def test_swapped_labels_are_confused_everywhere_although_the_interface_is_perfect():
    reference = stripes(6)
    swapped = np.array([0, 2, 1])[reference]
    found = interface_metrics(swapped, reference, (1, 1), {"a": 1, "b": 2})["a", "b"]
    assert (found.hd95_mm, found.nsd[1.0], found.confusion) == (0, 1, 1)


def test_regions_have_interfaces_unless_they_share_a_label():
    regions = {"whole": (1, 2), "core": 2, "other": (3,)}
    assert label_pairs(regions) == [("whole", "other"), ("core", "other")]
    prediction, reference = voronoi(1, 3), voronoi(2, 3)
    merged = interface_metrics(prediction, reference, (1, 1, 1), regions)["whole", "other"]
    joined = [np.where(each == 2, 1, each) for each in (prediction, reference)]
    assert merged == interface_metrics(*joined, (1, 1, 1), {"whole": 1, "other": 3})["whole", "other"]


def test_flipping_the_images_changes_nothing():
    prediction, reference = voronoi(1, 3), voronoi(2, 3)
    for axes in itertools.chain.from_iterable(itertools.combinations(range(3), k) for k in (1, 2, 3)):
        flipped = interface_metrics(np.flip(prediction, axes), np.flip(reference, axes), (3, 0.5, 0.8), LABELS)
        for pair, metrics in interface_metrics(prediction, reference, (3, 0.5, 0.8), LABELS).items():
            other = flipped[pair]
            assert [metrics.hd95_mm, metrics.nsd[1.0], metrics.confusion] == pytest.approx(
                [other.hd95_mm, other.nsd[1.0], other.confusion], nan_ok=True
            )


def test_images_of_other_shapes_are_refused():
    with pytest.raises(InputError, match="shape"):
        interface_metrics(np.zeros((3, 4), int), np.zeros((3, 5), int), (1, 1), LABELS)
