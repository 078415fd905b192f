"""Options of every trainer that learns from images without labels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from nnunet_ext.nnunet.options import STRICT, MethodOptions

Source = Literal["folder", "others-of-the-split", "cases-without-masks", "none"]
"""Source of the images.

- ``folder``: images that ``nnunet-ext unlabelled`` has preprocessed.
- ``others-of-the-split``: cases of the data set outside the training set of a fold of ``splits_final.json``, without
  those that show validation subjects; their labels are not read.
- ``cases-without-masks``: training cases in which every voxel has the ignore label. The others are the labelled ones.
- ``none``: no images."""


@dataclass(frozen=True, config=STRICT)
class UnlabelledOptions(MethodOptions):
    """Options: the images to use, and how many patches of them are drawn."""

    SECTION: ClassVar[str] = "unlabelled"

    images: Source = "folder"
    """Source of the images. With ``"folder"`` and no images in it, a training uses labelled cases only."""
    per_labelled: Annotated[float, Field(gt=0, le=8)] = 1.0
    """Unlabelled patches of a batch for each labelled one; at least one patch."""
    transductive: bool = False
    """Use images of validation subjects, too. Their labels are never used, but such a validation measures how well a
    network does on images that it was adapted to."""

    @classmethod
    def as_published(cls) -> Self:
        """Return the options of a published method, which uses labelled cases only."""
        return cls(images="none")
