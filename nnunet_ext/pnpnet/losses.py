"""Centre supervision: the clustered centres should be the centres of the true classes.

The pulling branch finds one centre per class without labels. In training the true class means of the finest clustered
level are known, and the centres are pulled to them.

Deviations from the published code (:class:`nnunet_ext.pnpnet.published.PaperCenterLoss`), each with its reason:

* *Compared in the clustering's own value space.* A centre is a mean of values, so the mean of the values over the true
  class is what it should be. The code projects the raw feature by another learned layer instead.
* *The class mean is a fixed target* and both sides are normalised without learned gain. In the code both sides and both
  gains are trained, which has a trivial solution at loss 0.
* *smooth L1 instead of a clamped square*, whose gradient vanishes where the difference is large: optimised alone it
  stalls at 0.377 from 0.645.
* *Only classes that occur count.* In the code an absent class costs about 0.54 and pulls its centre to a bias.
* *Labels are resized before they become one-hot*, so ignored voxels never blend into a class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, smooth_l1_loss


def center_loss(centers: Tensor, values: Tensor, one_hot: Tensor) -> Tensor:
    """Distance of the centres to the mean values of the true classes.

    Args:
        centers: ``(B, K, dim)``.
        values: ``(B, dim, *spatial)``.
        one_hot: ``(B, K, *spatial)``, 0 in every channel where a voxel is not annotated. Regions may overlap.

    Returns:
        Scalar, float32 or wider: smooth L1 between layer-normalised vectors, averaged over ``dim`` and over the pairs
        of sample and class that occur; 0 (with a gradient of 0) where none does.
    """
    with torch.autocast(centers.device.type, enabled=False):
        dtype = torch.promote_types(centers.dtype, torch.float32)
        centers, values, weights = centers.to(dtype), values.detach().to(dtype).flatten(2), one_hot.to(dtype).flatten(2)
        mass = weights.sum(2)  # (B, K)
        means = weights @ values.transpose(1, 2) / mass.clamp(min=1e-6)[..., None]
        dim = centers.shape[-1:]
        distance = smooth_l1_loss(layer_norm(centers, dim), layer_norm(means, dim), reduction="none").mean(2)
        present = (mass > 0).to(dtype)
        return (present * distance).sum() / present.sum().clamp(min=1)
