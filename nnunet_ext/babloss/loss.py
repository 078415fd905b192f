"""The bridge: a landmark on an organ's surface and the boundary of that organ should be in the same place.

Two terms, each on one and the same image, each with a gradient to one side only:

* A, :meth:`BridgeLoss.landmark_pulls_boundary`: the landmark is known. With L a Gaussian around it and D the boundary
  distance map of the predicted organ, the term is ``1 − Σ L·D / Σ L``. The gradient goes to the segmentation.
* B, :meth:`BridgeLoss.boundary_pulls_landmark`: the organ is labelled. With q the predicted heatmap h around its
  largest voxel, sharpened to ``h^β`` and divided by its sum, and D the map of the label, the term is ``1 − Σ q·D``. The
  gradient goes to the landmark. β makes q a Gaussian as narrow as L if h is as wide as the targets of the heatmaps.

The end of the image is no surface: what lies beyond, where a patch reaches out of the image, does not count in D.

A landmark that lies on several organs has the mean of their terms; the loss is the mean over the landmarks of a sample
and then over the samples, of the pairs that take part. These do not:

* A: a landmark less than a voxel from the edge of the patch, and an organ that is not predicted near it, or is
  predicted everywhere near it: there is no boundary to pull.
* B: a landmark that the network does not see in this patch (no voxel above 0.3) or sees at its very edge, an organ that
  does not occur in the patch, and a landmark with an ignored voxel among those that decide its D. There the boundary
  may be elsewhere, and with D from half a label the landmark would be pulled to the border of the annotated part.

Deviations from the published code (:mod:`~nnunet_ext.babloss.published`), each with its reason:

* *The boundary has a gradient.* In the code the distance map is constant and is multiplied by the probability, whose
  gradient sharpens the boundary where it is; outside of the organ it even pushes the probability at the landmark down.
* *Both sides of a term are of the same image.* The code compares the landmarks of one patient with the organs of
  another, which means something only if all patients are aligned.
* *A window around the landmark, divided by its mass.* The code divides by the number of voxels of the volume at which
  the Gaussian is not exactly 0, so its loss is 0.999 whatever is predicted.
* *Probabilities*, not raw outputs, with which the loss has no lower bound.
* *A much narrower Gaussian* (0.5 voxels instead of 5), in both directions. Organs are convex at most landmarks, and a
  wide Gaussian on a convex surface lies for the most part outside. So the best place of a whole heatmap of 4 voxels
  is the centre of every ball of radius 6 or less, and the best ball for a fixed landmark is 0.6 (radius 10) to 1.8
  voxels (radius 2) too large with 2 voxels. With 0.5, the best place is 0.0 to 0.2 voxels inside the surface (radius
  3 to 16; 0.5 at most, in the worst of six positions on the grid), and the best ball with a sharp edge is 0.1 voxels
  too large (radius 4 to 10; 0.2 at 3, 0.3 at 2; between slices of twice the thickness 0.2 to 0.5). Where the
  probability falls over four voxels, small balls become larger (0.9 voxels at radius 3, 0.2 at 6, whatever the
  Gaussian): the term then asks for certainty.
* *Expectation rather than cosine* (the published figure shows 1 − cosine). The cosine is an option of A, where both
  have their optimum at the landmark. In B the best heatmap for a cosine is the whole surface.
* *Distances in mm*, so that thick slices are far apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from nnunet_ext.babloss.boundary_distance import inner_boundary_distance, radius_steps, reach
from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.points import State

Organ = tuple[int, ...]
Similarity = Literal["expectation", "cosine"]
CUT = 3.0  # sigmas at which a Gaussian ends; it is exp(−4.5) = 0.011 there
EDGE = 1.0  # voxels from the edge of the patch within which a point does not take part


class Bridge(NamedTuple):
    """A direction of the loss.

    Attributes:
        loss: scalar, float32 or wider, within [0, 1]; 0 with a gradient of 0 if nothing takes part.
        active: how many pairs of landmark and organ took part, for the log.
    """

    loss: Tensor
    active: Tensor


class BridgeLoss(nn.Module):
    """Both directions of the bridge.

    Args:
        organs: for each of the K landmarks, the organs on whose surfaces it lies; may be empty. An organ is a tuple of
            channels of the segmentation: the classes of which it is the union, or one region.
        spacing: of the patch, mm, one number per spatial axis. All other lengths are in voxels of the finest.
        levels: n, the distance from which boundary and landmark do not see each other. Published: 4 to 14, best 8
            (knee) and 6 (brain).
        sigma: of the Gaussian L around a known landmark, and of q.
        heatmap_sigma: of the heatmaps that the network is taught, for β = (heatmap_sigma / sigma)².
        similarity: of direction A. A cosine needs a wider sigma, such as 2.
        exclusive: channels are classes (softmax) rather than regions (sigmoid).
        seen: probability above which the network sees a landmark in the patch.

    Raises:
        InputError: an organ has no channel or a negative one, or is a union of regions; a length is not positive.
    """

    def __init__(
        self,
        organs: Sequence[Sequence[Organ]],
        spacing: Sequence[float],
        *,
        levels: int = 8,
        sigma: float = 0.5,
        heatmap_sigma: float = 4.0,
        similarity: Similarity = "expectation",
        exclusive: bool = True,
        seen: float = 0.3,
    ) -> None:
        super().__init__()
        for k, of_landmark in enumerate(organs):
            for organ in of_landmark:
                if not organ or min(organ) < 0 or (len(organ) > 1 and not exclusive):
                    raise InputError(
                        f"Landmark {k} lies on the organ {organ}, but an organ is a tuple of channels from 0 on, with "
                        "exactly one channel if the channels are regions."
                    )
        if not 0 < sigma <= heatmap_sigma:
            raise InputError(
                f"Sigmas of {sigma} and {heatmap_sigma} voxels were given, but they must be positive, and the first at "
                "most the second."
            )
        if similarity not in get_args(Similarity):
            raise InputError(f"The similarity is {similarity!r}, but it must be one of {get_args(Similarity)}.")
        self.organs = tuple(tuple(of_landmark) for of_landmark in organs)
        self.steps = radius_steps(levels, spacing)
        # in voxels; at least a third, so that some voxel lies within three sigmas of a point between thick slices
        self.sigma = tuple(max(sigma * min(spacing) / mm, 1 / 3) for mm in spacing)
        self.sharpness = (heatmap_sigma / sigma) ** 2
        self.similarity = similarity
        self.exclusive = exclusive
        self.seen = seen

    def landmark_pulls_boundary(
        self, logits: Tensor, points: Tensor, states: Tensor, use: Tensor, inside: Tensor | None = None
    ) -> Bridge:
        """Direction A.

        Args:
            logits: ``(B, C, *spatial)`` of the segmentation.
            points: ``(B, K, dim)``, voxels of the patch; nan is harmless where a landmark is not present.
            states: ``(B, K)``, values of ``State``; only present landmarks take part.
            use: ``(B, K)`` bool, or ``(B, K, O)`` of :meth:`organs_with`; and of these only where it is True.
            inside: ``(B, 1, *spatial)`` bool, where the image is; everywhere by default.
        """
        with torch.autocast(logits.device.type, enabled=False):
            self._check(logits, points)
            nothing = _nothing(logits)
            shape = logits.shape[2:]
            last = torch.tensor(shape, device=points.device) - 1
            within = ((points >= EDGE) & (points <= last - EDGE)).all(-1)
            use = _by_organ(use)
            b, k = (use.any(2) & (states == State.PRESENT) & within).nonzero(as_tuple=True)
            if not len(b):
                return Bridge(nothing, torch.zeros_like(b).sum())
            points = points.detach()[b, k].to(nothing.dtype)
            # rounding by half a voxel included, no voxel nearer than three sigmas is left out
            window = _Window(shape, points.round().long(), [math.floor(CUT * s + 0.5) for s in self.sigma], self.steps)
            near = window.take(logits, b).to(nothing.dtype)
            near = near.softmax(1) if self.exclusive else near.sigmoid()
            organs = self._organs(near, k)
            image = None if inside is None else window.take(inside, b)
            sides = organs if image is None else organs.where(image, 0.5)
            active = (sides > 0.5).flatten(2).any(2) & (sides < 0.5).flatten(2).any(2)
            weight = (window.gaussian(points, self.sigma) * window.inside).flatten(1)[:, None]
            distance = inner_boundary_distance(organs, self.steps, image).flatten(2) * window.inside.flatten(1)[:, None]
            similarity = (weight * distance).sum(2)
            if self.similarity == "expectation":
                similarity = similarity / weight.sum(2)
            else:
                # the root of a square that is 0 has no gradient
                lengths = weight.square().sum(2) * distance.square().sum(2)
                similarity = similarity / lengths.clamp(min=1e-12).sqrt()
            return _mean(1 - similarity, active & use[b, k], b)

    def boundary_pulls_landmark(
        self,
        landmark_logits: Tensor,
        one_hot: Tensor,
        annotated: Tensor,
        states: Tensor,
        use: Tensor,
        inside: Tensor | None = None,
    ) -> Bridge:
        """Direction B.

        Args:
            landmark_logits: ``(B, K, *spatial)``.
            one_hot: ``(B, C, *spatial)``, the labels as channels of the segmentation.
            annotated: ``(B, 1, *spatial)`` bool, False where the label is "ignore".
            states: ``(B, K)``, values of ``State``; only unknown landmarks take part.
            use: ``(B, K)`` bool, or ``(B, K, O)`` of :meth:`organs_with`; and of these only where it is True.
            inside: ``(B, 1, *spatial)`` bool, where the image is; everywhere by default.
        """
        with torch.autocast(landmark_logits.device.type, enabled=False):
            self._check(one_hot)
            nothing = _nothing(landmark_logits)
            shape = landmark_logits.shape[2:]
            last = torch.tensor(shape, device=landmark_logits.device) - 1
            highest, where = landmark_logits.detach().flatten(2).max(2)
            peaks = torch.stack(_unravel(where, shape), -1)
            within = ((peaks >= EDGE) & (peaks <= last - EDGE)).all(-1)
            seen = highest.to(nothing.dtype).sigmoid() >= self.seen
            use = _by_organ(use)
            b, k = (use.any(2) & (states == State.UNKNOWN) & within & seen).nonzero(as_tuple=True)
            if not len(b):
                return Bridge(nothing, torch.zeros_like(b).sum())
            window = _Window(shape, peaks[b, k], [math.ceil(CUT * s) for s in self.sigma], self.steps)
            with torch.no_grad():
                organs = self._organs(window.take(one_hot, b).to(nothing.dtype), k)
                image = None if inside is None else window.take(inside, b)
                distance = inner_boundary_distance(organs, self.steps, image).flatten(2)
                occurs = self._organs(one_hot.flatten(2).amax(2)[b].to(nothing.dtype), k) > 0
                known = window.take(annotated, b).flatten(1).all(1)
            # h^β divided by its sum, in logarithms
            heatmap = self.sharpness * logsigmoid(window.take_inner(landmark_logits, b, k).to(nothing.dtype))
            heatmap = heatmap.masked_fill(~window.inside, -math.inf).flatten(1).softmax(1)
            return _mean(1 - (heatmap[:, None] * distance).sum(2), occurs & known[:, None] & use[b, k], b)

    def organs_with(self, channels: Tensor) -> Tensor:
        """The organs of each landmark that consist of these channels alone.

        Args:
            channels: ``(B, C)`` bool, of the segmentation.

        Returns:
            ``(B, K, O)`` bool, False where a landmark has fewer than O organs.
        """
        members = self._members(channels.shape[1]).to(channels.device).bool()
        return members.any(2) & ~(members & ~channels[:, None, None]).any(3)

    def _members(self, channels: int) -> Tensor:
        """``(K, O, C)``, 1 where an organ of a landmark has a channel; O is the same for all, surplus entries are 0."""
        members = torch.zeros(len(self.organs), max(1, *map(len, self.organs)), channels)
        for landmark, of_landmark in enumerate(self.organs):
            for o, organ in enumerate(of_landmark):
                members[landmark, o, list(organ)] = 1
        return members

    def _organs(self, channels: Tensor, k: Tensor) -> Tensor:
        """The organs of each landmark.

        Args:
            channels: ``(N, C, *any)``, of the segmentation.
            k: ``(N,)``, indices of landmarks.

        Returns:
            ``(N, O, *any)``: unions of channels; a surplus entry is 0, an organ that does not occur.
        """
        members = self._members(channels.shape[1]).to(channels)[k]
        return (members @ channels.reshape(*channels.shape[:2], -1)).view(*members.shape[:2], *channels.shape[2:])

    def _check(self, channels: Tensor, points: Tensor | None = None) -> None:
        dim, needed = len(self.sigma), max((c for o in self.organs for organ in o for c in organ), default=0) + 1
        if channels.ndim != dim + 2 or channels.shape[1] < needed:
            raise InputError(
                f"A segmentation of shape {tuple(channels.shape)} was given, but the spacing has {dim} axes and the "
                f"organs need {needed} channels: (B, C, *spatial) with C of at least {needed} is expected."
            )
        if points is not None and tuple(points.shape) != (len(channels), len(self.organs), dim):
            raise InputError(
                f"Points of shape {tuple(points.shape)} were given, but (batch, landmarks, axes) is "
                f"{(len(channels), len(self.organs), dim)}."
            )


class _Window:
    """Boxes of equal size around N centres of a patch, and the voxels around them that decide their distance map.

    Beyond the patch the voxel at its edge is repeated, which changes no maximum over a box.

    Attributes:
        inside: ``(N, *size)`` bool, of the boxes: is the voxel in the patch?
    """

    def __init__(
        self, shape: Sequence[int], centres: Tensor, radius: Sequence[int], steps: tuple[tuple[int, ...], ...]
    ) -> None:
        self.shape = shape
        self.inner = [self._indices(centres, axis, r) for axis, r in enumerate(radius)]
        far = [r + more for r, more in zip(radius, reach(steps), strict=True)]
        self.outer = [self._indices(centres, axis, r) for axis, r in enumerate(far)]
        self.inside = _outer(torch.logical_and, [(i >= 0) & (i < n) for i, n in zip(self.inner, shape, strict=True)])

    def take(self, x: Tensor, b: Tensor) -> Tensor:
        """``(B, C, *shape)``, samples ``(N,)`` → ``(N, C, *size)`` of the larger boxes."""
        flat = self._flat(self.outer)
        taken = x.flatten(2)[b[:, None], :, flat.flatten(1)].transpose(1, 2)
        return taken.reshape(len(b), x.shape[1], *flat.shape[1:])

    def take_inner(self, x: Tensor, b: Tensor, k: Tensor) -> Tensor:
        """``(B, K, *shape)``, samples and channels ``(N,)`` → ``(N, *size)`` of the boxes."""
        flat = self._flat(self.inner)
        return x.flatten(2)[b[:, None], k[:, None], flat.flatten(1)].view(flat.shape)

    def gaussian(self, points: Tensor, sigma: Sequence[float]) -> Tensor:
        """``(N, dim)`` → ``(N, *size)``, 0 from three sigmas on."""
        squares = _outer(
            torch.add,
            [
                ((i - points[:, axis, None]) / s).square()
                for axis, (i, s) in enumerate(zip(self.inner, sigma, strict=True))
            ],
        )
        return torch.where(squares > CUT**2, 0.0, torch.exp(-squares / 2))

    @staticmethod
    def _indices(centres: Tensor, axis: int, radius: int) -> Tensor:
        return centres[:, axis, None] + torch.arange(-radius, radius + 1, device=centres.device)

    def _flat(self, indices: Sequence[Tensor]) -> Tensor:
        """``(N, *size)`` indices into a flat patch."""
        result = torch.zeros((), dtype=torch.long, device=indices[0].device)
        for axis, (i, n) in enumerate(zip(indices, self.shape, strict=True)):
            i = i.clamp(0, n - 1).view(len(i), *[1] * axis, -1)
            result = result[..., None] * n + i if axis else i
        return result


def _outer(combine: Callable[[Tensor, Tensor], Tensor], axes: Sequence[Tensor]) -> Tensor:
    """``(N, size)`` per axis → ``(N, *sizes)``."""
    result = axes[0]
    for axis, values in enumerate(axes[1:], start=1):
        result = combine(result[..., None], values.view(len(values), *[1] * axis, -1))
    return result


def _unravel(flat: Tensor, shape: Sequence[int]) -> list[Tensor]:
    indices = []
    for n in reversed(shape):
        indices.append(flat % n)
        flat = flat // n
    return indices[::-1]


def _by_organ(use: Tensor) -> Tensor:
    """``(B, K)`` or ``(B, K, O)`` → bool ``(B, K, 1 or O)``."""
    return (use if use.ndim == 3 else use[..., None]).bool()


def _nothing(x: Tensor) -> Tensor:
    """Zero, whatever the values of ``x``, connected to it and at least float32."""
    return x[:0].sum(dtype=torch.promote_types(x.dtype, torch.float32))


def _mean(terms: Tensor, active: Tensor, b: Tensor) -> Bridge:
    """Mean over the organs of a landmark, then the landmarks of a sample, then the samples, of what is active.

    Args:
        terms: ``(N, O)``.
        active: ``(N, O)`` bool.
        b: ``(N,)``, the sample of each row.
    """
    organs = active.sum(1)
    per_landmark = (terms * active).sum(1) / organs.clamp(min=1)
    takes_part = (organs > 0).to(terms.dtype)
    landmarks = torch.zeros(int(b.max()) + 1, dtype=terms.dtype, device=terms.device).index_add(0, b, takes_part)
    samples = (landmarks > 0).sum().clamp(min=1)
    weights = takes_part / landmarks.clamp(min=1)[b] / samples
    return Bridge((per_landmark * weights).sum(), active.sum())
