"""REST schemas of the protocol between the service and device agents."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from nas.core.device import DeviceProfile, MachineNoise
from nas.core.gpu_clocks import GpuClocks
from nas.core.jobs import JobKind
from nas.core.placement import LayerTime, Placement
from nas.core.runtimes import Precision
from nas.core.timing import MeasurementTask, Sitting, Timing, Visit
from nas.schemas.common import Text


class QueueEntrySchema(BaseModel):
    """A job that waits for a device: its owner, its kind, how many networks it waits for, and how long until they are
    measured, those before it included; None where nothing was measured yet to tell from."""

    owner: str
    kind: JobKind
    networks: int
    wait_s: float | None = None


class AgentSchema(BaseModel):
    """The agent of a device, with the ``profile`` and the library ``versions`` that it last reported.

    ``away``: it sent no request lately. ``waiting`` networks are queued for it, and it is ``measuring`` one. ``queue``:
    the jobs that wait, in the order in which they are measured.
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
    queue: list[QueueEntrySchema] = []


class AgentBody(BaseModel):
    """A registration: ``instance`` identifies the process, ``profile`` is a ``nas.core.device.DeviceProfile``."""

    model_config = {"extra": "forbid"}
    instance: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")
    profile: ProfileBody
    versions: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=200)]] = Field(
        default={}, max_length=16
    )


Finite = Annotated[float, Field(allow_inf_nan=False)]
Slope = tuple[Finite, Finite] | None


@dataclass(frozen=True)
class NoiseBody(MachineNoise):
    """A ``MachineNoise`` as an agent reports it, with bounds."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    floor: Annotated[float, Field(gt=0, le=10)]
    levels: Annotated[tuple[Annotated[float, Field(gt=0, le=1e6)], ...], Field(min_length=1, max_length=8)]
    undisturbed: Annotated[float, Field(ge=0, le=1)]
    slope: Slope = None
    load: Annotated[float, Field(ge=0, le=1e6)] | None = None


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
    batch: int = Field(default=1, ge=1, le=4096)
    precision: Precision = "float32"
    canary_ms: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    noise: NoiseBody | None = None


class AgentRegistrationSchema(BaseModel):
    """The profile that an agent measures with; None: measure the canary and register again with it."""

    profile: DeviceProfile | None


class ClaimBody(BaseModel):
    """The process of an agent that claims a task."""

    model_config = {"extra": "forbid"}
    instance: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")


class ClaimSchema(BaseModel):
    """The next task of a device, None if there is none."""

    task: MeasurementTask | None


class LeaseBody(BaseModel):
    """The lease of a task."""

    model_config = {"extra": "forbid"}
    lease: str = Field(min_length=1, max_length=64)


class LeaseSchema(BaseModel):
    """Whether a lease is valid; if not, the agent must drop the task."""

    held: bool


Times = Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(max_length=20_000)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
LoadMs = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


@dataclass(frozen=True)
class VisitBody(Visit):
    """A ``Visit`` as an agent sends it, with bounds."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    network_ms: Times
    canary_ms: Times
    interrupted_ms: Times
    level_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class SittingBody(Sitting):
    """A ``Sitting`` as an agent sends it, with bounds."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    visits: Annotated[tuple[VisitBody, ...], Field(max_length=2_000)]
    runs: Count
    steady: bool = field()
    steps_back: Count = field()
    slope: Slope = field()
    canary_quantiles_ms: Times = field()


Amounts = Annotated[dict[Text, Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(max_length=64)]


@dataclass(frozen=True)
class PlacementBody(Placement):
    """A ``Placement`` as an agent sends it, with bounds."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    provider: Text = field()
    nodes: Annotated[dict[Text, Count], Field(max_length=64)] = field()
    ms: Amounts = field()
    fallback: Annotated[tuple[Text, ...], Field(max_length=1_000)] = field()
    in_float32: Annotated[tuple[Text, ...], Field(max_length=1_000)] = ()


@dataclass(frozen=True)
class GpuClocksBody(GpuClocks):
    """``GpuClocks`` as an agent sends them, with bounds."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    sm_mhz: Annotated[int, Field(ge=0, le=100_000)] = field()
    max_sm_mhz: Annotated[int, Field(ge=0, le=100_000)] = field()
    temperature_c: Annotated[int, Field(ge=-273, le=1_000)] = field()
    throttled: Annotated[tuple[Text, ...], Field(max_length=16)] = ()


@dataclass(frozen=True)
class LayerTimeBody(LayerTime):
    """A ``LayerTime`` as an agent sends it, with bounds."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: Annotated[str, Field(max_length=500)] = field()
    operator: Text = field()
    provider: Text = field()
    ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = field()


@dataclass(frozen=True)
class TimingBody(Timing):
    """A ``Timing`` as an agent sends it, with bounds."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    sittings: Annotated[tuple[SittingBody, ...], Field(min_length=1, max_length=32)]
    cold_load_ms: LoadMs = None
    warm_load_ms: LoadMs = None
    placement: PlacementBody | None = None
    peak_bytes: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    energy_mj: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    layers: Annotated[tuple[LayerTimeBody, ...], Field(max_length=5_000)] = ()
    gpu: GpuClocksBody | None = None


class ResultBody(LeaseBody):
    """The result of a task: raw times, or an ``error``."""

    timing: TimingBody | None = None
    error: str | None = Field(default=None, max_length=2_000)
