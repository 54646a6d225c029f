"""A service with searches in every status and devices of every kind, over a seeded store, for tests of the dashboard.

Run it with the dashboard on top:  python -m tests.support.seeded_dashboard FD CONTENTS
It serves on the listening socket with that file descriptor, and prints a token that may read. Contents: ``full``;
``reader`` requires tokens, and ada owns its searches; ``many`` has a thousand searches more; ``models`` has models of
users; ``large`` has a search of ten thousand candidates; ``empty``; ``down`` mounts the dashboard on a service that
does not answer. While it serves, one search runs and whatever is submitted is picked up by a worker.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI

from nas.core.access import LOCAL, Principal
from nas.core.arch import as_archs, mutate, sample
from nas.core.cascade_spec import CASCADE_STAGE, CascadeSpec, StoredCascade
from nas.core.cascades import CascadeReport, MeasuredLatency
from nas.core.device import DeviceProfile
from nas.core.events import (
    Candidate,
    Evaluated,
    Event,
    Exported,
    HypervolumeAt,
    InputRefused,
    Measured,
    Origin,
    Progress,
    Refitted,
    StageFinished,
    StageStarted,
    Warned,
)
from nas.core.jobs import JobSpec, SearchPayload
from nas.core.model_spec import FileSource, ModelSpec
from nas.core.rank_correlation import Tau, rank_advice
from nas.core.scheduling import NodeResources
from nas.core.spec import BudgetSpec, DeviceSpec, ObjectiveSpec, ResourceSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.models.blocks import ResidualBlock
from nas.models.channels import ChannelGroup, FixedChannels
from nas.models.intake import IntakeReport, OutlinedLayer, ResolutionReport
from nas.models.stored import READ_STAGE, ModelSummary, StoredModel
from nas.schemas.administration import QuotaLimits
from predictors.storage import dump_predictor
from server.api.app import create_app
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import seeding
from tests.support.seeding import REFERENCE, Attempt, claim_job, linear_predictor, measurement

EVALUATIONS = 160
FINISHED = "digits under half a millisecond"
RUNNING = "digits, no bound"
THREE = "three objectives, extended"
FAILED = "a bound too tight"
CANCELLED = "stopped by hand"
PAUSED = "parked over night"
QUARANTINED = "too big for its machine"
QUEUED = "waiting for its turn"
LARGE, LARGE_EVALUATIONS = "ten thousand candidates", 5000
USED_MODEL, FREE_MODEL, REFUSED_MODEL = "traffic-signs", "fruit", "from-a-colleague"
SPACE = seeding.default_space()
MEASURED_ARCHS = seeding.networks(SPACE, 160)
NODES = (NodeResources(16, 2, 128, {"gpu": "a100"}), NodeResources(8, 0, 32))
FREE_NODES = (NodeResources(9, 0, 71.5, {"gpu": "a100"}), NodeResources(8, 0, 32))
ADA, CI = (Principal(name, frozenset({"submit", "admin"})) for name in ("ada", "ci"))
DAY_S = 86_400.0


class SeedingClock:
    """The time of day, ``lag_s`` ago."""

    def __init__(self) -> None:
        self.lag_s = 0.0

    def __call__(self) -> float:
        return time.time() - self.lag_s

    def go_to(self, age_s: float) -> None:
        """Go to a point in time that was ``age_s`` ago."""
        self.lag_s = age_s

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.lag_s -= seconds


class HelpfulJobStore(seeding.PromptJobStore):
    """As ``PromptJobStore``; an onboarding that is submitted is begun at once, too."""

    def submit(self, spec: JobSpec, *args: Any, **kwargs: Any) -> str:
        """As ``SqlJobStore.submit``."""
        job_id = super().submit(spec, *args, **kwargs)
        if isinstance(spec, DeviceSpec) and self.begins_onboardings:
            begin_onboarding(self.store, job_id)
        return job_id

    begins_onboardings = False
    store: Store


@dataclass
class Seeds:
    """A seeded store: the ids of its searches by name, the attempt that runs, and a token of ada's that may read."""

    store: Store
    clock: SeedingClock
    owner: Principal = LOCAL
    ids: dict[str, str] = field(default_factory=dict)
    token: str = ""
    running: Attempt | None = None
    waiting: list[Event] = field(default_factory=list)

    def submit(self, spec: SearchSpec, age_s: float, by: Principal | None = None, priority: int = 0) -> str:
        """Queue a search some time ago."""
        self.clock.go_to(age_s)
        job_id = seeding.submit_search(self.store, spec, by or self.owner, priority)
        self.ids[spec.name] = job_id
        self.clock.pass_(4.0)
        return job_id


