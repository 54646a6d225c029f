"""Types and schemas that several REST resources share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, WithJsonSchema

Text = Annotated[str, Field(max_length=200)]
# Plain arrays in the OpenAPI description: not every reader supports ``prefixItems``.
_RANGE = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_SHAPE = {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3}
Range = Annotated[tuple[float, float], WithJsonSchema(_RANGE)]  # from, to
Shape = Annotated[tuple[int, int, int], WithJsonSchema(_SHAPE)]  # channels, height, width


class Page(BaseModel):
    """A page of a list. ``next`` is the cursor of the next page, None on the last."""

    next: str | None = None


class ErrorSchema(BaseModel):
    """An error: a stable ``code`` for programs and a message for people."""

    code: str
    message: str
