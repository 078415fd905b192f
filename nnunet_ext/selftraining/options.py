"""Options of self-training."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from nnunet_ext.nnunet.options import STRICT, MethodOptions


@dataclass(frozen=True, config=STRICT)
class SelfTrainingOptions(MethodOptions):
    """Warm-up and weight; the section ``unlabelled`` says which images are used, and how many."""

    SECTION: ClassVar[str] = "selftraining"

    start: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the training before the network labels patches: until then it is an ordinary training."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss on the network's own labels."""
