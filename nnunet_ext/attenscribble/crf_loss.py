"""Masked CRF loss: an unlabelled voxel should be what similar voxels nearby are.

For every unlabelled voxel i (``U_i = 1``) and its neighbours j in a window around it::

    L = 1 / (Z · max(1, Σ U)) · Σ_i U_i Σ_j K_ij · (1 − p_i·p_j)
    K_ij = exp(−|x_i − x_j|² / 2σ²  −  |I_i − I_j|² / 2σ_I²)

with p the predicted probabilities, x the position, I the image; ``1 − p_i·p_j`` is how likely two independent draws
from p_i and p_j are to differ (Potts). "Masked" means that only unlabelled voxels receive energy; all may give it. For
regions, which do not exclude each other, the disagreement is the mean over regions of ``p + p' − 2pp'``.

How it is computed. The kernel is symmetric, so each pair is visited once: half of the window, and for each offset two
shifted views of the volume, A and B, with the weight ``U_A + U_B``. L is quadratic in p with a constant kernel. Value
and gradient follow from two sums over the neighbours of each voxel, ``Σ_j k_ij`` and ``Σ_j k_ij p_j``, so nothing of
size window × voxels is ever kept: memory is O(K · V), whatever the radius.

**Against shrinking.** The sum is ``L = Σ_k C_k``, with C_k the cost of the border between class k and the others. Where
the edges of an image are faint, it is smallest with no border at all: C of a ball falls with its radius to the power
``d − 1`` in d dimensions. Eroding the true hippocampus by two voxels takes the sum to 0.6 of what it was
(:mod:`.best_size`). Divided by ``V_k^2a``, V_k the volume of the class and ``a = (d − 1)/d``, size costs nothing, and
the edge decides, however faint it is. (The factor is 2a because both sides of a border count it, and the volume of the
larger side hardly changes.) This adds a constant force to the gradient, which holds a class up::

    L = Σ_k [ C_k − h_k (V_k − sg(V_k)) ],     V_k = Σ_i p_ik,     h_k = 2a Ĉ_k / V̂_k

sg: no gradient, so the value stays what it is. Ĉ and V̂ are those of the segmentation, the most probable class of each
voxel: where a prediction is undecided, C also counts that, and its force would blow a class up. Each sample has its own
volumes, inside of the image. The defaults are in :mod:`.crf_window`.

Deviations from the published code, each with its reason:

* *A force against shrinking*, see above; a = 0 in ``nnUNetTrainerAttenScribblePaper``.
* *Divided by the spatial mass Z* = Σ_j exp(−|x_i − x_j|²/2σ²) of the window. The published sum grows with it, so
  its weight would mean something else in 3D; ``0.1`` there is ``0.1 · 92.0 = 9.2`` here (2D, radius 5, σ 6).
* *Neighbours outside of the image do not count.* In the code they add a constant.
* *σ_I is a tenth of the range of the intensities of each sample*, because nnU-Net's images are z-scored. The code
  scales images to [0, 1] and uses 0.1.
* *2D and 3D, in mm*: distances are in units of the finest spacing, so anisotropic voxels are farther apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import avg_pool2d, avg_pool3d, max_pool2d, max_pool3d

from nnunet_ext.errors import InputError

Offset = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Half of a window: one of each two offsets ±o, with its spatial weight; the centre is not part of it.

    Attributes:
        offsets: in voxels, one number per axis.
        weights: ``exp(−|o|²/2σ²)`` each.
        mass: sum of the weights of the whole window, both halves.
    """

    offsets: tuple[Offset, ...]
    weights: tuple[float, ...]
    mass: float

    @classmethod
    def gaussian(cls, radius: Sequence[int], sigma: float, spacing: Sequence[float] | None = None) -> Window:
        """All offsets up to ``radius`` voxels along each axis.

        Args:
            radius: per axis; 0 leaves an axis out.
            sigma: in units of the finest spacing.
            spacing: of each axis, in any unit; equal by default.

        Raises:
            InputError: the window has no neighbours, or ``sigma`` is not positive.
        """
        if sigma <= 0 or max(radius) < 1 or min(radius) < 0:
            raise InputError(
                f"A window of radius {tuple(radius)} and sigma {sigma} has no neighbours; at least one radius must be "
                "1 or more, and sigma positive."
            )
        spacing = spacing or [1.0] * len(radius)
        units = [mm / min(spacing) for mm in spacing]
        offsets = [o for o in itertools.product(*(range(-r, r + 1) for r in radius)) if o > (0,) * len(radius)]
        weights = [
            math.exp(-sum((step * unit / sigma) ** 2 for step, unit in zip(o, units, strict=True)) / 2) for o in offsets
        ]
        return cls(tuple(offsets), tuple(weights), 2 * sum(weights))

    def sampled(self, count: int, generator: torch.Generator | None = None) -> Window:
        """``count`` offsets drawn with probability ∝ weight; the loss of such a window is unbiased.

        All drawn offsets have the same weight, so that frequent ones count as often as they are drawn.
        """
        if count >= len(self.offsets):
            return self
        drawn = torch.multinomial(torch.tensor(self.weights), count, replacement=True, generator=generator).tolist()
        weight = self.mass / 2 / count
        return Window(tuple(self.offsets[i] for i in drawn), (weight,) * count, self.mass)


