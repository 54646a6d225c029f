"""A service in this process for tests of the client and the command line: canned views behind an httpx transport.

It keeps every request it was sent. Its event streams are scripts: each connection plays the next one, and a script may
end in a lost connection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
from pydantic import BaseModel

from nas.core.cost_estimate import CostEstimate, StageCost
from nas.core.device import DeviceProfile
from nas.core.events import HypervolumeAt
from nas.core.metrics import METRICS
from nas.core.spec import DeviceSpec, SearchSpec
from nas.schemas.agents import AgentSchema
from nas.schemas.candidates import (
    ArtifactSchema,
    CandidateDetailSchema,
    CandidatePage,
    CandidateSchema,
    FrontSchema,
    LayerSchema,
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
    OnboardingSchema,
    ProfileDifferenceSchema,
)
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.jobs import EventPage, EventSchema, StageSchema
from nas.schemas.predictors import PredictorCardSchema, PredictorVersionSchema
from nas.schemas.searches import SearchPage, SearchSchema
from nas.schemas.service import HealthSchema, SpaceSchema, StrategySchema

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
SEARCH, FAILED = "5ea4c1", "fa11ed"
PROFILE = DeviceProfile("this-machine", "x86_64", "a [fast] processor", 4, "onnxruntime", "1.31", "linux")
# Most accurate, in between, fastest: name, test accuracy, measured latency.
MEMBERS = (("a" * 12, 98.5, 0.30), ("b" * 12, 97.25, 0.20), ("c" * 12, 91.0, 0.10))
BASELINE = (("d" * 12, 96.0, 0.28), ("e" * 12, 88.0, 0.12))

ONBOARDING = "/v1/onboardings/0b0a4d"
ONBOARDING_VERBS = {"pause": "paused", "resume": "queued", "cancel": "cancelled", "retry": "queued"}

End = Exception | None
Script = tuple[Sequence[str], End]


class FakeService:
    """Answers as the service would. ``problems`` maps ``METHOD path`` to an error; ``files`` holds what is served."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.problems: dict[str, tuple[int, str, str]] = {}
        self.answers: dict[str, httpx.Response] = {}
        self.files = {f"{arch}.zip": f"the zip of {arch}".encode() for arch, _, _ in MEMBERS}
        self.streams: list[Script] = [([*frames(EVENTS), END], None)]
        self.search = make_search()
        self.device = make_device()
        self.feasible = True

    @property
    def transport(self) -> httpx.MockTransport:
        """To be given to a client."""
        return httpx.MockTransport(self._answer)

    @property
    def last(self) -> httpx.Request:
        """The latest request."""
        return self.requests[-1]

    def body(self) -> Any:
        """The latest request's JSON."""
        return json.loads(self.last.content)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        what = f"{request.method} {request.url.path}"
        if what in self.answers:
            return self.answers[what]
        if what in self.problems:
            status, code, message = self.problems[what]
            return _json(ErrorSchema(code=code, message=message), status)
        if request.headers.get("accept") == "text/event-stream":
            return self._stream()
        *_, name = request.url.path.split("/")
        if request.url.path.startswith(f"/v1/searches/{SEARCH}/artifacts/"):
            return httpx.Response(200, content=self.files[name])
        found = self._routes().get(what)
        if found is None:
            return _json(ErrorSchema(code="not_found", message=f"there is no {what}"), 404)
        return found(request)

    def _stream(self) -> httpx.Response:
        texts, end = self.streams.pop(0)
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_Frames(texts, end))

    def _routes(self) -> dict[str, Callable[[httpx.Request], httpx.Response]]:
        def says(value: Any, status: int = 200) -> Callable[[httpx.Request], httpx.Response]:
            return lambda _: _json(value, status)

        def submit(request: httpx.Request) -> httpx.Response:
            spec = SearchSpec.model_validate_json(request.content)
            if request.url.params.get("dry_run") == "true":
                return _json(make_dry_run(self.feasible, request.url.params["measure"] == "true"))
            return _json(self.search.model_copy(update={"spec": spec, "status": "queued"}), 201)

        one, two = f"/v1/searches/{SEARCH}", f"/v1/searches/{FAILED}"
        failed = self.search.model_copy(update={"id": FAILED, "status": "failed", "error": "the data set is [empty]"})
        child = self.search.model_copy(update={"id": "c41d", "parent": SEARCH, "status": "queued"})
        device = f"/v1/devices/{self.device.name}"
        return {
            "GET /v1/health": says(
                HealthSchema(status="ok", version="0.1.0", database="sqlite", workers=1, queued=0, running=0)
            ),
            "GET /v1/spaces": says([SpaceSchema(name="mobilenet_v3", summary="elastic", presets=["digits", "cifar"])]),
            "GET /v1/strategies": says(
                [StrategySchema(name="once_for_all", summary="trains once", params={"epochs": 9})]
            ),
            "GET /v1/datasets": says(["digits", "npz"]),
            "GET /v1/searches": says(SearchPage(items=[self.search, failed], next="more")),
            "POST /v1/searches": submit,
            f"GET {one}": says(self.search),
            f"GET {two}": says(failed),
            "GET /v1/searches/c41d": says(child.model_copy(update={"status": "succeeded"})),
            "GET /v1/searches/c41d/front": says(make_front()),
            f"POST {one}/cancel": says(self.search.model_copy(update={"status": "cancelled"})),
            f"POST {one}/extend": says(child, 201),
            f"GET {one}/front": says(make_front()),
            f"GET {one}/candidates": says(CandidatePage(items=make_front().members, total=3)),
            f"GET {one}/candidates/{MEMBERS[0][0]}": says(make_subnet()),
            f"GET {one}/artifacts": says([self._artifact(arch) for arch, _, _ in MEMBERS]),
            f"GET {one}/events": lambda r: _json(event_page(int(r.url.params.get("after", "0")))),
            "GET /v1/devices": says([self.device]),
            "POST /v1/devices": lambda r: _json(make_device("queued", DeviceSpec.model_validate_json(r.content)), 201),
            f"GET {device}": says(self.device),
            f"GET {device}/versions": says([make_version(1), make_version(2, better=False)]),
            f"GET {device}/drift": says(make_drift()),
            f"GET {device}/comparison": says(make_comparison()),
            f"PUT {device}/name": says(self.device.model_copy(update={"name": "desk"})),
            f"DELETE {device}": lambda _: httpx.Response(204),
            "GET /v1/onboardings": says(OnboardingPage(items=[make_onboarding()], next="more")),
            f"GET {ONBOARDING}": says(make_onboarding()),
            **{f"POST {ONBOARDING}/{verb}": says(make_onboarding(status)) for verb, status in ONBOARDING_VERBS.items()},
            f"PUT {ONBOARDING}/priority": says(make_onboarding().model_copy(update={"priority": 3})),
            f"DELETE {ONBOARDING}": lambda _: httpx.Response(204),
            "GET /v1/agents": says([make_agent()]),
            "GET /v1/predictors": says([make_card()]),
            "GET /v1/predictors/card1": says(make_card()),
        }

    def _artifact(self, arch: str) -> ArtifactSchema:
        name = f"{arch}.zip"
        return ArtifactSchema(
            arch=arch,
            name=name,
            size_bytes=len(self.files[name]),
            sha256=hashlib.sha256(self.files[name]).hexdigest(),
            media_type="application/zip",
            url=f"/v1/searches/{SEARCH}/artifacts/{arch}/{name}",
            report={"max_abs_err": 1e-6},
        )


