"""The API over a small seeded store in this process, for tests of the client and the command line.

Requests go through a transport that keeps them, and that can disturb what comes back: an answer that another server
gives, or a stream that breaks off.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from nas.client import Client
from nas.core.device import DeviceProfile
from nas.core.events import (
    Evaluated,
    Event,
    Exported,
    HypervolumeAt,
    Origin,
    Progress,
    Refitted,
    StageFinished,
    StageStarted,
    Warned,
)
from nas.core.jobs import OnboardingPayload
from nas.core.spec import SearchSpec
from nas.schemas.candidates import FrontSchema
from nas.schemas.common import ErrorSchema
from nas.schemas.jobs import EventSchema
from nas.schemas.searches import SearchSchema
from predictors.storage import dump_predictor
from server.api.app import create_app
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import seeding
from tests.support.fakes import Clock
from tests.support.seeding import REFERENCE, Attempt, candidate, claim, linear_predictor, measured, networks

SPACE = seeding.default_space()
_ARCHS = [arch.id for arch in networks(SPACE, 5)]
# Most accurate, in between, fastest: id, test accuracy in %, measured latency in ms.
MEMBERS = ((_ARCHS[0], 98.5, 0.30), (_ARCHS[1], 97.25, 0.20), (_ARCHS[2], 91.0, 0.10))
BASELINE = ((_ARCHS[3], 96.0, 0.28), (_ARCHS[4], 88.0, 0.12))
STREAMED_EVENTS = 9  # of the search that streams are tested with
STAGE_SECONDS = (0.4, 96.0, 31.0, 9.0, None, 12.0)  # that a dry run of the default search estimates
LOST = httpx.ReadError("connection reset")


@dataclass(frozen=True)
class StreamCut:
    """How one connection of an event stream ends: after ``events`` events and ``torn`` characters of the next, with an
    ``error`` (None: closed), whatever the job does. ``after`` replaces the event that the client asks to go on from.
    ``silent``: not even the stream's beginning arrives. ``alive``: a comment comes last. ``end``: as if the job had
    ended then."""

    events: int = 0
    torn: int = 0
    error: Exception | None = LOST
    after: int | None = None
    silent: bool = False
    alive: bool = False
    end: bool = False

    def of(self, text: str) -> str:
        """What arrives of a whole stream."""
        if self.silent:
            return ""
        beginning, *blocks = text.split("\n\n")
        events = [block for block in blocks if block.startswith("id: ") or "\nid: " in block]
        arrived = "".join(f"{block}\n\n" for block in (beginning, *events[: self.events]))
        arrived += events[self.events][: self.torn] if self.torn else ""
        arrived += ": ping\n\n" if self.alive else ""
        return arrived + ('event: end\ndata: {"status": "succeeded"}\n\n' if self.end else "")


class SeededTransport(httpx.BaseTransport):
    """Passes requests to an app in this process and keeps them.

    ``answers`` replace those of the app, by method and path. ``cuts`` end event streams, the first one that of the next
    connection. ``before_stream`` is called before a stream is opened.
    """

    def __init__(self, app: TestClient) -> None:
        self._app = app
        self.requests: list[httpx.Request] = []
        self.answers: dict[str, httpx.Response] = {}
        self.cuts: list[StreamCut] = []
        self.before_stream: Callable[[], None] = lambda: None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The app's response, unless it is disturbed."""
        self.requests.append(request)
        if (answer := self.answers.get(f"{request.method} {request.url.path}")) is not None:
            return answer
        if request.headers.get("accept") != "text/event-stream":
            return self._pass_on(request)
        self.before_stream()
        if not self.cuts:
            response = self._pass_on(request)
            return _replaced(response, _Pieces(response.read().decode(), None))
        cut = self.cuts.pop(0)
        if cut.after is not None:
            request = httpx.Request(request.method, request.url, headers=request.headers)
            request.headers["Last-Event-ID"] = str(cut.after)
        response = self._pass_on(request)
        return _replaced(response, _Pieces(cut.of(response.read().decode()), cut.error))

    def _pass_on(self, request: httpx.Request) -> httpx.Response:
        response: httpx.Response = self._app._transport.handle_request(request)
        return response


def _replaced(response: httpx.Response, stream: httpx.SyncByteStream) -> httpx.Response:
    headers = {k: v for k, v in response.headers.items() if k != "content-length"}
    return httpx.Response(response.status_code, headers=headers, stream=stream)


