"""Jobs: what a worker receives, leases on jobs, and the job store interface.

A job is a search, a dry run of one, a cascade of its models, the onboarding of a device, or the intake of a model. Its
payload has one type for each; everything that the spec names is resolved when the job is claimed, so that a worker
needs no database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from nas.core.cascade_spec import CascadeSpec
from nas.core.device import DeviceProfile, Measurement
from nas.core.events import Candidate, EncodedEvent
from nas.core.model_spec import ModelSpec
from nas.core.parent import Preprocessing
from nas.core.runtimes import Precision
from nas.core.scheduling import NodeResources
from nas.core.spec import DeviceSpec, SearchSpec, SpaceSpec
from nas.core.unsupported import ExcludedChoice

JobKind = Literal["search", "device", "dry_run", "model", "cascade"]
JobSpec = SearchSpec | DeviceSpec | ModelSpec | CascadeSpec
AppendOutcome = Literal["continue", "stop", "lost"]


@dataclass(frozen=True)
class PredictorBlob:
    """A fitted predictor: its family and the sha256 of its arrays."""

    family: str
    blob: str


@dataclass(frozen=True)
class ParentBlobs:
    """A stored model: the sha256 of its graph as JSON, and of its weights as safetensors."""

    name: str
    graph: str
    weights: str
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True)
class DevicePayload:
    """A device of a search: its profile and the latency predictor of version ``predictor_id``, both as of the first
    claim of the search, and the choices of the space that it does not run."""

    name: str
    profile: DeviceProfile
    predictor: PredictorBlob
    predictor_id: str
    excluded: tuple[ExcludedChoice, ...] = ()


@dataclass(frozen=True)
class RefitData:
    """Training data for refitting a device's predictor: ``measurements_blob``, what the predictor was fitted to;
    ``relative_blobs``, measurements of similar devices; and architectures that other searches measured on the device,
    as ``genes`` (N, G) with ``latency_ms`` (N)."""

    measurements_blob: str
    relative_blobs: tuple[str, ...] = ()
    genes: tuple[tuple[int, ...], ...] = ()
    latency_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class MeasurementKey:
    """What an agent measured: an architecture id on a device by a protocol id."""

    device: str
    network: str
    protocol: str


@dataclass(frozen=True)
class MeasurementFailure:
    """Why an agent could not measure an architecture."""

    error: str


AgentResults = Mapping[MeasurementKey, Measurement | MeasurementFailure]


@dataclass(frozen=True)
class TeacherPayload:
    """An exported model of another search: the ids of the ``search`` and the ``network``, the ``space`` of the search
    with the model it starts from (``parent``), the blob of the ``package``, and the ``precision`` of the search."""

    search: str
    network: str
    space: SpaceSpec
    package: str
    parent: ParentBlobs | None = None
    precision: Precision = "float32"


@dataclass(frozen=True)
class SearchPayload:
    """A search with its devices, in the order of the spec. ``energy`` is the predictor of energy, None for a fleet or
    if the device has none. ``supernet_blob``, ``supernet_data`` (the content hash of its data, None where it is not
    recorded) and ``inherited`` (estimated candidates) come from the search whose supernet is reused. ``refit`` is None
    where nothing was measured or over a fleet. ``busy_seconds``: what earlier attempts took. ``parent``: the model that
    the space names; ``teacher``: the model of another search that ``spec.retrain`` names. ``search_id``: empty for
    a dry run."""

    kind: ClassVar[JobKind] = "search"
    spec: SearchSpec
    devices: tuple[DevicePayload, ...]
    energy: PredictorBlob | None = None
    refit: RefitData | None = None
    supernet_blob: str | None = None
    supernet_data: str | None = None
    inherited: tuple[Candidate, ...] = ()
    measurements: AgentResults = field(default_factory=dict)
    busy_seconds: float = 0.0
    parent: ParentBlobs | None = None
    teacher: TeacherPayload | None = None
    search_id: str = ""


@dataclass(frozen=True)
class DryRunPayload:
    """A search whose cost is to be estimated."""

    kind: ClassVar[JobKind] = "dry_run"
    search: SearchPayload

    @property
    def spec(self) -> SearchSpec:
        """The spec of the search."""
        return self.search.spec


@dataclass(frozen=True)
class OnboardingPayload:
    """A device to onboard. ``relative_blobs``: measurements of similar devices. ``profile`` is that of the device's
    agent, None if a worker measures or nothing is measured. ``parent``: the model that the space names.
    ``busy_seconds``: what earlier attempts and the agent took."""

    kind: ClassVar[JobKind] = "device"
    spec: DeviceSpec
    relative_blobs: tuple[str, ...] = ()
    profile: DeviceProfile | None = None
    measurements: AgentResults = field(default_factory=dict)
    parent: ParentBlobs | None = None
    busy_seconds: float = 0.0


@dataclass(frozen=True)
class IntakePayload:
    """A model to take in. ``device`` is the profile of the device that it is measured on, None without one."""

    kind: ClassVar[JobKind] = "model"
    spec: ModelSpec
    device: DeviceProfile | None = None
    measurements: AgentResults = field(default_factory=dict)


@dataclass(frozen=True)
class CascadePayload:
    """A cascade to make of the exported models of a search, whose ``packages`` are these blobs."""

    kind: ClassVar[JobKind] = "cascade"
    spec: CascadeSpec
    packages: tuple[str, ...]


JobPayload = SearchPayload | DryRunPayload | OnboardingPayload | IntakePayload | CascadePayload


@dataclass(frozen=True)
class LeaseToken:
    """Fencing token of a lease. ``token`` grows with every claim of the job; a write with an older token is
    rejected."""

    job_id: str
    token: int


@dataclass(frozen=True)
class Lease(LeaseToken):
    """A claimed job: what to run and the ``events`` of earlier attempts, from which it continues."""

    expires_at: float
    payload: JobPayload
    events: tuple[EncodedEvent, ...] = ()


class JobStore(Protocol):
    """The queue and the event log. Workers learn of pausing and fencing from the result of ``append``, nowhere else."""

    def claim(self, worker: str, seconds: float, free: Sequence[NodeResources] | None = None) -> Lease | None:
        """Claim the next job in fair order that fits one of the ``free`` nodes (None: any job)."""

    def append(self, lease: LeaseToken, batch: int, events: Sequence[EncodedEvent], seconds: float) -> AppendOutcome:
        """Append the ``batch``-th batch (from 1) of this lease and renew the lease. Idempotent: a batch that was
        written before, by a call whose response was lost, is not written again. Returns ``stop`` when the job is parked
        with this batch, which ends the lease, and ``lost`` when the lease no longer holds."""
