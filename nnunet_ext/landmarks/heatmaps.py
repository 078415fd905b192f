"""Landmarks as images: targets (a Gaussian or a ball), the loss on them, and decoding to coordinates.

Positions are in voxels of the patch: 0 is the centre of the first voxel of an axis. Sigma is chosen in mm but given in
voxels per axis, because the spacing differs between axes. Targets are rendered on the device from coordinates, so no
dense array is loaded. The loss renders them channel by channel, to save memory.

The default loss follows nnLandmark (BCE, mean over the hardest 20 % of a channel's voxels), with a Gaussian target. In
a larger patch 20 % are more voxels, and the landmark has a smaller share of the gradient: 23 times less in 128³ than in
40×56×40. So here the number of voxels is a multiple of the mass of the Gaussian, and a landmark has the same pull in
any patch. A second term, :class:`PlaceLoss`, is ours. nnLandmark's own target, a ball that falls linearly from its
centre, is an option: there it is the distance transform of a ball of 15 voxels, divided by its largest value, with the
centre on a voxel. :class:`PaperHeatmapLoss` is the loss of the published code, whose targets reach 255.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from nnunet_ext.errors import InputError
from nnunet_ext.landmarks.points import State

Target = Literal["gaussian", "ball"]
FIT_RADIUS = 3.5  # voxels
NEAR = math.exp(-4.5)  # height of a Gaussian at three sigmas
TRUNCATE = 3.0  # sigmas at which smoothing ends
LEAST = 8.0  # smallest number of voxels in the loss, as a multiple of a Gaussian's mass


def heatmaps(
    points: Tensor, states: Tensor, shape: Sequence[int], sigma: Sequence[float], across: Tensor | None = None
) -> Tensor:
    """Render a Gaussian of height 1 for each landmark in the patch; zeros for all other landmarks.

    A landmark that is present but outside the patch gets a target of zero, not the tail of a Gaussian. If the patch is
    a slice, landmarks of other slices get what their Gaussian in the volume is in this one.

    Args:
        points: ``(B, K, dim)``, voxels; values of landmarks that are neither present nor in another slice do not
            matter, not even nan.
        states: ``(B, K)``, values of :class:`~nnunet_ext.landmarks.points.State`.
        shape: shape of the patch, ``dim`` numbers.
        sigma: voxels, one per axis.
        across: ``(B, K)``, sigmas between this slice and that of the landmark, 0 if it is here; by default 0 for all.

    Returns:
        ``(B, K, *shape)``, float32 or wider.

    Raises:
        InputError: the number of axes differs, or a sigma is not positive.
    """
    seen, beyond, squares = _squares(points, states, shape, sigma, across, "sigmas")
    result = seen * _gaussian(beyond)
    for square in squares:  # a Gaussian is the product of those along its axes
        result = result[..., None] * _gaussian(square)
    return result


def balls(
    points: Tensor, states: Tensor, shape: Sequence[int], radius: Sequence[float], across: Tensor | None = None
) -> Tensor:
    """Render a ball for each landmark in the patch: 1 at the landmark, falling linearly to 0 at the radius.

    Arguments, result and errors are those of :func:`heatmaps`, with a radius (voxels, one per axis) instead of sigma.
    nnLandmark renders the same with its centre on a voxel.
    """
    seen, beyond, squares = _squares(points, states, shape, radius, across, "radii")
    result = beyond
    for square in squares:
        result = result[..., None] + square
    return seen.view(*seen.shape, *[1] * len(shape)) * _cone(result)


def _gaussian(squares: Tensor) -> Tensor:
    return torch.exp(-squares / 2)


def _cone(squares: Tensor) -> Tensor:
    return (1 - squares.sqrt()).clamp(min=0)


def _squares(
    points: Tensor, states: Tensor, shape: Sequence[int], widths: Sequence[float], across: Tensor | None, name: str
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Where a target is (1, else 0), and squares of distance by width: across slices, then along each axis.

    The first two are ``(B, K)``, the others ``(B, K, 1, …, 1, n)``, with a 1 for each earlier axis, so that a loop adds
    axis after axis.
    """
    dim = len(shape)
    if points.shape[-1] != dim or len(widths) != dim or min(widths) <= 0:
        raise InputError(
            f"Heatmaps of a patch of shape {tuple(shape)} need points with {dim} coordinates and {dim} positive {name},"
            f" but got points of shape {tuple(points.shape)} and {name} {tuple(widths)}."
        )
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    ends = torch.tensor(shape, device=points.device) - 0.5
    across = torch.zeros_like(points[..., 0]) if across is None else across.to(points.dtype)
    there = (states == State.PRESENT) | ((states == State.ABSENT) & (across > 0))
    seen = there & ((points >= -0.5) & (points <= ends)).all(-1)  # never for nan
    squares = []
    for axis, (size, width) in enumerate(zip(shape, widths, strict=True)):
        position = torch.where(seen, points[..., axis], 0.0).view(*seen.shape, *[1] * (axis + 1))
        voxels = torch.arange(size, device=points.device, dtype=points.dtype)
        squares.append(((voxels - position) / width).square())
    return seen.to(points.dtype), across.square(), squares


