"""Everything about BaBLoss that can be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnunet_ext.babloss.loss import Similarity
from nnunet_ext.errors import refuse_out_of_range


@dataclass(frozen=True)
class BaBLossOptions:
    """The options and their sound defaults; a plans file may override any of them.

    Lengths are in voxels of the finest spacing of the configuration, so that thick slices are far apart.

    Raises:
        InputError: a value that is out of range.
    """

    heatmap_sigma: float = 4.0
    """Of the Gaussian that is the target of a landmark. Published: 5 voxels of a volume resized to 128³."""
    heatmap_weight: float = 10.0
    """Of the loss of the heatmaps, whose targets reach 1. Published: 1, with targets that reach 255. With 1, landmarks
    stay for long where a heatmap starts, the same everywhere; see docs/results/babloss.md."""
    heatmap_stage: int = 1
    """Stage of the network at which the landmark decoder ends, 0 is full resolution. At 1 it costs a fraction of the
    time; heatmaps are interpolated from half of the resolution. Published: 0."""
    a_weight: float = 0.1
    """Of direction A, a known landmark pulls the boundary of an organ. Published: 1, with gradients of about 1e-7."""
    b_weight: float = 0.1
    """Of direction B, a labelled boundary pulls the heatmap of a landmark. Published: 1."""
    levels: int = 8
    """n: from this distance on boundary and landmark do not see each other. Published: 10; best 6 (brain), 8 (knee)."""
    sigma: float = 2.0
    """Of the Gaussian around a known landmark in direction A. Published: that of the heatmaps."""
    similarity: Similarity = "expectation"
    """Published: expectation in the code, cosine in a figure."""
    seen: float = 0.3
    """Direction B: probability above which the network is believed to see the landmark in the patch."""
    ramp_start: float = 0.1
    """Share of the epochs before the bridge begins: predictions must exist first. Published: 0."""
    ramp_end: float = 0.3
    """Share of the epochs at which it has its whole weight. Published: 0."""

    def __post_init__(self) -> None:
        wrong = [name for name in ("heatmap_sigma", "sigma", "levels") if getattr(self, name) <= 0]
        wrong += [
            name for name in ("heatmap_weight", "heatmap_stage", "a_weight", "b_weight") if getattr(self, name) < 0
        ]
        wrong += [name for name in ("seen", "ramp_start", "ramp_end") if not 0 <= getattr(self, name) <= 1]
        if self.ramp_end < self.ramp_start:
            wrong.append("ramp_end")
        rules = (
            "lengths are positive, weights and heatmap_stage at least 0, shares from 0 to 1, and ramp_end is at least "
            "ramp_start"
        )
        refuse_out_of_range("babloss", self, wrong, rules)

    @classmethod
    def published(cls) -> BaBLossOptions:
        """The values of the published code."""
        return cls(
            heatmap_sigma=5.0,
            heatmap_weight=1.0,
            heatmap_stage=0,
            a_weight=1.0,
            b_weight=1.0,
            levels=10,
            ramp_start=0.0,
            ramp_end=0.0,
        )

    def of_the_bridge(self) -> dict[str, Any]:
        """Those of :class:`nnunet_ext.babloss.loss.BridgeLoss`."""
        names = ("levels", "sigma", "heatmap_sigma", "similarity", "seen")
        return {name: getattr(self, name) for name in names}

    def ramp(self, epoch: int, epochs: int) -> float:
        """Share of the bridge's weight in this epoch, counted from 0."""
        start, end = self.ramp_start * epochs, self.ramp_end * epochs
        if epoch < start:
            return 0.0
        return 1.0 if epoch >= end else (epoch - start) / (end - start)
