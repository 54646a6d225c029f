"""REST schemas of cascades of the exported models of a search."""

from __future__ import annotations

from pydantic import BaseModel

from nas.core.cascade_spec import CascadeSpec
from nas.core.cascades import CascadeReport
from nas.schemas.jobs import JobSchema


class CascadeFileSchema(BaseModel):
    """The zip file of a cascade: the ONNX files of its members, its thresholds and a runner. ``url`` is relative to the
    server."""

    name: str
    size_bytes: int
    sha256: str
    url: str


class CascadeSchema(JobSchema):
    """A cascade with the fields of its job. ``report`` and ``file`` are None until it was made; the latencies of the
    report are those of onnxruntime on one thread of the machine ``worker``."""

    spec: CascadeSpec
    report: CascadeReport | None = None
    worker: str | None = None
    file: CascadeFileSchema | None = None