class _Frames(httpx.SyncByteStream):
    """Texts as they come over the network, cut where no line ends, and then the connection's end."""

    def __init__(self, texts: Sequence[str], end: End) -> None:
        self.data, self.end = "".join(texts).encode(), end

    def __iter__(self) -> Iterator[bytes]:
        yield from (self.data[i : i + 7] for i in range(0, len(self.data), 7))
        if self.end is not None:
            raise self.end


def event(seq: int, kind: str, **body: Any) -> EventSchema:
    """An event of a search's log."""
    return EventSchema(seq=seq, at=NOW, body={"kind": kind, **body})


def frames(events: Sequence[EventSchema]) -> list[str]:
    """The events as server-sent events."""
    return ["retry: 1000\n\n", *(f"id: {e.seq}\ndata: {e.model_dump_json()}\n\n" for e in events)]


END = 'event: end\ndata: {"status": "succeeded"}\n\n'
EVENTS = [
    event(1, "stage_started", stage="train", position=0, total=2),
    event(2, "progress", stage="train", done=3, total=9, unit="steps", values={"loss": 0.5}, message="depth"),
    event(3, "warned", stage="train", message="the machine is [busy]"),
    event(4, "stage_finished", stage="train", seconds=12.5, result={}),
    event(5, "stage_started", stage="export", position=1, total=2),
    event(6, "stage_finished", stage="export", seconds=1.5, result={}),
]


