"""Options of BaBLoss."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from nnunet_ext.babloss.loss import Similarity
from nnunet_ext.landmarks.heatmaps import Target
from nnunet_ext.nnunet.options import STRICT, PseudoLabelOptions

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class BaBLossOptions(PseudoLabelOptions):
    """Sound defaults; a plans file may override any of them. Pseudo-labels begin and grow with the bridge.

    Lengths are in voxels of the finest spacing of the configuration, so that thick slices are far apart.
    """

    SECTION: ClassVar[str] = "babloss"
    OF_NETWORK = ("heatmap_stage",)

    heatmap_sigma: Annotated[float, Field(gt=0)] = 4.0
    """Width of the Gaussian that is the target of a landmark. Published: 5 voxels of a volume resized to 128³."""
    heatmap_target: Target = "gaussian"
    """Target of a landmark: a Gaussian, or nnLandmark's ball, which falls linearly from the landmark to a radius.
    Published: Gaussian."""
    heatmap_radius: Annotated[float, Field(gt=0)] = 15.0
    """Radius of the ball; nnLandmark's value. heatmap_sigma then only says how much direction B sharpens heatmaps, and
    how much a prediction smooths them before it seeks a landmark near the surface of its organ."""
    heatmap_weight: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the loss of the heatmaps, whose targets reach 1. Published: 1, with targets that reach 255. With 1,
    heatmaps stay flat for a long time; see docs/results/history/babloss.md."""
    place_weight: Annotated[float, Field(ge=0)] = 0.25
    """Weight of the loss of the place of a landmark in the patch, a softmax over its heatmap
    (:class:`nnunet_ext.landmarks.heatmaps.PlaceLoss`), without which heatmaps stay flat for long. With 1 it pulls twice
    as hard on the shared encoder as the segmentation does (docs/results/babloss.md). Published: 0, there is none."""
    heatmap_stage: Annotated[int, Field(ge=0)] = 1
    """Stage of the network at which the landmark decoder ends, 0 is full resolution. At 1 it costs a fraction of the
    time; heatmaps are interpolated from half of the resolution. Published: 0."""
    encoder_gradient: Share = 0.1
    """Share of the gradient of the landmark decoder that reaches the encoder, which it shares with the segmentation.
    Landmarks change its features only that much; their own decoder learns from the whole gradient. With 1 Dice is 0.021
    lower on ACDC (docs/results/babloss.md). Published: 1."""
    a_weight: Annotated[float, Field(ge=0)] = 0.3
    """Weight of direction A: a known landmark pulls the boundary of an organ. Published: 1, with gradients of about
    1e-7."""
    b_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of direction B: a labelled boundary pulls the heatmap of a landmark. Published: 1."""
    levels: Annotated[int, Field(gt=0)] = 8
    """n: beyond this distance boundary and landmark do not see each other. Published: 10; best 6 (brain), 8 (knee)."""
    sigma: Annotated[float, Field(gt=0)] = 0.5
    """Width of the Gaussian that stands for a landmark in the bridge: around a known one in direction A, and of the
    predicted heatmap after sharpening in direction B; at most heatmap_sigma. Published: that of the heatmaps, with
    which the best place of a landmark is the centre of a small organ; see :mod:`nnunet_ext.babloss.loss`."""
    similarity: Similarity = "expectation"
    """Published: expectation in the code, cosine in a figure. A cosine needs a wider sigma, such as 2."""
    seen: Share = 0.3
    """Direction B: probability above which the network is believed to see the landmark in the patch."""
    ramp_start: Share = 0.1
    """Share of the epochs before bridge and pseudo-labels begin: predictions must exist first. Published: 0."""
    ramp_end: Share = 0.3
    """Share of the epochs at which both have their whole weight. Published: 0."""
    segmented_share: Share = 0.75
    """At least this share of the training samples comes from cases with masks, however few they are. Published: 0, all
    cases alike."""
    landmark_share: Share = 0.0
    """Share of the patches that nnU-Net places anywhere in cases without masks, two thirds of a batch, to place near a
    landmark instead. With 0.67 a 2D network found landmarks earlier, but in wrong slices: it had seen too
    few slices without one (docs/results/babloss.md). Published: 0."""

    surface_sigma: Annotated[float, Field(ge=0)] = 1.0
    """In a prediction, the heatmap of a landmark that lies on an organ is multiplied by a Gaussian of the distance from
    the surface of the predicted organ; its width. 0: not multiplied, the landmark may lie anywhere. Published: 0."""

    @model_validator(mode="after")
    def _ramp_ends_after_its_start(self) -> Self:
        if self.ramp_end < self.ramp_start:
            raise ValueError(
                f"ramp_end must be at least ramp_start, found ramp_end = {self.ramp_end} and ramp_start = "
                f"{self.ramp_start}"
            )
        return self

    @model_validator(mode="after")
    def _sharpening_does_not_widen(self) -> Self:
        if self.sigma > self.heatmap_sigma:
            raise ValueError(
                f"sigma must be at most heatmap_sigma, found sigma = {self.sigma} and heatmap_sigma = "
                f"{self.heatmap_sigma}"
            )
        return self

    @property
    def without_effect(self) -> Collection[str]:
        gaussian, a, b = self.heatmap_target == "gaussian", self.a_weight > 0, self.b_weight > 0
        taught = self.heatmap_weight > 0 or self.place_weight > 0
        used = {
            "heatmap_target": taught,
            "heatmap_radius": taught and not gaussian,
            # direction B sharpens heatmaps from it to sigma; a prediction near surfaces smooths them by a share of it
            "heatmap_sigma": (taught and gaussian) or b or self.surface_sigma > 0,
            "levels": a or b,
            "sigma": a or b,
            "similarity": a,
            "seen": b,
            "ramp_start": a or b or self.pseudo_weight > 0,
            "ramp_end": a or b or self.pseudo_weight > 0,
        }
        return [*super().without_effect, *(name for name, has_effect in used.items() if not has_effect)]

    @classmethod
    def as_published(cls) -> Self:
        """Return the values of the published code."""
        return cls(
            heatmap_sigma=5.0,
            heatmap_weight=1.0,
            place_weight=0.0,
            heatmap_stage=0,
            encoder_gradient=1.0,
            a_weight=1.0,
            b_weight=1.0,
            levels=10,
            segmented_share=0.0,
            landmark_share=0.0,
            surface_sigma=0.0,
            ramp_start=0.0,
            ramp_end=0.0,
        )

    def heatmap_mm(self, spacing: Sequence[float]) -> float:
        """Return sigma of the Gaussian or radius of the ball in mm."""
        return min(spacing) * (self.heatmap_sigma if self.heatmap_target == "gaussian" else self.heatmap_radius)

    def heatmap_width(self, spacing: Sequence[float]) -> list[float]:
        """Return sigma of the Gaussian or radius of the ball, in voxels of each axis of this spacing."""
        # a ball at least a voxel, so that a landmark between two thick slices is seen in both
        least = 0.0 if self.heatmap_target == "gaussian" else 1.0
        return [max(self.heatmap_mm(spacing) / mm, least) for mm in spacing]

    def of_the_bridge(self) -> dict[str, Any]:
        """Return the arguments of :class:`nnunet_ext.babloss.loss.BridgeLoss`."""
        names = ("levels", "sigma", "heatmap_sigma", "similarity", "seen")
        return {name: getattr(self, name) for name in names}

    def ramp(self, epoch: int, epochs: int) -> float:
        """Return the share of the weights of bridge and pseudo-labels in this epoch, counted from 0."""
        start, end = self.ramp_start * epochs, self.ramp_end * epochs
        if epoch < start:
            return 0.0
        return 1.0 if epoch >= end else (epoch - start) / (end - start)
