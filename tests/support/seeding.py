"""Fill a store as users and workers do: devices, searches and their events, through the store's own methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from nas.core import registry
from nas.core.access import LOCAL, Principal
from nas.core.arch import Arch, as_archs, sample
from nas.core.cost_estimate import COST_STAGE, CostEstimate, StageCost
from nas.core.device import DeviceProfile, Measurement
from nas.core.events import Candidate, Event, Measured, Origin, StageFinished, StageStarted, encode
from nas.core.jobs import DryRunPayload, JobSpec, Lease
from nas.core.ports import SearchSpace
from nas.core.spec import DeviceSpec, SearchSpec
from nas.engine import stage_names
from predictors.families.bayesian_linear import BayesianLinear
from predictors.storage import DeviceMeasurements, dump_predictor
from server.api import validate
from server.api.data_check import shape_of
from server.api.devices import MEASURED_STAGES
from server.store.database import writing
from server.store.job_payload import build_payload
from server.store.jobs import SqlJobStore
from server.store.leases import grant_lease
from server.store.models import Job
from server.store.store import Store

LEASE_S = 1e9
REFERENCE = {"accuracy": 0.0, "latency": 1.0, "params": 1e6, "macs": 1e8}
PROFILE = DeviceProfile("this-machine", "x86_64", "a processor", 4, "onnxruntime", "1.31", "linux", canary_ms=0.2)


def default_space() -> SearchSpace:
    """The space of a spec's defaults."""
    return registry.build_space(SearchSpec().space, shape_of(SearchSpec().data))


def networks(space: SearchSpace, count: int, seed: int = 0) -> list[Arch]:
    """Different random architectures."""
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(seed), 2 * count + 8))
    distinct = dict.fromkeys(as_archs(space.name, genes_NG))
    return list(distinct)[:count]


def linear_predictor(space: SearchSpace, scale: float = 1.0) -> BayesianLinear:
    """A predictor of ``scale`` times 0.02 ms and more, with an upper bound 10 % above."""
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(0), 96))
    mean_F = np.maximum(space.features(genes_NG).mean(axis=0), 1e-9)
    weights_F = 0.2 / (len(mean_F) * mean_F)
    return BayesianLinear(scale * weights_F, 0.02 * scale, 0.01 * scale, factor=1.1)


def measurement(profile: DeviceProfile, median_ms: float | None, **changes: Any) -> Measurement:
    """A measurement with an interval of 1 % on either side; refused without a latency."""
    if median_ms is None:
        return Measurement(profile.protocol.id, profile.id, None, None, None, 412, 0.31, 1.52, **changes)
    interval = (0.99 * median_ms, 1.01 * median_ms)
    return Measurement(profile.protocol.id, profile.id, median_ms, *interval, 400, 0.01, 1.0, **changes)


def measured(candidate: Candidate, profile: DeviceProfile, median_ms: float, promised_ms: float) -> Measured:
    """The event of a measurement of a candidate."""
    return Measured(candidate.arch, candidate.origin, measurement(profile, median_ms), promised_ms)


def candidate(arch: Arch, origin: Origin = "search", **metrics: float) -> Candidate:
    """A candidate with its metrics."""
    return Candidate(arch, origin, metrics)


def cost_of(spec: SearchSpec, seconds: Sequence[float | None]) -> CostEstimate:
    """An estimate of the stages of a search, by node-a; None for one that cannot be estimated."""
    stages = tuple(
        StageCost(
            stage=name,
            seconds=duration_s,
            low_s=None if duration_s is None else 0.7 * duration_s,
            high_s=None if duration_s is None else 1.6 * duration_s,
            steps=720 if duration_s is not None else 0,
            timed=2 if duration_s is not None else 0,
            unit="steps",
            memory_bytes=741_000_000,
            note="" if duration_s is not None else "cannot say [yet]",
        )
        for name, duration_s in zip(stage_names(spec), seconds, strict=True)
    )
    total_s = sum(duration_s or 0.0 for duration_s in seconds)
    return CostEstimate(
        worker="node-a",
        seconds=total_s,
        low_s=0.7 * total_s,
        high_s=1.6 * total_s,
        gpu_hours=0.0,
        cpu_hours=total_s / 3600,
        memory_bytes=741_000_000,
        evaluations=spec.budget.evaluations,
        confidence="measured" if None not in seconds else "partial",
        stages=stages,
    )


@dataclass
class Attempt:
    """A claimed job, as a dispatcher holds it."""

    store: Store
    lease: Lease
    batches: int = 0

    def append(self, *events: Event) -> Literal["continue", "stop", "lost"]:
        """Write events as one batch."""
        self.batches += 1
        return self.store.jobs.append(self.lease, self.batches, [encode(event) for event in events], LEASE_S)

    def finish(self, status: Literal["succeeded", "failed", "cancelled"] = "succeeded", error: str = "") -> str:
        """End the job; its id."""
        assert self.store.jobs.finish(self.lease, status, error or None)
        return self.lease.job_id


