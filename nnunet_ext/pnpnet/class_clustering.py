"""The pulling branch: class clustering module (CCM), fed by the centre atlas.

K-means with learned features and exactly one centre per class, one iteration per level of the decoder, from coarse to
fine::

    c̄ = LayerNorm(transformer block(c))            centres look at each other
    e = c̄ · key(F) / √dim                           evidence of every class in every voxel
    a = softmax_k(e)                               every voxel is assigned to a class
    c' = c̄ + Σ_n a_kn value(F)_n / Σ_n a_kn         centres move to the mean of their voxels, on to the next level

So the centres of the finest level are those of *this image*. The fused evidence of all levels makes the *pull logits*:
every voxel is pulled to the centre of one class. No norm stands between the evidence (the logarithm of the assignment)
and the logits, so they know how sure an assignment is, and how much of a class there is.

Deviations from the published code (:mod:`nnunet_ext.pnpnet.published`), each with its reason:

* *Features of the decoder.* The code clusters raw encoder features, which do not see far enough to tell classes apart.
* *Evidence instead of refined assignments.* The code passes assignments through blocks with a norm per channel, after
  which a class that is absent looks like one that is everywhere.
* *No update after the last level.* The code uses it only in its centre loss.
* *Mean update.* The code adds the un-normalised sum over all voxels, so centres grow 10× per level, depend on the patch
  size, and make the transformer inert from the second level on (relative effect 0.01).
* *Temperature √dim.* The code divides by √K (number of classes), which saturates the softmax from the start.
* *One trunk for key and value, both signed.* The code's keys and values come from two full residual blocks and end in a
  ReLU, which drives all centres into one common direction (cosine 0.98).
* *The centre atlas* is in the paper's figure (an over-complete set of vectors, condensed to one centre per class), but
  not in its code, which learns the K centres directly. We do not know how the paper condenses them.
  :class:`CenterAtlas` is our stand-in: K class queries attend to M > K atlas vectors. ``atlas_size=0`` restores the
  code.
* *Regions* overlap, so their assignment is a sigmoid per region instead of a softmax over all.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from nnunet_ext.pnpnet.blocks import ConvDialect

Update = Literal["mean", "sum"]


class CenterAtlas(nn.Module):
    """An over-complete set of vectors, condensed to one initial centre per class.

    Args:
        num_classes: K.
        dim: length of a centre.
        atlas_size: M; 0 means no atlas: the K centres themselves are learned.
    """

    def __init__(self, num_classes: int, dim: int, atlas_size: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_classes, dim))
        if atlas_size:
            self.vectors = nn.Parameter(torch.randn(atlas_size, dim))
            self.query = nn.Linear(dim, dim, bias=False)
            self.key = nn.Linear(dim, dim, bias=False)
            self.value = nn.Linear(dim, dim, bias=False)
        self.atlas_size = atlas_size

    def forward(self) -> Tensor:
        """``(1, K, dim)``, the same for every sample."""
        if not self.atlas_size:
            return self.queries[None]
        scores = self.query(self.queries) @ self.key(self.vectors).T / math.sqrt(self.queries.shape[1])
        return (self.queries + scores.softmax(1) @ self.value(self.vectors))[None]


class CenterTransformer(nn.Module):
    """One pre-norm transformer block over the K centres, then LayerNorm; ``(B, K, dim)`` → the same.

    A learned position term per head and pair of classes is added to the scores before they are scaled.
    """

    def __init__(self, num_classes: int, dim: int, heads: int, mlp_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"Centres of length {dim} cannot be split into {heads} heads; choose a divisor of {dim}.")
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.position = nn.Parameter(torch.randn(1, heads, num_classes, num_classes))
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        expand, contract = nn.Linear(dim, mlp_dim), nn.Linear(mlp_dim, dim)
        self.mlp = nn.Sequential(expand, nn.GELU(), nn.Dropout(dropout), contract, nn.Dropout(dropout))
        for layer in (expand, contract):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, centers: Tensor) -> Tensor:
        batch, classes, dim = centers.shape
        split = self.qkv(self.norm1(centers)).reshape(batch, classes, 3, self.heads, dim // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, heads, K, dim / heads)
        scores = (query @ key.transpose(-1, -2) + self.position) / math.sqrt(dim // self.heads)
        attended = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, classes, dim)
        centers = centers + self.out(attended)
        return self.norm(centers + self.mlp(self.norm2(centers)))


def evidence(centers: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Similarity of every voxel to every centre, ``(B, K, *spatial)`` in float32 or wider.

    Its softmax over K (of regions: its sigmoid) is the assignment.

    Args:
        centers: ``(B, K, dim)``.
        key: ``(B, dim, *spatial)``.
        temperature: divides the similarities.
    """
    # autocast would cast even float32 inputs of a matmul down
    with torch.autocast(centers.device.type, enabled=False):
        dtype = torch.promote_types(key.dtype, torch.float32)
        return (centers.to(dtype) @ key.to(dtype).flatten(2) / temperature).unflatten(2, key.shape[2:])


