"""REST schemas of the protocol between the service and device agents."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from nas.core.device import DeviceProfile
from nas.schemas.common import Text


class AgentSchema(BaseModel):
    """The agent of a device, with the ``profile`` and the library ``versions`` that it last reported.

    ``away``: it sent no request lately. ``waiting`` networks are queued for it, and it is ``measuring`` one.
    """

    name: str
    owner: str
    profile_id: str
    profile: DeviceProfile
    versions: dict[str, str]
    seen_at: datetime
    away: bool
    waiting: int
    measuring: str | None


class AgentBody(BaseModel):
    """A registration: ``instance`` identifies the process, ``profile`` is a ``nas.core.device.DeviceProfile``."""

    model_config = {"extra": "forbid"}
    instance: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")
    profile: ProfileBody
    versions: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=200)]] = Field(
        default={}, max_length=16
    )


Finite = Annotated[float, Field(allow_inf_nan=False)]


class NoiseBody(BaseModel):
    """A ``nas.core.device.MachineNoise`` as an agent reports it."""

    model_config = {"extra": "forbid"}
    floor: float = Field(gt=0, le=10)
    levels: list[Annotated[float, Field(gt=0, le=1e6)]] = Field(min_length=1, max_length=8)
    undisturbed: float = Field(ge=0, le=1)
    slope: tuple[Finite, Finite] | None = None
    load: float | None = Field(default=None, ge=0, le=1e6)


class ProfileBody(BaseModel):
    """A ``nas.core.device.DeviceProfile`` as reported by an agent; its name is that of the agent."""

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
    noise: NoiseBody | None = None


class AgentRegistrationSchema(BaseModel):
    """The profile that an agent measures with; None: measure the canary and register again with it."""

    profile: DeviceProfile | None


class ClaimBody(BaseModel):
    """The process of an agent that claims a task."""

    model_config = {"extra": "forbid"}
    instance: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")


class MeasurementTaskSchema(BaseModel):
    """A network to measure: the sha256 of its model and the device profile with the protocol.

    The result is sent with the ``lease``, which must be renewed within ``seconds``.
    """

    id: str
    lease: str
    network: str
    sha256: str
    profile: DeviceProfile
    seconds: float


class ClaimSchema(BaseModel):
    """The next task of a device, None if there is none."""

    task: MeasurementTaskSchema | None


class LeaseBody(BaseModel):
    """The lease of a task."""

    model_config = {"extra": "forbid"}
    lease: str = Field(min_length=1, max_length=64)


class LeaseSchema(BaseModel):
    """Whether a lease is valid; if not, the agent must drop the task."""

    held: bool


Times = Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(max_length=20_000)]


class VisitBody(BaseModel):
    """One visit to a network: times per inference of its chunks and of the canary beside them, in ms."""

    model_config = {"extra": "forbid"}
    network_ms: Times
    canary_ms: Times
    interrupted_ms: Times
    level_ms: float = Field(gt=0, allow_inf_nan=False)


class SittingBody(BaseModel):
    """The times of one process."""

    model_config = {"extra": "forbid"}
    visits: list[VisitBody] = Field(max_length=2_000)
    runs: int = Field(ge=0, lt=2**31)
    steady: bool
    steps_back: int = Field(ge=0, lt=2**31)
    slope: tuple[Finite, Finite] | None
    canary_quantiles_ms: Times


class TimingBody(BaseModel):
    """A ``predictors.measurement.protocol.Timing`` as an agent sends it: raw times, in ms."""

    model_config = {"extra": "forbid"}
    sittings: list[SittingBody] = Field(min_length=1, max_length=32)
    cold_load_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    warm_load_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class ResultBody(LeaseBody):
    """The result of a task: raw times, or an ``error``."""

    timing: TimingBody | None = None
    error: str | None = Field(default=None, max_length=2_000)
