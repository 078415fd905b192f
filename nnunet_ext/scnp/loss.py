"""Same-class neighbour penalisation (SCNP): every logit becomes the worst of its neighbours of the same class.

Valverde et al., *Towards High-Quality Image Segmentation: Improving Topology Accuracy by Penalizing Neighbor Pixels*
(CVPR 2026, arXiv 2603.18671). For class (or region) k with reference ``y_k``, logits ``z_k`` and the 3×3(×3) voxels
``N(p)`` around ``p``, ``p`` included::

    z̃_k(p) = min { z_k(q) : q ∈ N(p), y_k(q) = 1 }   where y_k(p) = 1
    z̃_k(p) = max { z_k(q) : q ∈ N(p), y_k(q) = 0 }   where y_k(p) = 0

The loss is computed on ``z̃`` instead of ``z``. A voxel is rewarded only if its neighbours are right too, so holes,
islands and breaks cost more than their own voxels. The network and its prediction do not change.

The paper has neither deep supervision nor an ignore label: here every resolution is penalised on its own, ignored
voxels do not count as neighbours, and their own logits do not change (nnU-Net's loss leaves them out).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, max_pool3d

NEIGHBOURHOOD = 3

Reader = Callable[[Tensor], Tensor]


def worst_neighbours(logits: Tensor, one_hot: Tensor, annotated: Tensor) -> Tensor:
    """Penalised logits z̃, ``(B, K, *spatial)``.

    Args:
        logits: ``(B, K, *spatial)``, float32 or wider.
        one_hot: ``(B, K, *spatial)``, 0 or 1; regions may overlap.
        annotated: ``(B, 1, *spatial)`` bool.
    """
    pool = max_pool3d if logits.ndim == 5 else max_pool2d
    never = torch.finfo(logits.dtype).min

    def largest(values: Tensor, among: Tensor) -> Tensor:
        return pool(torch.where(among, values, never), NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2)

    inside = one_hot.bool() & annotated
    outside = ~one_hot.bool() & annotated
    penalised = torch.where(inside, -largest(-logits, inside), largest(logits, outside))
    return torch.where(annotated, penalised, logits)


class SameClassNeighbours(nn.Module):
    """A segmentation loss on penalised logits, in float32; drop-in for the loss that it wraps.

    Args:
        loss: of logits ``(B, K, *spatial)`` and a target of nnU-Net's loader; its result is returned.
        one_hot: target → ``(B, K, *spatial)``, such as :meth:`nnunet_ext.nnunet.labels.LabelView.one_hot`.
        annotated: target → ``(B, 1, *spatial)`` bool, such as ``LabelView.annotated``.
    """

    def __init__(self, loss: nn.Module, one_hot: Reader, annotated: Reader) -> None:
        super().__init__()
        self.loss = loss
        self.one_hot = one_hot
        self.annotated = annotated

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the wrapped loss, a scalar.

        Args:
            logits: ``(B, K, *spatial)``.
            target: ``(B, 1 or R, *spatial)``.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        penalised = worst_neighbours(logits, self.one_hot(target), self.annotated(target))
        return self.loss(penalised, target)
