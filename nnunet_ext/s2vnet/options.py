"""Everything about S2VNet that can be chosen."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ext.errors import refuse_out_of_range
from nnunet_ext.s2vnet.centroid_aggregation import Aggregation


@dataclass(frozen=True)
class S2VNetOptions:
    """The options and their defaults, all of them inferred; a plans file may override any of them.

    Raises:
        InputError: a value that is out of range.
    """

    clip: int = 4
    """T: neighbouring slices per training sample. 1: no propagation."""
    inference_clip: int = 64
    """Slices of a patch of the stock commands, within which centres propagate."""
    width: int = 128
    """D: of a centre."""
    heads: int = 4
    """Of both attentions."""
    stages: int = 3
    """How many stages below full resolution are clustered, the finest ones, coarse to fine."""
    layers: int = 2
    """k-means layers per stage."""
    embedding: int = 64
    """Channels of the pixel embedding at full resolution, where memory is."""
    centres: int = 1
    """Per label."""
    background_centres: int = 1
    """Of the background."""
    aggregation: Aggregation = "attention"
    """How the centres of earlier slices become those of the next."""
    bank: int = 8
    """m: how many earlier slices are remembered."""
    state_dropout: float = 0.1
    """Probability that a slice of a training clip starts with an empty memory, so that a first slice stays good."""
    click_decay: float = 0.5
    """γ: what a click weighs, for each round of clicks since."""
    interactive: float = 0.5
    """Share of the training clips in which somebody clicks. 0: automatic only."""
    rounds: int = 3
    """Of clicks at most."""
    first_click: float = 0.7
    """Probability that a label of a clip is clicked in the first round."""
    border_click: float = 0.05
    """Share of clicks at the border of their object."""
    jitter: int = 2
    """Pixels by which clicks are off."""
    cluster_weight: float = 1.0
    """Of the loss of the k-means layers."""
    auxiliary_weight: float = 0.5
    """Of the loss of the planned segmentation layers."""

    def __post_init__(self) -> None:
        positive = "clip inference_clip width heads stages layers embedding centres background_centres bank rounds"
        wrong = [name for name in positive.split() if getattr(self, name) < 1]
        shares = "state_dropout click_decay interactive first_click border_click"
        wrong += [name for name in shares.split() if not 0 <= getattr(self, name) <= 1]
        wrong += [name for name in ("cluster_weight", "auxiliary_weight") if getattr(self, name) <= 0]
        if self.jitter < 0:
            wrong.append("jitter")
        rules = (
            "numbers are at least 1 (jitter 0), shares from 0 to 1, and both weights above 0, because the layers they "
            "train learn from nothing else"
        )
        refuse_out_of_range("s2vnet", self, wrong, rules)
