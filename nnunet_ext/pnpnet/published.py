"""Differences of the published code of PnPNet; only ``nnUNetTrainerPnPNetPaper`` uses it.

Why the defaults differ is said where they are: :mod:`nnunet_ext.pnpnet.class_clustering`,
:mod:`nnunet_ext.pnpnet.semantic_difference`, :mod:`nnunet_ext.pnpnet.losses` and :mod:`nnunet_ext.pnpnet.network`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnunet_ext.pnpnet.blocks import ConvDialect


def clustering(num_classes: int) -> dict[str, Any]:
    """Return the arguments of the published class clustering module.

    Args:
        num_classes: K; the code divides similarities by √K.
    """
    return {"dropout": 0.1, "temperature": math.sqrt(num_classes), "update": "sum", "shared_trunk": False}


def difference(kernel_size: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of the published semantic difference module.

    Args:
        kernel_size: of the stage; the code convolves the guidance with it.
    """
    return {"guide_kernel_size": kernel_size, "init": "randn", "padding_mode": "zeros"}


def dialect(conv_op: type[nn.Module]) -> ConvDialect:
    """Return the convolutions of the published branches: BatchNorm and ReLU, whatever the plans have."""
    norm = nn.BatchNorm3d if conv_op is nn.Conv3d else nn.BatchNorm2d
    return ConvDialect(conv_op, norm, nonlin=nn.ReLU)


class PaperCenterLoss(nn.Module):
    """The centre supervision of the published code, for comparison: ``mean(clamp(LN(Y·φ(F)ᵀ) − LN(c), −1, 1)²)``.

    φ is a learned 1×1 convolution with norm and ReLU; Y is the one-hot target at full resolution, resized linearly.

    Args:
        dialect: convolution, norm and nonlinearity of φ.
        channels: of the feature F.
        dim: length of a centre.
    """

    def __init__(self, dialect: ConvDialect, channels: int, dim: int) -> None:
        super().__init__()
        self.project = dialect.conv(channels, dim)
        self.norm_target = nn.LayerNorm(dim, eps=1e-6)
        self.norm_center = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, centers: Tensor, feature: Tensor, one_hot: Tensor) -> Tensor:
        """Return the distance of the centres from the projected class sums.

        Args:
            centers: ``(B, K, dim)``.
            feature: ``(B, C, *spatial)``, raw skip feature of the finest clustered level.
            one_hot: ``(B, K, *patch)``, full resolution.
        """
        with torch.autocast(centers.device.type, enabled=False):
            dtype = torch.promote_types(centers.dtype, torch.float32)
            mode = "trilinear" if feature.ndim == 5 else "bilinear"
            weights = interpolate(one_hot.to(dtype), feature.shape[2:], mode=mode, align_corners=False)
            projected = self.project(feature.to(dtype)).flatten(2)
            target = self.norm_target(weights.flatten(2) @ projected.transpose(1, 2))
            return (target - self.norm_center(centers.to(dtype))).clamp(-1, 1).square().mean()