def profile_of(attempt: Attempt) -> DeviceProfile:
    """The device of a claimed search."""
    assert isinstance(attempt.lease.payload, SearchPayload)
    return attempt.lease.payload.devices[0].profile


def planted_candidates(seed: int, count: int, origin: Origin) -> list[Candidate]:
    """Architectures with planted metrics: accuracy grows with latency, and those of the search are better."""
    rng = np.random.default_rng(seed)
    genes_NG = sample(SPACE.decisions, rng, count)
    if origin == "search":
        parents_NG = genes_NG[rng.integers(0, count // 8, count - count // 3)]
        genes_NG[count // 3 :] = mutate(SPACE.decisions, parents_NG, rng, 0.3)
    genes_NG = np.unique(SPACE.canonical(genes_NG), axis=0)
    rng.shuffle(genes_NG)
    costs = SPACE.costs(genes_NG)
    latency_ms_N = 0.06 + 0.8 * costs["macs"] / costs["macs"].max() + rng.normal(0, 0.006, len(genes_NG))
    lift = 1.2 if origin == "search" else 0.0
    noise_N = rng.gamma(1.2, 1.1, len(genes_NG)) * (1.0 - 0.25 * lift)
    accuracy_N = np.clip(98.9 + lift - 26 * np.exp(-latency_ms_N * 7.5) - noise_N, 12, 99.4)
    predicted_ms_N = latency_ms_N * rng.normal(1.0, 0.035, len(genes_NG))
    return [
        Candidate(
            arch,
            origin,
            {
                "params": float(costs["params"][i]),
                "macs": float(costs["macs"][i]),
                "val_accuracy": float(accuracy_N[i]),
                "val_loss": float(0.06 + (100 - accuracy_N[i]) / 30),
                "predicted_ms": float(predicted_ms_N[i]),
                "upper_ms": float(1.09 * predicted_ms_N[i]),
            },
        )
        for i, arch in enumerate(as_archs(SPACE.name, genes_NG))
    ]


def _front(candidates: Sequence[Candidate], bound_ms: float | None) -> list[Candidate]:
    """The candidates within the bound that no other one beats in predicted latency and accuracy."""
    best, members = -np.inf, []
    for point in sorted(candidates, key=lambda p: p.metrics["predicted_ms"]):
        within = bound_ms is None or point.metrics["upper_ms"] <= bound_ms
        if within and point.metrics["val_accuracy"] > best:
            best = point.metrics["val_accuracy"]
            members.append(point)
    return members


def verification_events(
    candidates: Sequence[Candidate], profile: DeviceProfile, bound_ms: float | None
) -> Iterator[Event]:
    """The front of search and baseline is measured; the first network of each is refused, the third too slow."""
    rng = np.random.default_rng(7)
    for origin in ("search", "baseline"):
        members = _front([p for p in candidates if p.origin == origin], bound_ms)
        for i, point in enumerate(members):
            promised_ms = bound_ms or point.metrics["upper_ms"]
            if i == 0:
                refusal = "variation between rounds was 31 %, expected at most 10 %, in each of 3 attempts"
                refused = measurement(profile, None, refused=refusal)
                yield Measured(point.arch, point.origin, refused, promised_ms)
                continue
            slower = 1.25 if i == 2 else float(rng.normal(1.0, 0.03))
            accuracy = point.metrics["val_accuracy"] - abs(float(rng.normal(0.4, 0.3)))
            yield Evaluated((Candidate(point.arch, point.origin, {"test_accuracy": accuracy}),))
            latency_ms = point.metrics["predicted_ms"] * slower
            yield Measured(point.arch, point.origin, measurement(profile, latency_ms), promised_ms)


def exploration_events(candidates: Sequence[Candidate], batch: int = 16) -> Iterator[Event]:
    """Candidates of both origins, a batch of each at a time, with the hypervolumes afterwards."""
    by_origin = [[p for p in candidates if p.origin == origin] for origin in ("search", "baseline")]
    for start in range(0, max(map(len, by_origin)), batch):
        yield Evaluated(tuple(p for points in by_origin for p in points[start : start + batch]))
        done = start + batch
        yield Progress("explore", min(done, EVALUATIONS), EVALUATIONS, "candidates")
        yield HypervolumeAt(done, 0.85 - 0.4 / (1 + done / 40), 0.8 - 0.4 / (1 + done / 40))


def training_events(store: Store, total: int) -> list[Event]:
    """Estimate and train."""
    return [
        StageStarted("estimate", 0, total),
        StageFinished("estimate", 0.4, {"reference": REFERENCE}),
        StageStarted("train", 1, total),
        Progress("train", 360, 720, "steps", {"loss": 0.8}),
        Progress("train", 720, 720, "steps", {"loss": 0.3}),
        StageFinished("train", 96.0, {"supernet": store.blobs.put(b"weights"), "steps": 720, "one_shot_steps": 720}),
    ]


def export_events(store: Store, candidates: Sequence[Candidate], bound_ms: float | None) -> list[Event]:
    """Five files of each network of the front of the search."""
    files = {
        "model.onnx": "application/octet-stream",
        "model.int8.onnx": "application/octet-stream",
        "weights.safetensors": "application/octet-stream",
        "manifest.json": "application/json",
        "card.md": "text/markdown",
    }
    members = _front([p for p in candidates if p.origin == "search"], bound_ms)
    return [
        Exported(point.arch, name, store.blobs.put(b"bytes of " + name.encode()), 9 + len(name), media_type)
        for point in members
        for name, media_type in files.items()
    ]


def package_events(store: Store, candidates: Sequence[Candidate]) -> list[Event]:
    """The zip file of each network of the front of the search."""
    members = _front([p for p in candidates if p.origin == "search"], None)
    blob = store.blobs.put(b"a zip file")
    return [Exported(point.arch, f"{point.arch.id}.zip", blob, 10, "application/zip") for point in members]


def partition_results() -> tuple[dict[str, Any], dict[str, Any]]:
    """Results of the stages that divide a space into three parts by two of its decisions, and rank networks."""
    decisions = [d for d in SPACE.decisions if len(d.choices) > 2 and d.axis != "resolution"][:4]
    rng = np.random.default_rng(3)
    matching = []
    for i, decision in enumerate(decisions):
        count = len(decision.choices)
        half = rng.uniform(-0.3, 0.9, (count, count))
        cosines = np.where(np.eye(count), 1.0, (half + half.T) / 2)
        groups = [[0], list(range(1, count))]
        names = [str(c) for c in decision.choices]
        matching.append(
            {
                "decision": decision.name,
                "choices": names,
                "similarity": cosines.tolist(),
                "groups": groups,
                "score": 0.5 - 0.1 * i,
            }
        )
    first, second = matching[:2]
    inside = {"decision": second["decision"], "groups": second["groups"], "children": [{}, {}]}
    partition = {"decision": first["decision"], "groups": first["groups"], "children": [{}, inside]}
    split = {
        "method": "gradient_matching",
        "subspaces": 3,
        "partition": partition,
        "choices": {m["decision"]: m["choices"] for m in (first, second)},
        "shares": [0.3, 0.4, 0.3],
        "matching": matching,
    }
    estimates = [(55 + i * np.arange(12) + rng.normal(0, 6, 12)).tolist() for i in range(3)]
    ranking = {
        "networks": 12,
        "tau_before": 0.09,
        "tau_after": 0.64,
        "tau_one_shot": 0.42,
        "archs": [f"{i:012x}" for i in range(12)],
        "truth": [80.0 + i for i in range(12)],
        "estimates_before": estimates[0],
        "estimates_after": estimates[1],
        "estimates_one_shot": estimates[2],
        "intervals": {"before": (-0.4, 0.5), "after": (0.3, 0.9), "one_shot": (0.0, 0.8), "gain": (-0.1, 0.5)},
        "advice": rank_advice(
            Tau(0.09, 12, (-0.4, 0.5)), Tau(0.64, 12, (0.3, 0.9)), Tau(0.42, 12, (0.0, 0.8)), (-0.1, 0.5)
        ),
    }
    return split, ranking


def planted_card(seed: int = 7) -> dict[str, Any]:
    """Figures of a card over 48 held-out networks, some of which are slower than their bound."""
    rng = np.random.default_rng(seed)
    predicted_ms = np.sort(rng.uniform(0.09, 0.82, 48))
    measured_ms = predicted_ms * rng.normal(1.0, 0.03, 48)
    return {
        "held_out": 48,
        "mape": float(np.mean(np.abs(predicted_ms - measured_ms) / measured_ms) * 100),
        "spearman": 0.994,
        "kendall": 0.947,
        "coverage": float(np.mean(measured_ms <= predicted_ms * 1.05)),
        "range_ms": [0.088, 0.83],
        "measured_ms": measured_ms.tolist(),
        "predicted_ms": predicted_ms.tolist(),
        "upper_ms": (predicted_ms * 1.05).tolist(),
    }


# Devices


def begin_onboarding(store: Store, job_id: str) -> None:
    """Let a worker measure 37 of 96 networks of a device."""
    attempt = claim_job(store, job_id)
    spec = attempt.lease.payload.spec
    profile = replace(seeding.PROFILE, name=spec.name)
    attempt.append(StageStarted("profile", 0, 3), StageFinished("profile", 3.2, {"profile": profile.as_json()}))
    attempt.append(StageStarted("measure", 1, 3), Progress("measure", 20, 96, "networks"))
    attempt.append(Progress("measure", 37, 96, "networks"))


AGENT_PROFILE = replace(seeding.PROFILE, name="shelf", source="agent", runtime_version="1.22.0")


def register_agent(store: Store, runtime_version: str) -> None:
    """The agent of the device ``shelf`` reports its machine."""
    profile = replace(AGENT_PROFILE, runtime_version=runtime_version)
    versions = {"python": "3.11.9", "onnxruntime": runtime_version}
    store.measurements.register("shelf", "instance-1", profile, versions, ADA)


def seed_devices(seeds: Seeds) -> None:
    """A measured device, one with an agent and energies, one that is being added, and one that was too unsteady."""
    store, clock = seeds.store, seeds.clock
    clock.go_to(30 * DAY_S)
    processor = "Example Processor 7 at 3.4 GHz"
    seeding.add_device(store, "this-machine", 1.0, planted_card(), MEASURED_ARCHS[:120], processor=processor)
    register_agent(store, AGENT_PROFILE.runtime_version)
    job_id = seeding.submit_device(store, DeviceSpec(name="shelf", source="agent"))
    attempt = claim_job(store, job_id)
    energy = {"n": 64, "held_out": 21, "mape": 4.6, "spearman": 0.981, "coverage": 0.95}
    card = {**planted_card(), "energy": energy}
    attempt.append(
        *seeding.onboarding_events(store, SPACE, linear_predictor(SPACE, 2.1), AGENT_PROFILE, card, MEASURED_ARCHS[40:])
    )
    attempt.finish()
    attempt = claim_job(store, seeding.submit_device(store, DeviceSpec(name="old-laptop")))
    attempt.finish("failed", "measure: the device was too unsteady: variation 38 %, expected at most 10 %")
    begin_onboarding(store, seeding.submit_device(store, DeviceSpec(name="board-4")))


# Searches


def seed_searches(seeds: Seeds) -> None:
    """One search in each status, the oldest first."""
    _seed_quarantined(seeds)
    _seed_paused(seeds)
    cancelled = SearchSpec(name=CANCELLED, space=SpaceSpec(params={"preset": "cifar"}))
    seeds.store.jobs.cancel(seeds.submit(cancelled, 9 * DAY_S), seeds.owner)
    _seed_failed(seeds)
    _seed_finished(seeds)
    _seed_three_objectives(seeds)
    _seed_running(seeds)
    queued = SearchSpec(name=QUEUED, seed=4, resources=ResourceSpec(gpus=1))
    seeds.submit(queued, 20.0, priority=5)


def _seed_quarantined(seeds: Seeds) -> None:
    """Ada's: its worker was lost again and again. It used 31.5 GPU-hours before."""
    spec = SearchSpec(name=QUARANTINED, seed=7, resources=ResourceSpec(gpus=1))
    job_id = seeds.submit(spec, 11 * DAY_S, ADA)
    store = seeds.store
    for attempt_number in range(5):
        attempt = claim_job(store, job_id)
        seeds.clock.pass_(36.0 if attempt_number else 31.5 * 3600 - 4 * 36.0)
        store.jobs.release(attempt.lease, "the worker was lost: its machine ran out of memory")
        seeds.clock.pass_(4.0)
    assert store.jobs.claim("worker-1", 10.0) is None


def _seed_paused(seeds: Seeds) -> None:
    job_id = seeds.submit(SearchSpec(name=PAUSED, seed=6), 9.8 * DAY_S, ADA)
    attempt = claim_job(seeds.store, job_id)
    attempt.append(*training_events(seeds.store, 6)[:4])
    seeds.clock.pass_(200.0)
    seeds.store.jobs.pause(job_id, ADA)
    seeds.clock.pass_(12.0)
    assert attempt.append(*training_events(seeds.store, 6)[4:]) == "stop"


def _seed_failed(seeds: Seeds) -> None:
    objectives = (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=0.02))
    job_id = seeds.submit(SearchSpec(name=FAILED, objectives=objectives), 1.1 * DAY_S)
    attempt = claim_job(seeds.store, job_id)
    attempt.finish(
        "failed", "latency: no network meets the bound of 0.02 ms; the lowest reachable upper bound is 0.071 ms"
    )


def _seed_finished(seeds: Seeds) -> None:
    store, bound_ms = seeds.store, 0.5
    spec = SearchSpec(
        name=FINISHED,
        strategy=StrategySpec(name="few_shot"),
        objectives=(ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=bound_ms)),
        budget=BudgetSpec(evaluations=EVALUATIONS),
    )
    attempt = claim_job(store, seeds.submit(spec, 5 * 3600.0))
    profile = DeviceProfile.from_json(profile_of(attempt).as_json())
    points = [*planted_candidates(11, 200, "search"), *planted_candidates(12, 200, "baseline")]
    points = [p for origin in ("search", "baseline") for p in [q for q in points if q.origin == origin][:EVALUATIONS]]
    split, ranking = partition_results()
    attempt.append(*training_events(store, 9))
    attempt.append(StageFinished("split", 8.0, split), StageFinished("rank_correlation", 60.0, ranking))
    attempt.append(StageStarted("explore", 6, 9), *exploration_events(points), StageFinished("explore", 31.0))
    seeds.clock.pass_(250.0)
    attempt.append(
        StageStarted("verify", 7, 9),
        *verification_events(points, profile, bound_ms),
        Warned("verify", "1 network was measured above the bound and is no part of the front"),
        StageFinished("verify", 9.0),
        _refit(store, points, 1),
        *export_events(store, points, bound_ms),
        StageFinished("export", 9.0),
    )
    attempt.finish()


def _refit(store: Store, points: Sequence[Candidate], number: int) -> Refitted:
    card = store.queries.predictors("this-machine")[-1]
    record = {
        "card": {**card.model_dump(mode="json", exclude={"id", "device", "number", "created_at"}), "n": 73},
        "blob": store.blobs.put(dump_predictor(linear_predictor(SPACE))),
        "family": card.family,
        "measurements_blob": seeding.measured_blob(store, SPACE, linear_predictor(SPACE), MEASURED_ARCHS[:120]),
        "networks": 105,
        "better": True,
        "why": "cross-validated error: 2.9 % with what was fed back, 3.4 % without",
    }
    return Refitted("refine", number, tuple(p.key for p in points[:24]), EVALUATIONS, 2, record)


def _seed_three_objectives(seeds: Seeds) -> None:
    store = seeds.store
    spec = SearchSpec(
        name=THREE,
        objectives=tuple(ObjectiveSpec(name=name) for name in ("accuracy", "latency", "macs")),
        supernet=seeds.ids[FINISHED],
    )
    attempt = claim_job(store, seeds.submit(spec, 2 * 3600.0))
    profile = profile_of(attempt)
    points = [*planted_candidates(31, EVALUATIONS, "search"), *planted_candidates(32, EVALUATIONS, "baseline")]
    attempt.append(StageStarted("estimate", 0, 6), StageFinished("estimate", 0.4, {"reference": REFERENCE}))
    attempt.append(StageFinished("train", 0.0, {"reused": True}), StageStarted("explore", 2, 6))
    attempt.append(*exploration_events(points), StageFinished("explore", 31.0), StageStarted("verify", 3, 6))
    attempt.append(*verification_events(points, profile, None), StageFinished("verify", 9.0))
    attempt.append(*export_events(store, points, None), *package_events(store, points), StageFinished("export", 9.0))
    attempt.finish()
    _seed_cascades(seeds, points)


def _seed_cascades(seeds: Seeds, points: Sequence[Candidate]) -> None:
    """One that was made, and one that was asked to be faster than any can be."""
    search, members = seeds.ids[THREE], _front([p for p in points if p.origin == "search"], None)
    fast, good = members[1].arch.id, members[-1].arch.id
    report = CascadeReport(
        members=(fast, good),
        shares=(0.8, 0.2),
        validation_accuracy=97.5,
        expected_ms=0.25,
        test_accuracy=97.25,
        measured=MeasuredLatency(0.24, 0.15, 0.75, 360),
        single=good,
        single_test_accuracy=97.5,
        single_measured=MeasuredLatency(0.6, 0.6, 0.62, 360),
    )
    stored = StoredCascade(report, "node-a", seeds.store.blobs.put(b"a cascade"), 9)
    _claim_cascade(seeds, CascadeSpec(search=search, within=0.5)).finish(
        "failed", "cascades: none reaches 97 % within the bounds on latency; the most accurate reaches 96.2 %"
    )
    attempt = _claim_cascade(seeds, CascadeSpec(search=search))
    attempt.append(StageFinished(CASCADE_STAGE, 4.0, stored.as_json()))
    attempt.finish()


def _claim_cascade(seeds: Seeds, spec: CascadeSpec) -> Attempt:
    seeds.clock.pass_(4.0)
    job_id = seeds.store.jobs.submit(spec, None, parent=spec.search, stages=(CASCADE_STAGE,), by=seeds.owner)
    return claim_job(seeds.store, job_id)


def _seed_running(seeds: Seeds) -> None:
    """Half of its evaluations are done; the others are ``seeds.waiting``."""
    attempt = claim_job(seeds.store, seeds.submit(SearchSpec(name=RUNNING, seed=2), 360.0))
    attempt.append(*training_events(seeds.store, 6), StageStarted("explore", 2, 6))
    points = [*planted_candidates(21, EVALUATIONS, "search"), *planted_candidates(22, EVALUATIONS, "baseline")]
    events = list(exploration_events(points, 8))
    middle = len(events) // 2
    for event in events[:middle]:
        seeds.clock.pass_(2.0)
        attempt.append(event)
    seeds.running, seeds.waiting = attempt, events[middle:]


def seed_large(seeds: Seeds) -> None:
    """A finished search of many candidates, half of them random ones."""
    bound_ms = 0.5
    objectives = (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=bound_ms))
    spec = SearchSpec(name=LARGE, objectives=objectives, budget=BudgetSpec(evaluations=LARGE_EVALUATIONS))
    attempt = claim_job(seeds.store, seeds.submit(spec, 3600.0))
    profile = profile_of(attempt)
    drawn = [planted_candidates(41, 6000, "search"), planted_candidates(42, 6000, "baseline")]
    points = [point for candidates in drawn for point in candidates[:LARGE_EVALUATIONS]]
    attempt.append(*training_events(seeds.store, 6), StageStarted("explore", 2, 6))
    for start in range(0, len(points), 500):
        attempt.append(Evaluated(tuple(points[start : start + 500])))
    attempt.append(StageFinished("explore", 900.0), StageStarted("verify", 3, 6))
    attempt.append(*verification_events(points, profile, bound_ms), StageFinished("verify", 9.0))
    attempt.finish()


