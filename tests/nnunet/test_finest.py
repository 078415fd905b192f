"""The finest logits in everything that a network of this package may return."""

import pytest
import torch

from nnunet_ext.nnunet.labels import finest, finest_logits

FINE, COARSE = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize("output", [FINE, [FINE, COARSE], (FINE, None), ([FINE, COARSE], {"extra": COARSE})])
def test_the_finest_logits_are_those_of_the_whole_batch(output):
    assert finest_logits(output) is FINE


def test_a_target_is_a_list_or_a_tensor():
    assert finest([FINE, COARSE]) is finest(FINE) is FINE
