"""The tables. ``events`` is the source of truth of a job; all other rows about its progress are projections.

All tables are here, one class each: migrations compare them with a database as a whole.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import JsonValue
from sqlalchemy import (
    BigInteger,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, validates

from nas.core.data_account import DataAccount
from nas.core.device import DeviceProfile, Measurement, OnDevice
from nas.core.events import SearchState
from nas.core.jobs import MeasurementFailure
from nas.core.ports import ImageShape
from nas.core.scheduling import NodeResources
from nas.core.spec import ResourceSpec
from nas.core.timing import Timing
from nas.models.stored import ModelSummary
from server.store.json_columns import (
    AccountColumn,
    BarsColumn,
    Json,
    MeasurementColumn,
    NodesColumn,
    OnDevicesColumn,
    ProfileColumn,
    ResourcesColumn,
    ResultColumn,
    ShapeColumn,
    StageBar,
    StateColumn,
    SummaryColumn,
    TimingColumn,
)

ALL_DEVICES = ""  # as the device of a front: the one front of a search that has one
OF_SEARCH = ""  # as the architecture of a mark: it is on the search itself


class Base(DeclarativeBase):
    """Base of all tables. Times are seconds since 1970, UTC."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        dict[str, JsonValue]: Json,
        dict[str, float]: Json,
        dict[str, str]: Json,
        list[int]: Json,
        list[str]: Json,
        float: Double(),
    }


class Job(Base):
    """A search or a device onboarding: its spec, its lease and its progress.

    ``lease_token`` grows with every claim; ``lease_batch`` counts the batches written under it, so that a batch whose
    response was lost is not written twice. ``busy_seconds`` counts the time under leases, up to ``busy_until``.
    ``idempotency_key`` is ``owner/key``, so that owners do not share keys.
    ``stalled`` counts the claims since the job last made durable progress.
    ``predictor_id`` is the version of its device's predictor that a search got when it was first claimed, and keeps.
    ``precedence`` grows as the priority falls, so that the index of the queue is ascending.
    ``available_at``: when a job that waits for its next attempt can be claimed, None: at once. ``expired_token`` is the
    token of a lease that expired and was counted as a crash, until its worker is heard of again.
    ``point_count`` counts all candidates, ``evaluations`` those of the search itself, without its baseline;
    ``extrapolated`` those of them outside the domain of the predictor, and ``extrapolated_measured`` the measured ones.
    ``state`` is the search state without candidates, hypervolumes and artifacts; ``stages`` holds the progress bars.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "kind", "status", "created_at"),
        Index(None, "kind", "created_at", "id"),
        Index(None, "owner", "created_at", "id"),
        # The queue of each owner in its order; with the kind, so that positions are read from the index alone.
        Index("ix_jobs_queue", "status", "owner", "precedence", "created_at", "id", "kind", "available_at"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    owner: Mapped[str] = mapped_column(String(120), default="local")
    priority: Mapped[int] = mapped_column(default=0)
    precedence: Mapped[int] = mapped_column(default=0)
    name: Mapped[str] = mapped_column(String(120))
    spec: Mapped[dict[str, JsonValue]]
    space_id: Mapped[str | None] = mapped_column(String(120))
    status: Mapped[str] = mapped_column(String(16), default="queued")
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    stalled: Mapped[int] = mapped_column(default=0)
    available_at: Mapped[float | None]
    expired_token: Mapped[int | None]
    last_crash: Mapped[str | None] = mapped_column(Text)
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_token: Mapped[int] = mapped_column(default=0)
    lease_expires_at: Mapped[float | None]
    lease_batch: Mapped[int] = mapped_column(default=0)
    busy_seconds: Mapped[float] = mapped_column(default=0.0)
    busy_until: Mapped[float | None]
    resources: Mapped[ResourceSpec] = mapped_column(ResourcesColumn)
    predictor_id: Mapped[str | None] = mapped_column(String(32), index=True)
    last_seq: Mapped[int] = mapped_column(default=0)
    point_count: Mapped[int] = mapped_column(default=0)
    evaluations: Mapped[int] = mapped_column(default=0)
    extrapolated: Mapped[int] = mapped_column(default=0)
    extrapolated_measured: Mapped[int] = mapped_column(default=0)
    stages: Mapped[tuple[StageBar, ...]] = mapped_column(BarsColumn, default=())
    state: Mapped[SearchState] = mapped_column(StateColumn, default=lambda: SearchState())

    @validates("priority")
    def _set_precedence(self, _name: str, priority: int) -> int:
        self.precedence = -priority
        return priority


class EventRow(Base):
    """One event of a job's log. Progress events are thinned out over time; all others are kept."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    body: Mapped[dict[str, JsonValue]]


