"""REST schemas of plug-ins, workers, health and readiness."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from nas.core.cells import CellGraph
from nas.core.measures import Goal
from nas.core.scheduling import NodeResources
from nas.core.tasks import LabelKind, OutputKind


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


class TaskSchema(BaseModel):
    """A task that a spec can name. ``objective``: the name of its quality among a search's objectives, which people
    call ``quality``, in ``unit``; ``goal``: whether more of it is better. ``labels`` and ``outputs``: what an image's
    label is, and what networks give for it; ``of_model``: whether a user's model stands in for labels. ``metrics``: all
    that networks are reported by."""

    name: str
    summary: str
    objective: str
    quality: str
    unit: str
    goal: Goal
    labels: LabelKind
    outputs: OutputKind
    of_model: bool = False
    metrics: list[str] = []


class RuntimeSchema(BaseModel):
    """A runtime that the spec of a device or an agent can name. ``requirement``: what pip installs for it."""

    name: str
    summary: str
    requirement: str


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
