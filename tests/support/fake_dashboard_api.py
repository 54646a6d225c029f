"""A fake service with plausible contents for the dashboard's tests: the schemas of the API, and no store behind them.

Run it with a dashboard on top:  python -m tests.support.fake_dashboard_api PORT|fd=N [full|reader|many|empty|down]
``reader`` is ``full`` for a token that may only read, and ``many`` has a thousand searches more.
``down`` mounts the dashboard on a service that does not answer.
"""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from nas.core.access import Scope
from nas.core.arch import Arch, as_archs, mutate, sample
from nas.core.cost_estimate import CostEstimate, StageCost
from nas.core.device import DeviceProfile
from nas.core.drift import Reading, drift_of
from nas.core.errors import Conflict
from nas.core.events import Evaluated, HypervolumeAt, Refitted, StatusChanged, encode
from nas.core.layers import summarise
from nas.core.lifecycle import ENDED, LEASED, JobCommand, JobStatus, check_command, check_transition
from nas.core.metrics import METRICS, kendall, spearman
from nas.core.ports import ImageShape
from nas.core.rank_correlation import rank_advice
from nas.core.spec import BudgetSpec, DataSpec, DeviceSpec, ObjectiveSpec, ResourceSpec, SearchSpec, SpaceSpec
from nas.schemas.administration import (
    AuditPage,
    AuditRecordSchema,
    CreatedTokenSchema,
    PrincipalSchema,
    QuotaBody,
    QuotaSchema,
    TokenBody,
    TokenSchema,
)
from nas.schemas.agents import AgentSchema
from nas.schemas.candidates import (
    ArtifactSchema,
    CandidateDetailSchema,
    CandidatePage,
    CandidateSchema,
    FrontSchema,
    LayerSchema,
    MeasurementSchema,
    MetricSchema,
    ObjectiveSchema,
)
from nas.schemas.common import ErrorSchema
from nas.schemas.devices import (
    DeviceComparisonSchema,
    DeviceSchema,
    DriftReadingSchema,
    DriftSchema,
    DriftSessionSchema,
    LatencyPairSchema,
    OnboardingPage,
    ProfileDifferenceSchema,
)
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.jobs import EventPage, EventSchema, StageSchema
from nas.schemas.predictors import EnergyAccuracySchema, PredictorCardSchema, PredictorVersionSchema
from nas.schemas.rank_correlation import (
    GradientSimilaritySchema,
    RankCorrelationSchema,
    RankedArchSchema,
    SpacePartitionSchema,
)
from nas.schemas.searches import ForkBody, PriorityBody, SearchPage, SearchSchema
from nas.schemas.service import (
    HealthCheckSchema,
    HealthSchema,
    NodeResourcesSchema,
    ReadinessSchema,
    SpaceSchema,
    StrategySchema,
    WorkerSchema,
)
from search_spaces.mobilenet_v3.space import build
from server.api import sse

# Spelled out, so that the fake's networks stay what the tests expect when the preset is sized anew.
SPACE = build(
    {
        "preset": "digits",
        "resolutions": [4, 6, 8, 12],
        "depths": [1, 2, 3],
        "stages": [
            {"width": 24, "stride": 2, "act": "relu", "se": False},
            {"width": 32, "stride": 2, "act": "hswish", "se": True},
            {"width": 48, "stride": 1, "act": "hswish", "se": True},
        ],
    },
    ImageShape(1, 8, 8, 10),
)
NOW = datetime.now(UTC)
STAGES = ("estimate", "train", "explore", "verify", "learn", "export")
EVALUATIONS = 160
LEARNED = "digits under half a millisecond"
PROFILE = DeviceProfile(
    name="this-machine",
    machine="x86_64",
    processor="Example Processor 7 at 3.4 GHz",
    cores=8,
    runtime="onnxruntime",
    runtime_version="1.31.0",
    os="Linux 6.8",
    affinity=(2,),
    canary_ms=0.213,
)


