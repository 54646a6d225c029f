"""The tables. ``events`` is the truth of a job; everything else about its progress is a projection of its events."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
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
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


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
        dict[str, Any]: Json,
        list[dict[str, Any]]: Json,
        list[int]: Json,
        list[str]: Json,
        float: Double(),
    }


class Job(Base):
    """A search or a device onboarding: what was asked, who works on it, and how far it is.

    ``lease_token`` grows with every claim; ``lease_batch`` counts the batches written under it, so that a batch whose
    answer was lost is not written twice. ``busy_seconds`` counts the time under leases, up to ``busy_until``.
    ``idempotency_key`` is ``owner/key``, so that owners do not meet in it.
    ``stalled`` counts the claims since the job last made durable progress.
    ``predictor_id`` is the version of its device's predictor that a search got when it was first claimed, and keeps.
    ``state`` is the search state short of points and artifacts; ``stages`` is what progress bars show.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "status", "created_at"),
        Index(None, "kind", "created_at", "id"),
        Index(None, "owner", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    owner: Mapped[str] = mapped_column(String(120), default="local")
    priority: Mapped[int] = mapped_column(default=0)
    name: Mapped[str] = mapped_column(String(120))
    spec: Mapped[dict[str, Any]]
    spec_hash: Mapped[str] = mapped_column(String(64))
    space_id: Mapped[str | None] = mapped_column(String(120))
    status: Mapped[str] = mapped_column(String(16), default="queued")
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    stalled: Mapped[int] = mapped_column(default=0)
    last_crash: Mapped[str | None] = mapped_column(Text)
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_token: Mapped[int] = mapped_column(default=0)
    lease_expires_at: Mapped[float | None]
    lease_batch: Mapped[int] = mapped_column(default=0)
    busy_seconds: Mapped[float] = mapped_column(default=0.0)
    busy_until: Mapped[float | None]
    resources: Mapped[dict[str, Any]] = mapped_column(default=dict)
    predictor_id: Mapped[str | None] = mapped_column(String(32), index=True)
    last_seq: Mapped[int] = mapped_column(default=0)
    point_count: Mapped[int] = mapped_column(default=0)
    stages: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    state: Mapped[dict[str, Any]] = mapped_column(default=dict)


class EventRow(Base):
    """One event of a job's log. Progress events are thinned out over time; all others stay."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    body: Mapped[dict[str, Any]]


class PointRow(Base):
    """An evaluated network. ``position`` is the order of first evaluation, ``seq`` the last event that changed it.
    ``devices``: what is known of it on each device of a fleet, None without one."""

    __tablename__ = "points"
    __table_args__ = (Index(None, "job_id", "position", unique=True), Index(None, "job_id", "seq"))

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    origin: Mapped[str] = mapped_column(String(16), primary_key=True)
    arch_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    position: Mapped[int]
    seq: Mapped[int] = mapped_column(default=0)
    space: Mapped[str] = mapped_column(String(120))
    genes: Mapped[list[int]]
    metrics: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16))
    claim_ms: Mapped[float | None]
    measurement: Mapped[dict[str, Any] | None] = mapped_column(Json)
    devices: Mapped[dict[str, Any] | None] = mapped_column(Json)


class ArtifactRow(Base):
    """A file of a network in the blob store. ``seq`` is the event that last exported it."""

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
    report: Mapped[dict[str, Any]]


class DeviceRow(Base):
    """A device. ``job_id`` is its latest onboarding; ``profile`` is None until that has found one."""

    __tablename__ = "devices"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    profile_id: Mapped[str | None] = mapped_column(String(16))
    profile: Mapped[dict[str, Any] | None] = mapped_column(Json)


class PredictorRow(Base):
    """A version of the latency predictor for one device and one space. It is named after the onboarding that fitted it,
    or after the search that fed back what it had measured, and never changed.

    It keeps the profile it was fitted under: its predictions hold for that profile only. ``number`` counts the versions
    of the device and space from 1; ``before`` is the version that this one grew from, None after an onboarding, and
    ``search_id`` the search that it learned from. ``known`` is the blob of all the ``networks`` that it knows, None
    where nothing was measured. ``better``: later searches may use it, ``why`` or why not.
    """

    __tablename__ = "predictors"
    __table_args__ = (Index(None, "device", "space_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.name"))
    profile_id: Mapped[str] = mapped_column(String(16))
    profile: Mapped[dict[str, Any]]
    space_id: Mapped[str] = mapped_column(String(120))
    family: Mapped[str] = mapped_column(String(64))
    card: Mapped[dict[str, Any]]
    blob: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float]
    number: Mapped[int] = mapped_column(default=1)
    before: Mapped[str | None] = mapped_column(String(32))
    search_id: Mapped[str | None] = mapped_column(String(32))
    known: Mapped[str | None] = mapped_column(String(64))
    networks: Mapped[int] = mapped_column(default=0)
    better: Mapped[bool] = mapped_column(default=True)
    why: Mapped[str] = mapped_column(Text, default="")


class ReadingRow(Base):
    """A network, or the canary alone, was measured on ``device`` by ``protocol``: what its predictor learns from, and
    what tells whether the device drifts. It outlives the search that measured it.

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
    """The agent of a device: the profile that it last reported, and when it was last heard of. ``instance`` names its
    present process; ``versions`` is what it runs on."""

    __tablename__ = "agents"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(120))
    instance: Mapped[str] = mapped_column(String(64))
    profile_id: Mapped[str] = mapped_column(String(16))
    profile: Mapped[dict[str, Any]]
    versions: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    seen_at: Mapped[float]