class _Pieces(httpx.SyncByteStream):
    """A text as it comes over the network, cut where no line ends, and then the connection's end."""

    def __init__(self, text: str, error: Exception | None) -> None:
        self._data, self._error = text.encode(), error

    def __iter__(self) -> Iterator[bytes]:
        yield from (self._data[i : i + 7] for i in range(0, len(self._data), 7))
        if self._error is not None:
            raise self._error


@dataclass
class SeededService:
    """A service with two devices and four searches: ``search`` succeeded with a measured front, ``failed`` failed,
    ``streamed`` is short, and the device had drifted when ``slower`` ran."""

    store: Store
    transport: SeededTransport
    clock: Clock
    search: str = ""
    failed: str = ""
    streamed: str = ""
    slower: str = ""
    profiles: dict[str, DeviceProfile] = field(default_factory=dict)

    @property
    def requests(self) -> list[httpx.Request]:
        """All requests so far."""
        return self.transport.requests

    @property
    def last(self) -> httpx.Request:
        """The latest request."""
        return self.requests[-1]

    def body(self) -> Any:
        """The latest request's JSON."""
        return json.loads(self.last.content)

    def client(self, **options: Any) -> Client:
        """A client of this service."""
        return Client(transport=self.transport, **options)

    @cached_property
    def front(self) -> FrontSchema:
        """The front of the search."""
        with self.client() as nas:
            return nas.front(self.search)

    def measured_log(self) -> list[Event]:
        """The events of a search that finds ``MEMBERS`` and exports them."""
        return _measured_log(self)

    def view(self, search_id: str) -> SearchSchema:
        """A search as REST describes it."""
        return self.store.queries.search(search_id)

    def events(self, search_id: str) -> list[EventSchema]:
        """The log of a search."""
        return list(self.store.queries.events(search_id, 0, 1000)[0].items)

    def answer(self, request: str, response: httpx.Response) -> None:
        """Let a method and path be answered by something other than the service."""
        self.transport.answers[request] = response

    def refuse(self, request: str, status: int, code: str, message: str) -> None:
        """Let a method and path be answered with an error."""
        error = ErrorSchema(code=code, message=message)
        self.answer(request, httpx.Response(status, json=error.model_dump()))

    def run_search(self, *events: Event, name: str = "short") -> str:
        """A search that succeeds with these events; its id."""
        seeding.submit_search(self.store, SearchSpec(name=name))
        attempt = claim(self.store)
        attempt.append(*events)
        return attempt.finish()

    def start_search(self, *events: Event, name: str = "live") -> Attempt:
        """A search that runs, with these events so far."""
        seeding.submit_search(self.store, SearchSpec(name=name))
        attempt = claim(self.store)
        attempt.append(*events)
        return attempt

    def work(self, status: Any = "succeeded", error: str = "", log: Sequence[Event] | None = None) -> None:
        """Run the jobs in the queue to their end, as a worker would; searches with the events of ``log``."""
        while (lease := self.store.jobs.claim("worker-1", seeding.LEASE_S)) is not None:
            attempt = Attempt(self.store, lease)
            if status == "succeeded" and isinstance(lease.payload, OnboardingPayload):
                name = lease.payload.spec.name
                profile = self.profiles.get(name, self.profiles["this-machine"])
                attempt.append(*seeding.onboarding_events(self.store, SPACE, linear_predictor(SPACE), profile))
            elif status == "succeeded":
                attempt.append(*(SHORT_LOG if log is None else log))
            attempt.finish(status, error)


SHORT_LOG: tuple[Event, ...] = (
    StageStarted("train", 0, 2),
    Progress("train", 3, 9, "steps", {"loss": 0.5}, "depth"),
    Warned("train", "the machine is [busy]"),
    StageFinished("train", 12.5),
    StageStarted("export", 1, 2),
    StageFinished("export", 1.5),
)


@contextmanager
def seeded_service(folder: Path) -> Iterator[SeededService]:
    """The service over a store in a folder. Its clock stands."""
    template_folder, template = _template()
    shutil.copytree(template_folder, folder, dirs_exist_ok=True)
    with _service(folder, Clock(template.clock.now)) as service:
        yield replace(
            service,
            search=template.search,
            failed=template.failed,
            streamed=template.streamed,
            slower=template.slower,
            profiles=template.profiles,
        )


