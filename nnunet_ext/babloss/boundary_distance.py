"""Nearness to the boundary of an organ that is only a probability: a map with a gradient that moves the boundary.

With B_r(v) the box of radius r around voxel v and n levels::

    D[p](v) = 1/n · Σ_{r=1..n} ( max_{u ∈ B_r(v)} p(u) − min_{u ∈ B_r(v)} p(u) )

Of a binary mask the r-th summand is 1 where inside and outside both occur within r voxels, so D is ``(n − d)/n`` with d
the chessboard distance to the two voxels on either side of the boundary: 1 there, 0 from n voxels on. This is the
distance map of the published code. Of a probability D is differentiable (almost everywhere): each level sends its
gradient to the most certain inside and the most certain outside voxel within r, that is, to the part of the organ that
is nearest, from either side.

Levels are computed from each other, ``max_{B_r} = max_{B_1} max_{B_{r−1}}``, one axis at a time, and the map only where
it is wanted: each level is as much smaller as its box is larger. For the backward pass one byte says which of three
neighbours won; the max pooling of PyTorch keeps its input and an int64, twelve bytes.

Voxels need not be isotropic: level r reaches ``r · finest spacing`` along each axis, in whole voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnunet_ext.errors import InputError

Steps = tuple[tuple[int, ...], ...]
"""For each level, by how many voxels (0 or 1) its box is larger than that of the level before, along each axis."""


def radius_steps(levels: int, spacing: Sequence[float]) -> Steps:
    """The boxes of ``levels`` levels: that of level r reaches ``r · min(spacing)``, rounded to whole voxels (half up).

    Args:
        levels: n, at least 1.
        spacing: of each spatial axis, in any unit.

    Raises:
        InputError: no level, or a spacing that is not positive.
    """
    if levels < 1 or not spacing or not min(spacing) > 0:
        raise InputError(
            f"A boundary distance of {levels} levels at spacing {tuple(spacing)} reaches nowhere; at least 1 level and "
            "positive spacings are expected."
        )
    # the small number is for quotients such as 3 · 0.3 / 1.8, which are a half but for their last digit
    radii = [[math.floor(r * min(spacing) / mm + 0.5 + 1e-6) for mm in spacing] for r in range(levels + 1)]
    return tuple(
        tuple(outer - inner for outer, inner in zip(radii[r], radii[r - 1], strict=True)) for r in range(1, levels + 1)
    )


def reach(steps: Steps) -> tuple[int, ...]:
    """Voxels from which the map at a voxel is computed, along each axis: the radius of the last box."""
    return tuple(sum(axis) for axis in zip(*steps, strict=True))


def boundary_distance(probability: Tensor, steps: Steps) -> Tensor:
    """The map D of a whole volume; voxels outside of it do not count.

    Args:
        probability: ``(…, *spatial)``, floating point, within [0, 1].
        steps: of :func:`radius_steps`, one number per spatial axis.

    Returns:
        Same shape and dtype, within [0, 1].
    """
    for axis, radius in enumerate(reach(steps), start=-len(steps[0])):
        # repeating the voxels at the edge adds nothing to any box that it did not hold before
        size = [radius if a == probability.ndim + axis else -1 for a in range(probability.ndim)]
        first, last = probability.narrow(axis, 0, 1), probability.narrow(axis, -1, 1)
        probability = torch.cat([first.expand(size), probability, last.expand(size)], axis)
    return inner_boundary_distance(probability, steps)


def inner_boundary_distance(probability: Tensor, steps: Steps, inside: Tensor | None = None) -> Tensor:
    """The map D where all of its boxes lie within the volume.

    Args:
        probability: ``(…, *spatial)``, floating point, within [0, 1].
        steps: of :func:`radius_steps`, one number per spatial axis.
        inside: bool, expandable to the shape of ``probability``; voxels where it is False do not count, as those
            outside of the volume. All count by default.

    Returns:
        ``(…, *smaller)``: ``reach(steps)`` voxels are missing on each side.
    """
    return _BoundaryDistance.apply(probability, steps, inside)


class _BoundaryDistance(torch.autograd.Function):
    """All levels in one pass over p and −p, because a minimum is a maximum."""

    @staticmethod
    def forward(ctx: Any, probability: Tensor, steps: Steps, inside: Tensor | None) -> Tensor:
        widest = torch.stack([probability, -probability])
        if inside is not None:  # the least that p and −p can be wins nowhere
            widest[0].masked_fill_(~inside, 0)
            widest[1].masked_fill_(~inside, -1)
        size = [n - 2 * r for n, r in zip(widest.shape[-len(steps[0]) :], reach(steps), strict=True)]
        keep = ctx.needs_input_grad[0]
        winners: list[Tensor] = []
        total = probability.new_zeros(*probability.shape[: probability.ndim - len(size)], *size)
        for level in steps:
            for axis in _advancing(level):
                before, here, after = _three(widest, axis)
                widest = torch.maximum(before, here)
                if keep:
                    winner = (before > here).to(torch.int8)
                    winners.append(winner.masked_fill_(after > widest, 2))
                widest = torch.maximum(widest, after)
            contrast = _centre(widest, size).sum(0)
            total += contrast if inside is None else contrast.clamp_(min=0)  # no voxel of the box may be inside
        ctx.steps, ctx.size, ctx.inside = steps, size, inside
        ctx.save_for_backward(*winners)
        return total / len(steps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        winners = list(ctx.saved_tensors)
        share = grad_output / len(ctx.steps)
        gradient = share.new_zeros(2, *share.shape)
        for level in reversed(ctx.steps):
            _centre(gradient, ctx.size).add_(share)
            for axis in reversed(_advancing(level)):
                winner = winners.pop()
                size = list(gradient.shape)
                size[axis] += 2
                wider = gradient.new_zeros(size)
                for which, view in zip((1, 0, 2), _three(wider, axis), strict=True):
                    view.addcmul_(gradient, (winner == which).to(gradient.dtype))
                gradient = wider
        own = gradient[0] - gradient[1]
        return own if ctx.inside is None else own.masked_fill_(~ctx.inside, 0), None, None


def _advancing(level: tuple[int, ...]) -> list[int]:
    """The axes along which the box of a level is larger than the one before, counted from the last."""
    return [axis - len(level) for axis, step in enumerate(level) if step]


def _three(x: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of the neighbour before, the voxel itself and the neighbour after, where all three exist."""
    size = x.shape[axis] - 2
    return x.narrow(axis, 0, size), x.narrow(axis, 1, size), x.narrow(axis, 2, size)


def _centre(x: Tensor, size: Sequence[int]) -> Tensor:
    """View of the middle of the last axes."""
    for axis, wanted in enumerate(size, start=-len(size)):
        x = x.narrow(axis, (x.shape[axis] - wanted) // 2, wanted)
    return x
