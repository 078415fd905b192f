"""Memory of the previous slice's mask: where its structures were, and which shape they had.

The paper propagates centres, which say what a structure looks like. This memory says where it was: the softmax of the
previous slice, one channel per label, becomes evidence for this one, on every clustered stage::

    e_s = tanh(W_2 · lrelu(W_1 · lrelu(W_f f_s + W_m m_s + w_g · log(gap / planned gap))))
    z   ← z + a_s · e_s,       a_s = 0 at the start

``m_s`` is the mask at the size of stage s, ``W_m`` and ``W_1`` are 3 × 3, ``gap`` is the distance of both slices in mm.
With ``a_s = 0`` the network is the one without this memory, bit for bit in its logits. The evidence is bounded, and
carries no gradient into the slice before.

A mask that the network believes passes its errors on. So in training it is dropped for some samples, and in others it
is wrong (:func:`corrupted`): shifted, grown or shrunken, or without one of its labels.

Source: none of the publication's; *added*. Masks of earlier frames as memory are common in video segmentation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, max_pool2d

from nnunet_ext.s2vnet.clustering import MAX_SCALE

HIDDEN = 16
"""Channels between."""
SHIFT = 3
"""Largest shift of a corrupted mask, in its pixels."""


def soft_mask(logits: Tensor, size: Sequence[int]) -> Tensor:
    """``(B, L, H, W)`` of labels → their softmax ``(B, L, h, w)`` at another size, uint8 from 0 to 255.

    A byte per value, because a session keeps the masks of all slices; all ways to predict do the same.
    """
    soft = interpolate(logits.detach().float().softmax(1), tuple(size), mode="area")
    return (255 * soft).round().to(torch.uint8)


def corrupted(mask: Tensor, share: float) -> Tensor:
    """Masks, some of which are wrong.

    Each of these samples is shifted by up to 3 pixels, its foreground grows or shrinks by one, or one of its foreground
    labels becomes background.

    Args:
        mask: ``(B, L, h, w)`` uint8.
        share: probability that a sample is changed.
    """
    batch, labels = mask.shape[:2]
    found = []
    for one in mask:
        if float(torch.rand(())) < share:
            way = int(torch.randint(3, ()))
            if way == 0:
                rows, columns = (int(torch.randint(-SHIFT, SHIFT + 1, ())) for _ in range(2))
                one = _shifted(one, rows, columns)
            elif way == 1:
                one = _grown(one, bool(torch.rand(()) < 0.5))
            elif labels > 1:
                gone = int(torch.randint(1, labels, ()))
                one = one.clone()
                one[0] = (one[0].int() + one[gone]).clamp(max=255)  # two halves are rounded to 128 each
                one[gone] = 0
        found.append(one)
    return torch.stack(found) if batch else mask


def _shifted(mask: Tensor, rows: int, columns: int) -> Tensor:
    """``(L, h, w)`` moved, with its border repeated."""
    height, width = mask.shape[1:]
    y = (torch.arange(height, device=mask.device) - rows).clamp(0, height - 1)
    x = (torch.arange(width, device=mask.device) - columns).clamp(0, width - 1)
    return mask[:, y[:, None], x]


def _grown(mask: Tensor, outwards: bool) -> Tensor:
    """``(L, h, w)`` whose foreground, or background, takes a pixel from the other."""
    values = mask.float()
    changed = max_pool2d(values[1:] if outwards else values[:1], 3, 1, 1)
    kept = values[:1] if outwards else values[1:]
    room = (255 - changed.sum(0)).clamp(min=0)
    kept = kept * (room / kept.sum(0).clamp(min=1)).clamp(max=1)
    both = torch.cat((kept, changed) if outwards else (changed, kept))
    return (both * (255 / both.sum(0).clamp(min=255))).floor().to(torch.uint8)


class MaskMemory(nn.Module):
    """Evidence for the labels of a slice from the mask of the slice before; see the module's docstring.

    Args:
        channels: of the feature of this stage.
        labels: L, of the mask.
    """

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.feature = nn.Conv2d(channels, HIDDEN, 1)
        self.mask = nn.Conv2d(labels, HIDDEN, 3, padding=1, bias=False)
        self.gap = nn.Parameter(torch.zeros(HIDDEN))
        self.inner = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        self.out = nn.Conv2d(HIDDEN, labels, 1)
        self.scale = nn.Parameter(torch.zeros(labels))

    def forward(self, feature: Tensor, mask: Tensor, known: Tensor, gap: Tensor) -> Tensor:
        """Return the evidence ``(B, L, h, w)``, at least float32.

        Args:
            feature: of this slice, ``(B, C, h, w)``.
            mask: of the slice before, ``(B, L, ·, ·)`` uint8.
            known: ``(B,)`` bool; without a slice before the evidence is 0.
            gap: ``(B,)``, logarithm of the distance of both slices over the planned one.
        """
        before = interpolate(mask.to(self.scale) / 255, feature.shape[2:], mode="area")
        hidden = self.feature(feature) + self.mask(before)
        hidden = hidden + (gap.to(hidden)[:, None] * self.gap.to(hidden))[..., None, None]
        evidence = torch.tanh(self.out(leaky_relu(self.inner(leaky_relu(hidden)))).to(self.scale.dtype))
        weight = self.scale.clamp(-MAX_SCALE, MAX_SCALE) * known[:, None]
        return weight[..., None, None] * evidence
