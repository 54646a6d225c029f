"""REST schemas of users' models."""

from __future__ import annotations

from pydantic import BaseModel, Field

from nas.core.jobs import JobKind
from nas.core.model_spec import ModelSpec
from nas.core.parent import Preprocessing
from nas.models.intake import IntakeReport
from nas.models.stored import ModelSummary, ParentLatency, ParentQuality
from nas.schemas.jobs import JobSchema


class UploadSchema(BaseModel):
    """An uploaded file: its sha256 and its size in bytes."""

    blob: str
    size_bytes: int


class UserModelSchema(JobSchema):
    """A model with its latest intake, whose fields as a job these are, but for the ``owner``, who is that of the model.

    ``summary`` is None until the model was read. ``graph``, ``weights`` and ``report_blob`` are the sha256 of what is
    stored of it: its graph as JSON, its weights as safetensors, its intake report as JSON. ``preprocessing``: how
    images enter it, None: by the statistics of the data. ``quality`` and ``latency``: as it came, on the data and the
    device of the spec. ``refused``: its file cannot be used, however often its intake is tried.
    """

    name: str
    spec: ModelSpec
    summary: ModelSummary | None = None
    graph: str | None = None
    weights: str | None = None
    report_blob: str | None = None
    preprocessing: Preprocessing | None = None
    quality: ParentQuality | None = None
    latency: ParentLatency | None = None
    refused: bool = False


class ModelUserSchema(BaseModel):
    """What needs a model, so that it cannot be deleted: a ``device`` by its name, a ``search`` or ``dry_run`` by its
    id."""

    kind: JobKind
    name: str


class UserModelDetailSchema(UserModelSchema):
    """A model with its intake report, which is None until it was read, and its ``users``: it can be deleted once these
    are."""

    report: IntakeReport | None = None
    users: list[ModelUserSchema] = Field(default_factory=list)
