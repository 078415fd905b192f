"""Attentive similarity loss from the features that a network returns of its stages; training only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_ext.attenscribble.attentive_similarity_loss import attentive_similarity_loss, averaged
from nnunet_ext.attenscribble.crf_loss import Window
from nnunet_ext.attenscribble.network import (
    Attended,
    AttendedUNet,
    as_projected,
    similarity_window,
)
from nnunet_ext.attenscribble.options import AttenScribbleOptions
from nnunet_ext.attenscribble.published import PublishedAffinity, interpolated, published_similarity_loss
from nnunet_ext.attenscribble.similarity import AffinityHead
from nnunet_ext.attenscribble.similarity import inside as pairs_inside
from nnunet_ext.attenscribble.spatial_attention import QueriesAndKeys


class AttentiveSimilarity(nn.Module):
    """The affinity head of every stage and, where attention is beside the network, its queries and keys.

    Args:
        network: whose stages are attended to.
        options: see :class:`~nnunet_ext.attenscribble.options.AttenScribbleOptions`.
        spacing: of the configuration, in mm.
        exclusive: the classes exclude each other; False: regions.
    """

    def __init__(
        self, network: AttendedUNet, options: AttenScribbleOptions, spacing: Sequence[float], *, exclusive: bool
    ) -> None:
        super().__init__()
        self.options, self.exclusive = options, exclusive
        planned, stages = network.planned, network.stages
        self.windows = {str(stage): similarity_window(planned, stage, spacing, options.asl_radius) for stage in stages}
        head = PublishedAffinity if options.published else AffinityHead
        self.affinity = nn.ModuleDict({str(stage): head(options.heads) for stage in stages})
        projections = {
            str(stage): QueriesAndKeys(planned.channels[stage], options.heads, options.head_dim)
            for stage in stages
            if options.attention == "side"
        }
        self.projections = nn.ModuleDict(projections)

    def forward(
        self, probabilities: Tensor, counts: Tensor, attended: Attended, inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss, averaged over stages, and the mean similarity of pairs in the grid without gradient; both scalars.

        Args:
            probabilities: ``(B, K, *spatial)``.
            counts: ``(B,)``, 1 for samples with several annotated classes, see
                :func:`~nnunet_ext.attenscribble.attentive_similarity_loss.several_classes`.
            attended: of the network.
            inside: ``(B, 1, *spatial)`` bool, where the image is; everywhere by default.
        """
        losses, means = [], []
        for stage, given in attended.items():
            projected = as_projected(given) if len(given) == 2 else self.projections[stage](given[0])
            similarity = self.affinity[stage](projected, self.windows[stage])
            losses.append(self._loss(similarity, probabilities, self.windows[stage], counts, inside))
            there = pairs_inside(self.windows[stage], tuple(similarity.shape[2:]), similarity.device)
            means.append((similarity.detach().sigmoid() * there).sum() / (there.sum() * len(similarity)))
        return torch.stack(losses).mean(), torch.stack(means).mean()

    def _loss(
        self, similarity: Tensor, probabilities: Tensor, window: Window, counts: Tensor, inside: Tensor | None
    ) -> Tensor:
        grid = tuple(similarity.shape[2:])
        if self.options.published:
            p = interpolated(probabilities, grid)
            return published_similarity_loss(similarity, p, window, counts, exclusive=self.exclusive)
        p = averaged(probabilities, grid)
        # tokens of which the larger part is image
        tokens = None if inside is None else averaged(inside.to(p.dtype), grid) > 0.5
        return attentive_similarity_loss(
            similarity, p, window, counts, exclusive=self.exclusive, gamma=self.options.gamma, tokens=tokens
        )
