"""REST schemas of the protocol between the service and device agents."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from nas.schemas.common import Text


class AgentSchema(BaseModel):
    """The agent of a device. ``profile`` is what it last reported, ``versions`` what it runs on; ``away``: it was not
    heard of lately. ``waiting`` networks wait for it, and it is ``measuring`` one."""

    name: str
    owner: str
    profile_id: str
    profile: dict[str, Any]
    versions: dict[str, str]
    seen_at: datetime
    away: bool
    waiting: int
    measuring: str | None


class AgentBody(BaseModel):
    """An agent that is there: ``instance`` names its process, ``profile`` is a ``nas.core.device.DeviceProfile``."""

    model_config = {"extra": "forbid"}
    instance: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")
    profile: ProfileBody
    versions: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=200)]] = Field(
        default={}, max_length=16
    )


class ProfileBody(BaseModel):
    """A ``nas.core.device.DeviceProfile`` as an agent reports it; the name is that of the agent."""

    model_config = {"extra": "forbid"}
    machine: Text
    processor: Text
    cores: int = Field(ge=1, le=65_536)
    runtime: Text
    runtime_version: Text
    os: Text
    driver: Text = ""
    affinity: list[Annotated[int, Field(ge=0, le=65_535)]] = Field(default=[], max_length=1024)
    threads: int = Field(ge=1, le=1024)
    canary_ms: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)


class AgentRegistrationSchema(BaseModel):
    """The profile by which an agent measures; None while it has to measure the canary and register again with it."""

    profile: dict[str, Any] | None


class ClaimBody(BaseModel):
    """Which process of an agent asks for a task."""

    model_config = {"extra": "forbid"}
    instance: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")


class MeasurementTaskSchema(BaseModel):
    """A network to measure: its model's sha256, the device with the protocol to measure by, and the ``lease`` with
    which the result is sent, which has to be renewed within ``seconds``."""

    id: str
    lease: str
    network: str
    sha256: str
    profile: dict[str, Any]
    seconds: float


class ClaimSchema(BaseModel):
    """The next task of a device, None: there is none."""

    task: MeasurementTaskSchema | None


class LeaseBody(BaseModel):
    """Which lease of a task."""

    model_config = {"extra": "forbid"}
    lease: str = Field(min_length=1, max_length=64)


class LeaseSchema(BaseModel):
    """Whether a lease still holds; if not, the task is to be left."""

    held: bool


Times = Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(max_length=20_000)]


class TimingBody(BaseModel):
    """A ``predictors.protocol.Timing`` as an agent sends it: raw times, in ms."""

    model_config = {"extra": "forbid"}
    blocks_ms: list[Times] = Field(min_length=1, max_length=1_000)
    drift: list[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None] = Field(min_length=1, max_length=1_000)
    runs: int = Field(ge=0, lt=2**31)
    steady: bool
    steps_back: int = Field(ge=0, lt=2**31)
    cold_load_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    warm_load_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class ResultBody(LeaseBody):
    """What came of a task: its raw times, or the ``error`` for which there are none."""

    timing: TimingBody | None = None
    error: str | None = Field(default=None, max_length=2_000)
