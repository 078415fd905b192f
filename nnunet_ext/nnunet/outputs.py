"""Outputs of the networks of this package, and the logits in them.

============================  =====================  ====================================
network                       deep supervision       none
============================  =====================  ====================================
nnU-Net's, and all in eval    list, finest first     ``(B, K, *spatial)``
with extras, in training      ``(list, extras)``     ``((B, K, *spatial), extras)``
============================  =====================  ====================================

Extras are whatever a method's own loss terms need.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def finest(pyramid: Tensor | list[Tensor]) -> Tensor:
    """The first of a list of logits or targets, which is full resolution; a tensor as it is.

    Not ``pyramid[0]``: without deep supervision that is the first *sample* of the batch.
    """
    return pyramid[0] if isinstance(pyramid, list) else pyramid


def finest_logits(output: Any) -> Tensor:
    """``(B, K, *spatial)``: the full-resolution logits in what a network returned."""
    return finest(output[0] if isinstance(output, tuple) else output)
