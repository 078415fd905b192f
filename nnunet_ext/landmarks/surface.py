"""Signed distance of a point from the surface of an organ, in mm: negative inside.

The surface consists of the faces between voxels of the organ and voxels outside it; the distance is measured to the
nearest point of the nearest face. It is exact for these faces, so for a smooth organ it is off by up to half a voxel.
There is no surface where the organ meets an unlabelled voxel or the border of the image, because its end is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.spatial import cKDTree

from nnunet_ext.data.geometry import Floats
from nnunet_ext.evaluation.surfaces import halves

REACH = 5.0
"""Sigmas from the box around an organ at which nothing is near its surface any more."""


@dataclass(frozen=True, eq=False)
class OrganSurface:
    """The faces of one organ.

    Attributes:
        mask: mask of the organ, ``(z, y, x)``.
        spacing_mm: ``(3,)``.
        centres_mm: ``(F, 3)``, centres of the faces, as index times spacing.
        extents_mm: ``(F, 3)``, distances from the centre of a face to its edges; 0 along its normal.
    """

    mask: NDArray[np.bool_]
    spacing_mm: Floats
    centres_mm: Floats
    extents_mm: Floats
    tree: cKDTree

    @classmethod
    def find(
        cls, mask: NDArray[np.bool_], spacing_mm: ArrayLike, labelled: NDArray[np.bool_] | None = None
    ) -> OrganSurface | None:
        """The surface of an organ, or None if it has none in this image.

        Args:
            mask: mask of the organ, ``(z, y, x)``; a 2D image is one slice.
            spacing_mm: ``(3,)``, spacing of its axes.
            labelled: mask of the labelled voxels; all by default.
        """
        spacing = np.asarray(spacing_mm, float)
        centres: list[Floats] = []
        extents: list[Floats] = []
        for axis in range(3):
            low, high = halves(axis)
            faces = mask[low] != mask[high]
            if labelled is not None:
                faces &= labelled[low] & labelled[high]
            own = np.argwhere(faces) + np.eye(3)[axis] / 2
            centres.append(own * spacing)
            extents.append(np.broadcast_to((1 - np.eye(3)[axis]) * spacing / 2, own.shape))
        every = np.concatenate(centres)
        if not len(every):
            return None
        return cls(mask, spacing, every, np.concatenate(extents), cKDTree(every))

    def signed_distances_mm(self, index: ArrayLike) -> Floats:
        """Return the distances ``(N,)``, mm, of points at continuous indices ``(N, 3)``; nan for nan."""
        index = np.asarray(index, float).reshape(-1, 3)
        return np.array([self._signed(point) if np.isfinite(point).all() else np.nan for point in index])

    def _signed(self, index: Floats) -> float:
        point = index * self.spacing_mm
        # the nearest face is not always the one whose centre is nearest, but its centre is not much farther
        reach = self.tree.query(point)[0] + np.linalg.norm(self.spacing_mm) / 2
        near = self.tree.query_ball_point(point, reach)
        beyond = np.maximum(np.abs(self.centres_mm[near] - point) - self.extents_mm[near], 0)
        distance = float(np.linalg.norm(beyond, axis=1).min())
        voxel = np.rint(index).astype(int)
        within = ((voxel >= 0) & (voxel < self.mask.shape)).all() and self.mask[tuple(voxel)]
        return -distance if within else distance


def nearness(mask: NDArray[np.bool_], spacing_mm: ArrayLike, width_mm: float) -> NDArray[np.float32]:
    """How near each voxel is to the surface of an organ: a Gaussian of the distance, 1 on both sides of the surface.

    The distance is that to the nearest voxel with a face in the surface, between centres. So a thick slice that ends
    the organ is as near as a thin voxel at its side, and no landmark is drawn from one to the other. Voxels more than
    :data:`REACH` sigmas outside of the box around the organ get 0. Without a surface it is 1 everywhere: an organ that
    is not in the image says nothing.

    Args:
        mask: mask of the organ, any number of axes.
        spacing_mm: spacing of these axes.
        width_mm: sigma of the Gaussian.
    """
    if mask.all() or not mask.any():
        return np.ones(mask.shape, np.float32)
    spacing = np.asarray(spacing_mm, float)
    (box,) = find_objects(mask.astype(np.int8))
    beyond = np.ceil(REACH * width_mm / spacing).astype(int) + 1  # at least one, so that the surface is in it
    wider = tuple(slice(max(0, axis.start - n), axis.stop + n) for axis, n in zip(box, beyond, strict=True))
    inside = mask[wider]
    touching = np.zeros_like(inside)
    for axis in range(mask.ndim):
        low, high = halves(axis)
        faces = inside[low] != inside[high]
        touching[low] |= faces
        touching[high] |= faces
    result = np.zeros(mask.shape, np.float32)
    result[wider] = np.exp(-np.square(distance_transform_edt(~touching, sampling=spacing) / width_mm) / 2)
    return result
