"""Differences of the released code of MedContext; only ``nnUNetTrainerMedContextPaper`` uses it.

The reasons for the defaults are in :mod:`nnunet_ext.medcontext.consistency` and :mod:`nnunet_ext.medcontext.teacher`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss


def official_consistency(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``mean (s − t)² / ‖t‖₂``, a scalar.

    Args:
        student: logits, ``(B, K, *spatial)``.
        teacher: logits of the same shape, without gradient.
    """
    least = torch.finfo(teacher.dtype).tiny  # logits that are all 0 cannot be divided by
    return mse_loss(student, teacher) / teacher.norm().clamp(min=least)


def restarting(batch: int, steps: int) -> tuple[int, int]:
    """Return where the released code looks up its schedule of the momentum, and how long that schedule is.

    Args:
        batch: within the epoch; the code looks there instead of at the step of the training.
        steps: of the whole training.
    """
    return batch, 2 * steps
