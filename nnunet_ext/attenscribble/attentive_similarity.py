"""From what a network hands out of its stages to the attentive similarity loss; training only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_ext.attenscribble.attentive_similarity_loss import attentive_similarity_loss, pooled
from nnunet_ext.attenscribble.network import (
    Attended,
    AttendedUNet,
    AttenScribbleOptions,
    as_projected,
    similarity_window,
)
from nnunet_ext.attenscribble.similarity import AffinityHead
from nnunet_ext.attenscribble.spatial_attention import QueriesAndKeys


class AttentiveSimilarity(nn.Module):
    """The affinity head of every stage and, where attention is beside the network, its queries and keys.

    Args:
        network: whose stages are attended to.
        options: see :class:`~nnunet_ext.attenscribble.network.AttenScribbleOptions`.
        spacing: of the configuration, in mm.
        exclusive: the classes exclude each other; False: regions.
    """

    def __init__(
        self, network: AttendedUNet, options: AttenScribbleOptions, spacing: Sequence[float], *, exclusive: bool
    ) -> None:
        super().__init__()
        self.options, self.exclusive = options, exclusive
        planned, stages = network.planned, network.stages
        self.windows = {str(stage): similarity_window(planned, stage, spacing) for stage in stages}
        self.affinity = nn.ModuleDict({str(stage): AffinityHead(options.heads, options.published) for stage in stages})
        projections = {
            str(stage): QueriesAndKeys(planned.channels[stage], options.heads, options.head_dim)
            for stage in stages
            if options.attention == "side"
        }
        self.projections = nn.ModuleDict(projections)

    def forward(self, probabilities: Tensor, counts: Tensor, attended: Attended) -> tuple[Tensor, Tensor]:
        """The loss, averaged over stages, and the mean similarity without gradient; both scalars.

        Args:
            probabilities: ``(B, K, *spatial)``.
            counts: ``(B,)``, 1 for samples with several annotated classes, see
                :func:`~nnunet_ext.attenscribble.attentive_similarity_loss.several_classes`.
            attended: of the network.
        """
        losses, means = [], []
        for stage, given in attended.items():
            projected = as_projected(given) if len(given) == 2 else self.projections[stage](given[0])
            similarity = self.affinity[stage](projected, self.windows[stage])
            p = pooled(probabilities, tuple(similarity.shape[2:]), self.options.published)
            losses.append(
                attentive_similarity_loss(
                    similarity,
                    p,
                    self.windows[stage],
                    counts,
                    exclusive=self.exclusive,
                    published=self.options.published,
                    gamma=self.options.gamma,
                )
            )
            means.append(similarity.detach().sigmoid().mean())
        return torch.stack(losses).mean(), torch.stack(means).mean()
