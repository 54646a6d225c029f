"""REST schemas of plug-ins, workers, health and readiness."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from nas.core.cells import CellGraph
from nas.core.scheduling import NodeResources


class SpaceSchema(BaseModel):
    """A search space that a spec can name, with its presets, and its cells if it has any. ``relaxed``: whether it has
    a continuous relaxation, which differentiable search needs. ``of_model``: whether it starts from a stored model,
    which the spec names as ``space.model``."""

    name: str
    summary: str
    presets: list[str] = []
    cells: list[CellGraph] = []
    relaxed: bool = False
    of_model: bool = False


class StrategySchema(BaseModel):
    """A strategy that a spec can name, with its parameters' defaults. ``relaxed_only``: whether it needs a search space
    with a continuous relaxation; ``model_only``: whether it needs one of a stored model."""

    name: str
    summary: str
    params: dict[str, Any] = {}
    relaxed_only: bool = False
    model_only: bool = False


class HealthSchema(BaseModel):
    """Is the service able to take and run searches?"""

    status: Literal["ok", "degraded"]
    version: str
    database: str
    workers: int
    queued: int
    running: int
    detail: str = ""


class WorkerSchema(BaseModel):
    """A connected dispatcher with the ``nodes`` of its cluster and their ``free`` resources, in the same order.

    ``elastic``: the cluster may add nodes.
    """

    name: str
    slots: int
    seen_at: datetime
    elastic: bool
    nodes: list[NodeResources]
    free: list[NodeResources]


class HealthCheckSchema(BaseModel):
    """The result of one check of readiness or of ``nas doctor``."""

    name: str
    status: Literal["ok", "warning", "failed"]
    detail: str


class ReadinessSchema(BaseModel):
    """Whether requests and searches can be served now, with the result of each check."""

    ready: bool
    checks: list[HealthCheckSchema]
