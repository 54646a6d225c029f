"""REST schemas of devices, their drift and their comparison."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from nas.core.device import DeviceProfile
from nas.core.spec import DeviceSpec, Name
from nas.schemas.agents import AgentSchema
from nas.schemas.common import Page, Range
from nas.schemas.jobs import JobSchema
from nas.schemas.predictors import PredictorCardSchema, PredictorVersionSchema


class ProfileDifferenceSchema(BaseModel):
    """A field in which two device profiles differ."""

    label: str
    first: str
    second: str


LatencyKind = Literal["measured", "predicted"]


class LatencyPairSchema(BaseModel):
    """The latencies of an architecture on two devices, in ms, and the kind of each."""

    arch: str
    first_ms: float
    second_ms: float
    first_kind: LatencyKind
    second_kind: LatencyKind


class DeviceComparisonSchema(BaseModel):
    """Two devices: latencies of the same architectures of one space, their rank correlation, and profile differences.

    ``ratio`` is the median of the second device's latency over the first's. ``spaces`` are the ids of those that both
    have predictors for.
    """

    first: str
    second: str
    space: str
    space_name: str
    spaces: list[str]
    pairs: list[LatencyPairSchema]
    both_measured: int
    spearman: float | None
    kendall: float | None
    kendall_interval: Range | None = None
    ratio: float
    cards: list[PredictorCardSchema]
    versions: list[PredictorVersionSchema]
    differences: list[ProfileDifferenceSchema]


class DeviceSchema(JobSchema):
    """A device with its latest onboarding, its profile, its present predictor for each space, and its agent if any.

    Its fields as a job, ``id`` among them, are those of the onboarding, but for the ``owner``, who is that of the
    device. ``stale`` lists what changed since it was profiled.
    """

    name: str
    agent: AgentSchema | None = None
    stale: list[str] = Field(default_factory=list)
    spec: DeviceSpec
    profile_id: str | None = None
    profile: DeviceProfile | None = None
    predictors: list[PredictorCardSchema] = Field(default_factory=list)


class OnboardingSchema(JobSchema):
    """An onboarding: a job that measures a device for one space and fits a predictor."""

    device: str
    spec: DeviceSpec


class OnboardingPage(Page):
    """Onboardings, newest first."""

    items: list[OnboardingSchema]


class RenameBody(BaseModel):
    """The new name of a device."""

    model_config = {"extra": "forbid"}
    name: Name


class OwnerBody(BaseModel):
    """The new owner of a device."""

    model_config = {"extra": "forbid"}
    owner: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")
