"""REST schemas of the stars and notes that people put on searches and candidates."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field


class MarkBody(BaseModel):
    """A star, a note, both, or neither, which removes the mark."""

    model_config = {"extra": "forbid"}
    starred: bool = False
    note: str = Field(default="", max_length=4000)


class MarkSchema(MarkBody):
    """The mark of a candidate, or of the search itself (``arch`` is null): by whom and when it was last changed."""

    arch: str | None
    owner: str
    at: datetime
