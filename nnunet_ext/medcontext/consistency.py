"""Consistency: on the masked patch the student should predict what the teacher predicts on the whole one.

On full-resolution logits s of the student and t of the teacher, over all voxels, hidden or not, annotated or not::

    relative   Σ (s − t)² / Σ t²
    official   mean (s − t)² / ‖t‖₂          the published code
    kl         mean over voxels of KL(p_t ‖ p_s)

Deviations from the published code, each with its reason:

* *relative is the default*, because the official term does nothing: its divisor is the norm over all N logits of a
  batch, which grows with √N, so the term's gradient is some 10⁻⁴ of the supervised one and depends on patch and batch
  size. The relative term is the same comparison, 1 where the student predicts 0 throughout, at any size.
* *Over the whole batch.* Where a network of the code has no deep supervision, its term covers the first sample alone.
* *In float32* whatever autocast does; in float16 the norm overflows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import kl_div, logsigmoid

from nnunet_ext.medcontext.published import official_consistency

Kind = Literal["relative", "official", "kl"]


def consistency(student: Tensor, teacher: Tensor, kind: Kind = "relative", *, exclusive: bool = True) -> Tensor:
    """Return the distance of the student from the teacher, a scalar in float32 or wider.

    No gradient flows to the teacher.

    Args:
        student: logits, ``(B, K, *spatial)``.
        teacher: logits of the same shape.
        kind: see the module's docstring.
        exclusive: for ``"kl"``: heads are classes (softmax) rather than regions, whose divergences are added (sigmoid).
    """
    with torch.autocast(student.device.type, enabled=False):
        dtype = torch.promote_types(student.dtype, torch.float32)
        student, teacher = student.to(dtype), teacher.detach().to(dtype)
        if kind == "kl":
            return _divergence(student, teacher, exclusive)
        if kind == "official":
            return official_consistency(student, teacher)
        least = torch.finfo(dtype).tiny  # logits that are all 0 cannot be divided by
        return (student - teacher).square().sum() / teacher.square().sum().clamp(min=least)


def _divergence(student: Tensor, teacher: Tensor, exclusive: bool) -> Tensor:
    """KL of what the logits stand for, in nats per voxel."""
    voxels = student.numel() // student.shape[1]
    if exclusive:
        return kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="sum") / voxels
    outside = kl_div(logsigmoid(-student), logsigmoid(-teacher), log_target=True, reduction="sum")
    inside = kl_div(logsigmoid(student), logsigmoid(teacher), log_target=True, reduction="sum")
    return (inside + outside) / voxels
