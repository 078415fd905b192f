"""Options of PnPNet: its two branches, and the supervision of the pulling branch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.options import STRICT, MethodOptions

LEVELS = (1, 2, 3)
"""Encoder stages that the branches attach to by default: relative stride 2, 4 and 8, as in the code."""

WIDTH = 32
"""Most channels in which the pushing branch takes differences by default."""

DIM = 64
"""Greatest length of a centre by default."""


@dataclass(frozen=True, config=STRICT)
class PnPNetOptions(MethodOptions):
    """Sound defaults; a plans file may override any of them (``"nnunet_ext": {"pnpnet": {"levels": [2, 3]}}``)."""

    SECTION: ClassVar[str] = "pnpnet"
    OF_NETWORK = ("push", "pull", "levels", "width", "dim", "heads", "mlp_ratio", "atlas_ratio", "published")

    push: bool = False
    """Semantic difference modules on the skip connections. Off, because networks with both branches were behind those
    with the pulling branch alone on ACDC, and on no other data shown to be ahead of them (docs/results/pnpnet.md). The
    code: on."""
    pull: bool = True
    """Class clustering modules, and the pull logits."""
    levels: Annotated[Sequence[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Encoder stages to attach to; None: :data:`LEVELS`. Stages that a network does not have are left out, and so is
    the bottleneck; at least one must be there."""
    width: Annotated[int, Field(gt=0)] | None = None
    """Channels in which the pushing branch takes differences, at most as many as a stage has. None: half of them, at
    most :data:`WIDTH`. The code: all of them."""
    dim: Annotated[int, Field(gt=0)] | None = None
    """Length of a centre. None: the channels of the finest stage that the branch attaches to, at most :data:`DIM`, then
    up to a multiple of ``heads``. The code: 192."""
    heads: Annotated[int, Field(gt=0)] = 4
    """Heads of the centre transformer, a divisor of ``dim``. The code: 6."""
    mlp_ratio: Annotated[int, Field(gt=0)] = 4
    """Width of its MLP relative to ``dim``; 4 in the code too."""
    atlas_ratio: Annotated[int, Field(ge=0)] = 2
    """Vectors in the centre atlas per class; 0: none, the centres themselves are learned (the code)."""
    pull_weight: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the segmentation loss on the pull maps; the segmentation loss on the logits has weight 1."""
    recompute: bool = True
    """Recompute the cheap parts of the branches in the backward pass; same gradients, less memory. Off with BatchNorm,
    whose running statistics would be updated twice."""
    published: bool = False
    """Build the modules of the published code, with its centre loss, see :mod:`nnunet_ext.pnpnet.published`."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> Self:
        if self.dim is not None and self.dim % self.heads:
            raise ValueError(f"heads must divide dim, found heads = {self.heads} and dim = {self.dim}")
        return self

    def width_at(self, channels: int) -> int:
        """Channels in which differences are taken at a stage of so many channels, which may have fewer than that."""
        return self.width or min(WIDTH, max(1, channels // 2))

    def dim_at(self, channels: int) -> int:
        """Length of a centre if the finest stage has so many channels; a multiple of ``heads``."""
        return self.dim or -(-min(DIM, channels) // self.heads) * self.heads

    @classmethod
    def as_published(cls) -> Self:
        """Return the values of the published code."""
        return cls(push=True, dim=192, heads=6, atlas_ratio=0, recompute=False, published=True)

    @property
    def without_effect(self) -> Collection[str]:
        used = {
            "levels": self.push or self.pull,
            "width": self.push and not self.published,
            "dim": self.pull,
            "heads": self.pull,
            "mlp_ratio": self.pull,
            "atlas_ratio": self.pull and not self.published,
            "pull_weight": self.pull and not self.published,
            "recompute": (self.push or self.pull) and not self.published,
            "published": self.push or self.pull,
        }
        return [name for name, has_effect in used.items() if not has_effect]

    def require_fitting(self, configuration: Mapping[str, Any]) -> None:
        stages = configuration["architecture"]["arch_kwargs"].get("n_stages")
        if self.levels is None or stages is None:
            return
        if not any(level < stages - 1 for level in self.levels):
            raise InputError(
                f"The plans have pnpnet.levels = {list(self.levels)}, but their network has skip connections at stages "
                f"0 to {stages - 2} only; name at least one of these."
            )
