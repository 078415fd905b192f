"""Overlap and surface distance of two segmentations: Dice, IoU, HD95, ASSD, NSD, sizes and counts.

:func:`surface_metrics` compares two masks, :func:`label_metrics` compares two label maps class by class. Numbers are
float64; an undefined number is NaN. :data:`DEFINITIONS` and :data:`EMPTY_RULES` hold one sentence per definition, which
outputs quote next to the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from nnunet_ext.data.label_definitions import numbers_of
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.surfaces import Definition, DirectedDistances, Mask, surface_distances

EmptyRule = Literal["diagonal", "zero"]
Status = Literal["both", "prediction empty", "reference empty", "both empty"]

DEFINITIONS: dict[Definition, str] = {
    "surface": (
        "surface elements lie at the corners between voxels and are weighted by their area (2D: length), as in the "
        "package surface-distance; HD95: the larger of the two directed 95th percentiles; ASSD: mean of the two "
        "directed mean distances; NSD: share of both surfaces within the tolerance of the other"
    ),
    "voxel": (
        "a surface is the voxels of the mask with a face neighbour outside, all of one weight, as in MedPy 0.5; "
        "HD95: 95th percentile of both directed sets of distances pooled; ASSD: mean of both sets pooled; "
        "NSD: share of both sets within the tolerance"
    ),
}
EMPTY_RULES: dict[EmptyRule, str] = {
    "diagonal": (
        "both masks empty: not counted (NaN); one empty: Dice, IoU and NSD 0, HD95 and ASSD the diagonal of the image"
    ),
    "zero": "one or both masks empty: Dice, IoU, NSD, HD95 and ASSD 0, as in the evaluation code of scribble papers",
}


ROUNDING_MM = 1e-6
"""Tolerance for rounding in files: NIfTI stores a spacing of 0.4 mm as 0.400000006, of which five are 2 mm."""


@dataclass(frozen=True)
class CaseMetrics:
    """One prediction against one reference; :data:`EMPTY_RULES` gives the numbers of empty masks."""

    dice: float
    iou: float
    hd95_mm: float
    assd_mm: float
    nsd: dict[float, float]
    """NSD by tolerance in mm."""
    size_prediction: float
    """Volume in ml; in 2D area in mm²."""
    size_reference: float
    """Volume in ml; in 2D area in mm²."""
    tp: int
    """Number of voxels, like the next five; ignored voxels are in none of them."""
    fp: int
    fn: int
    tn: int
    n_pred: int
    n_ref: int
    status: Status
    """Whether prediction and reference have voxels."""


def surface_metrics(
    prediction: Any,
    reference: Any,
    spacing_mm: Sequence[float],
    *,
    nsd_tolerances_mm: Sequence[float] = (1.0,),
    definition: Definition = "surface",
    empty: EmptyRule = "diagonal",
    ignore: Any = None,
) -> CaseMetrics:
    """All metrics of one pair of masks.

    Args:
        prediction: array or tensor, 2D or 3D, bool or of 0 and 1; distances in a volume of one slice are those of a 2D
            image.
        reference: like the prediction, of the same shape.
        spacing_mm: spacing of each axis.
        nsd_tolerances_mm: tolerances to compute the NSD for.
        definition: definition of a surface, see :data:`DEFINITIONS`.
        empty: rule for empty masks, see :data:`EMPTY_RULES`.
        ignore: mask of voxels that do not count, or None. Masks have no surface where they meet such voxels; HD95, ASSD
            and NSD are NaN if a mask that is not empty has no surface at all.

    Raises:
        InputError: shapes, spacing, values or options are not as above.
    """
    predicted, truth = _mask(prediction, "prediction"), _mask(reference, "reference")
    options = Options.checked((predicted, truth), spacing_mm, nsd_tolerances_mm, definition, empty)
    ignored = None if ignore is None else _mask(ignore, "ignore")
    if ignored is not None:
        if ignored.shape != truth.shape:
            raise InputError(f"The mask to ignore has shape {ignored.shape}, the reference {truth.shape}.")
        predicted, truth = predicted & ~ignored, truth & ~ignored
        options = options._replace(num_voxels=int(np.count_nonzero(~ignored)))
    box = _union(_bounding_box(predicted), _bounding_box(truth))
    if ignored is None:
        return _metrics(predicted[box], truth[box], None, options)
    box = _wider(box, truth.shape)
    return _metrics(predicted[box], truth[box], ignored[box], options)


def label_metrics(
    prediction: Any,
    reference: Any,
    spacing_mm: Sequence[float],
    labels: Mapping[str, int | Sequence[int]],
    *,
    ignore_label: int | None = None,
    nsd_tolerances_mm: Sequence[float] = (1.0,),
    definition: Definition = "surface",
    empty: EmptyRule = "diagonal",
) -> dict[str, CaseMetrics]:
    """All metrics of every class of two label maps.

    Args:
        prediction: array or tensor of integers, 2D or 3D.
        reference: array or tensor of integers of the same shape.
        labels: for each name, a label or the labels that form a region; classes may overlap.
        ignore_label: voxels with this label in the reference do not count, see ``ignore`` there.
        spacing_mm: see :func:`surface_metrics`.
        nsd_tolerances_mm: see there.
        definition: see there.
        empty: see there.

    Raises:
        InputError: as :func:`surface_metrics`; a class contains the ignore label, or has no label.
    """
    predicted, truth = label_map(prediction, "prediction"), label_map(reference, "reference")
    options = Options.checked((predicted, truth), spacing_mm, nsd_tolerances_mm, definition, empty)
    if ignore_label is not None:
        options = options._replace(num_voxels=int(np.count_nonzero(truth != ignore_label)))
    masks = class_masks(predicted, truth, labels, ignore_label)
    return {name: _metrics(*found, options) for name, found in masks}


def class_masks(
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    labels: Mapping[str, int | Sequence[int]],
    ignore_label: int | None,
) -> Iterator[tuple[str, tuple[Mask, Mask, Mask | None]]]:
    """Yield three masks of every class, cropped to a box: those of prediction and reference, and the ignored voxels.

    The first two lie in the box, and one voxel on around them if voxels are ignored. The third is None without an
    ignore label.

    Raises:
        InputError: a class contains the ignore label, or has no label.
    """
    classes = {name: numbers_of(value) for name, value in labels.items()}
    for name, values in classes.items():
        if not values or ignore_label in values:
            raise InputError(
                f"Class {name!r} has labels {values}; expected one or more, without the ignore label {ignore_label}."
            )
    ignored = None if ignore_label is None else reference == ignore_label
    highest = max([0, *(value for values in classes.values() for value in values)])
    boxes = [_label_boxes(each, highest) for each in (prediction, reference)]
    whole = tuple(slice(0, n) for n in reference.shape)
    for name, values in classes.items():
        # find_objects knows labels from 1 on; others may be anywhere
        parts = [found[value - 1] if value > 0 else whole for value in values for found in boxes]
        box = _union(*parts)
        if ignored is None:
            yield name, (_is_one_of(prediction[box], values), _is_one_of(reference[box], values), None)
        else:
            box = _wider(box, reference.shape)
            masks = [_is_one_of(each[box], values) & ~ignored[box] for each in (prediction, reference)]
            yield name, (masks[0], masks[1], ignored[box])


def mean(values: Iterable[float]) -> float:
    """The mean of the values that are not NaN; NaN if all are."""
    counted = [value for value in values if not math.isnan(value)]
    return float(np.mean(counted)) if counted else math.nan


def shown(value: float, digits: int) -> str:
    """A number as text; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