# Models of users


def seed_models(seeds: Seeds) -> None:
    """A model that a device and a search are for, one of which nothing is, and one whose file was refused."""
    seeds.clock.go_to(2 * DAY_S)
    for name in (USED_MODEL, FREE_MODEL):
        attempt = _begin_intake(seeds.store, name)
        attempt.append(StageFinished(READ_STAGE, 2.0, _read_model(seeds.store).as_json()))
        attempt.finish()
    space = SpaceSpec(name="own_model", model=USED_MODEL)
    attempt = claim_job(seeds.store, seeding.submit_device(seeds.store, DeviceSpec(name="signs-board", space=space)))
    attempt.finish("failed", "measure: the device was too unsteady: variation 38 %, expected at most 10 %")
    refused = _begin_intake(seeds.store, REFUSED_MODEL)
    refused.append(InputRefused("it holds objects of its own classes"))
    refused.finish("failed", f"{REFUSED_MODEL}.pt2: it holds objects of its own classes, which are not opened")


def _begin_intake(store: Store, name: str) -> Attempt:
    source = FileSource(blob=store.blobs.put(name.encode()), filename=f"{name}.pt2")
    return claim_job(store, store.jobs.submit(ModelSpec(name=name, source=source), None, stages=(READ_STAGE,)))


