"""Place alone, without the mask of the slice before, says which of two equal discs is the object.

Both together, and neither, are in the toy with the real trainer (``benchmarks/mechanisms/propagation.py``).
"""

import pytest
import torch

from benchmarks.mechanisms.propagation import after_slice_0, segmented, volumes
from nnunet_ext.s2vnet.labels import LabelHeads
from tests.s2vnet.test_network import s2vnet
from tests.s2vnet.toy import fit

pytestmark = pytest.mark.slow


def test_centres_that_know_their_place_can_say_which():
    torch.set_num_threads(1)
    chosen = {"width": 16, "layers": 1, "mask_memory": False}
    network = s2vnet(LabelHeads(2), features=(8, 12, 16), options=chosen)
    network = fit(network, 240, lambda step: (*volumes(8, 4, True, 1000 + step), None), [0.3, 1.0])
    images, labels = volumes(16, 8, True, 1)
    assert after_slice_0(segmented(network, images), labels) > 0.9