def event_page(after: int) -> EventPage:
    """The events of the search after a number."""
    items = [e for e in EVENTS if e.seq > after]
    return EventPage(items=items, last=items[-1].seq if items else after)


def make_onboarding(status: str = "queued") -> OnboardingSchema:
    """An onboarding of this machine."""
    return OnboardingSchema(
        id="0b0a4d",
        device="this-machine",
        spec=DeviceSpec(),
        status=status,
        created_at=NOW,
        waiting="position 1 of 1",
    )


def make_agent() -> AgentSchema:
    """The agent of a board that is away."""
    return AgentSchema(
        name="board",
        owner="ada",
        profile_id="0",
        profile=PROFILE,
        versions={"onnxruntime": "1.31"},
        seen_at=NOW,
        away=True,
        waiting=2,
        measuring=None,
    )


def make_search() -> SearchSchema:
    """A search that has ended well."""
    return SearchSchema(
        id=SEARCH,
        status="succeeded",
        created_at=NOW,
        started_at=NOW,
        finished_at=NOW,
        attempts=1,
        stages=[
            StageSchema(name="train", status="finished", done=9, total=9, unit="steps", seconds=12.5),
            StageSchema(name="export", status="finished", seconds=1.5),
        ],
        spec=SearchSpec(name="digits [small]"),
        front_size=3,
        verified=3,
        evaluations=160,
        hypervolume=0.81,
        baseline_hypervolume=0.75,
        hypervolume_history=[HypervolumeAt(evaluations=160, search=0.8, baseline=0.7)],
    )


def make_point(arch: str, accuracy: float, measured_ms: float, origin: str) -> CandidateSchema:
    """A verified network."""
    values = {
        "test_accuracy": accuracy,
        "val_accuracy": accuracy + 0.5,
        "predicted_ms": 0.98 * measured_ms,
        "upper_ms": 1.1 * measured_ms,
        "measured_ms": measured_ms,
        "params": 40_000.0,
        "macs": 1_200_000.0,
    }
    metrics = {k: MetricSchema(value=v, unit=METRICS[k].unit, kind=METRICS[k].kind) for k, v in values.items()}
    return CandidateSchema(arch=arch, origin=origin, genes=[0, 1], metrics=metrics, status="verified", on_front=True)


def make_front() -> FrontSchema:
    """Three networks of the search beside two of random search."""
    axes = [("accuracy", "test_accuracy"), ("latency", "measured_ms")]
    return FrontSchema(
        search=SEARCH,
        final=True,
        objectives=[
            ObjectiveSchema(objective=o, metric=m, label=i.label, unit=i.unit, kind=i.kind, goal=i.goal)
            for o, m in axes
            for i in [METRICS[m]]
        ],
        members=[make_point(*m, "search") for m in MEMBERS],
        baseline=[make_point(*m, "baseline") for m in BASELINE],
        hypervolume=0.81,
        baseline_hypervolume=0.75,
        reference=[10.0, 0.5],
    )


def make_subnet() -> CandidateDetailSchema:
    """The most accurate network."""
    layer = LayerSchema(name="stem", op="conv", in_shape=(1, 8, 8), out_shape=(8, 8, 8), params=72, macs=4608)
    return CandidateDetailSchema(
        candidate=make_front().members[0], choices={"depth": 2}, input_shape=(1, 8, 8), layers=[layer], artifacts=[]
    )


def make_dry_run(feasible: bool, measured: bool = True) -> DryRunSchema:
    """What a spec would meet, and what it would take if that was ``measured``."""
    return DryRunSchema(
        feasible=feasible,
        problems=[] if feasible else ["no network meets the bound [0.01 ms]"],
        space_size=1e9,
        ranges={"params": (1000.0, 9000.0), "upper_ms": (0.05, 0.5)},
        lowest_reachable_ms=0.05,
        feasible_share=0.5 if feasible else 0.0,
        sampled=20_000,
        stages=["train", "export"],
        spec_hash="0" * 64,
        cost=make_cost() if feasible and measured else None,
        cost_missing=None if feasible and measured else "it was not requested",
    )


