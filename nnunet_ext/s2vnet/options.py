"""Options of S2VNet."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from nnunet_ext.nnunet.options import STRICT, MethodOptions
from nnunet_ext.s2vnet.centroid_aggregation import Aggregation

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(gt=0)]
"""Above 0, because the layers that such a term trains learn only from it."""


@dataclass(frozen=True, config=STRICT)
class S2VNetOptions(MethodOptions):
    """Defaults, all of them inferred; a plans file may override any of them."""

    SECTION: ClassVar[str] = "s2vnet"
    OF_NETWORK = (
        *("clip", "inference_clip", "width", "heads", "stages", "layers", "embedding", "centres", "background_centres"),
        *("aggregation", "bank", "position", "mask_memory", "click_decay", "rounds"),
    )

    clip: Count = 4
    """T: neighbouring slices per training sample. 1: no propagation."""
    single_slices: Share = 0.5
    """Share of the training clips made of T unrelated slices; nothing propagates between them. They give a step the
    variety that neighbouring slices cost."""
    inference_clip: Count = 64
    """Slices of a patch of the stock commands, within which centres propagate. 1: no propagation, also in training."""
    width: Count = 128
    """D: length of a centre."""
    heads: Count = 4
    """Heads of both attentions."""
    stages: Count = 3
    """Number of stages below full resolution that are clustered, the finest ones, coarse to fine."""
    layers: Count = 2
    """k-means layers per stage."""
    embedding: Count = 64
    """Channels of the pixel embedding at full resolution, which takes most of the memory."""
    centres: Count = 1
    """Centres per label."""
    background_centres: Count = 1
    """Centres of the background."""
    aggregation: Aggregation = "attention"
    """How the centres of earlier slices become those of the next."""
    bank: Count = 8
    """m: how many earlier slices are remembered."""
    state_dropout: Share = 0.1
    """Probability that a slice of a training clip starts with an empty memory, so that a first slice stays good."""
    position: bool = True
    """Whether the clustered features also have the place of each pixel in mm."""
    mask_memory: bool = True
    """Whether the mask of the slice before is remembered, beside the centres."""
    mask_dropout: Share = 0.25
    """Probability that a slice of a training clip does not see the previous mask, so that the network does not depend
    on it."""
    mask_corruption: Share = 0.5
    """Probability that the mask is wrong in training, so that errors do not lock in."""
    click_decay: Share = 0.5
    """γ: factor on the weight of a click for each later round of clicks."""
    interactive: Share = 0.5
    """Share of the training clips in which somebody clicks. 0: automatic only."""
    rounds: Count = 3
    """Rounds of clicks at most."""
    first_click: Share = 0.7
    """Probability that a label of a clip is clicked in the first round."""
    border_click: Share = 0.05
    """Share of clicks at the border of their object."""
    jitter: Annotated[int, Field(ge=0)] = 2
    """Pixels by which clicks are off."""
    cluster_weight: Weight = 1.0
    """Weight of the loss of the k-means layers."""
    auxiliary_weight: Weight = 0.5
    """Weight of the loss of the planned segmentation layers."""

    @property
    def propagates(self) -> bool:
        """Whether slices know those before them, where images have more than one."""
        return self.clip > 1 and self.inference_clip > 1

    @property
    def without_effect(self) -> Collection[str]:
        used = {
            # sessions still read rounds and click_decay
            ("first_click", "border_click", "jitter"): self.interactive > 0,
            ("single_slices",): self.clip > 1,
            ("aggregation", "bank", "state_dropout", "mask_memory"): self.propagates,
            ("mask_dropout", "mask_corruption"): self.propagates and self.mask_memory,
        }
        return [name for names, has_effect in used.items() if not has_effect for name in names]