class PointRow(Base):
    """A candidate. ``position`` is the order of first evaluation, ``seq`` the last event that changed it.

    ``devices``: its latencies on each device of a fleet, None without a fleet. ``extrapolated``: whether it lies
    outside the domain of the latency predictor, None where that has none.
    """

    __tablename__ = "points"
    __table_args__ = (Index(None, "job_id", "position", unique=True), Index(None, "job_id", "seq"))

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    origin: Mapped[str] = mapped_column(String(16), primary_key=True)
    arch_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    position: Mapped[int]
    seq: Mapped[int] = mapped_column(default=0)
    space: Mapped[str] = mapped_column(String(120))
    genes: Mapped[list[int]]
    metrics: Mapped[dict[str, float]]
    status: Mapped[str] = mapped_column(String(16))
    promised_ms: Mapped[float | None]
    measurement: Mapped[Measurement | None] = mapped_column(MeasurementColumn)
    devices: Mapped[dict[str, OnDevice] | None] = mapped_column(OnDevicesColumn)
    extrapolated: Mapped[bool | None]


class FrontRow(Base):
    """The front of a search on one ``device``, or its only front (empty name): sizes and hypervolumes.

    ``final``: whether networks are judged by test accuracy; ``measured``: by measured latency.
    """

    __tablename__ = "fronts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int]
    verified: Mapped[int]
    hypervolume: Mapped[float | None]
    baseline_hypervolume: Mapped[float | None]
    final: Mapped[bool]
    measured: Mapped[bool]


class FrontMemberRow(Base):
    """A member of a front, or of the front of the search's baseline (by ``origin``)."""

    __tablename__ = "front_members"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    origin: Mapped[str] = mapped_column(String(16), primary_key=True)
    arch_id: Mapped[str] = mapped_column(String(16), primary_key=True)


class HypervolumeRow(Base):
    """The hypervolumes of search and baseline after ``evaluations`` networks each, on one ``device`` or on all (empty
    name); ``seq`` is the event that reported them."""

    __tablename__ = "hypervolumes"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    evaluations: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int]
    search: Mapped[float]
    baseline: Mapped[float]


