"""Options of self-training."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from nnunet_ext.nnunet.options import STRICT, MethodOptions


@dataclass(frozen=True, config=STRICT)
class SelfTrainingOptions(MethodOptions):
    """Warm-up and weight; which images, and how many of them, is in the section ``unlabelled``."""

    SECTION: ClassVar[str] = "selftraining"

    start: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the training before which there are no labels of the network: until then it is an ordinary training."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss on the network's own labels."""