class Problem(Exception):
    """An error as the service answers it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


# Candidates with invented values


def _cost(spec: SearchSpec) -> CostEstimate:
    seconds = dict(zip(STAGES, (0.4, 0.0 if spec.supernet else 96.0, 31.0, 9.0, 3.0, 9.0), strict=True))
    stages = [
        StageCost(stage=name, seconds=s, low_s=0.7 * s, high_s=1.6 * s, steps=720, timed=2, unit="steps")
        for name, s in seconds.items()
    ]
    total = sum(seconds.values())
    return CostEstimate(
        worker="node-a",
        seconds=total,
        low_s=0.7 * total,
        high_s=1.6 * total,
        gpu_hours=0.0,
        cpu_hours=total / 3600,
        memory_bytes=741_000_000,
        evaluations=spec.budget.evaluations,
        confidence="measured",
        stages=tuple(stages),
    )


def metric(name: str, value: float) -> MetricSchema:
    return MetricSchema(value=value, unit=METRICS[name].unit, kind=METRICS[name].kind)


def make_points(seed: int, n: int, origin: str) -> list[CandidateSchema]:
    rng = np.random.default_rng(seed)
    genes = sample(SPACE.decisions, rng, n)
    if origin == "search":
        parents = genes[rng.integers(0, n // 8, n - n // 3)]
        genes[n // 3 :] = mutate(SPACE.decisions, parents, rng, 0.3)
    genes = np.unique(SPACE.canonical(genes), axis=0)
    rng.shuffle(genes)
    costs = SPACE.costs(genes)
    true_ms = 0.06 + costs["macs"] / 2.2e6 + costs["params"] / 6e5 + rng.normal(0, 0.006, len(genes))
    lift = 1.2 if origin == "search" else 0.0
    accuracy = 98.9 + lift - 26 * np.exp(-true_ms * 7.5) - rng.gamma(1.2, 1.1, len(genes)) * (1.0 - 0.25 * lift)
    out = []
    for i, arch in enumerate(as_archs(SPACE.name, genes)):
        predicted = float(true_ms[i] * rng.normal(1.0, 0.035))
        values = {
            "params": float(costs["params"][i]),
            "macs": float(costs["macs"][i]),
            "val_accuracy": float(np.clip(accuracy[i], 12, 99.4)),
            "val_loss": float(0.06 + (100 - accuracy[i]) / 30),
            "predicted_ms": predicted,
            "upper_ms": predicted * 1.09,
        }
        metrics = {k: metric(k, v) for k, v in values.items()}
        out.append(
            CandidateSchema(arch=arch.id, origin=origin, genes=list(arch.genes), metrics=metrics, status="unverified")
        )
    return out


def front(points: Sequence[CandidateSchema], x: str, y: str) -> list[CandidateSchema]:
    """Members by value, cheapest first."""
    best, out = -np.inf, []
    for p in sorted((p for p in points if x in p.metrics), key=lambda p: (p.metrics[x].value, -p.metrics[y].value)):
        if p.metrics[y].value > best:
            best = p.metrics[y].value
            out.append(p)
    return out


def volume(points: Sequence[CandidateSchema], x: str, y: str, worst_ms: float) -> float:
    cells = [(p.metrics[x].value / worst_ms, (100 - p.metrics[y].value) / 90) for p in front(points, x, y)]
    area, height = 0.0, 1.0
    for cost, loss in cells:
        area += max(0.0, 1 - cost) * max(0.0, height - loss)
        height = min(height, loss)
    return area


def measured(point: CandidateSchema, seed: int, bound: float | None) -> CandidateSchema:
    rng = np.random.default_rng(seed)
    predicted, upper = point.metrics["predicted_ms"].value, point.metrics["upper_ms"].value
    claim = bound or upper
    protocol, profile = PROFILE.protocol.id, PROFILE.id
    if seed % 13 == 5:
        refused = MeasurementSchema(
            protocol=protocol,
            profile=profile,
            median_ms=None,
            low_ms=None,
            high_ms=None,
            runs=412,
            variation=0.31,
            drift=1.52,
            refused="variation between rounds was 31 %, expected at most 10 %, in each of 3 attempts",
        )
        return point.model_copy(update={"measurement": refused, "claim_ms": claim})
    median = float(predicted * rng.normal(1.0, 0.045))
    view = MeasurementSchema(
        protocol=protocol,
        profile=profile,
        median_ms=median,
        low_ms=median * 0.985,
        high_ms=median * 1.012,
        runs=int(rng.integers(300, 900)),
        variation=float(rng.uniform(0.008, 0.03)),
        drift=float(rng.uniform(0.99, 1.04)),
    )
    test = point.metrics["val_accuracy"].value - abs(float(rng.normal(0.4, 0.3)))
    extra = {
        "measured_ms": metric("measured_ms", median),
        "test_accuracy": metric("test_accuracy", test),
    }
    return point.model_copy(
        update={
            "measurement": view,
            "claim_ms": claim,
            "status": "verified" if median <= claim else "violated",
            "metrics": {**point.metrics, **extra},
        }
    )


# Searches


class FakeSearch:
    """One search. ``step`` is the progress of a running one; every reading raises it and logs an event."""

    def __init__(self, spec: SearchSpec, status: str, age: timedelta, seed: int, **more: Any) -> None:
        self.id = hashlib.sha256(f"{spec.name}{seed}".encode()).hexdigest()[:32]
        self.spec, self.status, self.age, self.seed, self.more = spec, status, age, seed, more
        self.owner, self.priority = more.get("owner", "local"), more.get("priority", 0)
        self.error = more.get("error")
        self.attempts = more.get("attempts", 0 if status == "queued" else 1)
        self.events: list[EventSchema] = []
        self._begin()
        self.contents = "running" if status in ("paused", "quarantined") else status
        self.step = {"running": 3, "paused": 9, "quarantined": 3}.get(status, 0)
        self.search, self.baseline = [], []
        if self.contents in ("running", "succeeded", "cancelled"):
            self.search = make_points(seed, EVALUATIONS, "search")
            self.baseline = make_points(seed + 1, EVALUATIONS, "baseline")
        if status == "succeeded":
            self._verify()
        if spec.name == LEARNED:
            self._learn()

    def _begin(self) -> None:
        """The history that leads to the first status."""
        at = NOW - self.age
        self._log(None, "queued", "", self.owner, at)
        if self.status == "queued":
            return
        for crash in range(1, self.attempts):
            self._log("queued", "running", "claimed by worker-1", "", at + timedelta(seconds=40 * crash - 36))
            why = "the worker was lost: its machine ran out of memory"
            self._log("running", "queued", why, "", at + timedelta(seconds=40 * crash))
        self._log("queued", "running", "claimed by worker-1", "", at + timedelta(seconds=40 * self.attempts - 36))
        if self.status == "quarantined":
            self._log("running", "quarantined", self.error or "", "", at + timedelta(seconds=40 * self.attempts))
        elif self.status == "paused":
            self._log("running", "pausing", "", self.owner, at + timedelta(seconds=200))
            self._log("pausing", "paused", "its result was saved", "", at + timedelta(seconds=212))
        elif self.status != "running":
            self._log("running", self.status, self.error or "", "", at + timedelta(seconds=330))

    def _learn(self) -> None:
        """Two candidates violated their bound, and those of the refinement did not."""
        why = "cross-validated error: 2.9 % with what was fed back, 3.4 % without"
        record = {"card": {"n": 73}, "better": True, "why": why}
        for number, measured, broken in ((1, 24, 2), (2, 31, 0)):
            keys = tuple(("search", f"{i:012x}") for i in range(measured))
            event = Refitted("learn", number, keys, EVALUATIONS, broken, record)
            at = NOW - self.age + timedelta(seconds=250 + 20 * number)
            self.events.append(EventSchema(seq=len(self.events) + 1, at=at, body=encode(event)))

    def _log(self, before: str | None, after: str, reason: str, by: str, at: datetime) -> None:
        body = encode(StatusChanged(before, after, reason, by))
        self.events.append(EventSchema(seq=len(self.events) + 1, at=at, body=body))

    def move(self, after: str, reason: str = "", by: str = "local") -> None:
        """A transition, as the store would make it."""
        check_transition(self.id, self.status, after)
        self._log(self.status, after, reason, by, datetime.now(UTC))
        self.status = after
        if after == "cancelled" and self.contents == "running":
            self.contents = "cancelled"

    def act(self, verb: JobCommand) -> None:
        """A verb over REST; raises Conflict where it makes no sense."""
        if not check_command(self.id, verb, self.status):
            return
        match verb:
            case "pause":
                self.move("pausing" if self.status == "running" else "paused")
            case "resume":
                self.move("running" if self.status == "pausing" else "queued")
            case "cancel":
                self.move("cancelled")
            case "retry":
                self.error = None
                self.move("queued")

    def _verify(self) -> None:
        bound = self.spec.bound("latency")
        for points in (self.search, self.baseline):
            fit = [p for p in points if bound is None or p.metrics["upper_ms"].value <= bound]
            members = {p.arch for p in front(fit, "predicted_ms", "val_accuracy")}
            points[:] = [measured(p, int(p.arch[:6], 16), bound) if p.arch in members else p for p in points]
        for points in (self.search, self.baseline):
            on = {p.arch for p in self._members(points)}
            points[:] = [p.model_copy(update={"on_front": p.arch in on}) for p in points]

    def _members(self, points: Sequence[CandidateSchema]) -> list[CandidateSchema]:
        bound = self.spec.bound("latency")
        x = "measured_ms" if self.final else "predicted_ms"
        bound_metric = "measured_ms" if self.final else "upper_ms"
        fit = [
            p for p in points if bound_metric in p.metrics and (bound is None or p.metrics[bound_metric].value <= bound)
        ]
        return front(fit, x, "val_accuracy")

    @property
    def final(self) -> bool:
        return self.status == "succeeded"

    @property
    def evaluated(self) -> int:
        """The number of evaluated candidates of each origin."""
        if self.contents == "running":
            return min(EVALUATIONS - 8, 16 * max(0, self.step - 4))
        return {"succeeded": EVALUATIONS, "cancelled": 64}.get(self.contents, 0)

    def points(self) -> list[CandidateSchema]:
        out = []
        for points in (self.search[: self.evaluated], self.baseline[: self.evaluated]):
            on = {p.arch for p in self._members(points)}
            out += [p.model_copy(update={"on_front": p.arch in on}) for p in points]
        return out

    def front(self) -> FrontSchema:
        search, baseline = self.search[: self.evaluated], self.baseline[: self.evaluated]
        search_front, baseline_front = self._members(search), self._members(baseline)
        names = {"accuracy": ("val_accuracy", "test_accuracy"), "latency": ("predicted_ms", "measured_ms")}
        axes = []
        for o in self.spec.objectives:
            info = METRICS[names.get(o.name, (o.name, o.name))[self.final]]
            axes.append(
                ObjectiveSchema(
                    objective=o.name,
                    metric=info.name,
                    label=info.label,
                    unit=info.unit,
                    kind=info.kind,
                    goal=info.goal,
                    bound=o.bound,
                )
            )
        x, y = ("measured_ms", "test_accuracy") if self.final else ("predicted_ms", "val_accuracy")
        mark = {"on_front": True}
        return FrontSchema(
            search=self.id,
            final=self.final,
            objectives=axes,
            members=[p.model_copy(update=mark) for p in search_front],
            baseline=[p.model_copy(update=mark) for p in baseline_front],
            hypervolume=volume(search_front, x, y, 0.9) if search_front else None,
            baseline_hypervolume=volume(baseline_front, x, y, 0.9) if baseline_front else None,
            reference=[10.0, 0.9],
        )

    def stages(self) -> list[StageSchema]:
        if self.contents == "queued":
            return []
        done = {"running": 1 if self.step < 5 else 2, "failed": 0, "cancelled": 2}.get(self.contents, len(STAGES))
        out = []
        for i, name in enumerate(STAGES):
            if i < done:
                out.append(StageSchema(name=name, status="finished", seconds=(0.8, 214, 61, 38, 9, 12)[i]))
            elif i > done:
                out.append(StageSchema(name=name, status="waiting"))
            elif name == "estimate":
                out.append(StageSchema(name=name, status="running"))
            elif name == "train":
                out.append(
                    StageSchema(
                        name=name,
                        status="running",
                        done=140 * self.step,
                        total=900,
                        unit="steps",
                        seconds=48 * self.step,
                        values={"loss": 0.9 / (1 + self.step), "accuracy": 90.0 + self.step},
                        message="shrinking depth, phase 1 of 2",
                    )
                )
            else:
                values = {"hypervolume": 0.6 + 0.2 * self.evaluated / EVALUATIONS}
                out.append(
                    StageSchema(
                        name=name,
                        status="running",
                        done=2 * self.evaluated,
                        total=2 * EVALUATIONS,
                        unit="subnets",
                        seconds=20 + self.step,
                        values=values,
                    )
                )
        return out

    def view(self) -> SearchSchema:
        if self.status in ("running", "pausing"):
            self.step += 1
            body = encode(Evaluated(()))
            self.events.append(EventSchema(seq=len(self.events) + 1, at=datetime.now(UTC), body=body))
        created = NOW - self.age
        history = []
        for n in range(16, self.evaluated + 1, 16):
            cells = [volume(p[:n], "predicted_ms", "val_accuracy", 0.9) for p in (self.search, self.baseline)]
            history.append(HypervolumeAt(evaluations=n, search=cells[0], baseline=cells[1]))
        f = self.front()
        over = self.status in ENDED
        return SearchSchema(
            id=self.id,
            status=self.status,
            created_at=created,
            started_at=None if self.status == "queued" else created + timedelta(seconds=4),
            finished_at=created + timedelta(seconds=330) if over else None,
            owner=self.owner,
            priority=self.priority,
            waiting=self.more.get("waiting") if self.status == "queued" else None,
            busy_seconds=330.0 * (self.attempts > 0),
            attempts=self.attempts,
            error=self.error,
            stages=self.stages(),
            warnings=self.more.get("warnings", []),
            eta_s=max(20.0, 260.0 - 20 * self.step) if self.status == "running" else None,
            last_event=len(self.events),
            spec=self.spec,
            parent=self.more.get("parent"),
            front_size=len(f.members),
            verified=sum(p.status == "verified" and p.origin == "search" for p in self.points()),
            evaluations=self.evaluated,
            hypervolume=f.hypervolume,
            baseline_hypervolume=f.baseline_hypervolume,
            hypervolume_history=history,
            rank_correlation=self.more.get("trust"),
        )

    def artifacts(self) -> list[ArtifactSchema]:
        files = (
            ("model.onnx", 183_204, "application/octet-stream"),
            ("model.int8.onnx", 61_877, "application/octet-stream"),
            ("weights.safetensors", 176_400, "application/octet-stream"),
            ("manifest.json", 4_120, "application/json"),
            ("card.md", 2_804, "text/markdown"),
        )
        return [
            ArtifactSchema(
                arch=p.arch,
                name=name,
                size_bytes=size,
                sha256=hashlib.sha256(f"{p.arch}{name}".encode()).hexdigest(),
                media_type=media,
                url=f"/v1/searches/{self.id}/artifacts/{p.arch}/{name}",
            )
            for p in (self._members(self.search) if self.final else [])
            for name, size, media in files
        ]

    def subnet(self, arch: str, origin: str) -> CandidateDetailSchema:
        point = next((p for p in self.points() if p.arch == arch and p.origin == origin), None)
        if point is None:
            raise Problem(404, "not_found", f"no network {arch!r} of origin {origin!r} in search {self.id}")
        net = Arch(SPACE.name, tuple(point.genes))
        return CandidateDetailSchema(
            candidate=point,
            choices={d.name: d.choices[g] for d, g in zip(SPACE.decisions, point.genes, strict=True)},
            input_shape=SPACE.input_shape(net),
            layers=[LayerSchema(**asdict(summarise(x))) for x in SPACE.layers(net)],
            artifacts=[a for a in self.artifacts() if a.arch == arch],
        )


def make_trust() -> RankCorrelationSchema:
    """A space in three parts, by two of its decisions."""
    decisions = [d for d in SPACE.decisions if len(d.choices) > 2 and d.axis != "resolution"][:4]
    rng = np.random.default_rng(3)
    similarities = []
    for i, decision in enumerate(decisions):
        n = len(decision.choices)
        names = [str(c) for c in decision.choices]
        half = rng.uniform(-0.3, 0.9, (n, n))
        cosines = np.where(np.eye(n), 1.0, (half + half.T) / 2)
        groups = [names[:1], names[1:]]
        similarities.append(
            GradientSimilaritySchema(
                decision=decision.name, choices=names, similarity=cosines.tolist(), groups=groups, score=0.5 - 0.1 * i
            )
        )
    first, second = similarities[:2]
    inside = [
        SpacePartitionSchema(choices=group, part=2 + i, share=(0.4, 0.3)[i]) for i, group in enumerate(second.groups)
    ]
    children = [
        SpacePartitionSchema(choices=first.groups[0], part=1, share=0.3),
        SpacePartitionSchema(choices=first.groups[1], decision=second.decision, children=inside),
    ]
    networks = [
        RankedArchSchema(arch=f"{i:012x}", alone=80.0 + i, before=float(b), after=float(a), one_shot=float(o))
        for i, (b, a, o) in enumerate(
            zip(*(55 + i * np.arange(12) + rng.normal(0, 6, 12) for i in range(3)), strict=True)
        )
    ]
    return RankCorrelationSchema(
        method="gradient_matching",
        parts=3,
        partition=SpacePartitionSchema(decision=first.decision, children=children),
        similarities=similarities,
        steps=720,
        one_shot_steps=720,
        tau_before=0.09,
        tau_after=0.64,
        tau_one_shot=0.42,
        networks=networks,
        advice=rank_advice(12, 0.09, 0.64, 0.42),
    )


def make_searches() -> list[FakeSearch]:
    accuracy = ObjectiveSpec(name="accuracy")
    bounded = (accuracy, ObjectiveSpec(name="latency", bound=0.5))
    finished = FakeSearch(
        SearchSpec(name="digits under half a millisecond", objectives=bounded, budget=BudgetSpec(evaluations=160)),
        "succeeded",
        timedelta(hours=5),
        11,
        warnings=[
            "verify: 1 network was measured above the bound and is no part of the front",
            "verify: the device was too unsteady for 1 network, so it has no measured latency",
        ],
        trust=make_trust(),
    )
    three = (accuracy, ObjectiveSpec(name="latency"), ObjectiveSpec(name="macs"))
    return [
        FakeSearch(
            SearchSpec(name="waiting for its turn", seed=4, resources=ResourceSpec(gpus=1)),
            "queued",
            timedelta(seconds=20),
            1,
            waiting="position 3 of 12; waiting for 1 GPU",
            priority=5,
        ),
        FakeSearch(SearchSpec(name="digits, no bound", seed=2), "running", timedelta(minutes=6), 21),
        FakeSearch(
            SearchSpec(name="three objectives, extended", objectives=three, supernet=finished.id),
            "succeeded",
            timedelta(hours=2),
            31,
            parent=finished.id,
        ),
        finished,
        FakeSearch(
            SearchSpec(
                name="a bound too tight",
                data=DataSpec(name="npz", path="/data/cells.npz"),
                objectives=(accuracy, ObjectiveSpec(name="latency", bound=0.02)),
            ),
            "failed",
            timedelta(days=1, hours=3),
            41,
            error="latency: no network meets the bound of 0.02 ms; the lowest reachable upper bound is 0.071 ms",
        ),
        FakeSearch(
            SearchSpec(name="stopped by hand", space=SpaceSpec(params={"preset": "cifar"})),
            "cancelled",
            timedelta(days=9),
            51,
        ),
        FakeSearch(SearchSpec(name="parked over night", seed=6), "paused", timedelta(days=10), 61, owner="ada"),
        FakeSearch(
            SearchSpec(name="too big for its machine", seed=7),
            "quarantined",
            timedelta(days=11),
            71,
            owner="ada",
            attempts=4,
            error="the worker was lost 4 times without progress: its machine ran out of memory",
        ),
    ]


def make_many(count: int) -> list[FakeSearch]:
    """Searches that wait, submitted an hour apart."""
    return [
        FakeSearch(SearchSpec(name=f"sweep {i}", seed=i), "queued", timedelta(days=20, hours=i), 10_000 + i)
        for i in range(count)
    ]


# Who uses the service, and what runs it


def make_tokens() -> list[TokenSchema]:
    def token(ident: str, owner: str, name: str, scopes: list[Scope], days: float, **more: Any) -> TokenSchema:
        fields = {"expires_at": None, "revoked_at": None, "last_used_at": None} | more
        return TokenSchema(
            id=ident, owner=owner, name=name, scopes=scopes, created_at=NOW - timedelta(days=days), **fields
        )

    return [
        token("k3f8a1", "ada", "laptop", ["read", "submit"], 12, last_used_at=NOW - timedelta(minutes=4)),
        token("p0d2c7", "ci", "nightly", ["read", "submit", "device"], 40, expires_at=NOW + timedelta(days=50)),
        token("z9e4b5", "grace", "old laptop", ["read"], 90, revoked_at=NOW - timedelta(days=3)),
    ]


def make_audit(count: int) -> list[AuditRecordSchema]:
    """Records, newest first, of three owners by turns."""
    rows = []
    for i in range(count):
        owner, action, target = (
            ("ada", "pause search", SEARCH_OF_ADA),
            ("ci", "submit search", "b" * 32),
            ("local", "set quota", "ada"),
        )[i % 3]
        rows.append(
            AuditRecordSchema(
                id=count - i,
                at=NOW - timedelta(minutes=7 * i),
                owner=owner,
                token={"ada": "k3f8a1", "ci": "p0d2c7"}.get(owner),
                address="127.0.0.1",
                action=action,
                target=target,
                detail={"max_running": 2} if action == "set quota" else {},
            )
        )
    return rows


SEARCH_OF_ADA = hashlib.sha256(b"parked over night61").hexdigest()[:32]
WORKERS = [
    WorkerSchema(
        name="dispatcher on node-a",
        slots=4,
        seen_at=NOW,
        elastic=True,
        nodes=[
            NodeResourcesSchema(cpus=16, gpus=2, memory_gb=128, labels={"gpu": "a100"}),
            NodeResourcesSchema(cpus=8, memory_gb=32),
        ],
        free=[
            NodeResourcesSchema(cpus=9, memory_gb=71.5, labels={"gpu": "a100"}),
            NodeResourcesSchema(cpus=8, memory_gb=32),
        ],
    )
]
CHECKS = [
    HealthCheckSchema(name="database", status="ok", detail="sqlite answers in 0.4 ms, schema 0002"),
    HealthCheckSchema(name="blobs", status="ok", detail="412 GB free"),
    HealthCheckSchema(name="workers", status="warning", detail="1 connected; no GPU is free"),
]


# Devices


def make_card(device: str, seed: int) -> PredictorCardSchema:
    rng = np.random.default_rng(seed)
    predicted = np.sort(rng.uniform(0.09, 0.82, 48))
    true = predicted * rng.normal(1.0, 0.03, 48)
    return PredictorCardSchema(
        id=hashlib.sha256(device.encode()).hexdigest()[:12],
        device=device,
        profile=PROFILE.id,
        space="mobilenet_v3-1a2b3c4d",
        space_name="mobilenet_v3",
        family="bayesian_linear",
        protocol=asdict(PROFILE.protocol),
        n=64,
        calibration=16,
        held_out=48,
        mape=float(np.mean(np.abs(predicted - true) / true) * 100),
        spearman=0.994,
        kendall=0.947,
        coverage=float(np.mean(true <= predicted * 1.05)),
        range_ms=(0.088, 0.83),
        measured_ms=true.tolist(),
        predicted_ms=predicted.tolist(),
        upper_ms=(predicted * 1.05).tolist(),
        energy=EnergyAccuracySchema(n=64, held_out=21, mape=4.6, spearman=0.981, coverage=0.95)
        if device == "shelf"
        else None,
        created_at=NOW - timedelta(days=2),
    )


def make_device(name: str, status: str, spec: DeviceSpec | None = None, **more: Any) -> DeviceSchema:
    ready = status == "succeeded"
    stages = [
        StageSchema(name="profile", status="finished", seconds=3.2),
        StageSchema(name="measure", status="running", done=37, total=96, unit="networks", seconds=21)
        if status == "running"
        else StageSchema(name="measure", status="finished" if ready else "waiting", seconds=60 * ready),
        StageSchema(name="fit", status="finished" if ready else "waiting", seconds=1.1 * ready),
    ]
    return DeviceSchema(
        id=hashlib.sha256(name.encode()).hexdigest()[:32],
        name=name,
        status=status,
        created_at=NOW - timedelta(days=2),
        started_at=NOW - timedelta(days=2),
        finished_at=NOW - timedelta(days=2) if status != "running" else None,
        stages=[] if status == "queued" else stages,
        eta_s=34.0 if status == "running" else None,
        spec=spec or DeviceSpec(name=name),
        profile_id=PROFILE.id if status in ("succeeded", "running") else None,
        profile=PROFILE.as_json() if status in ("succeeded", "running") else None,
        predictors=[make_card(name, 7)] if ready else [],
        **more,
    )


def make_versions(device: DeviceSchema, search: str) -> list[PredictorVersionSchema]:
    """That of the onboarding, one that is used, and one that is not."""
    if not device.predictors:
        return []
    card = device.predictors[0]
    shared = {
        k: getattr(card, k) for k in ("device", "space", "space_name", "family", "held_out", "coverage", "profile")
    }

    def version(number: int, mape: float, **more: Any) -> PredictorVersionSchema:
        fields = {"before": None, "search": None, "better": True, "why": "", "in_use": False, "searches": []} | more
        return PredictorVersionSchema(
            id=card.id if number == 1 else f"{search[:12]}-{number - 1}",
            number=number,
            networks=96 + 9 * (number - 1),
            n=64 + 9 * (number - 1),
            mape=mape,
            spearman=0.99 + 0.001 * number,
            created_at=NOW - timedelta(days=3 - number),
            **shared,
            **fields,
        )

    fed = {"search": search}
    why = "cross-validated error: 2.9 % with what was fed back, 3.4 % without"
    odd = "cross-validated error over the networks known before: 9.8 % with what was fed back, 2.9 % without"
    return [
        version(3, 5.2, before="2", better=False, why=odd, **fed),
        version(2, 2.2, before="1", why=why, in_use=True, **fed),
        version(1, 2.4, searches=[search]),
    ]


def make_drift(name: str, latest: float) -> DriftSchema:
    """A month of sessions, the latest of which is off by so much."""
    rng = np.random.default_rng(3)
    readings = [
        Reading(NOW.timestamp() - days * 86_400 + i, f"job{days}", canary, float(centre * rng.normal(1, 0.02)))
        for days, centre, canary in ((28, 1.0, 1.0), (19, 0.99, 1.01), (11, 1.02, 1.0), (2, latest, 1.03))
        for i in range(12)
    ]
    drift = drift_of(readings)
    return DriftSchema(
        device=name,
        status=drift.status,
        within=drift.within,
        sentence=drift.sentence,
        sessions=[
            DriftSessionSchema(
                at=datetime.fromtimestamp(s.at, UTC), networks=s.networks, ratio=s.ratio, canary=s.canary
            )
            for s in drift.sessions
        ],
        readings=[
            DriftReadingSchema(at=datetime.fromtimestamp(r.at, UTC), arch="a" * 12, ratio=r.ratio, canary=r.canary)
            for r in readings
        ],
    )


def make_comparison(first: DeviceSchema, second: DeviceSchema, search: str) -> DeviceComparisonSchema:
    """Two devices, the second of which is slower, and slower still for large networks."""
    rng = np.random.default_rng(5)
    first_ms = rng.uniform(0.1, 0.8, 120)
    second_ms = 2.1 * first_ms**1.1 * rng.normal(1.0, 0.05, 120)
    return DeviceComparisonSchema(
        first=first.name,
        second=second.name,
        space=first.predictors[0].space,
        space_name="mobilenet_v3",
        spaces=[first.predictors[0].space],
        pairs=[
            LatencyPairSchema(
                arch=hashlib.sha256(bytes([i])).hexdigest()[:12],
                first_ms=first_ms[i],
                second_ms=second_ms[i],
                first_kind="measured" if i < 80 else "predicted",
                second_kind="measured" if i < 40 else "predicted",
            )
            for i in range(120)
        ],
        both_measured=40,
        spearman=spearman(first_ms, second_ms),
        kendall=kendall(first_ms, second_ms),
        ratio=float(np.median(second_ms / first_ms)),
        cards=[first.predictors[0], second.predictors[0]],
        versions=[*make_versions(first, search), *make_versions(second, search)],
        differences=[
            ProfileDifferenceSchema(what="processor", first="a processor", second="another processor"),
            ProfileDifferenceSchema(what="cores", first="8", second="4"),
            ProfileDifferenceSchema(what="protocol threads", first="1", second="4"),
        ],
    )


AGENT = AgentSchema(
    name="shelf",
    owner="ada",
    profile_id=PROFILE.id,
    profile=PROFILE.as_json(),
    versions={"python": "3.11.9", "onnxruntime": "1.31.1"},
    seen_at=NOW,
    away=False,
    waiting=3,
    measuring="4ed76b88f6a1",
)


def create_api(contents: str = "full") -> FastAPI:
    """The fake service with everything, or ``empty``."""
    app = FastAPI()
    streams = sse.EventStreams()
    full = contents != "empty"
    searches = make_searches() if full else []
    searches += make_many(1000) if contents == "many" else []
    finished = next((s.id for s in searches if s.spec.name == LEARNED), "")
    tokens = make_tokens() if full else []
    audit = make_audit(40) if full else []
    scopes: list[Scope] = ["read"] if contents == "reader" else ["admin"]
    limits = {"ada": QuotaBody(max_queued=10, max_running=2, gpu_hours=40.0), "ci": QuotaBody(max_queued=4)}
    devices = (
        [
            make_device("this-machine", "succeeded"),
            make_device("board-4", "running"),
            make_device("shelf", "succeeded", agent=AGENT, stale=["runtime version: 1.22.0, now 1.31.1"]),
            make_device(
                "old-laptop",
                "failed",
                error="measure: the device was too unsteady: variation 38 %, expected at most 10 %",
            ),
        ]
        if full
        else []
    )

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return JSONResponse(ErrorSchema(code=error.code, message=str(error)).model_dump(), error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse(ErrorSchema(code="invalid_spec", message=str(error.errors())).model_dump(), 422)

    def find(search_id: str) -> FakeSearch:
        search = next((s for s in searches if s.id == search_id), None)
        if search is None:
            raise Problem(404, "not_found", f"no search {search_id!r}")
        return search

    def quota(owner: str) -> QuotaSchema:
        mine = [s.status for s in searches if s.owner == owner]
        limit = limits.get(owner, QuotaBody())
        return QuotaSchema(
            owner=owner,
            **limit.model_dump(),
            queued=mine.count("queued"),
            running=sum(mine.count(s) for s in LEASED),
            gpu_hours_used={"ada": 31.5}.get(owner, 0.0),
        )

    @app.exception_handler(Conflict)
    async def conflict(_: Request, error: Conflict) -> Response:
        return JSONResponse(ErrorSchema(code=error.code, message=str(error)).model_dump(), 409)

    @app.get("/readyz")
    def readyz() -> Response:
        if not full:
            return JSONResponse(ErrorSchema(code="not_found", message="no such route").model_dump(), 404)
        return JSONResponse(ReadinessSchema(ready=True, checks=CHECKS).model_dump())

    @app.get("/v1/me")
    def me() -> PrincipalSchema:
        token = "k3f8a1" if contents == "reader" else None
        owner = "ada" if contents == "reader" else "local"
        return PrincipalSchema(owner=owner, scopes=scopes, token=token, quota=quota(owner))

    def administer() -> None:
        if "admin" not in scopes:
            raise Problem(403, "forbidden", "expected a token with the scope 'admin'")

    @app.get("/v1/tokens")
    def list_tokens() -> list[TokenSchema]:
        administer()
        return tokens

    @app.post("/v1/tokens", status_code=201)
    def create_token(body: TokenBody) -> CreatedTokenSchema:
        administer()
        if any(t.name == body.name and t.owner == body.owner for t in tokens):
            raise Problem(409, "conflict", f"{body.owner} has a token {body.name!r} already")
        fields = body.model_dump() | {"created_at": datetime.now(UTC), "revoked_at": None, "last_used_at": None}
        token = TokenSchema(id=f"new{len(tokens)}", **fields)
        tokens.append(token)
        return CreatedTokenSchema(**token.model_dump(), secret=f"hwnas_{token.id}_{'s' * 43}")

    @app.delete("/v1/tokens/{token_id}", status_code=204)
    def revoke_token(token_id: str) -> None:
        administer()
        tokens[:] = [t.model_copy(update={"revoked_at": NOW}) if t.id == token_id else t for t in tokens]

    @app.get("/v1/quotas")
    def quotas() -> list[QuotaSchema]:
        administer()
        return [quota(owner) for owner in sorted({s.owner for s in searches} | set(limits))]

    @app.put("/v1/quotas/{owner}")
    def set_quota(owner: str, body: QuotaBody) -> QuotaSchema:
        administer()
        limits[owner] = body
        return quota(owner)

    @app.get("/v1/audit")
    def get_audit(limit: int = 50, cursor: str | None = None, owner: str | None = None) -> AuditPage:
        administer()
        rows = [r for r in audit if owner in (None, r.owner)]
        start = int(cursor or 0)
        return AuditPage(
            items=rows[start : start + limit], next=str(start + limit) if start + limit < len(rows) else None
        )

    @app.get("/v1/workers")
    def workers() -> list[WorkerSchema]:
        return WORKERS if full else []

    @app.get("/v1/health")
    def health() -> HealthSchema:
        running = sum(s.status == "running" for s in searches)
        return HealthSchema(status="ok", version="0.1.0", database="sqlite", workers=1, queued=1, running=running)

    @app.get("/v1/spaces")
    def spaces() -> list[SpaceSchema]:
        presets = ["digits", "cifar", "imagenet", "imagenet-w1.2"]
        return [SpaceSchema(name="mobilenet_v3", summary="Once-for-all MobileNetV3", presets=presets)]

    @app.get("/v1/strategies")
    def strategies() -> list[StrategySchema]:
        params = {"steps": 900, "batch": 64, "rule": "progressive"}
        return [StrategySchema(name="once_for_all", summary="Train once, specialise", params=params)]

    @app.get("/v1/datasets")
    def datasets() -> list[str]:
        return ["digits", "folder", "npz", "parquet"]

    @app.get("/v1/searches")
    def list_searches(
        status: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        owner: str | None = None,
        parent: str | None = None,
    ) -> SearchPage:
        matching = [
            s
            for s in searches
            if status in (None, s.status) and owner in (None, s.owner) and parent in (None, s.more.get("parent"))
        ]
        start = int(cursor or 0)
        after = start + limit
        return SearchPage(
            items=[s.view() for s in matching[start:after]], next=str(after) if after < len(matching) else None
        )

    @app.post("/v1/searches", status_code=201, response_model=None)
    def submit(
        spec: SearchSpec,
        dry_run: bool = False,
        measure: bool = True,
        idempotency_key: str | None = Header(default=None),
    ) -> SearchSchema | Response:
        bound = spec.bound("latency")
        tight = bound is not None and bound < 0.071
        why = f"latency: no network meets the bound of {bound} ms; the lowest reachable upper bound is 0.071 ms"
        if dry_run:
            view = DryRunSchema(
                feasible=not tight,
                problems=[why] if tight else [],
                space_size=2.9e11,
                ranges={"params": (9_800, 236_000), "macs": (31_000, 2_410_000), "predicted_ms": (0.066, 0.87)},
                lowest_reachable_ms=0.071,
                feasible_share=0.0 if tight else 0.42,
                sampled=512,
                stages=list(STAGES),
                spec_hash=spec.content_hash,
                cost=_cost(spec) if measure and not tight else None,
                cost_missing=None if measure and not tight else "it was not requested",
            )
            return JSONResponse(view.model_dump(mode="json"))
        if tight:
            raise Problem(422, "infeasible_bound", why)
        search = FakeSearch(spec, "queued", timedelta(), 1000 + len(searches))
        searches.insert(0, search)
        return search.view()

    @app.get("/v1/searches/{search_id}")
    def search(search_id: str) -> SearchSchema:
        return find(search_id).view()

    @app.post("/v1/searches/{search_id}/fork", status_code=201)
    def fork(search_id: str, body: ForkBody) -> SearchSchema:
        tight = next((o.bound for o in body.objectives or [] if o.name == "latency" and o.bound), 1.0)
        if tight < 0.071:
            raise Problem(422, "infeasible_bound", f"latency: no network meets the bound of {tight} ms")
        record = find(search_id).spec.model_dump() | body.model_dump(exclude_none=True) | {"supernet": search_id}
        search = FakeSearch(SearchSpec(**record), "queued", timedelta(), 2000 + len(searches), parent=search_id)
        searches.insert(0, search)
        return search.view()

    @app.post("/v1/searches/{search_id}/{verb}")
    def act(search_id: str, verb: JobCommand) -> SearchSchema:
        if "admin" not in scopes:
            raise Problem(403, "forbidden", "expected a token with the scope 'submit'")
        search = find(search_id)
        search.act(verb)
        return search.view()

    @app.post("/fake/{search_id}/saved")
    def saved(search_id: str) -> None:
        """Let a search that is pausing save its next result."""
        find(search_id).move("paused", "its result was saved", "")

    @app.put("/v1/searches/{search_id}/priority")
    def set_priority(search_id: str, body: PriorityBody) -> SearchSchema:
        find(search_id).priority = body.priority
        return find(search_id).view()

    @app.delete("/v1/searches/{search_id}", status_code=204)
    def delete(search_id: str) -> None:
        search = find(search_id)
        check_command(search_id, "delete", search.status)
        if any(s.more.get("parent") == search_id and s.contents == "queued" for s in searches):
            raise Problem(409, "conflict", f"search {search_id} has a child that still needs its supernet")
        searches.remove(search)

    @app.get("/v1/searches/{search_id}/front")
    def get_front(search_id: str) -> FrontSchema:
        return find(search_id).front()

    @app.get("/v1/searches/{search_id}/candidates")
    def candidates(search_id: str, limit: int = 100, cursor: str | None = None) -> CandidatePage:
        points = sorted(find(search_id).points(), key=lambda p: -p.metrics["val_accuracy"].value)
        start = int(cursor or 0)
        after = start + limit
        return CandidatePage(
            items=points[start:after], total=len(points), next=str(after) if after < len(points) else None
        )

    @app.get("/v1/searches/{search_id}/candidates/{arch}")
    def subnet(search_id: str, arch: str, origin: str = "search") -> CandidateDetailSchema:
        return find(search_id).subnet(arch, origin)

    @app.get("/v1/searches/{search_id}/artifacts")
    def artifacts(search_id: str) -> list[ArtifactSchema]:
        return find(search_id).artifacts()

    @app.get("/v1/searches/{search_id}/artifacts/{arch}/{name}")
    def artifact(search_id: str, arch: str, name: str) -> Response:
        return Response(b"bytes of " + name.encode(), media_type="application/octet-stream")

    @app.get("/v1/searches/{search_id}/events", response_model=None)
    def events(
        search_id: str,
        after: int = 0,
        limit: int = 500,
        kind: str | None = None,
        accept: Annotated[str, Header()] = "",
    ) -> EventPage | Response:
        find(search_id)

        def read(after: int, limit: int) -> tuple[EventPage, JobStatus | None]:
            search = next((s for s in searches if s.id == search_id), None)
            if search is None:  # deleted meanwhile
                return EventPage(items=[], last=after), "cancelled"
            items = [e for e in search.events if e.seq > after and kind in (None, e.body["kind"])][:limit]
            page = EventPage(items=items, last=items[-1].seq if items else after)
            return page, search.status if search.status in ENDED else None

        if "text/event-stream" in accept:
            return streams.response(read, after, "", lambda: True)
        return read(after, limit)[0]

    @app.get("/v1/agents")
    def list_agents() -> list[AgentSchema]:
        return [AGENT] if full else []

    @app.get("/v1/devices")
    def list_devices() -> list[DeviceSchema]:
        return devices

    @app.post("/v1/devices", status_code=201)
    def add_device(spec: DeviceSpec) -> DeviceSchema:
        if any(d.name == spec.name for d in devices):
            raise Problem(409, "conflict", f"there is a device {spec.name!r} already")
        devices.append(make_device(spec.name, "running", spec))
        return devices[-1]

    @app.get("/v1/devices/{name}")
    def device(name: str) -> DeviceSchema:
        device = next((d for d in devices if d.name == name), None)
        if device is None:
            raise Problem(404, "not_found", f"no device {name!r}: expected one of {', '.join(d.name for d in devices)}")
        return device

    @app.get("/v1/onboardings")
    def onboardings(device: str, limit: int = 50) -> OnboardingPage:
        return OnboardingPage(items=[])

    @app.get("/v1/devices/{name}/versions")
    def versions(name: str) -> list[PredictorVersionSchema]:
        return make_versions(device(name), finished)

    @app.get("/v1/devices/{name}/drift")
    def drift(name: str) -> DriftSchema:
        return make_drift(name, 1.16 if name == "shelf" else 1.02)

    @app.get("/v1/devices/{name}/comparison")
    def comparison(name: str, other: str, space: str | None = None) -> DeviceComparisonSchema:
        if name == other:
            raise Problem(400, "invalid_input", f"expected two devices, got {name!r} twice")
        return make_comparison(device(name), device(other), finished)

    @app.get("/v1/predictors")
    def predictors(device: str | None = None) -> list[PredictorCardSchema]:
        return [c for d in devices for c in d.predictors if device in (None, d.name)]

    return app


def main() -> None:
    """Serves until it is ended."""
    from server.dashboard.app import mount

    where, contents = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "full"
    if where.startswith("fd="):  # a socket that the parent listens on already
        listener = socket.socket(fileno=int(where[3:]))
    else:
        listener = socket.create_server(("127.0.0.1", int(where)))
    port = listener.getsockname()[1]
    app = create_api(contents) if contents != "down" else FastAPI()
    mount(app, f"http://127.0.0.1:{port if contents != 'down' else 9}")
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
