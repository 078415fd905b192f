"""Default window of the CRF loss: bounded by the size of the structures, not by the reach of the loss.

The radius is in voxels along each axis of the window, σ in voxels of the finest spacing. In 3D a window of radius r
holds (2r + 1)³ voxels, and the thinner a structure is, the more of them belong to another class: the loss then pulls a
perfect segmentation apart. The defaults change less than 10 % of the true voxels of every class of ACDC, CHAOS and the
hippocampus, at the planned and at low resolution (:mod:`nnunet_ext.attenscribble.relabel`; numbers in
docs/attenscribble.md).

Deviation from the published code, which has radius 5 and σ 6 in 2D: ``nnUNetTrainerAttenScribblePaper`` keeps these, at
half resolution in isotropic 3D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss, Window
from nnunet_ext.attenscribble.options import AttenScribbleOptions

ANISOTROPIC = 3.0
"""Ratio of spacings from which a volume is taken for slices; files round spacings, so almost as much is enough."""

ROUNDING = 1e-4
"""Relative difference of spacings that are the same in millimetres, but were stored as float32."""

RADIUS_2D, RADIUS_3D = 3, 1
"""Default radius in slices and in isotropic volumes."""

SIGMA_OF_RADIUS = 2 / 3
"""Default σ relative to the radius."""

WEIGHT_2D, WEIGHT_3D = 9.2, 30.0
"""Default weight in slices and in isotropic volumes."""

LARGE_3D = 3
"""Radius in isotropic volumes above which the loss is computed at half resolution, unless an option says otherwise: 11³
voxels at full resolution are 665 offsets."""


@dataclass(frozen=True)
class ResolvedWindow:
    """Radius in voxels of each axis, σ in voxels of the finest spacing, factor of the pooling, axes of the window."""

    radius: int
    sigma: float
    factor: int
    axes: tuple[bool, ...]

    @classmethod
    def of(cls, spacing: Sequence[float], options: AttenScribbleOptions) -> ResolvedWindow:
        """Window that the options give for a configuration.

        Args:
            spacing: of the input, in mm; two numbers for slices, three for volumes. Axes that are at least
                :data:`ANISOTROPIC` times coarser than the finest are no part of the window.
            options: ``crf_radius``, ``crf_sigma`` and ``crf_downsample``.
        """
        axes = tuple(mm / min(spacing) < ANISOTROPIC * (1 - ROUNDING) for mm in spacing)
        isotropic_3d = sum(axes) == 3
        radius = options.crf_radius or (RADIUS_3D if isotropic_3d else RADIUS_2D)
        factor = options.crf_downsample or (2 if isotropic_3d and radius > LARGE_3D else 1)
        return cls(radius, options.crf_sigma or SIGMA_OF_RADIUS * radius, factor, axes)

    def __str__(self) -> str:
        pooled = f", pooled by {self.factor}" if self.factor > 1 else ""
        return f"radius {self.radius}, σ {self.sigma:.3g} voxels{pooled}"


def crf_weight(spacing: Sequence[float], options: AttenScribbleOptions) -> float:
    """Return the weight of the CRF loss of one configuration.

    Args:
        spacing: as for :meth:`ResolvedWindow.of`.
        options: ``crf_weight``.
    """
    if options.crf_weight is not None:
        return options.crf_weight
    return WEIGHT_3D if sum(ResolvedWindow.of(spacing, options).axes) == 3 else WEIGHT_2D


def described(spacing: Sequence[float], options: AttenScribbleOptions) -> str:
    """Return the CRF loss of one configuration in words, with the numbers that its options leave open.

    Args:
        spacing: as for :meth:`ResolvedWindow.of`.
        options: as for :func:`crf_loss`, and ``crf_weight``.
    """
    weight = crf_weight(spacing, options)
    return f"CRF loss: weight {weight:g}, {ResolvedWindow.of(spacing, options)}" if weight else "CRF loss: none"


def crf_loss(spacing: Sequence[float], options: AttenScribbleOptions, *, exclusive: bool = True) -> MaskedCRFLoss:
    """Return the CRF loss of one configuration.

    Args:
        spacing: as for :meth:`ResolvedWindow.of`.
        options: as there, and ``crf_intensity_sigma`` and ``offsets_per_step``.
        exclusive: heads are classes rather than regions.
    """
    resolved = ResolvedWindow.of(spacing, options)
    radius = [math.ceil(resolved.radius / resolved.factor) if axis else 0 for axis in resolved.axes]
    return MaskedCRFLoss(
        Window.gaussian(radius, resolved.sigma / resolved.factor, spacing),
        exclusive=exclusive,
        intensity_sigma=options.crf_intensity_sigma,
        downsample=[resolved.factor if axis else 1 for axis in resolved.axes],
        offsets_per_step=options.offsets_per_step,
        volume_power=options.crf_volume_power,
    )
