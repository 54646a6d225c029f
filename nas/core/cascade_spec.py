"""What people ask of a cascade of a search's exported models, and what a worker stores of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from nas.core.cascades import CascadeReport
from nas.core.json_types import JsonObject

CASCADE_STAGE = "cascade"
PositiveMs = Annotated[float, Field(gt=0)]


class CascadeBounds(BaseModel):
    """The fastest cascade of at most ``members`` networks whose accuracy on validation images is at most ``within``
    points below that of the most accurate model. ``expected_ms`` and ``p95_ms`` bound the mean and the 95th percentile
    of what an image takes; None: no bound."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    within: float = Field(default=0.0, ge=0, le=100)
    expected_ms: PositiveMs | None = None
    p95_ms: PositiveMs | None = None
    members: Literal[2, 3] = 3


class CascadeSpec(CascadeBounds):
    """A cascade of the exported models of the search with this id."""

    search: Annotated[str, Field(min_length=1, max_length=32)]

    @property
    def name(self) -> str:
        """What its job is called."""
        return f"cascade of {self.search}"


@dataclass(frozen=True)
class StoredCascade:
    """A cascade: what it does beside the single network, on which ``worker`` that was measured, and its zip file: the
    sha256 and the size."""

    report: CascadeReport
    worker: str
    blob: str
    size_bytes: int

    def as_json(self) -> JsonObject:
        """As a plain record, the result of the stage."""
        return asdict(self)

    @staticmethod
    def parse(record: JsonObject) -> StoredCascade:
        """Inverse of ``as_json``."""
        return _STORED.validate_python(record)


_STORED = TypeAdapter(StoredCascade)
