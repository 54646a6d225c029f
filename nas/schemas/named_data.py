"""REST schemas of data sets that were added by a name."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from nas.core.data_account import DataAccount
from nas.core.ports import ImageShape
from nas.core.spec import DataSpec, Name


class DataFileSchema(BaseModel):
    """An uploaded data set as it lies on the server: its kind, its path there, how many files it has and their size."""

    kind: str
    path: str
    files: int
    size_bytes: int


class NamedDataBody(BaseModel):
    """A data set to add. ``data`` says where it lies, how it is read, and for which task."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    data: DataSpec


class NamedDataSchema(BaseModel):
    """A data set with a name, as it was when it was last checked, at ``checked_at``.

    ``account`` says what became of every input; None where the data were not read in full, for the reason
    ``incomplete``. ``samples``: whether there is a picture of its images.
    """

    name: str
    owner: str
    data: DataSpec
    added_at: datetime
    checked_at: datetime
    shape: ImageShape
    account: DataAccount | None = None
    incomplete: str = ""
    samples: bool = False


class DataCheckSchema(BaseModel):
    """A check of a named data set now. ``changed``: whether its content is another than when it was added; None where
    the data were not read in full, then or now. ``problems``: why searches would refuse it."""

    data: NamedDataSchema
    changed: bool | None = None
    problems: tuple[str, ...] = ()
