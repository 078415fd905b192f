"""Prompts: weighted pixels with a label, which move the initial centre of that label on their slice.

A click is one pixel; a scribble, a lasso or a box is many pixels with a total weight of 1 (or less, for a box). So one
rule serves all, a weighted pooling of features::

    e_j = Σ_s P_s f_s(p_j)                           features of all clustered stages at the pixel
    w_j = weight_j · γ^age_j                         the age counts rounds of interaction
    C_c ← C_c + min(1, Σ_j w_j) · (LN(Σ_j w_j e_j / Σ_j w_j) + E)        over the pixels j with label c

Source: that clicks initialise centres by the features under them, and that newer clicks count more, is described for
S2VNet. *Inferred*: the formulas. The strength ``min(1, Σ w_j)`` is not normalised on purpose: normalised, an old wrong
click of one label would have full strength against the newer right click of another.

Without clicks all weights are 0, and the same modules run, so their parameters have a gradient in every step, as
distributed training demands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, one_hot

from nnunet_ext.errors import InputError
from nnunet_ext.s2vnet.attention import at_least_float32, full_precision


@dataclass(frozen=True)
class Prompts:
    """Pixels that somebody labelled, padded to the same number P for all samples.

    Attributes:
        position: ``(B, P, 3)``, slice, row and column in voxels of the clip; centres of pixels are whole numbers.
        label: ``(B, P)`` int64, index of the label.
        weight: ``(B, P)``, 0 for padding.
        age: ``(B, P)``, rounds since the prompt was given, 0 for the newest.
    """

    position: Tensor
    label: Tensor
    weight: Tensor
    age: Tensor

    @classmethod
    def none(cls, batch: int, device: torch.device | str = "cpu") -> Prompts:
        """Return no prompt, for so many samples."""
        empty = torch.zeros(batch, 1, device=device)
        return cls(torch.zeros(batch, 1, 3, device=device), empty.long(), empty, empty)

    @classmethod
    def click(cls, position: Sequence[float], label: int, device: torch.device | str = "cpu") -> Prompts:
        """One click, for a batch of one; ``position`` is slice, row and column."""
        one = torch.ones(1, 1, device=device)
        place = torch.tensor([[list(position)]], dtype=torch.float32, device=device)
        return cls(place, label * one.long(), one, 0 * one)

    @classmethod
    def mask(cls, mask: Tensor, index: int, label: int, weight: float = 1.0) -> Prompts:
        """All pixels of a mask, for a batch of one: a scribble, the inside of a lasso, or of a box.

        Args:
            mask: ``(H, W)`` bool.
            index: of its slice.
            label: index of the label.
            weight: total; half as much is sensible for a box, which contains more than the object.

        Raises:
            InputError: the mask is empty.
        """
        pixels = mask.nonzero()
        if not len(pixels):
            raise InputError("The mask of a prompt has no pixel; draw at least one.")
        position = torch.cat((torch.full_like(pixels[:, :1], index), pixels), 1).float()[None]
        one = torch.ones(position.shape[:2], device=mask.device)
        return cls(position, label * one.long(), one * weight / len(pixels), 0 * one)

    def joined(self, newer: Prompts) -> Prompts:
        """Join these prompts, one round older, with newer ones."""
        mine = replace(self, age=self.age + 1)
        names = ("position", "label", "weight", "age")
        return Prompts(*(torch.cat((getattr(mine, name), getattr(newer, name)), 1) for name in names))

    def where(self, condition: Tensor) -> Prompts:
        """Keep the prompts for which ``condition`` holds, which broadcasts to ``(B, P)``; the others become padding."""
        return replace(self, weight=self.weight * condition)

    def on_slice(self, index: int) -> Prompts:
        """Keep the prompts on one slice."""
        return self.where(self.position[..., 0] == index)


def bilinear(feature: Tensor, position: Tensor, size: Sequence[int]) -> Tensor:
    """Features at pixels of an image that is finer than they are; outside of it those at its border.

    Args:
        feature: ``(B, C, h, w)``.
        position: ``(B, P, 2)``, row and column in pixels of the image.
        size: ``(H, W)`` of the image.

    Returns:
        ``(B, P, C)``, at least float32. Only the pixels that are needed are converted.
    """
    shape = feature.shape[2:]
    flat = feature.flatten(2)
    low, high, share = [], [], []
    for axis in range(2):
        x = (position[..., axis] + 0.5) * (shape[axis] / size[axis]) - 0.5
        x = x.clamp(0, shape[axis] - 1)
        low.append(x.floor().long())
        high.append((low[axis] + 1).clamp(max=shape[axis] - 1))
        share.append((x - low[axis])[..., None])

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = (row * shape[1] + column)[:, None].expand(-1, flat.shape[1], -1)
        return at_least_float32(flat.gather(2, index)).transpose(1, 2)

    def between(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
        return torch.lerp(start, end, weight.to(start.dtype))

    above = between(at(low[0], low[1]), at(low[0], high[1]), share[1])
    below = between(at(high[0], low[1]), at(high[0], high[1]), share[1])
    return between(above, below, share[0])


class PromptedCentres(nn.Module):
    """Moves centres by the prompts on their slice; see the module's docstring.

    Args:
        channels: of the features that are clustered.
        width: D, of the centres.
        label_of_centre: ``N`` label indices. If a label has several centres, its prompts move the nearest one.
        decay: γ, from 0 to 1.
    """

    def __init__(self, channels: Sequence[int], width: int, label_of_centre: Sequence[int], decay: float) -> None:
        super().__init__()
        self.label_of_centre = list(label_of_centre)
        self.decay = decay
        self.project = nn.ModuleList(nn.Linear(number, width) for number in channels)
        self.norm = nn.LayerNorm(width)
        self.clicked = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, centres: Tensor, features: Sequence[Tensor], prompts: Prompts, size: Sequence[int]) -> Tensor:
        """Return the centres of a slice, moved by the prompts.

        Args:
            centres: ``(B, N, D)``, float32.
            features: of this slice, each ``(B, C, h, w)``.
            prompts: all of them count, whatever their slice.
            size: ``(H, W)`` of the slice.

        Returns:
            ``(B, N, D)``.
        """
        with full_precision(centres):
            pixels = prompts.position[..., 1:]
            embedded = sum(
                (project(bilinear(f, pixels, size)) for project, f in zip(self.project, features, strict=True)),
                start=centres.new_zeros(()),
            )
            owner = torch.tensor(self.label_of_centre, device=centres.device)
            weight = prompts.weight.to(centres.dtype) * self.decay ** prompts.age.to(centres.dtype)
            weight = weight[:, None] * (prompts.label[:, None] == owner[:, None])  # (B, N, P)
            total = weight.sum(-1, keepdim=True)
            mean = weight @ embedded / total.clamp(min=1e-6)
            message = self.norm(mean)
            strength = total.clamp(max=1) * self._nearest(centres, message, owner)
            return centres + strength * (message + self.clicked)

    def _nearest(self, centres: Tensor, message: Tensor, owner: Tensor) -> Tensor:
        """``(B, N, 1)``: 1 for the centre of its label that is most similar to the message, which all of them share."""
        with torch.no_grad():
            likeness = cosine_similarity(centres, message, dim=-1)
            per_label = torch.where(owner == owner.unique()[:, None], likeness[:, None], -torch.inf)
            return one_hot(per_label.argmax(-1), len(owner)).sum(1).to(centres.dtype)[..., None]