# -- checked input ----------------------------------------------------------------------------------------------------


class Options(NamedTuple):
    """Settings and sizes shared by all classes of a pair of images."""

    spacing_mm: tuple[float, ...]
    tolerances_mm: tuple[float, ...]
    definition: Definition
    empty: EmptyRule
    diagonal_mm: float
    num_voxels: int
    flat: int | None
    """The axis across a volume of one slice, which is measured like a 2D image, without surfaces above and below."""

    @classmethod
    def checked(
        cls,
        images: tuple[NDArray, NDArray],
        spacing_mm: Sequence[float],
        tolerances_mm: Sequence[float],
        definition: Definition,
        empty: EmptyRule,
    ) -> Options:
        shape = images[1].shape
        if images[0].shape != shape:
            raise InputError(f"The prediction has shape {images[0].shape}, the reference {shape}; expected the same.")
        if len(shape) not in (2, 3):
            raise InputError(f"The images have {len(shape)} axes; expected 2 or 3.")
        spacing = tuple(float(mm) for mm in spacing_mm)
        if len(spacing) != len(shape) or not all(0 < mm < math.inf for mm in spacing):
            raise InputError(f"The spacing is {spacing} mm; expected {len(shape)} positive numbers, one for each axis.")
        tolerances = tuple(float(mm) for mm in tolerances_mm)
        if not all(0 <= mm < math.inf for mm in tolerances):
            raise InputError(f"The tolerances of NSD are {tolerances} mm; expected numbers that are not negative.")
        for what, got, known in (("definition", definition, Definition), ("rule for empty masks", empty, EmptyRule)):
            if got not in get_args(known):
                raise InputError(f"There is no {what} {got!r}; there are: {', '.join(get_args(known))}.")
        flat = shape.index(1) if len(shape) == 3 and 1 in shape else None
        lengths = (n * mm for axis, (n, mm) in enumerate(zip(shape, spacing, strict=True)) if axis != flat)
        return cls(spacing, tolerances, definition, empty, math.hypot(*lengths), math.prod(shape), flat)

    def of_empty(self, status: Status) -> tuple[float, float]:
        """The overlap and the distance if one or both masks are empty."""
        if self.empty == "zero":
            return 0.0, 0.0
        return (math.nan, math.nan) if status == "both empty" else (0.0, self.diagonal_mm)