class ArtifactRow(Base):
    """A file of a candidate in the blob store. ``seq`` is the event that last exported it."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    arch_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    seq: Mapped[int]
    space: Mapped[str] = mapped_column(String(120))
    genes: Mapped[list[int]]
    blob: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(120))
    report: Mapped[dict[str, JsonValue]]


class MarkRow(Base):
    """The star and the note of a search (``OF_SEARCH``) or of one of its candidates; ``owner`` last changed it."""

    __tablename__ = "marks"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    arch_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    starred: Mapped[bool]
    note: Mapped[str] = mapped_column(Text)
    owner: Mapped[str] = mapped_column(String(120))
    at: Mapped[float]


class NoticeRow(Base):
    """That a search has ended, by its event ``seq``, and webhooks have not all been told: the ``attempts`` so far, and
    when the next is due. Written in the transaction that ends the search."""

    __tablename__ = "notices"
    __table_args__ = (Index(None, "next_at"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[float]


class DeviceRow(Base):
    """A device. ``job_id`` is its latest onboarding; ``profile`` is None until an onboarding has profiled it. Only its
    ``owner`` and administrators may change it."""

    __tablename__ = "devices"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(120), default="local")
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    profile_id: Mapped[str | None] = mapped_column(String(16))
    profile: Mapped[DeviceProfile | None] = mapped_column(ProfileColumn)


class PredictorRow(Base):
    """A version of the latency predictor for one device and one space.

    Its id is that of the onboarding that fitted it, or derives from that of the search whose measurements it was
    refitted with; it never changes. Its predictions are valid for its ``profile`` only. ``number`` counts the versions
    of the device and space from 1; ``before`` is the version that was refitted, None after an onboarding, and
    ``search_id`` the search. ``measurements_blob`` has all ``networks`` measurements that it was fitted to, None if
    nothing was measured. ``better``: whether later searches may use it, and ``why``.
    """

    __tablename__ = "predictors"
    __table_args__ = (Index(None, "device", "space_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.name"))
    profile_id: Mapped[str] = mapped_column(String(16))
    profile: Mapped[DeviceProfile] = mapped_column(ProfileColumn)
    space_id: Mapped[str] = mapped_column(String(120))
    family: Mapped[str] = mapped_column(String(64))
    card: Mapped[dict[str, JsonValue]]
    blob: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float]
    number: Mapped[int] = mapped_column(default=1)
    before: Mapped[str | None] = mapped_column(String(32))
    search_id: Mapped[str | None] = mapped_column(String(32))
    measurements_blob: Mapped[str | None] = mapped_column(String(64))
    networks: Mapped[int] = mapped_column(default=0)
    better: Mapped[bool] = mapped_column(default=True)
    why: Mapped[str] = mapped_column(Text, default="")


class ReadingRow(Base):
    """A measurement of a network, or of the canary only, on ``device`` by ``protocol``.

    Predictors are refitted with it, and drift is detected from it. It outlives the search that measured it.

    ``canary`` is the canary's time over its time in the profile. A network has ``genes``, and ``measured_ms`` beside
    the ``predicted_ms`` of the version ``predictor_id``.
    """

    __tablename__ = "readings"
    __table_args__ = (Index(None, "device", "at"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    device: Mapped[str] = mapped_column(String(64))
    at: Mapped[float]
    profile_id: Mapped[str] = mapped_column(String(16))
    protocol: Mapped[str] = mapped_column(String(16))
    job_id: Mapped[str] = mapped_column(String(32))
    canary: Mapped[float]
    space_id: Mapped[str | None] = mapped_column(String(120))
    predictor_id: Mapped[str | None] = mapped_column(String(32))
    arch_id: Mapped[str | None] = mapped_column(String(16))
    genes: Mapped[list[int] | None] = mapped_column(Json)
    measured_ms: Mapped[float | None]
    predicted_ms: Mapped[float | None]


class AgentRow(Base):
    """The agent of a device: the profile that it last reported, and the time of its last request.

    ``instance`` identifies its present process; ``versions`` are those of its libraries.
    """

    __tablename__ = "agents"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(120))
    instance: Mapped[str] = mapped_column(String(64))
    profile_id: Mapped[str] = mapped_column(String(16))
    profile: Mapped[DeviceProfile] = mapped_column(ProfileColumn)
    versions: Mapped[dict[str, str]]
    created_at: Mapped[float]
    seen_at: Mapped[float]


class MeasurementRow(Base):
    """A network that the agent of ``device`` measures for a job, once by each protocol.

    ``position`` is its place among those requested together; ``profile`` is the device with the protocol to
    measure by, ``protocol`` that protocol's id, ``blob`` the model.
    ``status`` is queued, leased, done or failed; ``result`` a ``Measurement`` as JSON, or an ``error``; ``raw`` the
    times that it was made from; ``seconds`` what the agent took for it.
    """

    __tablename__ = "measurements"
    __table_args__ = (
        UniqueConstraint("job_id", "device", "network", "protocol"),
        Index(None, "device", "status"),
        Index(None, "status", "job_id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    position: Mapped[int]
    device: Mapped[str] = mapped_column(String(64))
    network: Mapped[str] = mapped_column(String(64))
    protocol: Mapped[str] = mapped_column(String(16))
    profile: Mapped[DeviceProfile] = mapped_column(ProfileColumn)
    blob: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), default="queued")
    attempts: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_instance: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[float | None]
    result: Mapped[Measurement | MeasurementFailure | None] = mapped_column(ResultColumn)
    raw: Mapped[Timing | None] = mapped_column(TimingColumn)
    seconds: Mapped[float | None]
    created_at: Mapped[float]
    updated_at: Mapped[float]


class UserModelRow(Base):
    """A user's model. ``job_id`` is its latest intake; graph (JSON), weights (safetensors) and report (JSON) are blobs,
    None until it was read. Only its ``owner`` and administrators see and use it."""

    __tablename__ = "user_models"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(120))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    graph: Mapped[str | None] = mapped_column(String(64))
    weights: Mapped[str | None] = mapped_column(String(64))
    report: Mapped[str | None] = mapped_column(String(64))
    summary: Mapped[ModelSummary | None] = mapped_column(SummaryColumn)


class NamedDataRow(Base):
    """A data set that was added by a name: its ``spec``, and what its last check has read. ``samples`` is the blob of a
    picture of its images. Only its ``owner`` and administrators see and use it."""

    __tablename__ = "named_data"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(120))
    spec: Mapped[dict[str, JsonValue]]
    added_at: Mapped[float]
    checked_at: Mapped[float]
    shape: Mapped[ImageShape] = mapped_column(ShapeColumn)
    account: Mapped[DataAccount | None] = mapped_column(AccountColumn)
    incomplete: Mapped[str] = mapped_column(Text)
    samples: Mapped[str | None] = mapped_column(String(64))


class WorkerRow(Base):
    """A dispatcher that is, or lately was, connected.

    ``nodes`` are the resources of its cluster and ``free`` the free ones.
    ``elastic``: the cluster may add nodes. ``machine`` is the machine of the dispatcher.
    """

    __tablename__ = "workers"

    owner: Mapped[str] = mapped_column(String(200), primary_key=True)
    slots: Mapped[int]
    seen_at: Mapped[float]
    nodes: Mapped[tuple[NodeResources, ...]] = mapped_column(NodesColumn, default=())
    free: Mapped[tuple[NodeResources, ...]] = mapped_column(NodesColumn, default=())
    elastic: Mapped[bool] = mapped_column(default=False)
    machine: Mapped[DeviceProfile | None] = mapped_column(ProfileColumn)


class TokenRow(Base):
    """An API token. Only the sha256 of its secret is stored; the secret has 256 random bits, so it needs no salt.

    ``device``: the only one that an agent's token is for; None for other tokens.
    """

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    owner: Mapped[str] = mapped_column(String(120))
    name: Mapped[str] = mapped_column(String(120))
    secret_hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    last_used_at: Mapped[float | None]
    device: Mapped[str | None] = mapped_column(String(64))


class SessionRow(Base):
    """A login of the dashboard with a token, which it ends with. Only the sha256 of its secret is stored."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    token_id: Mapped[str] = mapped_column(ForeignKey("tokens.id"))
    secret_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float]
    expires_at: Mapped[float]


