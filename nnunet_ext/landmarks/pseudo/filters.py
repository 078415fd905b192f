"""Which masks are believed: an engine always returns something, and most of what is wrong is visibly wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as connected_components

from nnunet_ext.data.geometry import Floats, Geometry
from nnunet_ext.landmarks.pseudo.prompts import Prompts
from nnunet_ext.landmarks.surface import OrganSurface


@dataclass(frozen=True)
class Limits:
    """What a mask must fulfil.

    Attributes:
        landmark_mm: landmarks of the organ are at most so far from its surface.
        component: share of the largest connected component.
        volume: smallest and largest, as a factor of the median of the labelled cases.
        agreement: Dice with the mask from prompts that were moved.
        jitter_mm: how far they are moved.
    """

    landmark_mm: float = 3.0
    component: float = 0.95
    volume: tuple[float, float] = (0.5, 2.0)
    agreement: float = 0.8
    jitter_mm: float = 2.0


@dataclass(frozen=True)
class Verdict:
    """What the filters found for one mask.

    Attributes:
        values: by filter what was measured; None where there is nothing to compare with.
        reasons: why it is refused; empty if it is accepted.
    """

    values: Mapping[str, float | None] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return not self.reasons


def judge(
    mask: NDArray[np.bool_],
    other: NDArray[np.bool_],
    prompts: Prompts,
    geometry: Geometry,
    landmarks_mm: Mapping[str, Floats],
    median_mm3: float | None,
    limits: Limits,
) -> Verdict:
    """Apply all filters.

    Args:
        mask: ``(z, y, x)``, of the organ.
        other: the mask from prompts that were moved.
        prompts: that led to the mask.
        geometry: of the image.
        landmarks_mm: by name, ``(3,)``, those that lie on the surface of the organ.
        median_mm3: volume of the organ in the labelled cases, if there are any.
        limits: what must be fulfilled.
    """
    size = int(mask.sum())
    if size == 0:
        return Verdict({"volume_mm3": 0.0}, ("empty",))
    inside = _at(mask, geometry.to_index(prompts.foreground_mm)).mean()
    outside = 1 - _at(mask, geometry.to_index(prompts.background_mm)).mean() if len(prompts.background_mm) else 1.0
    farthest = _farthest(mask, geometry, landmarks_mm)
    components, count = connected_components(mask)
    largest = np.bincount(components.ravel(), minlength=count + 1)[1:].max() / size
    volume = size * abs(np.linalg.det(geometry.matrix))
    ratio = None if not median_mm3 else volume / median_mm3
    agreement = 2 * (mask & other).sum() / (size + other.sum())
    low, high = limits.volume
    checks = {
        "foreground prompts": inside == 1,
        "background prompts": outside == 1,
        "landmarks": farthest is None or farthest <= limits.landmark_mm,
        "components": largest >= limits.component,
        "volume": ratio is None or low <= ratio <= high,
        "agreement": agreement >= limits.agreement,
    }
    values = {
        "foreground_inside": inside,
        "background_outside": outside,
        "landmark_mm": farthest,
        "largest_component": largest,
        "volume_mm3": volume,
        "volume_ratio": ratio,
        "agreement": agreement,
    }
    return Verdict(
        {name: None if value is None else float(value) for name, value in values.items()},
        tuple(name for name, passed in checks.items() if not passed),
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _at(mask: NDArray[np.bool_], index: Floats) -> NDArray[np.bool_]:
    """``(N,)``: the mask at the voxels nearest to points in the image."""
    voxels = np.clip(np.rint(index).astype(int), 0, np.array(mask.shape) - 1)
    return mask[tuple(voxels.T)]


def _farthest(mask: NDArray[np.bool_], geometry: Geometry, landmarks_mm: Mapping[str, Floats]) -> float | None:
    """Of the landmarks from the surface, mm; None without landmarks."""
    if not landmarks_mm:
        return None
    surface = OrganSurface.find(mask, geometry.spacing_mm)
    if surface is None:  # the mask fills the image
        return float("inf")
    return float(np.abs(surface.signed_distances_mm(geometry.to_index(np.stack(list(landmarks_mm.values()))))).max())