class MeasurementRow(Base):
    """A network that the agent of ``device`` measures for a job: once by a protocol, however often the job asks.

    ``position`` is its place among those that were asked for together; ``profile`` is the device with the protocol to
    measure by, ``protocol`` that protocol's id, ``blob`` the model.
    ``status`` is queued, leased, done or failed; ``result`` a ``Measurement`` as JSON, or an ``error``; ``raw`` the
    times that it was made from.
    """

    __tablename__ = "measurements"
    __table_args__ = (UniqueConstraint("job_id", "device", "network", "protocol"), Index(None, "device", "status"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    position: Mapped[int]
    device: Mapped[str] = mapped_column(String(64))
    network: Mapped[str] = mapped_column(String(64))
    protocol: Mapped[str] = mapped_column(String(16))
    profile: Mapped[dict[str, Any]]
    blob: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), default="queued")
    attempts: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_instance: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[float | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)
    raw: Mapped[dict[str, Any] | None] = mapped_column(Json)
    created_at: Mapped[float]
    updated_at: Mapped[float]


class WorkerRow(Base):
    """A dispatcher that is, or lately was, connected. ``nodes`` is what its cluster has, and ``free`` what is left of
    it, as lists of ``nas.core.ports.Room``; ``elastic``: more nodes may come. ``machine`` is what it runs on itself."""

    __tablename__ = "workers"

    owner: Mapped[str] = mapped_column(String(200), primary_key=True)
    slots: Mapped[int]
    seen_at: Mapped[float]
    nodes: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    free: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    elastic: Mapped[bool] = mapped_column(default=False)
    machine: Mapped[dict[str, Any] | None] = mapped_column(Json)


class TokenRow(Base):
    """An API token. Only the sha256 of its secret is kept; the secret has 256 random bits, so it needs no salt."""

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


class OwnerRow(Base):
    """The limits of an owner (None: none), and the GPU time that deleted searches took with them."""

    __tablename__ = "owners"

    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    max_queued: Mapped[int | None]
    max_running: Mapped[int | None]
    gpu_hours: Mapped[float | None]
    gpu_seconds_deleted: Mapped[float] = mapped_column(default=0.0)


class AuditRow(Base):
    """Who did what. Written in the transaction that did it, and never changed."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "owner", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    at: Mapped[float]
    owner: Mapped[str] = mapped_column(String(120))
    token_id: Mapped[str | None] = mapped_column(String(16))
    address: Mapped[str | None] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(200))
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