class _Shape(NamedTuple):
    """A target: how it is rendered, and its profile."""

    render: Callable[[Tensor, Tensor, Sequence[int], Sequence[float], Tensor | None], Tensor]
    height: Callable[[Tensor], Tensor]
    """Height at squares of distances, in widths."""
    near: float
    """Voxels higher than this are near the landmark."""
    mass: Callable[[int], float]
    """Its integral in so many dimensions, if all widths are 1."""


def _mass_of_gaussian(dim: int) -> float:
    return math.sqrt(2 * math.pi) ** dim


def _mass_of_cone(dim: int) -> float:
    return math.pi ** (dim / 2) / math.gamma(dim / 2 + 1) / (dim + 1)  # the volume of the ball, as the base of a cone


_SHAPES: dict[Target, _Shape] = {
    "gaussian": _Shape(heatmaps, _gaussian, NEAR, _mass_of_gaussian),
    "ball": _Shape(balls, _cone, 0.0, _mass_of_cone),
}


def _shape_of(target: Target) -> _Shape:
    if target not in _SHAPES:
        raise InputError(f"The target of heatmaps is {target!r}, but it must be one of {tuple(_SHAPES)}.")
    return _SHAPES[target]


class HeatmapLoss(nn.Module):
    """Binary cross entropy with a target, over a fixed number of voxels: those near the landmark, and the hardest.

    An absent landmark has a target of zero; an unknown one has no loss. In 2D a landmark of another slice has the
    target that a volume would have in this slice: neighbouring slices look alike, and a network that is told 1 in one
    of them and 0 in the next learns neither. The loss of a perfect heatmap is not 0 but the
    entropy of the target. The sum is divided by the fixed number of voxels even if the patch has fewer, so that a
    landmark has the same pull in any patch.

    Args:
        width: sigma of the Gaussian or radius of the ball, in voxels, one per axis.
        hardest: number of voxels in the loss, as a multiple of the mass of the target. For a Gaussian with a sigma of
            4, 18 is nnLandmark's 20 % of a patch of 40×56×40. All voxels within three sigmas of the landmark (7.2
            masses in 3D, 4.5 in 2D) or in the ball (4 masses in 3D, 3 in 2D) are among them.
        target: a Gaussian, or nnLandmark's ball.

    Raises:
        InputError: too few voxels, or an unknown target.
    """

    def __init__(self, width: Sequence[float], hardest: float = 18.0, target: Target = "gaussian") -> None:
        super().__init__()
        if not hardest >= LEAST:
            raise InputError(
                f"The hardest voxels are {hardest} times the mass of a target, but at least {LEAST} are needed, for "
                "those near the landmark and some others."
            )
        self.width, self.shape = tuple(width), _shape_of(target)
        self.count = math.ceil(hardest * self.shape.mass(len(width)) * math.prod(width))

    def forward(self, logits: Tensor, points: Tensor, states: Tensor, across: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch.

        Args:
            logits: ``(B, K, *spatial)``.
            points: ``(B, K, dim)``, voxels.
            states: ``(B, K)``, values of ``State``.
            across: ``(B, K)``, widths between this slice and that of the landmark; by default 0.

        Returns:
            Scalar, float32 or wider: the mean over all known landmarks of the batch. If all are unknown, 0 with a
            gradient of 0.
        """
        return _mean_over_known(logits, points, states, across, self.shape, self.width, self._channel)

    def _channel(self, logits: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            each = binary_cross_entropy_with_logits(logits, target, reduction="none")
            each[target > self.shape.near] = math.inf
            chosen = each.topk(min(self.count, each.numel()), sorted=False).indices
        # compute again at the chosen voxels, so that autograd keeps nothing of the others
        return binary_cross_entropy_with_logits(logits[chosen], target[chosen], reduction="sum") / self.count


class PlaceLoss(nn.Module):
    """Where in the patch a landmark is: the divergence of a heatmap's softmax over the patch from the target.

    It is the Kullback-Leibler divergence, 0 where the softmax is the target divided by its sum. A Gaussian ends at
    three sigmas. :class:`HeatmapLoss` also says whether the landmark is in the patch; but while a network does not see
    it, nearly all voxels ask for 0, and heatmaps stay flat for thousands of steps. A softmax compares places with each
    other, so it has no such plateau, and its gradient does not depend on the size of the patch.

    Args:
        width: sigma of the Gaussian or radius of the ball, in voxels, one per axis.
        target: a Gaussian, or nnLandmark's ball.

    Raises:
        InputError: an unknown target.
    """

    def __init__(self, width: Sequence[float], target: Target = "gaussian") -> None:
        super().__init__()
        self.width, self.shape = tuple(width), _shape_of(target)

    def forward(self, logits: Tensor, points: Tensor, states: Tensor, across: Tensor | None = None) -> Tensor:
        """Compute the loss of a batch; arguments as in :meth:`HeatmapLoss.forward`.

        Returns:
            Scalar, float32 or wider: the mean over the landmarks in the patch. In 2D landmarks of other slices count,
            too, by the height of their target. If there is none, 0 with a gradient of 0.
        """
        with torch.autocast(logits.device.type, enabled=False):
            dtype = torch.promote_types(logits.dtype, torch.float32)
            total = logits[:0].sum(dtype=dtype)  # an empty sum: 0, connected to the graph
            heights = self._heights(points, states, logits.shape[2:], across).to(dtype)
            weights = heights.new_zeros(())
            pairs = (heights > NEAR).nonzero().tolist()
            rendered = _with_targets(logits, pairs, points, states, across, self.shape, self.width)
            for (b, k), (values, target) in zip(pairs, rendered, strict=True):
                near = (target > self.shape.near).nonzero()[:, 0]
                if not len(near):  # narrower than a voxel, between voxels
                    continue
                # the logarithm of a softmax, at these voxels alone: autograd keeps nothing else
                share = target[near] / target[near].sum()
                divergence = torch.xlogy(share, share).sum() - share @ values[near] + values.logsumexp(0)
                total, weights = total + heights[b, k] * divergence, weights + heights[b, k]
            return total / weights.clamp(min=NEAR)

    def _heights(self, points: Tensor, states: Tensor, shape: Sequence[int], across: Tensor | None) -> Tensor:
        """Height of the target where the landmark is, ``(B, K)``; 0 if it has none in this patch."""
        seen, beyond, _ = _squares(points, states, shape, self.width, across, "widths")
        return seen * self.shape.height(beyond)


class PaperHeatmapLoss(nn.Module):
    """The mean squared error of the published code: outputs without activation, a Gaussian scaled to 255.

    The published code also stretches each batch to exactly 0..255. We leave that out: the Gaussian already is 255 at
    the landmark and 0 far from it.

    Args:
        width: sigma of the Gaussian in voxels, one per axis. The published code uses 5, in volumes resized to 128³.
        target: only a Gaussian is published.

    Raises:
        InputError: another target.
    """

    SCALE = 255.0
    """Divide outputs by this before :func:`decode`."""

    def __init__(self, width: Sequence[float], target: Target = "gaussian") -> None:
        super().__init__()
        if target != "gaussian":
            raise InputError(
                f"The published loss of heatmaps was given the target {target!r}, but has a Gaussian; use HeatmapLoss."
            )
        self.width = tuple(width)

    def forward(self, outputs: Tensor, points: Tensor, states: Tensor, across: Tensor | None = None) -> Tensor:
        """Compute :meth:`HeatmapLoss.forward` on outputs in units of 1/255."""
        return _mean_over_known(outputs, points, states, across, _SHAPES["gaussian"], self.width, self._channel)

    def _channel(self, output: Tensor, target: Tensor) -> Tensor:
        return mse_loss(output, self.SCALE * target)


def _mean_over_known(
    outputs: Tensor,
    points: Tensor,
    states: Tensor,
    across: Tensor | None,
    shape: _Shape,
    width: Sequence[float],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The mean of ``loss(output, target)``, both ``(voxels,)``, over the channels whose landmark is known."""
    with torch.autocast(outputs.device.type, enabled=False):
        dtype = torch.promote_types(outputs.dtype, torch.float32)
        known = (states != State.UNKNOWN).nonzero().tolist()
        total = outputs[:0].sum(dtype=dtype)  # an empty sum: 0, connected to the graph
        for output, target in _with_targets(outputs, known, points, states, across, shape, width):
            total = total + loss(output, target)
        return total / max(1, len(known))


def _with_targets(
    outputs: Tensor,
    pairs: Sequence[Sequence[int]],
    points: Tensor,
    states: Tensor,
    across: Tensor | None,
    shape: _Shape,
    width: Sequence[float],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Output and target of each pair of sample and landmark, both ``(voxels,)``, float32 or wider."""
    dtype = torch.promote_types(outputs.dtype, torch.float32)
    channels = outputs.flatten(2).flatten(0, 1).unbind()  # at once, so that the gradient is one tensor
    for b, k in pairs:
        beyond = None if across is None else across[b, k]
        target = shape.render(points[b, k], states[b, k], outputs.shape[2:], width, beyond)
        yield channels[b * outputs.shape[1] + k].to(dtype), target.flatten().to(dtype)


def decode(
    probabilities: Tensor | NDArray,
    nearness: Iterable[NDArray | None] | None = None,
    smoothing: float | Sequence[float] = 0.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the peaks of heatmaps, with subvoxel precision.

    The largest voxel of a channel is refined by a parabola, fitted to the logarithm of the voxels within 3.5 voxels of
    it and weighted by their squares (Guo 2011; exact for a Gaussian). If the parabola has no peak nearby, as in a flat
    or ragged heatmap, the peak is the centre of mass of these voxels. It never leaves the patch.

    Args:
        probabilities: ``(K, *shape)``, not negative, on any device.
        nearness: for each channel how near voxels are to where the landmark must lie, ``shape``, within [0, 1]; None:
            it may lie anywhere. The peak is then that of the product, unless the product is 0 everywhere. Where it is
            0, nothing is computed.
        smoothing: sigma, voxels, of a Gaussian filter on channels that have a nearness, before the product.

    Returns:
        Peaks ``(K, dim)`` in voxels, and the values of the heatmaps' largest voxels ``(K,)``, wherever these lie.

    Raises:
        InputError: a value is not finite.
    """
    volume = torch.as_tensor(probabilities).detach()
    flat, shape = volume.flatten(1), tuple(volume.shape[1:])
    if not bool(flat.isfinite().all()):
        raise InputError("Heatmaps hold values that are not finite; the network that made them has diverged.")
    points = []
    for channel, near in zip(volume, [None] * len(volume) if nearness is None else nearness, strict=True):
        start, sought = np.zeros(len(shape)), channel
        if near is not None and near.any():
            (box,) = find_objects((near > 0).view(np.int8))
            inside = _smoothed(channel, box, smoothing) * torch.as_tensor(near[box], device=channel.device)
            if bool(inside.any()):
                start, sought = np.array([axis.start for axis in box], float), inside
        peak = np.unravel_index(int(sought.argmax()), tuple(sought.shape))
        points.append(start + _refine(sought, [int(index) for index in peak], tuple(sought.shape)))
    return np.array(points, float).reshape(-1, len(shape)), flat.amax(1).cpu().double().numpy()


def _smoothed(channel: Tensor, box: tuple[slice, ...], sigma: float | Sequence[float]) -> Tensor:
    """A box of a channel, smoothed with a Gaussian, as if the whole channel had been smoothed.

    Beyond its edges the channel is mirrored, so that a peak at an edge stays there.
    """
    radius = np.ceil(TRUNCATE * np.broadcast_to(sigma, len(box))).astype(int) + 1
    wider = [slice(max(0, axis.start - r), axis.stop + r) for axis, r in zip(box, radius, strict=True)]
    inner = [slice(a.start - w.start, a.stop - w.start) for a, w in zip(box, wider, strict=True)]
    smoothed = gaussian_filter(channel[tuple(wider)].cpu().numpy(), sigma, mode="reflect", truncate=TRUNCATE)
    return torch.as_tensor(smoothed[tuple(inner)], device=channel.device)


def _refine(channel: Tensor, peak: Sequence[int], shape: Sequence[int]) -> NDArray[np.float64]:
    radius = int(FIT_RADIUS)
    box = [range(max(0, p - radius), min(n, p + radius + 1)) for p, n in zip(peak, shape, strict=True)]
    values = channel[tuple(slice(r.start, r.stop) for r in box)].cpu().double().numpy()
    offsets = np.stack(np.meshgrid(*[np.array(r) - p for r, p in zip(box, peak, strict=True)], indexing="ij"), -1)
    near = (offsets**2).sum(-1) <= FIT_RADIUS**2
    x, y = offsets[near].astype(float), values[near]
    if y.max() <= 0:
        return np.asarray(peak, float)
    offset = _peak_of_parabola(x, y)
    point = peak + (y @ x / y.sum() if offset is None else offset)
    return np.clip(point, -0.5, np.asarray(shape) - 0.5)


def _peak_of_parabola(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Peak of ``log y ≈ a + b·x + x·C·x``, fitted with weights y²; None without a peak within the radius of the fit.

    Args:
        x: ``(N, dim)``.
        y: ``(N,)``, not negative.
    """
    axes = [a for a in range(x.shape[1]) if len(np.unique(x[:, a])) >= 3]  # a parabola needs three voxels
    if not axes:
        return None
    x_fit = x[:, axes]
    pairs = list(itertools.combinations_with_replacement(range(len(axes)), 2))
    columns = [np.ones(len(y)), *x_fit.T, *(x_fit[:, i] * x_fit[:, j] for i, j in pairs)]
    y = y / y.max()
    solution = np.linalg.lstsq(np.stack(columns, 1) * y[:, None], y * np.log(np.maximum(y, 1e-12)), rcond=None)[0]
    linear, quadratic = solution[1 : 1 + len(axes)], np.zeros((len(axes),) * 2)
    for (i, j), c in zip(pairs, solution[1 + len(axes) :], strict=True):
        quadratic[i, j] += c
        quadratic[j, i] += c
    if np.linalg.eigvalsh(quadratic).max() > -1e-6:
        return None
    peak = np.zeros(x.shape[1])
    peak[axes] = -np.linalg.solve(quadratic, linear)
    # the largest voxel of a pure Gaussian is at most half a voxel from the peak along each axis; noise moves it farther
    return peak if np.linalg.norm(peak) <= FIT_RADIUS else None
