"""Metrics against surface-distance, MedPy and plain numpy; what must not change them; empty masks; bad input."""

import itertools
import math
import re
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.metrics import DEFINITIONS, EMPTY_RULES, label_metrics, surface_metrics

TOLERANCES = (0.0, 1.01, 2.55)  # 0: only what both surfaces share; no distance on these lattices is near the others
SPACINGS = {2: [(1.0, 1.0), (0.7, 2.5)], 3: [(1.0, 1.0, 1.0), (3.0, 0.5, 0.75)]}


@st.composite
def random_masks(draw, dims=(2, 3)):
    """Two masks of one shape that are not empty, and a spacing."""
    dim = draw(st.sampled_from(dims))
    # a volume of one slice is measured like a 2D image
    shape = tuple(draw(st.integers(1, 24) if dim == 2 else st.integers(2, 12)) for _ in range(dim))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["blobs", "shifted", "noise", "voxel", "full", "two components"]))
    field = gaussian_filter(rng.standard_normal(shape), 1.5)
    if kind == "blobs":  # several components that touch the border of the image
        masks = [field > np.median(field), field + 0.5 * gaussian_filter(rng.standard_normal(shape), 1) > 0]
    elif kind == "shifted":
        masks = [field > np.quantile(field, 0.7), np.roll(field, 1, -1) > np.quantile(field, 0.6)]
    elif kind == "noise":
        masks = [rng.random(shape) < draw(st.sampled_from([0.1, 0.5, 0.9])) for _ in range(2)]
    elif kind == "full":
        masks = [np.ones(shape, bool), field > np.median(field)]
    else:
        masks = [np.zeros(shape, bool) for _ in range(2)]
        for mask, count in zip(masks, (1, 1) if kind == "voxel" else (2, 1), strict=True):
            for _ in range(count):
                corner = [rng.integers(n) for n in shape]
                mask[tuple(slice(i, i + (1 if kind == "voxel" else 3)) for i in corner)] = True
    for mask in masks:
        if not mask.any():
            mask[tuple(rng.integers(n) for n in shape)] = True
    return (*masks, draw(st.sampled_from(SPACINGS[dim])))


