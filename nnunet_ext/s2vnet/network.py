"""The planned 2D U-Net as backbone, and the clustering of its features, slice by slice through a 3D patch.

Centres are what the paper propagates. Two things are added: features know their place (:mod:`.position`), and the mask
of the slice before is remembered beside its centres (:mod:`.mask_memory`). Both can be switched off.

The U-Net sees slices only. Its decoder returns a feature per stage. On some stages, coarse to fine, k-means moves the
centres of a slice, and the pixels of full resolution go to the nearest final centre. Slices are clustered in order:
each starts from the memory of those before it, changed by the prompts on it.

Nothing is kept between two calls. nnU-Net's inference calls a network for tiles, flips, folds and patients in its own
order, so a state would leak from one patient to the next. The memory is a local variable, or the caller's.

Source: backbone, multi-scale features, and that the final centres of a slice are the initial ones of the next, are in
the published figure. *Inferred*: which backbone, which stages, how many layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.unet import PlannedUNet
from nnunet_ext.s2vnet.attention import full_precision
from nnunet_ext.s2vnet.centroid_aggregation import Bank, CentroidAggregation
from nnunet_ext.s2vnet.clustering import CosineLogits, KMeansLayer
from nnunet_ext.s2vnet.labels import LabelHeads
from nnunet_ext.s2vnet.mask_memory import MaskMemory, corrupted, soft_mask
from nnunet_ext.s2vnet.options import S2VNetOptions
from nnunet_ext.s2vnet.position import PLACES, with_positions
from nnunet_ext.s2vnet.prompts import PromptedCentres, Prompts

Interact = Callable[[Callable[[Prompts], Tensor]], Prompts]
"""Simulated user in training: it gets a function from prompts to predicted labels ``(B, T, H, W)``, which it may call,
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
        mask: ``(B, L, h, w)`` uint8, for the next slice; None without a memory of masks.
    """

    logits: Tensor
    centres: Tensor
    layers: list[Tensor]
    mask: Tensor | None = None


class Passed(NamedTuple):
    """A slice that a chain has passed.

    Attributes:
        step: number of the slice in the chain, from 0.
        logits: ``(B, heads, H, W)``.
        features: finest first; None in padding of all samples, which is skipped.
        clustered: None as above.
    """

    step: int
    logits: Tensor
    features: list[Tensor] | None
    clustered: Clustered | None


class Scale(NamedTuple):
    """Lengths that the plans give.

    Attributes:
        pixel: height and width of a pixel, in half longer sides of the patch; None: see
            :func:`nnunet_ext.s2vnet.position.positions`.
        gap: mm between two slices.
    """

    pixel: tuple[float, float] | None = None
    gap: float = 1.0

    @classmethod
    def of(cls, spacing: Sequence[float], patch: Sequence[int], gap: float) -> Scale:
        """Return the lengths of plans: mm of rows and columns, their number in a patch, and mm between slices."""
        longest = max(mm * number for mm, number in zip(spacing, patch, strict=True)) / 2
        return cls((spacing[0] / longest, spacing[1] / longest), gap)


AS_GIVEN = Scale()
"""Scale without plans."""

NO_SLICES = Bank()
"""Memory at the first slice."""

CLUSTERING = ("prompting.project.", "layers.", "pixels.key.")
"""Names of the weights that are multiplied with features, and thus with places."""


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
        scale: of the plans.

    Raises:
        InputError: the network is not 2D.
    """

    def __init__(
        self,
        planned: PlannedUNet,
        heads: LabelHeads,
        options: S2VNetOptions,
        propagates: bool,
        scale: Scale = AS_GIVEN,
    ) -> None:
        super().__init__()
        if planned.dim != 2:
            raise InputError(
                f"S2VNet needs a network with 2D layers, but the plans describe a {planned.dim}D network; "
                "train configuration 2d."
            )
        self.encoder = planned.encoder
        self.decoder = planned.decoder
        self.planned = planned
        planned.decoder.seg_layers.requires_grad_(True)  # the auxiliary loss trains the coarser ones, too
        self.label_heads = heads
        self.options = options
        coarsest = min(options.stages, planned.n_stages - 2)
        self.stages = list(range(coarsest, 0, -1)) or [0]
        self.owners = heads.owners(options.centres, options.background_centres)
        width = options.width
        self.scale = scale
        places = PLACES if options.position else 0
        channels = [planned.channels[stage] + places for stage in self.stages]
        self.centres = nn.Parameter(torch.randn(len(self.owners), width))
        self.aggregation = CentroidAggregation(width, options.heads, options.aggregation) if propagates else None
        self.prompting = PromptedCentres(channels, width, self.owners, options.click_decay)
        per_layer = [number for number in channels for _ in range(options.layers)]
        self.stage_of_layer = [stage for stage in self.stages for _ in range(options.layers)]
        self.layers = nn.ModuleList(KMeansLayer(number, width, options.heads) for number in per_layer)
        self.pixels = CosineLogits(planned.channels[0] + places, width, options.embedding, biased=True)
        remembers = propagates and options.mask_memory
        self.memory = nn.ModuleList(MaskMemory(number, heads.num_labels) for number in channels if remembers)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        complete(state_dict, prefix, self)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

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
        placed = [self._placed(features[stage], size) for stage in self.stages]
        evidence = [self._evidence(index, feature, bank) for index, feature in enumerate(placed)]
        with full_precision(features[0]):
            if self.aggregation is None or not bank.centres:
                centres = self.centres.expand(len(features[0]), -1, -1)
            else:
                centres = self.aggregation(self.centres, bank)
        centres = self.prompting(centres, placed, prompts, size)
        logits = []
        for stage, layer in zip(self.stage_of_layer, self.layers, strict=True):
            index = self.stages.index(stage)
            known = evidence[index]
            centres, found = layer(centres, placed[index], None if known is None else known[:, self.owners])
            logits.append(self.label_heads.label_logits(found, self.owners))
        final = self._final(centres, features[0], evidence[-1])
        return Clustered(final, centres, logits, soft_mask(final, placed[-1].shape[2:]) if self.memory else None)

    def slice_logits(self, centres: Tensor, features: Sequence[Tensor], bank: Bank) -> Tensor:
        """Logits ``(B, L, H, W)`` of labels of a slice with known final centres, as :meth:`cluster` gave them.

        Args:
            centres: ``(B, N, D)``.
            features: of :meth:`features`.
            bank: that the slice was segmented with; of it only the mask counts.
        """
        finest = self._placed(features[self.stages[-1]], features[0].shape[2:])
        return self._final(centres, features[0], self._evidence(-1, finest, bank))

    def embedding(self, features: Sequence[Tensor]) -> Tensor:
        """Keys of all pixels, ``(B, K, H, W)``, each of length 1: those of alike pixels point the same way.

        Args:
            features: of :meth:`features`.
        """
        return self.pixels.keys(self._placed(features[0], features[0].shape[2:]))

    def _placed(self, feature: Tensor, size: Sequence[int]) -> Tensor:
        return with_positions(feature, size, self.scale.pixel) if self.options.position else feature

    def _evidence(self, index: int, placed: Tensor, bank: Bank) -> Tensor | None:
        """``(B, L, h, w)``, of labels, from the mask of the slice before; None if nothing is remembered."""
        if not self.memory or bank.mask is None or bank.masked is None:
            return None
        gap = torch.full((len(placed),), self.scale.gap, device=placed.device) if bank.gap is None else bank.gap
        return self.memory[index](placed, bank.mask, bank.masked, (gap / self.scale.gap).log())

    def _final(self, centres: Tensor, feature: Tensor, evidence: Tensor | None) -> Tensor:
        size = feature.shape[2:]
        logits = self.label_heads.label_logits(self.pixels(centres, self._placed(feature, size)), self.owners)
        return logits if evidence is None else logits + interpolate(evidence, size, mode="bilinear")

    def where_image(self, logits: Tensor, there: Tensor) -> Tensor:
        """Logits ``(B, L, …)`` of labels; surely background in samples where ``there``, ``(B,)``, is False."""
        background = torch.full_like(logits, -SURE)
        background[:, 0] = SURE
        return torch.where(there.view(-1, *[1] * (logits.ndim - 1)), logits, background)

    # -- a clip ----------------------------------------------------------------------------------------------------

    def segment(
        self,
        pyramid: Sequence[Tensor],
        prompts: Prompts,
        there: Tensor,
        gap: Tensor | None = None,
        single: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits of a whole clip from its features, with gradients through all slices; used in training.

        Args:
            pyramid: features ``(B, T, C, h, w)``, finest first.
            prompts: on any of the slices.
            there: ``(B, T)`` bool, False for padding.
            gap: ``(B,)``, mm between two slices; None: as planned.
            single: ``(B,)`` bool, clips whose slices do not know each other; none by default.

        Returns:
            Of labels: final logits ``(B, L, T, H, W)``, and those of each k-means layer ``(B, L, T, h, w)``.
        """
        bank, found = Bank(gap=gap), []
        # not indexed slice by slice: the gradient of each index would be as large as the whole clip
        for t, features in enumerate(zip(*(feature.unbind(1) for feature in pyramid), strict=True)):
            if single is not None:
                bank = bank.without(single)
            if self.training:
                bank = self._less_sure(bank, there)
            one = self.cluster(features, bank, prompts.on_slice(t))
            bank = bank.remember(one.centres, there[:, t], self.options.bank, one.mask)
            found.append([self.where_image(x, there[:, t]) for x in (one.logits, *one.layers)])
        final, *layers = [torch.stack(part, 2) for part in zip(*found, strict=True)]
        return final, layers

    def _less_sure(self, bank: Bank, there: Tensor) -> Bank:
        """Return a bank for training: empty for some samples, without a mask or with a wrong one for others."""
        options = self.options

        def some(share: float) -> Tensor:
            return torch.rand(len(there), device=there.device) < share

        if options.state_dropout:
            bank = bank.without(some(options.state_dropout))
        if bank.mask is not None:
            mask = corrupted(bank.mask, options.mask_corruption)
            bank = replace(bank, mask=mask).without_mask(some(options.mask_dropout))
        return bank

    def propagate(
        self,
        slices: Iterable[Tensor],
        there: Tensor,
        prompts: Callable[[int], Prompts] | None = None,
        features_of: Callable[[int, Tensor], list[Tensor]] | None = None,
        bank: Bank = NO_SLICES,
        recall: Callable[[int, Bank], Bank] | None = None,
    ) -> Iterator[Passed]:
        """Segment slices one after the other, with the features of one slice in memory; used in inference.

        Drop a result before you ask for the next slice, or the features of two slices are in memory.

        Args:
            slices: each ``(B, C, H, W)``, T of them, in the order in which centres propagate.
            there: ``(B, T)`` bool, False for padding.
            prompts: returns those on the slice at a step; none by default.
            features_of: returns the features of the slice at a step, for a caller who may know them already.
            bank: of the slices before these, and mm between two slices.
            recall: replaces the memory at a step, for :mod:`nnunet_ext.s2vnet.memory_test`.

        Yields:
            One slice after the other.
        """
        nobody = Prompts.none(len(there), there.device)
        for t, (x, present) in enumerate(zip(slices, there.unbind(1), strict=True)):
            features, one = None, None
            if present.any():
                features = features_of(t, x) if features_of else self.features(x)
                known = bank if recall is None else recall(t, bank)
                one = self.cluster(features, known, prompts(t) if prompts else nobody)
                bank = bank.remember(one.centres, present, self.options.bank, one.mask)
                logits = one.logits
            else:
                logits = x.new_zeros(len(x), self.label_heads.num_labels, *x.shape[2:], dtype=torch.float32)
            logits = self.label_heads.head_logits(self.where_image(logits, present))
            found = [Passed(t, logits, features, one)]
            del logits, features, one  # a chain that waits, as others pass, holds no features
            yield found.pop()

    # -- what nnU-Net calls ----------------------------------------------------------------------------------------

    # the call itself stays eager and its backbone is compiled, see cluster
    @torch.compiler.disable(recursive=False)
    def forward(
        self, x: Tensor, interact: Interact | None = None, gap: Tensor | None = None, single: Tensor | None = None
    ) -> Tensor | list[Tensor] | tuple[Tensor | list[Tensor], Supervision]:
        """Segment clips of slices.

        Args:
            x: ``(B, C, T, H, W)`` or ``(B, C, H, W)``.
            interact: in training, who gives prompts; nobody by default.
            gap: ``(B,)``, mm between two slices; as planned by default.
            single: in training, ``(B,)`` bool, clips whose slices do not know each other; none by default.

        Returns:
            Final logits ``(B, heads, T, H, W)``; with deep supervision a list of these and those of the coarser planned
            segmentation layers. In training a tuple of that and :class:`Supervision`.
        """
        if x.ndim == 4:
            return _squeezed(self.forward(x[:, :, None], interact, gap))
        return self._train_clip(x, interact, gap, single) if self.training else self._predict_clip(x, gap)

    def _train_clip(
        self, x: Tensor, interact: Interact | None, gap: Tensor | None, single: Tensor | None
    ) -> tuple[Tensor | list[Tensor], Supervision]:
        batch, length = x.shape[0], x.shape[2]
        there = slices_with_image(x)
        features = self.features(x.transpose(1, 2).flatten(0, 1))
        pyramid = [f.unflatten(0, (batch, length)) for f in features]
        prompts = Prompts.none(batch, x.device)
        if interact is not None:
            known = [f.detach() for f in pyramid]
            with torch.no_grad():
                prompts = interact(lambda given: self.segment(known, given, there, gap, single)[0].argmax(1))
            # not in every version of PyTorch does autocast cast again what it cast without gradients
            torch.clear_autocast_cache()
        final, layers = self.segment(pyramid, prompts, there, gap, single)
        to_heads = self.label_heads.head_logits
        auxiliary = [
            logits.unflatten(0, (batch, length)).transpose(1, 2) for logits in self.planned.logits(features, True)
        ]
        output = to_heads(final)
        clusters = [(stage, to_heads(logits)) for stage, logits in zip(self.stage_of_layer, layers, strict=True)]
        supervision = Supervision(clusters, auxiliary)
        return ([output, *auxiliary[1:]] if self.decoder.deep_supervision else output), supervision

    def _predict_clip(self, x: Tensor, gap: Tensor | None) -> Tensor | list[Tensor]:
        found: list[Tensor] = []
        length = x.shape[2]
        for passed in self.propagate(x.unbind(2), slices_with_image(x), bank=Bank(gap=gap)):
            t, parts = passed.step, [passed.logits]
            if self.decoder.deep_supervision:
                features = self.features(x[:, :, t]) if passed.features is None else passed.features
                parts += self.planned.logits(features, True)[1:]
            if not found:
                # as large as the whole result, so filled in place, and on a GPU in the precision in which nnU-Net adds
                # up tiles; bfloat16, of a CPU, is too coarse for logits
                half = x.device.type == "cuda" and torch.is_autocast_enabled("cuda")
                kind = torch.get_autocast_dtype("cuda") if half else torch.float32
                found = [p.new_empty(*p.shape[:2], length, *p.shape[2:], dtype=kind) for p in parts]
            for whole, part in zip(found, parts, strict=True):
                whole[:, :, t] = part
            del passed, parts, part
        return found if self.decoder.deep_supervision else found[0]


def is_older(weights: Mapping[str, Tensor], network: S2VNet) -> bool:
    """Whether weights are older than the positions or masks that a network has."""
    own = network.state_dict()
    known = {name.removeprefix("module.").removeprefix("_orig_mod."): value.shape for name, value in weights.items()}
    return any(known.get(n) != x.shape for n, x in own.items() if n.startswith(("memory.", *CLUSTERING)))


def complete(weights: dict[str, Any], prefix: str, network: S2VNet) -> None:
    """Complete weights that are older than positions and masks, in place; the network then computes as it did.

    Args:
        weights: of a state dict.
        prefix: of the names of the network in it.
        network: that will load them.
    """
    for name, own in network.state_dict().items():
        known = weights.get(prefix + name)
        if known is None:
            if name.startswith("memory.") and f"{prefix}centres" in weights:
                weights[prefix + name] = torch.zeros_like(own) if name.endswith("scale") else own
        elif (
            name.startswith(CLUSTERING)
            and own.ndim > 1
            and known.ndim == own.ndim
            and own.shape[1] - known.shape[1] == PLACES
        ):
            weights[prefix + name] = torch.cat((known, known.new_zeros(len(known), PLACES, *known.shape[2:])), 1)


def _squeezed(output: Any) -> Any:
    """Return the result of :meth:`S2VNet.forward` for one slice, without its axis."""
    if isinstance(output, Tensor):
        return output[:, :, 0]
    if isinstance(output, Supervision):
        return Supervision([(s, z[:, :, 0]) for s, z in output.clusters], [a[:, :, 0] for a in output.auxiliary])
    return type(output)(_squeezed(part) for part in output)
