"""Hidden parts of slices: in training the network must ask its memory what the image does not show.

A network that knows every structure from the slice alone has no reason to look at the slice before, and learns not to.
So in some slices of a training clip a box gets the mean of its slice; the labels stay. The slice before is whole, so
what the box hides was seen there. The first slice of an image, and one after a slice with a box, is never changed.

Source: none of the publication's; *added*, after masked students such as MedContext's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ext.s2vnet.network import slices_with_image

SIDES = (0.25, 0.6)
"""Smallest and largest side of a box, as a share of the slice's."""


def with_hidden_parts(image: Tensor, share: float, single: Tensor | None = None) -> Tensor:
    """Return clips in which a box of some slices has the mean of the slice; the input does not change.

    Args:
        image: clips, ``(B, C, T, H, W)``.
        share: probability that a slice has a box, if it may.
        single: ``(B,)`` bool, clips whose slices do not know each other; they stay whole.
    """
    changed, there = image.clone(), slices_with_image(image)
    height, width = image.shape[3:]
    for index, clip in enumerate(changed):
        if single is not None and single[index]:
            continue
        after_whole = False  # the first slice has none before it
        for t, present in enumerate(there[index].tolist()):
            hides = present and after_whole and float(torch.rand(())) < share
            if hides:
                (top, bottom), (left, right) = _interval(height), _interval(width)
                # not 0, of which padding consists
                clip[:, t, top:bottom, left:right] = clip[:, t].mean((1, 2), keepdim=True)
            after_whole = present and not hides
    return changed


def _interval(length: int) -> tuple[int, int]:
    low, high = SIDES
    side = max(1, round(length * (low + (high - low) * float(torch.rand(())))))
    start = int(torch.randint(0, length - side + 1, ()))
    return start, start + side