def claim(store: Store, seconds: float = LEASE_S) -> Attempt:
    """The next job of the queue, which must not be empty."""
    lease = store.jobs.claim("worker-1", seconds)
    assert lease is not None
    return Attempt(store, lease)


def submit_search(store: Store, spec: SearchSpec, by: Principal = LOCAL, priority: int = 0) -> str:
    """Queue a search; its id."""
    space = validate.space_of(spec.space, spec.data, spec.precision, store)
    return store.jobs.submit(
        spec,
        None,
        space_id=space.id,
        parent=spec.supernet,
        stages=stage_names(spec),
        by=by,
        priority=priority,
    )


def submit_device(store: Store, spec: DeviceSpec) -> str:
    """Queue an onboarding; its id."""
    return store.jobs.submit(spec, None, stages=MEASURED_STAGES)


def measured_blob(store: Store, space: SearchSpace, predictor: BayesianLinear, archs: Sequence[Arch]) -> str:
    """The blob of measurements that are as the predictor says."""
    genes_NG = np.array([arch.genes for arch in archs])
    latency_ms_N = predictor.predict(space.features(genes_NG)).mean_ms
    return store.blobs.put(DeviceMeasurements(genes_NG, latency_ms_N, np.zeros(len(genes_NG), dtype=bool)).dump())


def onboarding_events(
    store: Store,
    space: SearchSpace,
    predictor: BayesianLinear,
    profile: DeviceProfile,
    card: dict[str, Any] | None = None,
    measured_archs: Sequence[Arch] = (),
) -> list[Event]:
    """The events of an onboarding that fits ``predictor``; ``card`` replaces figures of its card. ``measured_archs``
    were measured as the predictor says."""
    figures = {"n": 64, "calibration": 16, "held_out": 32, "mape": 2.25, "spearman": 0.991, "kendall": 0.93}
    full_card = {
        "profile": profile.id,
        "space": space.id,
        "space_name": space.name,
        "family": predictor.family,
        "protocol": asdict(profile.protocol),
        **figures,
        "coverage": 0.96,
        "range_ms": [0.05, 0.5],
        **(card or {}),
    }
    result = {
        "card": full_card,
        "blob": store.blobs.put(dump_predictor(predictor)),
        "space_id": space.id,
        "family": predictor.family,
        "profile": profile.id,
        "networks": 96,
    }
    if measured_archs:
        result["measurements_blob"] = measured_blob(store, space, predictor, measured_archs)
    return [
        StageStarted("profile", 0, 3),
        StageFinished("profile", 3.2, {"profile": profile.as_json()}),
        StageStarted("measure", 1, 3),
        StageFinished("measure", 60.0),
        StageStarted("fit", 2, 3),
        StageFinished("fit", 1.1, result),
    ]


def add_device(
    store: Store,
    name: str,
    scale: float = 1.0,
    card: dict[str, Any] | None = None,
    measured_archs: Sequence[Arch] = (),
    **profile_changes: Any,
) -> DeviceProfile:
    """A device of the default space with a predictor of ``scale`` times the usual latency; its profile."""
    profile, space = replace(PROFILE, name=name, **profile_changes), default_space()
    submit_device(store, DeviceSpec(name=name))
    attempt = claim(store)
    attempt.append(*onboarding_events(store, space, linear_predictor(space, scale), profile, card, measured_archs))
    attempt.finish()
    return profile


class PromptJobStore(SqlJobStore):
    """A job store beside which a worker waits: a dry run is finished in the moment in which it is submitted."""

    seconds_by_stage: Sequence[float | None] = ()

    def submit(self, spec: JobSpec, *args: Any, dry_run: bool = False, **kwargs: Any) -> str:
        """As ``SqlJobStore.submit``."""
        job_id = super().submit(spec, *args, dry_run=dry_run, **kwargs)
        if dry_run:
            lease = self.claim("node-a", LEASE_S)
            assert lease is not None
            assert isinstance(lease.payload, DryRunPayload)
            cost = cost_of(lease.payload.spec, self.seconds_by_stage)
            self.append(lease, 1, [encode(StageFinished(COST_STAGE, 1.0, asdict(cost)))], LEASE_S)
            self.finish(lease, "succeeded")
        return job_id


def with_prompt_worker(store: Store, seconds_by_stage: Sequence[float | None]) -> Store:
    """The store with a worker that estimates the cost of dry runs at once."""
    jobs = PromptJobStore(store.jobs._engine, store.jobs._clock)
    jobs.seconds_by_stage = seconds_by_stage
    return replace(store, jobs=jobs)


def claim_job(store: Store, job_id: str, seconds: float = LEASE_S) -> Attempt:
    """The lease on one queued job, whatever its place in the queue."""
    engine, clock = store.jobs._engine, store.jobs._clock
    with writing(engine) as session:
        job = session.get_one(Job, job_id)
        lease = grant_lease(session, job, "worker-1", clock(session), seconds, build_payload(session, job))
    return Attempt(store, lease)
