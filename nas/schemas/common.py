"""Types and schemas that several REST resources share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

Text = Annotated[str, Field(max_length=200)]
Range = tuple[float, float]  # from, to


class Page(BaseModel):
    """A page of a list. ``next`` is the cursor of the next page, None on the last."""

    next: str | None = None


class ErrorSchema(BaseModel):
    """An error: a stable ``code`` for programs and a message for people."""

    code: str
    message: str