def _read_model(store: Store) -> StoredModel:
    """A model of twelve layers with long names; its graph and weights are not read here."""
    layers = tuple(
        OutlinedLayer(f"features.{i}.block.conv", "conv2d", 16 * (1 + i // 3), 32 // (1 + i // 3)) for i in range(11)
    )
    names = [layer.name for layer in layers]
    report = IntakeReport(
        inputs=(("x", (2, 1, 8, 8)),),
        outputs=((2, 10),),
        parameters=1_234_567,
        convolutions=11,
        batch_norms=11,
        any_batch=True,
        groups=tuple(
            ChannelGroup(name, layer.channels, layer.channels, (name,), tuple(names[i + 1 : i + 2]))
            for i, (name, layer) in enumerate(zip(names[:9], layers, strict=False))
        ),
        fixed=(
            FixedChannels(names[10], 64, names[10], "they are flattened"),
            FixedChannels("classifier", 10, "classifier", "they are outputs of the model"),
        ),
        blocks=(ResidualBlock("features.4", "features.4.add", "x", (), tuple(names[4:6])),),
        resolution=ResolutionReport(True, 1),
        layers=(*layers, OutlinedLayer("classifier", "linear", 10, 1)),
    )
    return StoredModel(
        graph=store.blobs.put(b"a graph"),
        weights=store.blobs.put(b"the weights"),
        report=store.blobs.put(report.to_json()),
        summary=ModelSummary.of(report),
    )


# Who uses the service


def seed_access(seeds: Seeds) -> None:
    """Tokens, limits, and what ci did."""
    store, clock = seeds.store, seeds.clock
    clock.go_to(40 * DAY_S)
    store.tokens.create("ci", "nightly", ["read", "submit", "device"], clock() + 90 * DAY_S, LOCAL)
    old, _ = store.tokens.create("grace", "old laptop", ["read"], None, LOCAL)
    clock.go_to(12 * DAY_S)
    _, seeds.token = store.tokens.create("ada", "laptop", ["read"], None, LOCAL)
    store.tokens.revoke(old.id, LOCAL)
    store.quotas.set("ada", QuotaLimits(max_queued=10, max_running=2, gpu_hours=40.0), LOCAL)
    store.quotas.set("ci", QuotaLimits(max_queued=4), LOCAL)
    clock.go_to(15.0)
    for i in range(13):
        store.jobs.set_priority(seeds.ids[QUEUED], 5 - i % 2, CI)


@contextmanager
def seeded_store(folder: Path, contents: str = "full") -> Iterator[Seeds]:
    """A store with everything; with nothing if ``contents`` is ``empty``."""
    clock = SeedingClock()
    with open_store(f"sqlite:///{folder / 'seeded.db'}", str(folder / "blobs"), clock) as plain:
        jobs = HelpfulJobStore(plain.jobs._engine, plain.jobs._clock)
        store = replace(plain, jobs=jobs)
        jobs.store, jobs.seconds_by_stage = store, (0.4, 96.0, 31.0, 9.0, 3.0, 9.0)
        seeds = Seeds(store, clock, ADA if contents == "reader" else LOCAL)
        if contents != "empty":
            seed_devices(seeds)
            seed_searches(seeds)
            seed_access(seeds)
        if contents == "large":
            seed_large(seeds)
        if contents == "models":
            seed_models(seeds)
        if contents == "many":
            for i in range(200):
                seeds.submit(SearchSpec(name=f"sweep {i}", seed=i), 20 * DAY_S + 3600.0 * i)
        clock.go_to(0.0)
        report_alive(store)
        jobs.begins_onboardings = True
        yield seeds


def report_alive(store: Store) -> None:
    """The signs of life of the dispatcher and of the agent."""
    store.jobs.heartbeat("dispatcher on node-a", 4, NODES, FREE_NODES, elastic=True)
    if store.queries.agents():
        register_agent(store, "1.31.1")


class RunningWorker:
    """Continues the running search while the service runs. Once the search is to pause, nothing durable comes until
    ``save`` is set."""

    def __init__(self, seeds: Seeds) -> None:
        self._seeds = seeds
        self._stopped = threading.Event()
        self.save = threading.Event()

    def run(self) -> None:
        """Work until the search is paused or the process ends."""
        attempt, step = self._seeds.running, 0
        while not self._stopped.wait(0.4):
            if step % 20 == 0:
                report_alive(self._seeds.store)
            step += 1
            if attempt is None:
                continue
            pausing = self._seeds.store.queries.search(attempt.lease.job_id).status == "pausing"
            if (not pausing or self.save.is_set()) and self._seeds.waiting and step % 3 == 0:
                events = [self._seeds.waiting.pop(0)]
            else:
                events = [Progress("explore", 88 + step % 60, EVALUATIONS, "candidates")]
            if attempt.append(*events) != "continue":
                attempt = None


def main() -> None:
    """Serve until the process is ended."""
    from server.dashboard.app import mount

    listener = socket.socket(fileno=int(sys.argv[1]))
    contents = sys.argv[2]
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder, seeded_store(Path(folder), contents) as seeds:
        app = FastAPI()
        if contents != "down":
            app = create_app(Settings(home=Path(folder), require_tokens=contents == "reader"), seeds.store)
            worker = RunningWorker(seeds)
            app.post("/seeding/save")(worker.save.set)
            threading.Thread(target=worker.run, daemon=True).start()
        mount(app, url if contents != "down" else "http://127.0.0.1:9", closed=contents == "reader")
        sys.stdout.write(f"{seeds.token}\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
