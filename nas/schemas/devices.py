"""REST schemas of devices, their drift and their comparison."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from nas.core.spec import DeviceSpec
from nas.schemas.agents import AgentSchema
from nas.schemas.jobs import JobSchema
from nas.schemas.predictors import PredictorCardSchema, PredictorVersionSchema


class DriftReadingSchema(BaseModel):
    """A measurement of a network, or of the canary alone (``arch`` and ``ratio`` None). ``ratio`` is measured over
    predicted, ``canary`` the canary's time over its time in the profile."""

    at: datetime
    arch: str | None
    ratio: float | None
    canary: float


class DriftSessionSchema(BaseModel):
    """What one job has measured on a device: the medians of both ratios over its networks."""

    at: datetime
    networks: int
    ratio: float | None
    canary: float


class DriftSchema(BaseModel):
    """Whether a device still is as it was profiled: ``within`` is how far it was off at most, as a share of 1.
    ``readings`` are the latest."""

    device: str
    status: Literal["unknown", "stable", "drifting"]
    within: float | None
    sentence: str
    sessions: list[DriftSessionSchema]
    readings: list[DriftReadingSchema]


class ProfileDifferenceSchema(BaseModel):
    """Something in which two devices differ."""

    what: str
    first: str
    second: str


LatencyKind = Literal["measured", "predicted"]


class LatencyPairSchema(BaseModel):
    """A network on two devices, in ms, and how each is known."""

    arch: str
    first_ms: float
    second_ms: float
    first_kind: LatencyKind
    second_kind: LatencyKind


class DeviceComparisonSchema(BaseModel):
    """Two devices side by side: latencies of the same networks of one space, measured or predicted on each, how alike
    they rank them, by how much the second is slower (``ratio``, the median), and in what the profiles differ.
    ``spaces`` are those that both have predictors for, by id."""

    first: str
    second: str
    space: str
    space_name: str
    spaces: list[str]
    pairs: list[LatencyPairSchema]
    both_measured: int
    spearman: float | None
    kendall: float | None
    ratio: float
    cards: list[PredictorCardSchema]
    versions: list[PredictorVersionSchema]
    differences: list[ProfileDifferenceSchema]


class DeviceSchema(JobSchema):
    """A device: its profile, its onboarding job, its predictors in use, one for each space, and its agent if it has
    one. ``stale`` says what has changed since it was profiled."""

    name: str
    agent: AgentSchema | None = None
    stale: list[str] = Field(default_factory=list)
    spec: DeviceSpec
    profile_id: str | None = None
    profile: dict[str, Any] | None = None
    predictors: list[PredictorCardSchema] = Field(default_factory=list)
