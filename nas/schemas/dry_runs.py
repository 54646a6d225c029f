"""REST schemas of dry runs: feasibility, ranges and a cost estimate."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from nas.schemas.common import Range


class StageCostSchema(BaseModel):
    """The estimated cost of one stage, from ``timed`` of its ``steps`` that were run on a worker.

    ``low_s`` to ``high_s`` is the range of the estimate. All three durations are None for a stage that cannot be
    estimated; ``note`` then says why.
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
    """The estimated cost of a search on the worker that timed it.

    ``confidence``: ``measured`` if steps of every stage were timed, ``partial`` if sums lack a stage that cannot be
    estimated (its ``note`` says why).
    """

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
    """The feasibility of a search on one device of its fleet."""

    device: str
    bound_ms: float | None
    range_ms: Range | None
    lowest_reachable_ms: float | None
    feasible_share: float | None


class DryRunSchema(BaseModel):
    """The feasibility and the cost of a search, before it runs.

    Ranges come from ``sampled`` random architectures and the smallest and largest one; latencies are predicted; counts
    are exact. ``cost`` was timed on a worker; if it is None, ``cost_missing`` says why. Over a fleet, latencies are
    those of the slowest device, and ``fleet`` has them by device.
    """

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