class OwnerRow(Base):
    """The limits of an owner (None: no limit)."""

    __tablename__ = "owners"

    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    max_queued: Mapped[int | None]
    max_running: Mapped[int | None]
    gpu_hours: Mapped[float | None]


class UsageRow(Base):
    """What the jobs of an owner have used so far, deleted jobs among them: the sum over all shards.

    A job always counts in the same shard; several shards let transactions of one owner commit at the same time.
    """

    __tablename__ = "usage"

    owner: Mapped[str] = mapped_column(String(120), primary_key=True)
    shard: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    events: Mapped[int] = mapped_column(BigInteger, default=0)
    evaluations: Mapped[int] = mapped_column(BigInteger, default=0)
    busy_seconds: Mapped[float] = mapped_column(default=0.0)
    gpu_seconds: Mapped[float] = mapped_column(default=0.0)


class StagePricesRow(Base):
    """What stages take, ``seconds`` by name, as an owner's latest dry run or search of this ``work`` has shown."""

    __tablename__ = "stage_prices"
    __table_args__ = (Index(None, "at"),)

    owner: Mapped[str] = mapped_column(String(120), primary_key=True)
    work: Mapped[str] = mapped_column(String(64), primary_key=True)
    seconds: Mapped[dict[str, float]]
    at: Mapped[float]


class UrgentClaimRow(Base):
    """When a dry run of an owner last went before the jobs of all others."""

    __tablename__ = "urgent_claims"

    owner: Mapped[str] = mapped_column(String(120), primary_key=True)
    at: Mapped[float]


class AuditRow(Base):
    """An action of an owner. Written in the transaction of the action, and never changed."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "owner", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    at: Mapped[float]
    owner: Mapped[str] = mapped_column(String(120))
    token_id: Mapped[str | None] = mapped_column(String(16))
    address: Mapped[str | None] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(200))
    detail: Mapped[dict[str, JsonValue]] = mapped_column(default=dict)