def smooth_pair(shape, seed=0):
    """Two similar masks that do not touch the border."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1.5, 1.5, n) for n in shape], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    return [radius + gaussian_filter(rng.standard_normal(shape), 1) * 0.4 < 1 for _ in range(2)]


def numbers(metrics):
    """All numbers of a case in one list; empty masks give NaN."""
    values = asdict(metrics)
    return [*values.pop("nsd").values(), *(value for value in values.values() if not isinstance(value, str))]


def assert_same(metrics, other):
    np.testing.assert_allclose(numbers(metrics), numbers(other), rtol=1e-9)
    assert metrics.status == other.status


# -- other packages ---------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(random_masks())
def test_the_surface_definition_equals_surface_distance(masks):
    prediction, reference, spacing = masks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # surface-distance 0.1 uses old names of scipy
        import surface_distance as oracle

        distances = oracle.compute_surface_distances(reference, prediction, spacing)
    ours = surface_metrics(prediction, reference, spacing, nsd_tolerances_mm=TOLERANCES)
    # the percentile jumps where a share of the surface is 95 % up to rounding
    low, high = (oracle.compute_robust_hausdorff(distances, 95 + shift) for shift in (-1e-7, 1e-7))
    assert low * (1 - 1e-12) <= ours.hd95_mm <= high * (1 + 1e-12)
    assert ours.assd_mm == pytest.approx(np.mean(oracle.compute_average_surface_distance(distances)), rel=1e-9)
    for tolerance in TOLERANCES:
        expected = oracle.compute_surface_dice_at_tolerance(distances, tolerance)
        assert ours.nsd[tolerance] == pytest.approx(expected, rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(random_masks())
def test_the_voxel_definition_equals_medpy(masks):
    medpy = pytest.importorskip("medpy.metric.binary", reason="MedPy is only an oracle; extra `test` installs it")
    prediction, reference, spacing = masks
    ours = surface_metrics(prediction, reference, spacing, definition="voxel")
    assert ours.hd95_mm == pytest.approx(medpy.hd95(prediction, reference, spacing), rel=1e-9)
    assert ours.assd_mm == pytest.approx(medpy.assd(prediction, reference, spacing), rel=1e-9)
    assert ours.dice == pytest.approx(medpy.dc(prediction, reference), rel=1e-12)
    assert ours.iou == pytest.approx(medpy.jc(prediction, reference), rel=1e-12)


# -- plain numpy ------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(random_masks())
def test_nsd_of_voxels_and_all_counts_equal_numpy(masks):
    prediction, reference, spacing = masks
    ours = surface_metrics(prediction, reference, spacing, definition="voxel", nsd_tolerances_mm=TOLERANCES)
    borders = []
    for mask in (prediction, reference):
        padded = np.pad(mask, 1)
        steps = [sign * step for sign in (-1, 1) for step in np.eye(mask.ndim, dtype=int)]
        is_border = [not all(padded[tuple(index + step + 1)] for step in steps) for index in np.argwhere(mask)]
        borders.append(np.argwhere(mask)[is_border])
    pairs = np.linalg.norm((borders[0][:, None] - borders[1][None]) * spacing, axis=2)
    distances = np.concatenate([pairs.min(0), pairs.min(1)])
    for tolerance in TOLERANCES:
        assert ours.nsd[tolerance] == pytest.approx((distances <= tolerance).mean(), rel=1e-12)
    counts = [int(((prediction == p) & (reference == r)).sum()) for p, r in ((1, 1), (1, 0), (0, 1), (0, 0))]
    assert [ours.tp, ours.fp, ours.fn, ours.tn] == counts
    assert (ours.n_pred, ours.n_ref) == (prediction.sum(), reference.sum())
    assert ours.dice == 2 * ours.tp / (ours.n_pred + ours.n_ref)
    assert ours.iou == ours.tp / (prediction | reference).sum()


def test_two_voxels_five_millimetres_apart():
    prediction, reference = np.zeros((2, 9, 9, 9), bool)
    prediction[2, 2, 2] = reference[2, 6, 3] = True
    for definition in DEFINITIONS:
        ours = surface_metrics(prediction, reference, (1, 0.75, 4), definition=definition, nsd_tolerances_mm=(4.9, 5.0))
        assert ours.dice == ours.iou == ours.tp == 0
        assert ours.nsd[4.9] < ours.nsd[5.0]
    assert ours.hd95_mm == ours.assd_mm == 5  # of centres; the corners nearest to each other are closer
    assert ours.nsd == {4.9: 0, 5.0: 1}


def test_sizes_are_millilitres_in_3d_and_square_millimetres_in_2d():
    mask = np.zeros((10, 20, 30), bool)
    mask[2:4, 5:10, 10:20] = True
    ours = surface_metrics(mask, mask & (np.arange(30) < 15), (2, 5, 1.5))
    assert (ours.size_prediction, ours.size_reference) == pytest.approx((1.5, 0.75))
    ours = surface_metrics(mask[2], mask[0], (5, 1.5))
    assert (ours.size_prediction, ours.size_reference) == pytest.approx((375, 0))


def test_equal_masks_are_perfect():
    mask = smooth_pair((9, 9, 9))[0]
    for definition in DEFINITIONS:
        ours = surface_metrics(mask, mask.copy(), (1, 2, 3), definition=definition, nsd_tolerances_mm=(0,))
        assert (ours.dice, ours.iou, ours.nsd, ours.hd95_mm, ours.assd_mm) == (1, 1, {0: 1}, 0, 0)
        assert ours.status == "both"


# -- what must not change the numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", DEFINITIONS)
@settings(max_examples=40, deadline=None)
@given(masks=random_masks())
def test_swapping_the_masks_swaps_sizes_and_counts_only(definition, masks):
    prediction, reference, spacing = masks
    options = {"definition": definition, "nsd_tolerances_mm": TOLERANCES}
    one = surface_metrics(prediction, reference, spacing, **options)
    swapped = surface_metrics(reference, prediction, spacing, **options)
    back = replace(
        swapped,
        size_prediction=swapped.size_reference,
        size_reference=swapped.size_prediction,
        n_pred=swapped.n_ref,
        n_ref=swapped.n_pred,
        fp=swapped.fn,
        fn=swapped.fp,
    )
    assert_same(one, back)


@pytest.mark.parametrize("definition", DEFINITIONS)
@settings(max_examples=40, deadline=None)
@given(masks=random_masks())
def test_flips_and_permuted_axes_change_nothing(definition, masks):
    prediction, reference, spacing = masks
    options = {"definition": definition, "nsd_tolerances_mm": TOLERANCES}
    one = surface_metrics(prediction, reference, spacing, **options)
    for axis in range(len(spacing)):
        assert_same(one, surface_metrics(np.flip(prediction, axis), np.flip(reference, axis), spacing, **options))
    for order in itertools.permutations(range(len(spacing))):
        turned = prediction.transpose(order), reference.transpose(order), [spacing[axis] for axis in order]
        assert_same(one, surface_metrics(*turned, **options))


@pytest.mark.parametrize("definition", DEFINITIONS)
@settings(max_examples=40, deadline=None)
@given(masks=random_masks(), data=st.data())
def test_translation_and_a_larger_image_change_nothing_but_tn(definition, masks, data):
    prediction, reference, spacing = masks
    margins = [(data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))) for _ in spacing]
    options = {"definition": definition, "nsd_tolerances_mm": TOLERANCES}
    one = surface_metrics(prediction, reference, spacing, **options)
    moved = surface_metrics(np.pad(prediction, margins), np.pad(reference, margins), spacing, **options)
    assert_same(one, replace(moved, tn=one.tn))


@pytest.mark.parametrize("definition", DEFINITIONS)
@settings(max_examples=40, deadline=None)
@given(masks=random_masks(), factor=st.sampled_from([0.25, 3.0, 1.7]))
def test_scaling_the_spacing_scales_distances_and_tolerances(definition, masks, factor):
    prediction, reference, spacing = masks
    one = surface_metrics(prediction, reference, spacing, definition=definition, nsd_tolerances_mm=TOLERANCES)
    scaled = surface_metrics(
        prediction,
        reference,
        [factor * mm for mm in spacing],
        definition=definition,
        nsd_tolerances_mm=[factor * mm for mm in TOLERANCES],
    )
    volume = factor ** len(spacing)
    back = replace(
        scaled,
        hd95_mm=scaled.hd95_mm / factor,
        assd_mm=scaled.assd_mm / factor,
        size_prediction=scaled.size_prediction / volume,
        size_reference=scaled.size_reference / volume,
    )
    assert_same(one, back)


def test_the_order_and_memory_layout_of_arrays_and_their_type_change_nothing():
    prediction, reference = smooth_pair((9, 12, 10))
    one = surface_metrics(prediction, reference, (1, 2, 3))
    for change in (np.asfortranarray, lambda mask: mask.astype(float), lambda mask: mask.astype(np.uint8)):
        assert surface_metrics(change(prediction), change(reference), (1, 2, 3)) == one
    tensors = torch.tensor(prediction), torch.tensor(reference).float().requires_grad_()
    assert surface_metrics(*tensors, torch.tensor([1.0, 2.0, 3.0])) == one
    labels = prediction * 3, reference * 3
    maps = label_metrics(torch.tensor(labels[0]), torch.tensor(labels[1]), (1, 2, 3), {"organ": 3})
    assert maps == label_metrics(labels[0].astype(float), labels[1].astype(np.uint16), (1, 2, 3), {"organ": 3})
    assert maps == {"organ": one}


def test_inputs_are_not_written_to():
    labels = np.random.default_rng(0).integers(0, 4, (2, 6, 6, 6))
    before = labels.copy()
    label_metrics(*labels, (1, 1, 1), {"one": 1, "both": (1, 2)}, ignore_label=3)
    surface_metrics(*(labels == 1), (1, 1, 1), ignore=labels[0] == 2)
    np.testing.assert_array_equal(labels, before)


# -- voxels to ignore -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_ignored_voxels_have_no_influence(definition):
    rng = np.random.default_rng(0)
    prediction, reference = smooth_pair((9, 10, 8))
    ignore = rng.random(reference.shape) < 0.2
    cut = surface_metrics(prediction & ~ignore, reference & ~ignore, (1, 2, 3), definition=definition)
    results = []
    for _ in range(3):
        noise = rng.random((2, *reference.shape)) < 0.5
        inputs = np.where(ignore, noise[0], prediction), np.where(ignore, noise[1], reference)
        results.append(surface_metrics(*inputs, (1, 2, 3), definition=definition, ignore=ignore))
    assert results[0] == results[1] == results[2]
    found = results[0]
    assert (found.dice, found.iou, found.tp, found.n_pred) == (cut.dice, cut.iou, cut.tp, cut.n_pred)
    assert found.tp + found.fp + found.fn + found.tn == (~ignore).sum()


def faces_by_loop(mask, ignored, spacing):
    """Centres in mm and areas of the faces between counted voxels in a mask and outside, such as beyond the image."""
    found = []
    for index in np.argwhere(mask & ~ignored):
        for axis, sign in itertools.product(range(mask.ndim), (-1, 1)):
            other = index + sign * np.eye(mask.ndim, dtype=int)[axis]
            inside = all(0 <= i < n for i, n in zip(other, mask.shape, strict=True))
            if not inside or not (mask[tuple(other)] or ignored[tuple(other)]):
                found.append((tuple((index + other) / 2 * spacing), math.prod(spacing) / spacing[axis]))
    return np.array([centre for centre, _ in found]), np.array([area for _, area in found])


@pytest.mark.parametrize("spacing", SPACINGS[2] + SPACINGS[3])
def test_beside_ignored_voxels_the_surface_is_the_faces_between_counted_ones(spacing):
    shape = (8, 9, 7)[: len(spacing)]
    masks = [mask.copy() for mask in smooth_pair(shape, seed=1)]
    masks[0][0] = True  # a surface at the border of the image
    ignored = np.random.default_rng(0).random(shape) < 0.2
    (here, areas), (there, others) = (faces_by_loop(mask, ignored, spacing) for mask in masks)
    between = np.linalg.norm(here[:, None] - there[None], axis=-1)
    directed = [(between.min(1), areas), (between.min(0), others)]
    found = surface_metrics(*masks, spacing, ignore=ignored, nsd_tolerances_mm=(1.01,))
    within = sum(weights[distances <= 1.01].sum() for distances, weights in directed)
    assert found.nsd[1.01] == pytest.approx(within / (areas.sum() + others.sum()), rel=1e-12)
    means = [distances @ weights / weights.sum() for distances, weights in directed]
    assert found.assd_mm == pytest.approx(np.mean(means), rel=1e-12)
    percentiles = []
    for distances, weights in directed:
        order = np.argsort(distances)
        total = np.cumsum(weights[order])
        percentiles.append(distances[order[np.searchsorted(total, 0.95 * total[-1] * (1 - 1e-12))]])
    assert found.hd95_mm == pytest.approx(max(percentiles), rel=1e-12)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_ignored_voxels_beside_no_surface_change_no_distance(definition):
    prediction, reference = (np.pad(mask, 2) for mask in smooth_pair((9, 10, 8)))
    ignored = np.zeros(reference.shape, bool)
    ignored[:, :, 0] = True
    found = surface_metrics(prediction, reference, (1, 2, 3), definition=definition, ignore=ignored)
    assert replace(found, tn=found.tn + int(ignored.sum())) == surface_metrics(
        prediction, reference, (1, 2, 3), definition=definition
    )


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("every", [4, 40])
def test_of_some_annotated_slices_only_the_outlines_count(definition, every):
    """A ball that is predicted 4 mm beside its place; with slices between, the cut surfaces would be most of all."""
    axes = np.meshgrid(*[np.arange(-20, 21)] * 3, indexing="ij")
    reference = axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2 <= 18**2
    prediction = np.roll(reference, 4, 1)
    ignored = (np.arange(41) % every != 20 % every)[:, None, None] & np.ones_like(reference)
    found = surface_metrics(prediction, reference, (1, 1, 1), definition=definition, ignore=ignored)
    whole = surface_metrics(prediction, reference, (1, 1, 1), definition=definition)
    assert found.hd95_mm == pytest.approx(4)
    assert found.nsd[1] < whole.nsd[1]  # the poles, where a shift is least seen, are in no annotated slice


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_mask_whose_end_nobody_knows_has_no_distances(definition):
    reference = np.zeros((6, 6), bool)
    reference[2:4, 2:4] = True
    ignored = np.pad(np.zeros((2, 2), bool), 1, constant_values=True)
    found = surface_metrics(reference, reference, (1, 1), definition=definition, ignore=np.pad(ignored, 1))
    assert (found.dice, found.status) == (1, "both")
    assert all(math.isnan(value) for value in (found.hd95_mm, found.assd_mm, found.nsd[1]))


def test_the_rounding_of_a_header_changes_no_nsd():
    """NIfTI stores 0.4 mm in 32 bits, and five such voxels are more than 2 mm."""
    mask = np.zeros((30, 30, 30), bool)
    mask[8:20, 8:20, 8:20] = True
    found = surface_metrics(np.roll(mask, 5, 0), mask, (float(np.float32(0.4)),) * 3, nsd_tolerances_mm=(2,))
    assert found.nsd[2] == 1


def test_the_ignore_label_equals_an_ignore_mask():
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 3, (7, 8, 9)), rng.integers(0, 4, (7, 8, 9))
    found = label_metrics(prediction, reference, (1, 2, 3), {"one": 1, "any": (1, 2)}, ignore_label=3)
    ignore = reference == 3
    assert found["one"] == surface_metrics(prediction == 1, reference == 1, (1, 2, 3), ignore=ignore)
    everything = surface_metrics(prediction > 0, (reference > 0) & ~ignore, (1, 2, 3), ignore=ignore)
    assert found["any"] == everything


# -- label maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("dim", [2, 3])
def test_every_class_of_a_label_map_equals_its_masks(definition, dim):
    spacing = SPACINGS[dim][1]
    rng = np.random.default_rng(dim)
    fields = [gaussian_filter(rng.standard_normal((14, 16, 12)[:dim]), 2) for _ in range(2)]
    reference, prediction = (np.digitize(field, np.quantile(field, [0.4, 0.6, 0.8])) * 2 for field in fields)
    labels = {"four": 4, "two or six": (2, 6), "background": 0, "list": [4, 6], "nothing": 5, "beyond": 99}
    options = {"definition": definition, "nsd_tolerances_mm": TOLERANCES}
    found = label_metrics(prediction, reference, spacing, labels, **options)
    assert list(found) == list(labels)
    for name, values in labels.items():
        masks = np.isin(prediction, values), np.isin(reference, values)
        assert_same(found[name], surface_metrics(*masks, spacing, **options))


@settings(max_examples=20, deadline=None)
@given(st.permutations([1, 2, 3]), st.integers(0, 100))
def test_permuting_labels_permutes_results(order, seed):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.integers(0, 4, (2, 5, 6, 5))
    names = {"a": 1, "b": 2, "c": 3}
    table = np.array([0, *order])
    permuted = {name: order[value - 1] for name, value in names.items()}
    one = label_metrics(prediction, reference, (1, 2, 3), names)
    assert label_metrics(table[prediction], table[reference], (1, 2, 3), permuted) == one


# -- empty masks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 12)])
def test_empty_masks(definition, shape):
    nothing, something = np.zeros(shape, bool), np.zeros(shape, bool)
    something[1, 1] = True
    diagonal = {2: 5.0, 3: 13.0}[len(shape)]
    options = {"definition": definition, "nsd_tolerances_mm": (1, 2)}
    for masks, status in [
        ((nothing, something), "prediction empty"),
        ((something, nothing), "reference empty"),
        ((nothing, nothing), "both empty"),
    ]:
        for empty in EMPTY_RULES:
            ours = surface_metrics(*masks, (1,) * len(shape), empty=empty, **options)
            scores = [ours.dice, ours.iou, ours.hd95_mm, ours.assd_mm, *ours.nsd.values()]
            assert ours.status == status
            assert list(ours.nsd) == [1, 2]
            if empty == "zero":
                assert scores == [0] * 6
            elif status == "both empty":
                assert all(math.isnan(score) for score in scores)
            else:
                assert scores == [0, 0, diagonal, diagonal, 0, 0]
            assert (ours.n_pred, ours.n_ref) == (masks[0].sum(), masks[1].sum())
            assert ours.tp + ours.fp + ours.fn + ours.tn == nothing.size


def test_the_diagonal_is_that_of_the_whole_image_for_every_class():
    prediction, reference = np.zeros((2, 3, 4, 12), int)
    reference[0, 0, 0] = 2
    ours = label_metrics(prediction, reference, (1, 1, 1), {"two": 2})["two"]
    assert (ours.status, ours.hd95_mm) == ("prediction empty", 13)


def test_a_mask_of_which_everything_is_ignored_is_empty():
    mask = smooth_pair((8, 8))[0]
    assert surface_metrics(mask, mask, (1, 1), ignore=mask).status == "both empty"


# -- bad input --------------------------------------------------------------------------------------------------------

MASK = np.ones((4, 4, 4), bool)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ((MASK, MASK[1:], (1, 1, 1)), {}, "The prediction has shape (4, 4, 4), the reference (3, 4, 4)"),
        ((MASK, MASK, (1, 1)), {}, "The spacing is (1.0, 1.0) mm; expected 3 positive numbers"),
        ((MASK, MASK, (1, 0, 1)), {}, "The spacing is (1.0, 0.0, 1.0) mm; expected 3 positive"),
        ((MASK, MASK, (1, math.nan, 1)), {}, "expected 3 positive numbers"),
        ((MASK[0, 0], MASK[0, 0], (1,)), {}, "The images have 1 axes; expected 2 or 3."),
        ((MASK * 2, MASK, (1, 1, 1)), {}, "The mask 'prediction' has values other than 0 and 1"),
        ((MASK, MASK * math.nan, (1, 1, 1)), {}, "The mask 'reference' has values other than 0 and 1"),
        ((MASK, MASK, (1, 1, 1)), {"ignore": MASK * 3}, "The mask 'ignore' has values other than 0 and 1"),
        ((MASK, MASK, (1, 1, 1)), {"ignore": MASK[0]}, "The mask to ignore has shape (4, 4), the reference (4, 4, 4)"),
        ((MASK, MASK, (1, 1, 1)), {"definition": "mesh"}, "no definition 'mesh'; there are: surface, voxel."),
        ((MASK, MASK, (1, 1, 1)), {"empty": "nan"}, "no rule for empty masks 'nan'; there are: diagonal, zero."),
        ((MASK, MASK, (1, 1, 1)), {"nsd_tolerances_mm": (1, -1)}, "The tolerances of NSD are (1.0, -1.0) mm"),
        ((MASK, MASK, (1, 1, 1)), {"nsd_tolerances_mm": (math.nan,)}, "expected numbers that are not negative"),
    ],
)
def test_bad_masks_and_options_are_named(inputs, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        surface_metrics(*inputs, **options)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ((MASK, MASK[1:], (1, 1, 1), {"a": 1}), {}, "The prediction has shape (4, 4, 4), the reference (3, 4, 4)"),
        ((MASK * 0.5, MASK, (1, 1, 1), {"a": 1}), {}, "The label map 'prediction' has values that are not integers."),
        (
            (MASK, MASK * math.nan, (1, 1, 1), {"a": 1}),
            {},
            "The label map 'reference' has values that are not integers",
        ),
        ((MASK, MASK, (1, 1, 1), {"a": (1, 3)}), {"ignore_label": 3}, "Class 'a' has labels [1, 3]; expected one or"),
        ((MASK, MASK, (1, 1, 1), {"a": ()}), {}, "Class 'a' has labels []; expected one or more"),
    ],
)
def test_bad_label_maps_are_named(inputs, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        label_metrics(*inputs, **options)


@pytest.mark.parametrize("definition", ["surface", "voxel"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("missed", [False, True])
def test_a_single_slice_has_the_same_distances_as_a_volume_and_as_a_2d_image(definition, axis, missed):
    one, other = smooth_pair((30, 40))
    one = one & (not missed)
    flat = surface_metrics(one, other, (1.5, 0.7), definition=definition)
    spacing = [1.5, 0.7]
    spacing.insert(axis, 4.0)
    volume = surface_metrics(*(np.expand_dims(m, axis) for m in (one, other)), spacing, definition=definition)
    for field in ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "status", "tn"):
        assert getattr(volume, field) == getattr(flat, field), field
    assert volume.size_reference == pytest.approx(flat.size_reference * 4 / 1000)  # mm² → ml
    assert missed or flat.hd95_mm > 0