@functools.cache
def _template() -> tuple[Path, SeededService]:
    """A folder with a seeded store, and the ids of what it holds; a copy is opened sooner than a store is seeded."""
    folder = Path(tempfile.mkdtemp(prefix="seeded-"))
    atexit.register(shutil.rmtree, folder)
    with _service(folder, Clock()) as service:
        _seed(service)
    return folder, service


@contextmanager
def _service(folder: Path, clock: Clock) -> Iterator[SeededService]:
    with open_store(f"sqlite:///{folder / 'seeded.db'}", str(folder / "blobs"), clock) as plain:
        store = seeding.with_prompt_worker(plain, STAGE_SECONDS)
        app = create_app(Settings(home=folder), store)
        with TestClient(app, "http://127.0.0.1:8765") as client:
            yield SeededService(store, SeededTransport(client), clock)


def _seed(service: SeededService) -> None:
    store, clock = service.store, service.clock
    service.profiles = {
        "this-machine": seeding.add_device(store, "this-machine", processor="a [fast] processor"),
        "board": seeding.add_device(store, "board", 3.0, processor="a slow processor"),
    }
    store.jobs.heartbeat("worker-1", 4)
    seeding.submit_search(store, SearchSpec(name="no data"))
    service.failed = claim(store).finish("failed", "the data set is [empty]")
    service.streamed = service.run_search(*SHORT_LOG)
    clock.pass_(1.0)
    service.search = service.run_search(*service.measured_log(), name="digits [small]")
    clock.pass_(1.0)
    service.slower = _run_drifting_search(service)


def _measured_log(service: SeededService) -> list[Event]:
    """The events of a search with the front ``MEMBERS``, beside the random networks ``BASELINE``."""
    profile, store = service.profiles["this-machine"], service.store
    archs = {arch.id: arch for arch in networks(SPACE, 5)}
    estimated, events = [], list[Event]()
    groups: list[tuple[Origin, Sequence[tuple[str, float, float]]]] = [("search", MEMBERS), ("baseline", BASELINE)]
    for origin, group in groups:
        for arch_id, accuracy, ms in group:
            figures = {"predicted_ms": 0.98 * ms, "upper_ms": 1.1 * ms, "params": 40_000.0, "macs": 1_200_000.0}
            point = candidate(archs[arch_id], origin, val_accuracy=accuracy + 0.5, **figures)
            estimated.append(point)
            events.append(Evaluated((candidate(point.arch, origin, test_accuracy=accuracy),)))
            events.append(measured(point, profile, ms, 1.1 * ms))
    exports = [
        Exported(archs[arch_id], f"{arch_id}.zip", store.blobs.put(data), len(data), "application/zip", {"ok": True})
        for arch_id, _, _ in MEMBERS
        for data in [f"the zip of {arch_id}".encode()]
    ]
    return [
        StageFinished("estimate", 0.5, {"reference": REFERENCE}),
        *SHORT_LOG[:3],
        StageFinished("train", 12.5, {"supernet": store.blobs.put(b"weights")}),
        Evaluated(tuple(estimated)),
        HypervolumeAt(160, 0.8, 0.7),
        StageFinished("explore", 3.0),
        *events,
        StageFinished("verify", 2.0),
        SHORT_LOG[4],
        *exports,
        SHORT_LOG[5],
    ]


def _run_drifting_search(service: SeededService) -> str:
    """A later search, in which the device was slower than predicted and a refit of the predictor was no better."""
    store, profile = service.store, service.profiles["this-machine"]
    points = [candidate(arch, val_accuracy=90.0, predicted_ms=0.2, upper_ms=0.22) for arch in networks(SPACE, 3)]
    cards = store.queries.predictors("this-machine")
    refit = {
        "card": cards[0].model_dump(mode="json", exclude={"id", "device", "number", "created_at"}),
        "blob": store.blobs.put(dump_predictor(linear_predictor(SPACE))),
        "family": cards[0].family,
        "measurements_blob": None,
        "networks": 99,
        "better": False,
        "why": "it is [worse]",
    }
    return service.run_search(
        Evaluated(tuple(points)),
        *(measured(point, profile, 0.24, 0.22) for point in points),
        Refitted("refine", 1, tuple(point.key for point in points), 3, 3, refit),
        name="slower",
    )