class MaskedCRFLoss(nn.Module):
    """The masked CRF loss on logits.

    Args:
        window: neighbours and their spatial weights, on the grid of the loss (after ``downsample``).
        exclusive: heads are classes (softmax) rather than regions (sigmoid).
        intensity_sigma: σ_I as a fraction of the intensity range of a sample. The code: 0.1.
        downsample: pool image and probabilities by this factor along each axis first; 1: full resolution.
        offsets_per_step: draw so many offsets at each call instead of using all.
        volume_power: a of the force against shrinking, see the module; 0: the plain sum.
    """

    def __init__(
        self,
        window: Window,
        *,
        exclusive: bool = True,
        intensity_sigma: float = 0.1,
        downsample: Sequence[int] | None = None,
        offsets_per_step: int | None = None,
        volume_power: float = 0.0,
    ) -> None:
        super().__init__()
        self.window = window
        self.exclusive = exclusive
        self.intensity_sigma = intensity_sigma
        self.downsample = tuple(downsample) if downsample and max(downsample) > 1 else None
        self.offsets_per_step = offsets_per_step
        self.volume_power = volume_power

    def forward(self, logits: Tensor, image: Tensor, unlabelled: Tensor, inside: Tensor | None = None) -> Tensor:
        """Return the energy of the unlabelled voxels, averaged.

        Args:
            logits: ``(B, K, *spatial)``.
            image: ``(B, C, *spatial)``; no gradient flows to it.
            unlabelled: ``(B, 1, *spatial)`` bool, the voxels that receive energy.
            inside: ``(B, 1, *spatial)`` bool, where the image is; everywhere by default. Elsewhere all classes are
                equally probable for the neighbours, and nothing counts as volume.

        Returns:
            Scalar, float32 or wider; 0 with a gradient of 0 where no voxel is unlabelled.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if inside is not None:
                logits = logits.where(inside, 0.0)
            probabilities = logits.softmax(1) if self.exclusive else logits.sigmoid()
            image, receives = image.detach().to(logits.dtype), unlabelled.to(logits.dtype)
            volume = torch.ones_like(receives) if inside is None else inside.to(logits.dtype)
            if self.downsample is not None:
                probabilities, image, volume = (mean_pool(x, self.downsample) for x in (probabilities, image, volume))
                # a coarse voxel is unlabelled only if all of it is
                receives = 1 - _max_pool(1 - receives, self.downsample)
            window = self.window
            if self.offsets_per_step is not None:
                window = window.sampled(self.offsets_per_step)
            features = scaled_intensities(image, self.intensity_sigma)
            return disagreement(
                probabilities, features, receives, window, self.exclusive, volume=volume, power=self.volume_power
            )


def disagreement(
    probabilities: Tensor,
    features: Tensor,
    receives: Tensor,
    window: Window,
    exclusive: bool = True,
    *,
    volume: Tensor | None = None,
    power: float = 0.0,
) -> Tensor:
    """The loss on probabilities, see the module.

    Args:
        probabilities: ``(B, K, *spatial)``; the only input with a gradient.
        features: ``(B, C, *spatial)``; similarity is ``exp(−Σ_c (f_i − f_j)²)``.
        receives: ``(B, 1, *spatial)``, U.
        window: neighbours.
        exclusive: classes or regions.
        volume: ``(B, 1, *spatial)``, how much of a volume each voxel is; 1 by default.
        power: a of the force against shrinking; 0: there is none.
    """
    volume = torch.ones_like(receives) if volume is None else volume
    return _Disagreement.apply(probabilities, features, receives, window, exclusive, volume, power)


def scaled_intensities(image: Tensor, sigma: float) -> Tensor:
    """The image in units in which similarity is ``exp(−Σ_c (f_i − f_j)²)``.

    Args:
        image: ``(B, C, *spatial)``.
        sigma: σ_I as a fraction of the range (99th minus 1st percentile) of each sample and channel. Differences are
            averaged over channels.
    """
    values = image.flatten(2)
    values = values[:, :, :: max(1, values.shape[2] // 100_000)]  # enough for a percentile
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99], dtype=image.dtype, device=image.device), dim=2)
    scale = torch.where(high > low, sigma * (high - low), 1.0) * math.sqrt(2 * image.shape[1])
    return image / scale.view(*scale.shape, *[1] * (image.ndim - 2))


class _Disagreement(torch.autograd.Function):
    """Value and gradient in one pass over half of the window; keeps nothing but the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        probabilities: Tensor,
        features: Tensor,
        receives: Tensor,
        window: Window,
        exclusive: bool,
        volume: Tensor,
        power: float,
    ) -> Tensor:
        if power:
            # where there is no image, nothing is decided
            found = segmentation(probabilities, exclusive).where(volume > 0, probabilities)
            kernel, sums = neighbour_sums(torch.cat([probabilities, found], 1), features, receives, window)
            neighbours, of_found = sums.chunk(2, 1)
            cut, size = cut_and_volume(found, kernel, of_found, volume, exclusive)
            by_volume = cut / size.clamp(min=torch.finfo(cut.dtype).tiny)
            force = 2 * power * by_volume.view(*cut.shape, *[1] * (probabilities.ndim - 2)) * volume
        else:
            kernel, neighbours = neighbour_sums(probabilities, features, receives, window)
            force = None
        scale = 1 / (window.mass * receives.sum().clamp(min=1))
        if exclusive:
            # Σ_pairs k (1 − p·p') = ½ Σ_i (Σ_j k − p_i·Σ_j k p_j)
            value = (kernel.sum() - (probabilities * neighbours).sum()) / 2
            gradient = neighbours.neg_()
        else:
            # Σ_pairs k (p + p' − 2pp') = Σ_i p_i (Σ_j k − Σ_j k p_j)
            scale = scale / probabilities.shape[1]
            value = (probabilities * (kernel - neighbours)).sum()
            gradient = kernel - 2 * neighbours
        if force is not None:
            gradient = gradient - force  # and the sums of the segmentation are kept no longer
        ctx.save_for_backward(gradient.mul_(scale))
        return value * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None, None, None, None, None


