"""REST schemas of dry runs: feasibility, ranges and a cost estimate."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, TypeAdapter

from nas.core.cost_estimate import CostEstimate
from nas.core.data_account import DataAccount
from nas.core.measures import MetricKind
from nas.schemas.common import Range

_COST_ESTIMATE = TypeAdapter(CostEstimate)


def read_cost_estimate(record: Mapping[str, object]) -> CostEstimate:
    """A cost estimate from its JSON record. Raises pydantic.ValidationError."""
    return _COST_ESTIMATE.validate_python(record)


class DeviceFeasibilitySchema(BaseModel):
    """The feasibility of a search on one device of its fleet."""

    device: str
    bound_ms: float | None
    range_ms: Range | None
    lowest_reachable_ms: float | None
    feasible_share: float | None


class DryRunSchema(BaseModel):
    """The feasibility and the cost of a search, before it runs.

    Ranges come from ``sampled`` random architectures and the smallest and largest one; ``kinds`` is the kind of
    evidence of each: counts are exact, latencies predicted, or estimated on a device that is known by peak figures.
    ``cost`` was timed on a worker; if it is None, ``cost_missing`` says why. Over a fleet, latencies are those of the
    slowest device, and ``fleet`` has them by device. ``data`` is the account of the data set; None where it was not
    read, with ``data_missing`` to say why.
    """

    feasible: bool
    problems: list[str]
    space_size: float
    ranges: dict[str, Range]
    kinds: dict[str, MetricKind] = {}
    lowest_reachable_ms: float | None
    feasible_share: float | None
    sampled: int
    stages: list[str]
    spec_hash: str
    fleet: list[DeviceFeasibilitySchema] = []
    data: DataAccount | None = None
    data_missing: str | None = None
    cost: CostEstimate | None = None
    cost_missing: str | None = None
