"""Allowed flips of images with landmarks, and the landmarks that change places.

A network tells left from right by the side of the image. So after a flip along the left-right axis, the landmark on the
left must be called left again: the two landmarks of each of the ``mirror_pairs`` change places. The same holds for
landmarks in front and behind, or below and above. The direction matrices tell which axis of the array is which;
nnU-Net does not reorient images.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from nnunet_ext.data.geometry import Floats
from nnunet_ext.landmarks.dataset import MIRRORED, Declaration

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Mirroring:
    """The allowed flips of a data set with landmarks.

    Attributes:
        axes: axes of a patch that may be flipped, not counting batch and channels.
        orders: for each axis of a patch along which landmarks change places: ``(K,)``, index of the landmark that
            takes each one's place after a flip along it.
        why_not: one sentence if flips, or those along an axis, are not allowed.
    """

    axes: tuple[int, ...] = ()
    orders: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    why_not: str | None = None

    def order_after(self, flipped: Collection[int]) -> list[int] | None:
        """``(K,)``: index of the landmark that takes each one's place after these flips; None if all stay."""
        order: Sequence[int] | None = None
        for one in (self.orders[axis] for axis in sorted(flipped) if axis in self.orders):
            order = one if order is None else [order[index] for index in one]
        return None if order is None else list(order)


def allowed_mirror_axes(
    declaration: Declaration,
    matrices: Iterable[ArrayLike],
    transpose_forward: Sequence[int],
    requested: Iterable[int],
    dim: int = 3,
) -> Mirroring:
    """Return the allowed flips of a data set with landmarks.

    Args:
        declaration: declaration of its landmarks.
        matrices: :attr:`nnunet_ext.data.geometry.Geometry.matrix` of every case, ``(3, 3)``.
        transpose_forward: entry of the plans.
        requested: axes of a patch that nnU-Net would flip.
        dim: number of axes of a patch; 2 leaves out the first axis of the array.
    """
    if not declaration.mirror_pairs:
        return Mirroring(
            why_not="Mirroring is off: dataset.json declares no mirror_pairs, the landmarks that change places when "
            "the patient is mirrored."
        )
    organs = {name: set(declaration.surface_of.get(name, ())) for name in declaration.names}
    every_pair = chain.from_iterable(declaration.mirror_pairs.values())
    if sided := [pair for pair in every_pair if organs[pair[0]] != organs[pair[1]]]:
        return Mirroring(
            why_not=f"Mirroring is off: the landmarks {' and '.join(sided[0])} change places, but lie on different "
            "labels, which nnU-Net does not exchange."
        )
    matrices, orders = list(matrices), {}
    for direction in declaration.mirror_pairs:
        found = {nearest_axis(matrix, transpose_forward, direction) for matrix in matrices}
        if len(found) != 1 or None in found:
            state = "lies between two axes of the image" if None in found else "is not the same in all cases"
            return Mirroring(why_not=f"Mirroring is off: the direction {direction} {state}.")
        ((axis, _),) = (entry for entry in found if entry is not None)
        if (in_patch := axis - (3 - dim)) >= 0:
            orders[in_patch] = tuple(declaration.mirrored_order(direction))
    return Mirroring(tuple(requested), orders)


def without_unpaired(
    mirroring: Mirroring, declaration: Declaration, points_mm: Iterable[ArrayLike], dim: int = 3
) -> Mirroring:
    """Leave out the flips along which two ends of an organ lie that are no mirror pair.

    After such a flip each would lie where the network expects the other one.

    Args:
        mirroring: the flips that the directions allow.
        declaration: declaration of the landmarks; its ``spans`` are the ends of organs.
        points_mm: the landmarks of every case along the axes of the preprocessed array, ``(K, 3)``; nan unless present.
        dim: number of axes of a patch; 2 leaves out the first axis of the array.
    """
    points = np.stack([np.asarray(case, float) for case in points_mm] or [np.full((len(declaration.names), 3), np.nan)])
    for pair in dict.fromkeys(chain.from_iterable(declaration.spans.values())):
        one, other = map(declaration.names.index, pair)
        apart = np.abs(points[:, one] - points[:, other])
        if not len(apart := apart[np.isfinite(apart).all(-1)]):
            continue
        axis = int(apart.mean(0).argmax()) - (3 - dim)
        exchanged = mirroring.orders.get(axis, ())
        if axis in mirroring.axes and not (exchanged and exchanged[one] == other):
            why = (
                f"No flips along axis {axis} of a patch: {' and '.join(pair)} are the ends of an organ along it, but "
                "are no mirror_pairs of this direction."
            )
            axes = tuple(kept for kept in mirroring.axes if kept != axis)
            mirroring = replace(mirroring, axes=axes, why_not=" ".join(filter(None, (mirroring.why_not, why))))
    return mirroring


def nearest_axis(matrix: ArrayLike, transpose_forward: Sequence[int], direction: str) -> tuple[int, int] | None:
    """The axis of a preprocessed array along a direction of the patient, and its sense.

    The sense is 1 if the axis points to the second end of the direction, such as the patient's left, and −1 otherwise.
    None if no axis is less than 45° from the direction.

    Args:
        matrix: ``(3, 3)``, mm, LPS; column a is one step along axis a of the original array.
        transpose_forward: entry of the plans.
        direction: one of :data:`nnunet_ext.landmarks.dataset.MIRRORED`.
    """
    columns: Floats = np.asarray(matrix, float)[:, list(transpose_forward)]
    along = columns[MIRRORED.index(direction)] / np.linalg.norm(columns, axis=0)
    axis = int(np.abs(along).argmax())
    # the tolerance covers rounding in headers
    if np.abs(along[axis]) <= np.cos(np.pi / 4) + 1e-6:
        return None
    return axis, int(np.sign(along[axis]))


def unmirror(heatmaps: Tensor, flipped: Collection[int], mirroring: Mirroring) -> Tensor:
    """Turn heatmaps of a flipped image into heatmaps of the image itself, for mirroring at test time.

    Args:
        heatmaps: ``(B, K, *spatial)``, one channel per landmark.
        flipped: axes along which the image was flipped; 0 is the first spatial axis.
        mirroring: the flips allowed in the training.
    """
    upright = heatmaps.flip([axis + 2 for axis in flipped])
    order = mirroring.order_after(flipped)
    return upright if order is None else upright[:, order]
