"""The planned 2D U-Net as backbone, and the clustering of its features, slice by slice through a 3D patch.

The U-Net sees slices only. Its decoder hands out a feature per stage; on some of them, coarse to fine, the centres of a
slice are moved by k-means, and the pixels of full resolution go to the nearest of the final centres. Slices are
clustered in their order: each starts from what is remembered of those before it, changed by the prompts on it.

Nothing is kept between two calls. nnU-Net's inference calls a network for tiles, flips, folds and patients in an order
of its own, so a state in it would leak from one patient to the next; the memory is a local variable, or the caller's.

Source: backbone, multi-scale features, and that the final centres of a slice are the initial ones of the next, are in
the published figure. *Inferred*: which backbone, which stages, how many layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.s2vnet.attention import full_precision
from nnunet_ext.s2vnet.centroid_aggregation import Bank, CentroidAggregation
from nnunet_ext.s2vnet.clustering import CosineLogits, KMeansLayer
from nnunet_ext.s2vnet.labels import LabelHeads
from nnunet_ext.s2vnet.options import S2VNetOptions
from nnunet_ext.s2vnet.prompts import PromptedCentres, Prompts

Interact = Callable[[Callable[[Prompts], Tensor]], Prompts]
"""Simulated user of a training: gets a function from prompts to predicted labels ``(B, T, H, W)``, which it may call,
and returns the prompts to train with."""

SURE = 10.0
"""Logit of the background where there is no image, and minus that of the other labels."""


class Supervision(NamedTuple):
    """Outputs that a loss needs beside the final logits.

    Attributes:
        clusters: stage and logits ``(B, heads, T, h, w)`` of each k-means layer.
        auxiliary: logits ``(B, heads, T, h, w)`` of the planned segmentation layers, finest first.
    """

    clusters: list[tuple[int, Tensor]]
    auxiliary: list[Tensor]


class Clustered(NamedTuple):
    """One slice.

    Attributes:
        logits: ``(B, L, H, W)``, of labels.
        centres: ``(B, N, D)``, after the last layer.
        layers: logits ``(B, L, h, w)`` of each k-means layer.
    """

    logits: Tensor
    centres: Tensor
    layers: list[Tensor]


def slices_with_image(x: Tensor) -> Tensor:
    """Return the slices of a clip that are not padding, which is zero slices at its ends.

    Args:
        x: ``(B, C, T, H, W)``.

    Returns:
        ``(B, T)`` bool.
    """
    some = (x != 0).flatten(3).any(3).any(1).int()
    return (some.cummax(1).values & some.flip(1).cummax(1).values.flip(1)).bool()


class S2VNet(nn.Module):
    """Segments clips of slices, ``(B, C, T, H, W)``; a tensor without T is one slice.

    Args:
        planned: the 2D network that nnU-Net planned.
        heads: labels and regions.
        options: see there.
        propagates: False leaves the memory out; every slice then stands alone.

    Raises:
        InputError: the network is not 2D.
    """

    def __init__(self, planned: PlannedUNet, heads: LabelHeads, options: S2VNetOptions, propagates: bool) -> None:
        super().__init__()
        if planned.dim != 2:
            raise InputError(
                f"S2VNet needs a network with 2D layers, but the plans describe a {planned.dim}D network; "
                "train configuration 2d."
            )
        self.encoder = planned.encoder
        self.decoder = planned.decoder
        self.planned = planned
        self.label_heads = heads
        self.options = options
        coarsest = min(options.stages, planned.n_stages - 2)
        self.stages = list(range(coarsest, 0, -1)) or [0]
        self.owners = heads.owners(options.centres, options.background_centres)
        width = options.width
        channels = [planned.channels[stage] for stage in self.stages]
        self.centres = nn.Parameter(torch.randn(len(self.owners), width))
        self.aggregation = CentroidAggregation(width, options.heads, options.aggregation) if propagates else None
        self.prompting = PromptedCentres(channels, width, self.owners, options.click_decay)
        per_layer = [number for number in channels for _ in range(options.layers)]
        self.stage_of_layer = [stage for stage in self.stages for _ in range(options.layers)]
        self.layers = nn.ModuleList(KMeansLayer(number, width, options.heads) for number in per_layer)
        self.pixels = CosineLogits(planned.channels[0], width, options.embedding, biased=True)

    # -- one slice -------------------------------------------------------------------------------------------------

    def features(self, slices: Tensor) -> list[Tensor]:
        """``(S, C, H, W)`` → features of all decoder stages, finest first. Slices do not see each other."""
        return self.planned.decode(self.planned.encode(slices))

    # not traced by torch.compile: 64 slices of 6 layers would be one graph, and the U-Net is where the time goes
    @torch.compiler.disable
    def cluster(self, features: Sequence[Tensor], bank: Bank, prompts: Prompts) -> Clustered:
        """Segment one slice.

        Args:
            features: of :meth:`features`.
            bank: of the slices before it; empty for none.
            prompts: on this slice.
        """
        size = features[0].shape[2:]
        with full_precision(features[0]):
            if self.aggregation is None or not bank.centres:
                centres = self.centres.expand(len(features[0]), -1, -1)
            else:
                centres = self.aggregation(self.centres, bank)
        centres = self.prompting(centres, [features[stage] for stage in self.stages], prompts, size)
        logits = []
        for stage, layer in zip(self.stage_of_layer, self.layers, strict=True):
            centres, found = layer(centres, features[stage])
            logits.append(self.label_heads.label_logits(found, self.owners))
        final = self.label_heads.label_logits(self.pixels(centres, features[0]), self.owners)
        return Clustered(final, centres, logits)

    def where_image(self, logits: Tensor, there: Tensor) -> Tensor:
        """Logits ``(B, L, …)`` of labels; surely background in samples where ``there``, ``(B,)``, is False."""
        background = torch.full_like(logits, -SURE)
        background[:, 0] = SURE
        return torch.where(there.view(-1, *[1] * (logits.ndim - 1)), logits, background)

    # -- a clip ----------------------------------------------------------------------------------------------------

    def segment(self, pyramid: Sequence[Tensor], prompts: Prompts, there: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits of a whole clip whose features are known: what training does, with gradients through all slices.

        Args:
            pyramid: features ``(B, T, C, h, w)``, finest first.
            prompts: on any of the slices.
            there: ``(B, T)`` bool, False for padding.

        Returns:
            Of labels: final logits ``(B, L, T, H, W)``, and those of each k-means layer ``(B, L, T, h, w)``.
        """
        bank, found = Bank(), []
        for t in range(there.shape[1]):
            if self.training and self.options.state_dropout:
                bank = bank.without(torch.rand(len(there), device=there.device) < self.options.state_dropout)
            one = self.cluster([f[:, t] for f in pyramid], bank, prompts.on_slice(t))
            bank = bank.remember(one.centres, there[:, t], self.options.bank)
            found.append([self.where_image(x, there[:, t]) for x in (one.logits, *one.layers)])
        final, *layers = [torch.stack(part, 2) for part in zip(*found, strict=True)]
        return final, layers

    def propagate(
        self,
        slices: Iterable[Tensor],
        there: Tensor,
        prompts: Prompts | None = None,
        features_of: Callable[[int, Tensor], list[Tensor]] | None = None,
    ) -> Iterator[tuple[Tensor, list[Tensor] | None]]:
        """Segment slices one after the other, with the features of one in memory: what inference does.

        Args:
            slices: each ``(B, C, H, W)``, T of them, in the order in which centres propagate.
            there: ``(B, T)`` bool, False for padding.
            prompts: on any of the slices; none by default.
            features_of: what :meth:`features` gives for the slice at a step, for a caller who may know it already.

        Yields:
            Logits ``(B, heads, H, W)`` and features, finest first; None in padding of all samples, which is skipped.
        """
        bank = Bank()
        prompts = prompts or Prompts.none(len(there), there.device)
        for t, (x, present) in enumerate(zip(slices, there.unbind(1), strict=True)):
            if present.any():
                features = features_of(t, x) if features_of else self.features(x)
                one = self.cluster(features, bank, prompts.on_slice(t))
                bank = bank.remember(one.centres, present, self.options.bank)
                logits = one.logits
            else:
                features = None
                logits = x.new_zeros(len(x), self.label_heads.num_labels, *x.shape[2:], dtype=torch.float32)
            yield self.label_heads.head_logits(self.where_image(logits, present)), features

    # -- what nnU-Net calls ----------------------------------------------------------------------------------------

    # the call itself stays eager and its backbone is compiled, see cluster
    @torch.compiler.disable(recursive=False)
    def forward(
        self, x: Tensor, interact: Interact | None = None
    ) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Supervision]:
        """Segment clips of slices.

        Args:
            x: ``(B, C, T, H, W)`` or ``(B, C, H, W)``.
            interact: in training, who gives prompts; nobody by default.

        Returns:
            Final logits ``(B, heads, T, H, W)``; with deep supervision a list of these and those of the coarser planned
            segmentation layers. In training a tuple of that and :class:`Supervision`.
        """
        if x.ndim == 4:
            return _squeezed(self.forward(x[:, :, None], interact))
        return self._train_clip(x, interact) if self.training else self._predict_clip(x)

    def _train_clip(self, x: Tensor, interact: Interact | None) -> tuple[Tensor | list[Tensor], Supervision]:
        batch, length = x.shape[0], x.shape[2]
        there = slices_with_image(x)
        features = self.features(x.transpose(1, 2).flatten(0, 1))
        pyramid = [f.unflatten(0, (batch, length)) for f in features]
        prompts = Prompts.none(batch, x.device)
        if interact is not None:
            known = [f.detach() for f in pyramid]
            with torch.no_grad():
                prompts = interact(lambda given: self.segment(known, given, there)[0].argmax(1))
            # not in every version of PyTorch does autocast cast again what it cast without gradients
            torch.clear_autocast_cache()
        final, layers = self.segment(pyramid, prompts, there)
        to_heads = self.label_heads.head_logits
        auxiliary = [
            logits.unflatten(0, (batch, length)).transpose(1, 2) for logits in self.planned.logits(features, True)
        ]
        output = to_heads(final)
        clusters = [(stage, to_heads(logits)) for stage, logits in zip(self.stage_of_layer, layers, strict=True)]
        supervision = Supervision(clusters, auxiliary)
        return ([output, *auxiliary[1:]] if self.decoder.deep_supervision else output), supervision

    def _predict_clip(self, x: Tensor) -> Tensor | list[Tensor]:
        found: list[Tensor] = []
        length = x.shape[2]
        for t, (logits, features) in enumerate(self.propagate(x.unbind(2), slices_with_image(x))):
            parts = [logits]
            if self.decoder.deep_supervision:
                features = self.features(x[:, :, t]) if features is None else features
                parts += self.planned.logits(features, True)[1:]
            if not found:
                # as large as the whole result, so filled in place, and in the precision in which nnU-Net adds up tiles
                half = torch.is_autocast_enabled(x.device.type)
                kind = torch.get_autocast_dtype(x.device.type) if half else torch.float32
                found = [p.new_empty(*p.shape[:2], length, *p.shape[2:], dtype=kind) for p in parts]
            for whole, part in zip(found, parts, strict=True):
                whole[:, :, t] = part
        return found if self.decoder.deep_supervision else found[0]


def _squeezed(output: Any) -> Any:
    """Return the result of :meth:`S2VNet.forward` for one slice, without its axis."""
    if isinstance(output, Tensor):
        return output[:, :, 0]
    if isinstance(output, Supervision):
        return Supervision([(s, z[:, :, 0]) for s, z in output.clusters], [a[:, :, 0] for a in output.auxiliary])
    return type(output)(_squeezed(part) for part in output)