def make_cost() -> CostEstimate:
    """Two stages that were timed, and one that cannot say what it takes."""

    def stage(name: str, seconds: float | None, **more: Any) -> StageCost:
        low_s, high_s = (None, None) if seconds is None else (0.7 * seconds, 1.6 * seconds)
        return StageCost(stage=name, seconds=seconds, low_s=low_s, high_s=high_s, **more)

    return CostEstimate(
        worker="node-a",
        seconds=108.0,
        low_s=75.6,
        high_s=172.8,
        gpu_hours=0.0,
        cpu_hours=0.03,
        memory_bytes=741_000_000,
        evaluations=160,
        confidence="partial",
        stages=(
            stage("train", 96.0, steps=720, timed=4, unit="steps", memory_bytes=741_000_000),
            stage("novel", None, steps=0, timed=0, note="cannot say [yet]"),
            stage("export", 12.0, steps=24, timed=2, unit="models", memory_bytes=512_000_000),
        ),
    )


def make_card() -> PredictorCardSchema:
    """A good predictor's card."""
    return PredictorCardSchema(
        id="card1",
        device="this-machine",
        profile=PROFILE.id,
        space="mobilenet_v3-1",
        space_name="mobilenet_v3",
        family="bayesian_linear",
        protocol={"version": 1},
        n=64,
        calibration=16,
        held_out=32,
        mape=2.25,
        spearman=0.991,
        kendall=0.93,
        coverage=0.96,
        range_ms=(0.05, 0.5),
        created_at=NOW,
    )


def make_version(number: int, better: bool = True) -> PredictorVersionSchema:
    """A version of the predictor; the second grew from the first."""
    card = make_card()
    return PredictorVersionSchema(
        id=f"card{number}",
        device="this-machine",
        number=number,
        profile=card.profile,
        space=card.space,
        space_name=card.space_name,
        family=card.family,
        networks=96,
        n=card.n,
        held_out=card.held_out,
        mape=card.mape,
        spearman=card.spearman,
        coverage=card.coverage,
        before="card1" if number > 1 else None,
        search=SEARCH if number > 1 else None,
        better=better,
        why="" if better else "it is [worse]",
        in_use=better,
        searches=[SEARCH],
        created_at=NOW,
    )


def make_drift() -> DriftSchema:
    """A device that was slower once."""
    return DriftSchema(
        device="this-machine",
        status="drifting",
        within=0.2,
        sentence="Drifting: networks take 20 % longer than predicted.",
        sessions=[DriftSessionSchema(at=NOW, networks=3, ratio=1.2, canary=1.0)],
        readings=[DriftReadingSchema(at=NOW, arch="a" * 12, ratio=1.2, canary=1.0)],
    )


def make_comparison() -> DeviceComparisonSchema:
    """Two devices of which one is slower."""
    pair = LatencyPairSchema(arch="a" * 12, first_ms=0.1, second_ms=0.3, first_kind="measured", second_kind="predicted")
    return DeviceComparisonSchema(
        first="this-machine",
        second="board",
        space="mobilenet_v3-1",
        space_name="mobilenet_v3",
        spaces=["mobilenet_v3-1"],
        pairs=[pair],
        both_measured=0,
        spearman=None,
        kendall=None,
        ratio=3.0,
        cards=[make_card(), make_card()],
        versions=[make_version(1)],
        differences=[ProfileDifferenceSchema(what="processor", first="a [fast] one", second="a slow one")],
    )


def make_device(status: str = "succeeded", spec: DeviceSpec | None = None) -> DeviceSchema:
    """This machine, measured or about to be."""
    return DeviceSchema(
        id="de1ce",
        status=status,
        created_at=NOW,
        name="this-machine",
        spec=spec or DeviceSpec(),
        profile_id=PROFILE.id,
        profile=PROFILE.as_json(),
        predictors=[make_card()],
    )


def _json(value: Any, status: int = 200) -> httpx.Response:
    if isinstance(value, BaseModel):
        return httpx.Response(status, json=value.model_dump(mode="json"))
    return httpx.Response(status, json=[v.model_dump(mode="json") if isinstance(v, BaseModel) else v for v in value])
