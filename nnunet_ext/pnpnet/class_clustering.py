"""The pulling branch: class clustering module (CCM), fed by the centre atlas.

K-means with learned features and exactly one centre per class, one iteration per level of the encoder, from coarse to
fine::

    c̄ = LayerNorm(transformer block(c))            centres look at each other
    a = softmax_k(c̄ · key(F) / temperature)        every voxel is assigned to a class
    c' = c̄ + Σ_n a_kn value(F)_n / Σ_n a_kn         centres move to the mean of their voxels, on to the next level

The assignments of all levels, fused, are the *pull logits*: every voxel is pulled to the centre of one class.

Deviations from the published code, each with its reason:

* *Mean update.* The code adds the un-normalised sum over all voxels, so centres grow by 10× per level, depend on the
  patch size, and make the transformer inert from the second level on (relative effect 0.01). ``update="sum"``.
* *Temperature √dim.* The code divides by √K (number of classes), which saturates the softmax from the start.
* *One trunk for key and value, both signed.* The code's keys and values come from two full residual blocks and end in a
  ReLU, which drives all centres into one common direction (cosine 0.98). ``shared_trunk=False`` restores both.
* *The centre atlas* is in the paper's figure (an over-complete set of vectors, condensed to one centre per class), but
  not in its code, which learns the K centres directly; the rule of condensation is unknown. :class:`CenterAtlas` is our
  stand-in: K class queries attend to M > K atlas vectors. ``atlas_size=0`` restores the code.
* *Regions* overlap, so their assignment is a sigmoid per region instead of a softmax over all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_ext.pnpnet.blocks import ConvDialect, ResidualBlock

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

    def __init__(self, num_classes: int, dim: int, heads: int, mlp_dim: int, dropout: float) -> None:
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


def assign_and_update(
    centers: Tensor, key: Tensor, value: Tensor, *, temperature: float, update: Update, exclusive: bool
) -> tuple[Tensor, Tensor]:
    """One iteration of K-means with soft assignment, in float32.

    Args:
        centers: ``(B, K, dim)``.
        key: ``(B, dim, *spatial)``.
        value: ``(B, dim, *spatial)``.
        temperature: divides the similarities.
        update: add the mean or the sum of the assigned values.
        exclusive: classes (softmax over K) or regions (sigmoid each).

    Returns:
        Assignment ``(B, K, *spatial)`` in [0, 1] and new centres ``(B, K, dim)``.
    """
    # a sum over 64³ voxels exceeds float16, and autocast would cast even float32 inputs of a matmul down
    with torch.autocast(centers.device.type, enabled=False):
        dtype = torch.promote_types(key.dtype, torch.float32)
        centers, keys, values = centers.to(dtype), key.to(dtype).flatten(2), value.to(dtype).flatten(2)
        similarity = centers @ keys / temperature  # (B, K, N)
        assignment = similarity.softmax(1) if exclusive else similarity.sigmoid()
        step = assignment @ values.transpose(1, 2)  # (B, K, dim)
        if update == "mean":
            step = step / (assignment.sum(2, keepdim=True) + 1e-6)
        return assignment.unflatten(2, key.shape[2:]), centers + step


class Clustering(NamedTuple):
    """Result of one level of clustering; all float32 or the network's dtype."""

    pull: Tensor
    """``(B, K, *spatial)``, refined assignment map."""
    centers: Tensor
    """``(B, K, dim)``, updated centres."""
    values: Tensor
    """``(B, dim, *spatial)``, what the centres are means of."""


class ClassClusteringModule(nn.Module):
    """One iteration of class clustering on the encoder feature of one level.

    Args:
        dialect: convolution, norm and nonlinearity.
        channels: C of the encoder feature.
        num_classes: K, classes or regions.
        kernel_size: of the convolutions at this level.
        dim: of the centres.
        heads: of their transformer.
        mlp_dim: of their transformer.
        dropout: of their transformer.
        temperature: divides the similarities.
        update: ``"mean"`` or ``"sum"``.
        exclusive: classes exclude each other (softmax) or are regions (sigmoid).
        shared_trunk: key and value are signed 1×1 heads on one trunk, or two residual blocks.
    """

    def __init__(
        self,
        dialect: ConvDialect,
        channels: int,
        num_classes: int,
        kernel_size: Sequence[int],
        *,
        dim: int = 64,
        heads: int = 4,
        mlp_dim: int = 256,
        dropout: float = 0.0,
        temperature: float | None = None,
        update: Update = "mean",
        exclusive: bool = True,
        shared_trunk: bool = True,
    ) -> None:
        super().__init__()
        self.dialect = dialect
        self.transformer = CenterTransformer(num_classes, dim, heads, mlp_dim, dropout)
        self.trunk: nn.Module = nn.Identity()
        self.key: nn.Module
        self.value: nn.Module
        if shared_trunk:
            self.trunk = nn.Sequential(dialect.conv(channels, dim), dialect.conv(dim, dim, kernel_size))
            self.key = dialect.conv_op(dim, dim, 1)
            self.value = dialect.conv_op(dim, dim, 1)
        else:
            self.key = ResidualBlock(dialect, channels, dim, kernel_size)
            self.value = ResidualBlock(dialect, channels, dim, kernel_size)
        self.refine = nn.Sequential(
            ResidualBlock(dialect, num_classes, num_classes, kernel_size),
            ResidualBlock(dialect, num_classes, num_classes, kernel_size),
        )
        self.temperature = math.sqrt(dim) if temperature is None else temperature
        self.update: Update = update
        self.exclusive = exclusive

    def forward(self, feature: Tensor, centers: Tensor) -> Clustering:
        """Assign the voxels of a feature, and move the centres.

        Args:
            feature: ``(B, C, *spatial)``, raw skip feature.
            centers: ``(B, K, dim)`` from the level below, or ``(1, K, dim)`` from the atlas.
        """
        centers = self.transformer(centers).expand(feature.shape[0], -1, -1)
        assignment, centers, value = self.dialect.run(self._cluster, self.trunk(feature), centers)
        return Clustering(assignment + self.dialect.run(self.refine, assignment), centers, value)

    def _cluster(self, trunk: Tensor, centers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = self.value(trunk)
        assignment, centers = assign_and_update(
            centers,
            self.key(trunk),
            value,
            temperature=self.temperature,
            update=self.update,
            exclusive=self.exclusive,
        )
        return assignment.to(value.dtype), centers, value
