"""Options of AttenScribble and of the masked CRF loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.options import STRICT, PseudoLabelOptions

Place = Literal["trunk", "side"]

OF_CRF = (
    "crf_radius",
    "crf_sigma",
    "crf_intensity_sigma",
    "crf_downsample",
    "crf_volume_power",
    "crf_fade",
    "crf_image",
    "offsets_per_step",
)


@dataclass(frozen=True, config=STRICT)
class AttenScribbleOptions(PseudoLabelOptions):
    """Sound defaults; a plans file may override any of them."""

    SECTION: ClassVar[str] = "attenscribble"
    OF_NETWORK = ("attention", "stages", "max_tokens", "heads", "head_dim", "mlp_ratio", "published")

    attention: Place = "side"
    """Place of attention. Beside the network (``"side"``) it only serves the attentive similarity, so it is not
    computed if ``asl_weight`` is 0."""
    stages: Annotated[Sequence[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Encoder stages to attend to; None: the shallowest one with at most ``max_tokens`` tokens."""
    max_tokens: Annotated[int, Field(gt=0)] = 5000
    """Tokens of a stage that is chosen by default, at most."""
    heads: Annotated[int, Field(gt=0)] = 1
    """Heads of the attention; in the trunk a divisor of the channels of each of its stages. 1 in the code."""
    head_dim: Annotated[int, Field(gt=0)] = 64
    """Channels of queries and keys per head. 64 in the code."""
    mlp_ratio: Annotated[int, Field(gt=0)] = 4
    """Width of the MLP of the attention relative to its stage. 4 in the code."""
    crf_weight: Annotated[float, Field(ge=0)] | None = None
    """Weight of the masked CRF loss; None: 9.2 in slices, 30 in isotropic volumes. There 30 was better than 9.2, 60
    hardly better than 30, and 120 took a structure apart (docs/results/attenscribble.md). The code has 0.1 for a window
    of mass 92.0, which is 9.2 here. 0: it is not computed."""
    crf_radius: Annotated[int, Field(ge=1, le=16)] | None = None
    """Radius of the CRF window, in voxels along each of its axes; a larger one reaches farther and takes thin
    structures apart. None: 3 in slices, 1 in isotropic volumes (:mod:`nnunet_ext.attenscribble.crf_window`). The code:
    5."""
    crf_sigma: Annotated[float, Field(ge=0.3, le=50)] | None = None
    """Width of the spatial Gaussian, in voxels of the finest spacing; None: two thirds of the radius. The code: 6."""
    crf_intensity_sigma: Annotated[float, Field(ge=0.001, le=10)] = 0.1
    """Width of the Gaussian of grey values, as a share of their range in the patch (1st to 99th percentile): smaller
    sees fainter edges and more noise. The code: 0.1."""
    crf_downsample: Annotated[int, Field(ge=1, le=4)] | None = None
    """Pool image and prediction by this factor before they are compared, along the axes of the window; None: full
    resolution, but half in isotropic volumes if the radius is above 3, where the window would cost too much. The code:
    1, in 2D."""
    crf_volume_power: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Force of the CRF loss against shrinking (:mod:`nnunet_ext.attenscribble.crf_loss`): power a of the volume by
    which the border of a class is divided; with 1/2 in slices and 2/3 in isotropic volumes, size costs nothing. 0, as
    in the code: none."""
    asl_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the attentive similarity loss. 0: it is not computed, because we could show no gain on three data sets
    (docs/results/attenscribble.md); there the weight was 1. The code has 0.1 for a window of mass 92.0, which is 9.2
    here; with 9.2 the stable form draws all predictions to one class before anything is learned
    (docs/results/history/attenscribble.md)."""
    asl_radius: Annotated[int, Field(ge=1, le=16)] | None = None
    """Radius of the window of the similarity, in tokens of the finest spacing; its σ is two thirds of it. None: as far
    as the published one, which has radius 5 and σ 6 tokens at stride 4, at most 5 tokens."""
    gamma: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the similarity's own term in the stable loss."""
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the epochs over which both weights grow from 0. The code: 0."""
    crf_fade: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the epochs, at the end, over which the weight of the masked CRF loss falls to 0. With 0.2 one training
    was better and one worse (docs/results/attenscribble.md). The code: 0."""
    wait: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Mean probability at its annotated voxels from which both losses and pseudo-labels count fully for a class
    (:mod:`nnunet_ext.attenscribble.confidence_gate`). The code: 0, they do not wait."""
    padding_annotated: bool = False
    """Count voxels outside of the image as annotated background, as stock nnU-Net does, instead of as unlabelled
    (:mod:`nnunet_ext.nnunet.padding`). The code fills such gaps with its label for "unlabelled", too."""
    pseudo_start: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the epochs after which pseudo-labels begin to count; over ``ramp`` their weight grows from 0."""
    crf_image: Literal["network_input", "clean"] = "network_input"
    """Image that the CRF loss compares: the one that the network sees, or the same without intensity augmentation. The
    code has no intensity augmentation, so there it is both."""
    offsets_per_step: Annotated[int, Field(gt=0)] | None = None
    """Draw so many offsets of the CRF window at each step; None: all."""
    published: bool = False
    """Build attention, similarity and its loss as published, see :mod:`nnunet_ext.attenscribble.published`."""

    @classmethod
    def as_published(cls) -> Self:
        """Return the values of the published code."""
        return cls(
            attention="trunk",
            published=True,
            asl_weight=9.2,
            ramp=0.0,
            wait=0.0,
            crf_weight=9.2,
            crf_radius=5,
            crf_sigma=6.0,
        )

    @property
    def attends(self) -> bool:
        """Whether attention is computed: in the trunk, or beside the network for a similarity that counts."""
        return self.attention == "trunk" or self.asl_weight > 0

    @property
    def without_effect(self) -> Collection[str]:
        has_crf = self.crf_weight != 0
        computed = {
            ("stages", "heads", "head_dim"): self.attends,
            ("max_tokens",): self.attends and self.stages is None,
            ("mlp_ratio",): self.attention == "trunk",
            ("gamma",): self.asl_weight > 0 and not self.published,
            ("asl_radius",): self.asl_weight > 0,
            OF_CRF: has_crf,
            ("pseudo_start",): self.pseudo_weight > 0,
            ("ramp", "wait"): self.regularises,
            # the published CRF loss differs in padding only
            ("published",): self.attends or (has_crf and not self.padding_annotated),
        }
        idle = [name for names, used in computed.items() if not used for name in names]
        return [*super().without_effect, *idle]

    @property
    def compares_clean_image(self) -> bool:
        """Whether the CRF loss is computed, and on the image without intensity augmentation."""
        return self.crf_image == "clean" and self.crf_weight != 0

    @property
    def regularises(self) -> bool:
        """Whether anything but the partial loss has a weight."""
        return self.crf_weight != 0 or max(self.asl_weight, self.pseudo_weight) > 0

    def require_fitting(self, configuration: Mapping[str, Any]) -> None:
        count = configuration["architecture"]["arch_kwargs"].get("n_stages")
        if self.stages is None or count is None:
            return
        if wrong := [stage for stage in self.stages if stage >= count]:
            raise InputError(
                f"The plans have attenscribble.stages = {list(self.stages)}, but their network has stages 0 to "
                f"{count - 1}; leave out {', '.join(map(str, wrong))}."
            )

    def ramped(self, epoch: int, epochs: int, start: float = 0.0) -> float:
        """Return the share of a weight that counts in this epoch, from 0 to 1.

        Args:
            epoch: counted from 0.
            epochs: of the whole training.
            start: share of the epochs after which the weight begins to grow.
        """
        length, done = self.ramp * epochs, epoch - start * epochs
        return min(1.0, max(0.0, done / length)) if length > 0 else float(done >= 0)

    def faded(self, epoch: int, epochs: int) -> float:
        """Return the share of the CRF weight that is left at the end of the training, from 1 to 0.

        Args:
            epoch: counted from 0.
            epochs: of the whole training.
        """
        length = self.crf_fade * epochs
        return min(1.0, (epochs - epoch) / length) if length > 0 else 1.0