def _array(image: Any) -> NDArray:
    return np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)


def _mask(image: Any, name: str) -> Mask:
    array = _array(image)
    if array.dtype == bool:
        return array
    mask = array == 1
    if not (mask | (array == 0)).all():
        raise InputError(f"The mask {name!r} has values other than 0 and 1; label maps are for label_metrics.")
    return mask


def label_map(image: Any, name: str) -> NDArray[np.integer]:
    array = _array(image)
    if np.issubdtype(array.dtype, np.integer):
        return array
    with np.errstate(invalid="ignore"):  # NaN becomes a number, and the comparison finds it
        labels = array.astype(np.int64)
    if not (labels == array).all():
        raise InputError(f"The label map {name!r} has values that are not integers.")
    return labels


def _is_one_of(labels: NDArray[np.integer], values: Sequence[int]) -> Mask:
    result = labels == values[0]
    for value in values[1:]:
        result |= labels == value
    return result


# -- boxes ------------------------------------------------------------------------------------------------------------

Box = tuple[slice, ...]


def _bounding_box(array: NDArray) -> Box | None:
    """The smallest box with all nonzero elements; None if there are none."""
    box = []
    while array.ndim:
        layers = np.flatnonzero(array.any(tuple(range(1, array.ndim))))
        if not len(layers):
            return None
        box.append(slice(int(layers[0]), int(layers[-1]) + 1))
        array = np.asarray(array.any(0))
    return tuple(box)


def _label_boxes(labels: NDArray[np.integer], highest: int) -> list[Box | None]:
    """The smallest box around each label from 1 to ``highest``; None for a label that does not occur."""
    around = _bounding_box(labels)
    if around is None or highest < 1:
        return [None] * highest
    return [
        box and tuple(slice(s.start + o.start, s.stop + o.start) for s, o in zip(box, around, strict=True))
        for box in find_objects(labels[around], highest)  # three times as fast without the margin of background
    ]


