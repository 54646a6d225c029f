"""REST schemas of dry runs: feasibility, ranges and a cost estimate."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from nas.schemas.common import Range


class StageCostSchema(BaseModel):
    """What one stage will take, from ``timed`` steps of it that were really run on a worker, of ``steps`` in all.

    ``low_s`` to ``high_s`` is the range that the timed steps and unknown repetitions leave open. All three are None for
    a stage that cannot say what it takes; the ``note`` then says so.
    """

    stage: str
    seconds: float | None
    low_s: float | None
    high_s: float | None
    steps: int
    timed: int
    unit: str = ""
    memory_bytes: int | None = None
    note: str = ""


class CostEstimateSchema(BaseModel):
    """What a search will take on the worker that timed it. ``confidence``: ``measured`` where every stage's steps were
    timed, ``partial`` where some stage cannot say what it takes (its ``note`` says why): sums are then without it."""

    worker: str
    seconds: float
    low_s: float
    high_s: float
    gpu_hours: float
    cpu_hours: float
    memory_bytes: int
    evaluations: int
    confidence: Literal["measured", "partial"]
    stages: list[StageCostSchema]


class DeviceFeasibilitySchema(BaseModel):
    """What a search would meet on one device of its fleet."""

    device: str
    bound_ms: float | None
    range_ms: Range | None
    lowest_reachable_ms: float | None
    feasible_share: float | None


class DryRunSchema(BaseModel):
    """What a search would meet, before anything is spent. Ranges come from ``sampled`` random networks and the extreme
    ones; latencies are predicted; counts are exact. ``cost`` was timed on a worker; where it is None, ``cost_missing``
    says why. Over a fleet, latencies are those of the slowest device, and ``fleet`` has them by device."""

    feasible: bool
    problems: list[str]
    space_size: float
    ranges: dict[str, Range]
    lowest_reachable_ms: float | None
    feasible_share: float | None
    sampled: int
    stages: list[str]
    spec_hash: str
    fleet: list[DeviceFeasibilitySchema] = []
    cost: CostEstimateSchema | None = None
    cost_missing: str | None = None