@torch.no_grad()
def neighbour_sums(probabilities: Tensor, features: Tensor, receives: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """``Σ_j k_ij`` ``(B, 1, *spatial)`` and ``Σ_j k_ij p_j`` ``(B, K, *spatial)``, with ``k_ij = K_ij (U_i + U_j)``."""
    kernel, neighbours = torch.zeros_like(receives), torch.zeros_like(probabilities)
    for offset, weight in zip(window.offsets, window.weights, strict=True):
        if any(abs(step) >= size for step, size in zip(offset, features.shape[2:], strict=True)):
            continue  # the image is smaller than the window
        a, b = shifted(offset)
        similarity = (features[a] - features[b]).square_()
        similarity = similarity if similarity.shape[1] == 1 else similarity.sum(1, keepdim=True)
        similarity.neg_().exp_().mul_(receives[a] + receives[b]).mul_(weight)
        kernel[a] += similarity
        kernel[b] += similarity
        neighbours[a].addcmul_(similarity, probabilities[b])
        neighbours[b].addcmul_(similarity, probabilities[a])
    return kernel, neighbours


def segmentation(probabilities: Tensor, exclusive: bool) -> Tensor:
    """Return the most probable class of every voxel, or the regions more probable than not, as 0 and 1.

    Args:
        probabilities: ``(B, K, *spatial)``.
        exclusive: classes or regions.
    """
    if not exclusive:
        return (probabilities > 0.5).to(probabilities.dtype)
    return torch.zeros_like(probabilities).scatter_(1, probabilities.argmax(1, keepdim=True), 1.0)


def cut_and_volume(
    probabilities: Tensor, kernel: Tensor, neighbours: Tensor, volume: Tensor, exclusive: bool
) -> tuple[Tensor, Tensor]:
    """Return ``C_k`` and ``V_k`` of the module, ``(B, K)`` each, of the voxels that are volume.

    Args:
        probabilities: ``(B, K, *spatial)``.
        kernel: of :func:`neighbour_sums`.
        neighbours: of the same.
        volume: ``(B, 1, *spatial)``, see :func:`disagreement`.
        exclusive: classes or regions.
    """
    counted = probabilities * volume
    cut = (counted * (kernel - neighbours)).flatten(2).sum(2)
    # each pair of classes that exclude each other is cut twice
    return cut / 2 if exclusive else cut, counted.flatten(2).sum(2)


def shifted(offset: Offset) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Views of a ``(B, C, *spatial)`` tensor such that ``x[b]`` is the neighbour of ``x[a]`` at ``offset``."""
    start = [slice(None), slice(None)]
    first = [slice(max(0, -step), -step if step > 0 else None) for step in offset]
    second = [slice(max(0, step), step if step < 0 else None) for step in offset]
    return (*start, *first), (*start, *second)


def mean_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return ``x`` ``(B, C, *spatial)`` pooled by ``size`` along each axis; a rest at the end becomes a voxel too."""
    pool = avg_pool3d if x.ndim == 5 else avg_pool2d
    return pool(x, tuple(size), ceil_mode=True, count_include_pad=False)


def _max_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    pool = max_pool3d if x.ndim == 5 else max_pool2d
    return pool(x, tuple(size), ceil_mode=True)
