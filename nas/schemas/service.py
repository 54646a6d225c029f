"""REST schemas of plug-ins, workers, health and readiness."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from nas.schemas.candidates import CellSchema


class SpaceSchema(BaseModel):
    """A search space a spec can name, with the parameters it takes, and its kinds of cells if it has any."""

    name: str
    summary: str
    presets: list[str] = []
    cells: list[CellSchema] = []


class StrategySchema(BaseModel):
    """A strategy a spec can name, with its parameters' defaults."""

    name: str
    summary: str
    params: dict[str, Any] = {}


class HealthSchema(BaseModel):
    """Is the service able to take and run searches?"""

    status: Literal["ok", "degraded"]
    version: str
    database: str
    workers: int
    queued: int
    running: int
    detail: str = ""


class NodeResourcesSchema(BaseModel):
    """What a node has, or what of it is free."""

    cpus: float
    gpus: float = 0.0
    memory_gb: float = 0.0
    labels: dict[str, str] = {}


class WorkerSchema(BaseModel):
    """A dispatcher that is connected, with the ``nodes`` of its cluster and what of each is ``free``, in the same
    order; ``elastic``: more nodes may come."""

    name: str
    slots: int
    seen_at: datetime
    elastic: bool
    nodes: list[NodeResourcesSchema]
    free: list[NodeResourcesSchema]


class HealthCheckSchema(BaseModel):
    """One thing that readiness and ``nas doctor`` look at."""

    name: str
    status: Literal["ok", "warning", "failed"]
    detail: str


class ReadinessSchema(BaseModel):
    """Whether requests and searches can be served now, and what was looked at."""

    ready: bool
    checks: list[HealthCheckSchema]
