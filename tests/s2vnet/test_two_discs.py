"""Place alone, without the mask of the slice before, says which of two equal discs is the object; nothing else does.

Both trainings are the same but for ``position``. Place and mask together, and neither, are in the toy with the real
trainer (``benchmarks/mechanisms/propagation.py``).
"""

import pytest
import torch

from benchmarks.mechanisms.propagation import ALONE, KNOWN, after_slice_0, segmented, volumes
from nnunet_ext.s2vnet.labels import LabelHeads
from tests.s2vnet.test_network import s2vnet
from tests.s2vnet.toy import fit

pytestmark = pytest.mark.slow


def later_slices(**options):
    """Dice of slices 1 to 7, of which slice 0 tells which disc is the object, after 240 steps on clips of 4 slices."""
    torch.set_num_threads(1)
    chosen = {"width": 16, "layers": 1, "mask_memory": False, **options}
    network = s2vnet(LabelHeads(2), features=(8, 12, 16), options=chosen)
    network = fit(network, 240, lambda step: (*volumes(8, 4, True, 1000 + step), None), [0.3, 1.0])
    images, labels = volumes(16, 8, True, 1)
    return after_slice_0(segmented(network, images), labels)


def test_centres_that_know_their_place_can_say_which():
    assert later_slices() > KNOWN


def test_centres_without_a_place_cannot_say_which_of_two_equal_discs_is_meant():
    found = later_slices(position=False)
    assert found < ALONE
    assert found > 0.6  # a failed training would have less: the discs are found, both of them
