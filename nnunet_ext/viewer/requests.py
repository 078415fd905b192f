"""Messages of nnInteractive's client about images and prompts, as JSON in the body or in a header."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnunet_ext.errors import InputError
from nnunet_ext.interactive.prompt_list import Position, Range, shortened

Model = TypeVar("Model", bound=BaseModel)

JSON_BYTES = 2**20
"""Largest request without an array, in bytes."""


class _Request(BaseModel):
    model_config = ConfigDict(strict=True)  # unknown keys are ignored: other versions of the client may send them


class ImageProperties(_Request):
    """Spacing of an image, mm of z, y, x."""

    spacing: list[Annotated[float, Field(gt=0, le=2**31)]] | None = Field(default=None, min_length=3, max_length=3)


class ImageRequest(_Request):
    """Message about an image; the body holds its array."""

    image_properties: ImageProperties | None = Field(default=None, description='{"spacing": [z, y, x]} in mm')


class BufferRequest(_Request):
    """Shape and type of the client's target buffer, which holds its mask."""

    shape: list[Annotated[int, Field(ge=0, le=2**31)]] = Field(description="[z, y, x]")
    dtype: Literal["bool", "uint8", "uint16", "int16", "int32", "float32"] = Field(
        description="bool, uint8, uint16, int16, int32 or float32"
    )


class ZoomRequest(_Request):
    """Message about nnInteractive's zoom."""

    do_autozoom: bool = Field(description="true or false")


class PromptRequest(_Request):
    """Message about any prompt."""

    include_interaction: bool = Field(description="true or false")
    run_prediction: bool = Field(default=True, description="true or false")


class PointRequest(PromptRequest):
    """A click."""

    coordinates: Position = Field(description="[z, y, x]")


class BoxRequest(PromptRequest):
    """A box; viewers may send fractional corners, and corners beyond the border."""

    bbox_coords: list[Range] = Field(min_length=3, max_length=3, description="[[z0, z1], [y0, y1], [x0, x1]]")


class MaskRequest(PromptRequest):
    """A scribble or a lasso; the body holds its mask."""

    interaction_bbox: list[Range] | None = Field(
        default=None, min_length=3, max_length=3, description="[[z0, z1], [y0, y1], [x0, x1]]"
    )


class InitialRequest(_Request):
    """A segmentation to start from; the body holds it."""

    run_prediction: bool = Field(default=False, description="true or false")


def read(model: type[Model], content: str | bytes, what: str = "The request") -> Model:
    """Parse a message of the client.

    Args:
        model: one of the classes above.
        content: JSON text.
        what: name of the content in messages.

    Raises:
        InputError: the content is too long, is no JSON object, or an entry is missing or wrong.
    """
    if len(content) > JSON_BYTES:
        raise InputError(f"{what} has {len(content)} bytes; without an array it may have {JSON_BYTES}.")
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    if not first["loc"]:
        raise InputError(f"{what} is no JSON object.")
    key = str(first["loc"][0])
    expected = model.model_fields[key].description
    if first["type"] == "missing":
        raise InputError(f"{what} has no {key}; expected is {expected}.")
    raise InputError(f"{what} has {key} with {shortened(first['input'])}; expected is {expected}.")