def _union(*boxes: Box | None) -> Box:
    """The smallest box around all boxes; empty if there are none."""
    found = [box for box in boxes if box is not None]
    if not found:
        return (slice(0, 0),)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*found, strict=True))


def _wider(box: Box, shape: Sequence[int]) -> Box:
    """A box with a margin of one voxel, as far as the image reaches; an empty box stays empty."""
    if any(axis.start == axis.stop for axis in box):
        return box
    return tuple(slice(max(0, axis.start - 1), min(n, axis.stop + 1)) for axis, n in zip(box, shape, strict=True))


# -- numbers ----------------------------------------------------------------------------------------------------------


def _metrics(prediction: Mask, reference: Mask, ignored: Mask | None, options: Options) -> CaseMetrics:
    """Metrics of two masks, cropped to a box that holds both, with a margin of one voxel if voxels are ignored."""
    n_pred, n_ref, tp = (int(np.count_nonzero(mask)) for mask in (prediction, reference, prediction & reference))
    either = n_pred + n_ref - tp
    status: Status
    if n_pred and n_ref:
        status = "both"
        dice, iou = 2 * tp / (n_pred + n_ref), tp / either
        spacing = [mm for axis, mm in enumerate(options.spacing_mm) if axis != options.flat]
        if options.flat is not None:
            prediction, reference = (mask.squeeze(options.flat) for mask in (prediction, reference))
            ignored = None if ignored is None else ignored.squeeze(options.flat)
        directed = surface_distances(prediction, reference, spacing, options.definition, ignored)
        if directed is None:
            hd95, assd, shares = math.nan, math.nan, dict.fromkeys(options.tolerances_mm, math.nan)
        else:
            hd95, assd = _distances(directed, options.definition)
            shares = {tolerance: nsd(directed, tolerance) for tolerance in options.tolerances_mm}
    else:
        status = "reference empty" if n_pred else "prediction empty" if n_ref else "both empty"
        overlap, distance = options.of_empty(status)
        dice = iou = overlap
        hd95 = assd = distance
        shares = dict.fromkeys(options.tolerances_mm, overlap)
    voxel = math.prod(options.spacing_mm) / (1000 if len(options.spacing_mm) == 3 else 1)  # ml or mm²
    return CaseMetrics(
        dice=dice,
        iou=iou,
        hd95_mm=hd95,
        assd_mm=assd,
        nsd=shares,
        size_prediction=n_pred * voxel,
        size_reference=n_ref * voxel,
        tp=tp,
        fp=n_pred - tp,
        fn=n_ref - tp,
        tn=options.num_voxels - either,
        n_pred=n_pred,
        n_ref=n_ref,
        status=status,
    )


def _distances(directed: Sequence[DirectedDistances], definition: Definition) -> tuple[float, float]:
    """HD95 and ASSD in mm."""
    if definition == "surface":
        # not `@`: starting the threads of BLAS would take longer than this sum
        means = [float((each.distances * each.weights).sum()) / each.total for each in directed]
        return max(weighted_percentile_95(each) for each in directed), sum(means) / 2
    shared = np.zeros(round(sum(each.shared for each in directed)))
    pooled = np.concatenate([shared, *(each.distances for each in directed)])
    return float(np.percentile(pooled, 95)), float(pooled.mean())


def weighted_percentile_95(directed: DirectedDistances) -> float:
    """The smallest distance within which 95 % of the surface lies."""
    # the tolerance lets exactly 95 % count, in whatever order the weights are added
    target = 0.95 * directed.total * (1 - 1e-12)
    if directed.shared >= target:
        return 0.0
    order = np.argsort(directed.distances)
    within = directed.shared + np.cumsum(directed.weights[order])
    return float(directed.distances[order[np.searchsorted(within, target)]])


def nsd(directed: Sequence[DirectedDistances], tolerance_mm: float) -> float:
    """The normalised surface Dice at one tolerance."""
    limit = tolerance_mm + ROUNDING_MM
    within = sum(each.shared + float(each.weights[each.distances <= limit].sum()) for each in directed)
    return within / sum(each.total for each in directed)
