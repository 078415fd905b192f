"""Consistency: on the masked patch the student should predict what the teacher predicts on the whole one.

On full-resolution logits s of the student and t of the teacher, with probabilities p, over N voxels::

    kl         1/N Σ c · KL(p_t ‖ p_s)                c = 1 where the teacher is sure, otherwise 0
    mse        1/N Σ c · mean over heads (p_s − p_t)²
    labels     cross entropy and Dice loss of s with the teacher's labels, where c = 1 (nnunet/pseudo_labels.py)
    relative   Σ (s − t)² / Σ t²                      everywhere, whatever c and the mask
    official   mean (s − t)² / ‖t‖₂                   the published code, the same

The teacher is sure of a voxel where its most probable class has more than a given probability; with regions, which are
decided one by one, of a head where it has more than that, or less than one minus that. Voxels of which it is not sure
count in N, so the term grows as the teacher learns. The N voxels are those of the patch, or the hidden ones.

Deviations from the published code, each with its reason:

* *Another term is the default*, because the official one does nothing: its divisor is the norm over all N logits of a
  batch, which grows with √N, so the term's gradient is some 10⁻⁴ of the supervised one and depends on patch and batch
  size. The relative term makes the same comparison at any size (it is 1 where the student predicts 0 throughout). But
  it is strongest when logits are small and the teacher is worst, fades as the teacher improves, and part of it acts on
  the sum of the logits, which a softmax ignores.
* *Only where the teacher is sure*, as in self-training: it makes its mistakes elsewhere.
* *Over the whole batch.* Where a network of the code has no deep supervision, its term covers the first sample alone.
* *In float32* whatever autocast does; in float16 the norm overflows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nnunet_ext.medcontext.published import official_consistency
from nnunet_ext.nnunet.pseudo_labels import pseudo_label_loss, pseudo_labels

Kind = Literal["kl", "mse", "labels", "relative", "official"]
Region = Literal["patch", "hidden"]


def consistency(
    student: Tensor,
    teacher: Tensor,
    kind: Kind = "kl",
    *,
    exclusive: bool = True,
    confidence: float = 0.0,
    among: Tensor | None = None,
) -> Tensor:
    """Return the distance of the student from the teacher, a scalar in float32 or wider.

    No gradient flows to the teacher.

    Args:
        student: logits, ``(B, K, *spatial)``.
        teacher: logits of the same shape.
        kind: see the module's docstring.
        exclusive: for probabilities: heads are classes (softmax) rather than regions (sigmoid).
        confidence: probability above which the teacher is sure; 0: everywhere.
        among: ``(B, 1, *spatial)`` bool, the voxels to compare; all by default.
    """
    with torch.autocast(student.device.type, enabled=False):
        dtype = torch.promote_types(student.dtype, torch.float32)
        student, teacher = student.to(dtype), teacher.detach().to(dtype)
        if kind == "official":
            return official_consistency(student, teacher)
        if kind == "relative":
            least = torch.finfo(dtype).tiny  # logits that are all 0 cannot be divided by
            return (student - teacher).square().sum() / teacher.square().sum().clamp(min=least)
        if among is None:
            among = torch.ones_like(student[:, :1], dtype=torch.bool)
        if kind == "labels":
            probabilities = teacher.softmax(1) if exclusive else teacher.sigmoid()
            labels, use = pseudo_labels(probabilities, among, confidence, exclusive=exclusive)
            return pseudo_label_loss(student, labels, use, exclusive=exclusive)
        distance = (_divergence if kind == "kl" else _squared)(student, teacher, exclusive)
        counted = sure(teacher, exclusive, confidence)
        return torch.where(counted & among, distance, 0).sum() / among.sum().clamp(min=1)


def sure(teacher: Tensor, exclusive: bool, confidence: float) -> Tensor:
    """Return where the teacher is sure: ``(B, 1, *spatial)`` bool of classes, ``(B, K, *spatial)`` of regions.

    Args:
        teacher: logits, ``(B, K, *spatial)``.
        exclusive: see :func:`consistency`.
        confidence: see :func:`consistency`.
    """
    if exclusive:
        return teacher.softmax(1).amax(1, keepdim=True) > confidence
    return teacher.abs().sigmoid() > confidence


def _divergence(student: Tensor, teacher: Tensor, exclusive: bool) -> Tensor:
    """KL divergence of the probabilities, in nats: ``(B, 1, *spatial)`` of classes, ``(B, K, *spatial)`` of regions."""
    if exclusive:
        mine, theirs = student.log_softmax(1), teacher.log_softmax(1)
        return (theirs.exp() * (theirs - mine)).sum(1, keepdim=True)
    inside = teacher.sigmoid() * (logsigmoid(teacher) - logsigmoid(student))
    return inside + (-teacher).sigmoid() * (logsigmoid(-teacher) - logsigmoid(-student))


def _squared(student: Tensor, teacher: Tensor, exclusive: bool) -> Tensor:
    """Squared differences of probabilities over the number of heads; shapes as in :func:`_divergence`."""
    if exclusive:
        return (student.softmax(1) - teacher.softmax(1)).square().mean(1, keepdim=True)
    return (student.sigmoid() - teacher.sigmoid()).square() / student.shape[1]