def moved(centers: Tensor, assignment: Tensor, value: Tensor, update: Update = "mean") -> Tensor:
    """Centres after one iteration of K-means with soft assignment, ``(B, K, dim)`` in float32 or wider.

    Args:
        centers: ``(B, K, dim)``.
        assignment: ``(B, K, *spatial)`` in [0, 1].
        value: ``(B, dim, *spatial)``.
        update: add the mean or the sum of the assigned values.
    """
    with torch.autocast(centers.device.type, enabled=False):  # a sum over 64³ voxels exceeds float16
        dtype = torch.promote_types(value.dtype, torch.float32)
        weights = assignment.to(dtype).flatten(2)
        step = weights @ value.to(dtype).flatten(2).transpose(1, 2)
        if update == "mean":
            step = step / (weights.sum(2, keepdim=True) + 1e-6)
        return centers.to(dtype) + step


def assigned(found: Tensor, exclusive: bool) -> Tensor:
    """Assignment in [0, 1] from evidence, ``(B, K, *spatial)``: classes exclude each other, regions do not."""
    return found.softmax(1) if exclusive else found.sigmoid()


def centred(found: Tensor, exclusive: bool) -> Tensor:
    """Evidence of classes relative to their mean, which does not change the softmax; that of regions as it is."""
    return found - found.mean(1, keepdim=True) if exclusive else found


class ClassClusteringModule(nn.Module):
    """One iteration of class clustering on the decoder feature of one level.

    Args:
        dialect: convolution, norm and nonlinearity.
        channels: C of the feature.
        num_classes: K, classes or regions.
        dim: of the centres.
        heads: of their transformer.
        mlp_dim: of their transformer.
        exclusive: classes exclude each other (softmax) or are regions (sigmoid).
        last: the level passes no centres on.
    """

    def __init__(
        self,
        dialect: ConvDialect,
        channels: int,
        num_classes: int,
        *,
        dim: int = 64,
        heads: int = 4,
        mlp_dim: int = 256,
        exclusive: bool = True,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.dialect = dialect
        self.transformer = CenterTransformer(num_classes, dim, heads, mlp_dim)
        self.trunk = dialect.conv(channels, dim)
        self.key = dialect.conv_op(dim, dim, 1)
        self.value = None if last else dialect.conv_op(dim, dim, 1)
        self.temperature = math.sqrt(dim)
        self.exclusive = exclusive

    def forward(self, feature: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        """Assign the voxels of a feature, and move the centres.

        Args:
            feature: ``(B, C, *spatial)``.
            centers: ``(B, K, dim)`` from the level below, or ``(1, K, dim)`` from the atlas.

        Returns:
            Centred evidence ``(B, K, *spatial)`` and the next level's centres ``(B, K, dim)``, both float32 or wider.
        """
        centers = self.transformer(centers).expand(feature.shape[0], -1, -1)
        return self.dialect.run(self._cluster, self.trunk(feature), centers)

    def _cluster(self, trunk: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        found = centred(evidence(centers, self.key(trunk), self.temperature), self.exclusive)
        if self.value is None:
            return found, centers
        return found, moved(centers, assigned(found, self.exclusive), self.value(trunk))
