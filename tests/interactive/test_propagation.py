"""When a chain need not be followed any further: small structures count as much as large ones."""

import numpy as np
import torch

from nnunet_ext.interactive.propagation import Step, _is_quiet
from nnunet_ext.s2vnet.packed import Packed


def step(labels):
    return Step(torch.zeros(1, 1, 1), None, None, Packed.of(labels))


def test_a_small_structure_that_comes_or_goes_is_not_quiet():
    """16 × 16 pixels of 512 × 512 are less than a thousandth of the slice, and all of the structure."""
    nothing = np.zeros((512, 512), np.int16)
    small, large = nothing.copy(), nothing.copy()
    small[100:116, 100:116] = 1
    large[100:300, 100:300] = 2
    assert not _is_quiet(step(nothing), step(small))
    assert not _is_quiet(step(small), step(nothing))
    assert not _is_quiet(step(large), step(np.where(small, small, large)))
    moved = large.copy()
    moved[100, 100:300] = 0  # 200 of 40,000 pixels
    assert _is_quiet(step(large), step(moved))
    moved[100:103, 100:300] = 0
    assert not _is_quiet(step(large), step(moved))
    assert _is_quiet(step(small), step(small.copy()))
