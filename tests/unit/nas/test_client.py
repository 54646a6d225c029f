"""The client: every call, event streams that break off, errors by their code, downloads that arrive whole or not."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from nas.client import RETRY_DELAYS_S, Client, UnexpectedAnswer, Unreachable
from nas.core import errors
from nas.core.access import LOCAL
from nas.core.drift import Drift
from nas.core.errors import HwnasError
from nas.core.events import Warned
from nas.core.spec import DataSpec, DeviceSpec, SearchSpec
from nas.schemas.candidates import ArtifactSchema, CandidateDetailSchema, CandidatePage, FrontSchema
from nas.schemas.devices import DeviceComparisonSchema, DeviceSchema, OnboardingPage
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.jobs import EventPage
from nas.schemas.predictors import PredictorCardSchema, PredictorVersionSchema
from nas.schemas.searches import ExtendBody, ForkBody, SearchPage, SearchSchema
from nas.schemas.service import (
    HealthCheckSchema,
    HealthSchema,
    ReadinessSchema,
    SpaceSchema,
    StrategySchema,
    TaskSchema,
)
from tests.support.seeded_service import (
    BASELINE,
    LOST,
    MEMBERS,
    SPACE,
    STREAMED_EVENTS,
    SeededService,
    StreamCut,
    seeded_service,
)

BEST = MEMBERS[0][0]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SeededService]:
    with seeded_service(tmp_path) as service:
        yield service


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def nas(service: SeededService, pauses: list[float]) -> Iterator[Client]:
    with service.client(sleep=pauses.append) as client:
        yield client


@dataclass(frozen=True)
class ClientCall:
    """A call of the client on the seeded service: the type of its result, the request, and the request's query.

    In the request and the query, ``{search}``, ``{card}`` and ``{cursor}`` stand for ids of the service.
    """

    run: Callable[[Client, dict[str, str]], Any]
    result: type
    request: str
    query: dict[str, str] = field(default_factory=dict)


CALLS = (
    ClientCall(lambda n, _: n.health(), HealthSchema, "GET /v1/health"),
    ClientCall(lambda n, _: n.spaces(), SpaceSchema, "GET /v1/spaces"),
    ClientCall(lambda n, _: n.strategies(), StrategySchema, "GET /v1/strategies"),
    ClientCall(lambda n, _: n.tasks(), TaskSchema, "GET /v1/tasks"),
    ClientCall(lambda n, _: n.datasets(), str, "GET /v1/datasets"),
    ClientCall(lambda n, _: n.submit(SearchSpec()), SearchSchema, "POST /v1/searches"),
    ClientCall(
        lambda n, _: n.dry_run(SearchSpec()),
        DryRunSchema,
        "POST /v1/searches",
        {"dry_run": "true", "measure": "true", "wait_s": "60"},
    ),
    ClientCall(lambda n, _: n.searches(), SearchPage, "GET /v1/searches", {"limit": "50"}),
    ClientCall(
        lambda n, ids: n.searches("failed", 3, ids["cursor"]),
        SearchPage,
        "GET /v1/searches",
        {"status": "failed", "limit": "3", "cursor": "{cursor}"},
    ),
    ClientCall(lambda n, ids: n.search(ids["search"]), SearchSchema, "GET /v1/searches/{search}"),
    ClientCall(lambda n, ids: n.cancel(ids["live"]), SearchSchema, "POST /v1/searches/{live}/cancel"),
    ClientCall(
        lambda n, ids: n.extend(ids["search"], ExtendBody(seed=3)), SearchSchema, "POST /v1/searches/{search}/extend"
    ),
    ClientCall(lambda n, ids: n.front(ids["search"]), FrontSchema, "GET /v1/searches/{search}/front"),
    ClientCall(
        lambda n, ids: n.front(ids["search"], "board", 0.25, ["accuracy", "macs"]),
        FrontSchema,
        "GET /v1/searches/{search}/front",
        {"device": "board", "bound_ms": "0.25", "objectives": "accuracy,macs"},
    ),
    ClientCall(
        lambda n, ids: n.candidates(ids["search"], "baseline", "verified", "params", 7, ids["candidate_cursor"]),
        CandidatePage,
        "GET /v1/searches/{search}/candidates",
        {
            "origin": "baseline",
            "status": "verified",
            "order": "params",
            "limit": "7",
            "cursor": "{candidate_cursor}",
        },
    ),
    ClientCall(
        lambda n, ids: n.candidate(ids["search"], BASELINE[0][0], "baseline"),
        CandidateDetailSchema,
        f"GET /v1/searches/{{search}}/candidates/{BASELINE[0][0]}",
        {"origin": "baseline"},
    ),
    ClientCall(lambda n, ids: n.artifacts(ids["search"]), ArtifactSchema, "GET /v1/searches/{search}/artifacts"),
    ClientCall(
        lambda n, ids: n.events(ids["search"], 4, 10),
        EventPage,
        "GET /v1/searches/{search}/events",
        {"after": "4", "limit": "10"},
    ),
    ClientCall(lambda n, _: n.devices(), DeviceSchema, "GET /v1/devices"),
    ClientCall(lambda n, _: n.device("this-machine"), DeviceSchema, "GET /v1/devices/this-machine"),
    ClientCall(lambda n, _: n.add_device(DeviceSpec()), DeviceSchema, "POST /v1/devices"),
    ClientCall(lambda n, _: n.rename_device("board", "desk"), DeviceSchema, "PUT /v1/devices/board/name"),
    ClientCall(
        lambda n, _: n.onboardings("this-machine", limit=2),
        OnboardingPage,
        "GET /v1/onboardings",
        {"device": "this-machine", "limit": "2"},
    ),
    ClientCall(lambda n, _: n.predictors(), PredictorCardSchema, "GET /v1/predictors"),
    ClientCall(lambda n, _: n.predictors("board"), PredictorCardSchema, "GET /v1/predictors", {"device": "board"}),
    ClientCall(
        lambda n, _: n.versions("this-machine"), PredictorVersionSchema, "GET /v1/devices/this-machine/versions"
    ),
    ClientCall(lambda n, _: n.drift("this-machine"), Drift, "GET /v1/devices/this-machine/drift"),
    ClientCall(
        lambda n, _: n.compare("this-machine", "board", SPACE.id),
        DeviceComparisonSchema,
        "GET /v1/devices/this-machine/comparison",
        {"other": "board", "space": SPACE.id},
    ),
    ClientCall(lambda n, ids: n.predictor(ids["card"]), PredictorCardSchema, "GET /v1/predictors/{card}"),
)


def ids_of(service: SeededService) -> dict[str, str]:
    """Ids and cursors that calls of the client name."""
    queries = service.store.queries
    live = service.start_search().lease.job_id
    cursor = queries.searches(None, 1, None).next
    candidate_cursor = queries.candidates(service.search, "baseline", "verified", "params", 1, None).next
    assert cursor is not None
    assert candidate_cursor is not None
    card = queries.predictors("board")[0].id
    return {
        "search": service.search,
        "live": live,
        "cursor": cursor,
        "candidate_cursor": candidate_cursor,
        "card": card,
    }


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.request} {','.join(call.query)}")
def test_every_method_sends_its_request(nas: Client, service: SeededService, call: ClientCall) -> None:
    ids = ids_of(service)
    result = call.run(nas, ids)
    assert isinstance(result[0] if isinstance(result, list) else result, call.result)
    assert f"{service.last.method} {service.last.url.path}" == call.request.format(**ids)
    assert dict(service.last.url.params) == {name: value.format(**ids) for name, value in call.query.items()}


@pytest.mark.parametrize(
    ("call", "sent"),
    [
        (lambda n, _: n.submit(SearchSpec(name="mine", seed=4)), SearchSpec(name="mine", seed=4)),
        (lambda n, _: n.add_device(DeviceSpec(samples=40)), DeviceSpec(samples=40)),
        (lambda n, search: n.extend(search, ExtendBody(bounds={"latency": 0.1})), ExtendBody(bounds={"latency": 0.1})),
    ],
)
def test_request_bodies(
    nas: Client, service: SeededService, call: Callable[[Client, str], Any], sent: BaseModel
) -> None:
    call(nas, service.search)
    assert type(sent).model_validate_json(service.last.content) == sent


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False)])
def test_readiness_of_an_unready_service_is_returned(status: int, ready: bool) -> None:
    view = ReadinessSchema(ready=ready, checks=[HealthCheckSchema(name="database", status="failed", detail="gone")])
    answer = httpx.Response(status, content=view.model_dump_json())
    with Client(transport=httpx.MockTransport(lambda _: answer)) as nas:
        assert nas.ready() == view


def test_extension_body_omits_unset_fields(nas: Client, service: SeededService) -> None:
    nas.extend(service.search, ExtendBody(evaluations=16))
    assert service.body() == {"evaluations": 16}


def test_a_task_that_nobody_gave_is_not_sent(nas: Client, service: SeededService) -> None:
    """Else it would replace that of a data set with a name."""
    nas.submit(SearchSpec(data=DataSpec()))
    assert {"task", "seed"}.isdisjoint(service.body()["data"])
    with contextlib.suppress(HwnasError):
        nas.submit(SearchSpec(data=DataSpec(name="shapes", task="segmentation")))
    assert service.body()["data"]["task"] == "segmentation"


def test_key_and_token_are_headers(service: SeededService) -> None:
    _, token = service.store.tokens.create("ada", "laptop", ["submit"], None, LOCAL)
    with service.client(token=token) as nas:
        nas.submit(SearchSpec(), key="once")
        assert service.last.headers["idempotency-key"] == "once"
        assert service.last.headers["authorization"] == f"Bearer {token}"


def test_submission_whose_answer_is_lost_is_repeated_with_the_same_key() -> None:
    calls: list[Callable[[Client], Any]] = [
        lambda n: n.submit(SearchSpec()),
        lambda n: n.extend("5ea4c1", ExtendBody()),
        lambda n: n.fork("5ea4c1", ForkBody()),
        lambda n: n.add_device(DeviceSpec()),
    ]
    keys: set[str] = set()
    for call in calls:
        sent: list[str] = []

        def lose(request: httpx.Request, sent: list[str] = sent) -> httpx.Response:
            sent.append(request.headers["idempotency-key"])
            raise httpx.ReadTimeout("timed out", request=request)

        with Client(transport=httpx.MockTransport(lose)) as nas, pytest.raises(Unreachable) as caught:
            call(nas)
        assert len(sent) == 2
        assert sent[0] == sent[1]
        assert f"repeat it with the key {sent[0]}" in str(caught.value)
        keys.add(sent[0])
    assert len(keys) == len(calls)


def test_every_verb_of_an_onboarding_moves_it(nas: Client) -> None:
    onboarding = nas.add_device(DeviceSpec(name="spare"))
    assert nas.onboarding(onboarding.id).device == "spare"
    moves = (nas.pause_onboarding, nas.resume_onboarding, nas.cancel_onboarding, nas.retry_onboarding)
    assert [move(onboarding.id).status for move in moves] == ["paused", "queued", "cancelled", "queued"]
    assert nas.set_onboarding_priority(onboarding.id, 3).priority == 3
    nas.cancel_onboarding(onboarding.id)
    assert [e.body["after"] for e in nas.watch_onboarding(onboarding.id)][-1] == "cancelled"
    nas.delete_onboarding(onboarding.id)
    assert "spare" not in [device.name for device in nas.devices()]


def test_submission_that_was_never_sent_is_not_repeated() -> None:
    sent: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["idempotency-key"])
        raise httpx.ConnectError("refused", request=request)

    with Client(transport=httpx.MockTransport(refuse)) as nas, pytest.raises(Unreachable, match="no server answers"):
        nas.submit(SearchSpec())
    assert len(sent) == 1


def test_names_are_one_path_segment(nas: Client, service: SeededService) -> None:
    with pytest.raises(errors.NotFound):
        nas.device("a/b?c#d")
    assert service.last.url.raw_path == b"/v1/devices/a%2Fb%3Fc%23d"
    with pytest.raises(errors.NotFound, match="got an empty text"):
        nas.search("")
    assert len(service.requests) == 1


# Event streams


def test_watch_yields_every_event_and_ends_with_the_job(
    nas: Client, service: SeededService, pauses: list[float]
) -> None:
    assert list(nas.watch(service.streamed)) == service.events(service.streamed)
    assert service.last.url.path == f"/v1/searches/{service.streamed}/events"
    assert not pauses


def test_watch_device(nas: Client, service: SeededService) -> None:
    last = nas.device("this-machine").last_event
    assert [e.seq for e in nas.watch_device("this-machine", after=2)] == list(range(3, last + 1))
    assert service.last.url.path == "/v1/devices/this-machine/events"
    assert service.last.headers["last-event-id"] == "2"


@pytest.mark.parametrize("arrived", range(STREAMED_EVENTS + 1))
@pytest.mark.parametrize("error", [LOST, None], ids=["lost", "closed"])
def test_reconnection_neither_loses_nor_repeats_events(
    nas: Client, service: SeededService, pauses: list[float], arrived: int, error: Exception | None
) -> None:
    # The event after the last whole one arrives in part.
    service.transport.cuts = [StreamCut(arrived, torn=20 if arrived < STREAMED_EVENTS else 0, error=error)]
    assert list(nas.watch(service.streamed)) == service.events(service.streamed)
    assert [r.headers["last-event-id"] for r in service.requests] == ["0", str(arrived)]
    assert pauses == [RETRY_DELAYS_S[0]]


def test_repeated_events_are_yielded_once(nas: Client, service: SeededService) -> None:
    service.transport.cuts = [StreamCut(4), StreamCut(STREAMED_EVENTS - 1, after=1, error=None, end=True)]
    assert list(nas.watch(service.streamed)) == service.events(service.streamed)


def test_event_text_may_contain_unicode_line_separators(nas: Client, service: SeededService) -> None:
    search = service.run_search(Warned("train", "one\u2028two\x85three\x0bfour\x1cfive"))
    strange = [e for e in nas.watch(search) if e.body["kind"] == "warned"]
    assert [e.body["message"] for e in strange] == ["one\u2028two\x85three\x0bfour\x1cfive"]


def test_retry_delays_grow_and_reset_after_progress(nas: Client, service: SeededService, pauses: list[float]) -> None:
    service.transport.cuts = [StreamCut(), StreamCut(), StreamCut(), StreamCut(alive=True), StreamCut()]
    assert list(nas.watch(service.streamed)) == service.events(service.streamed)
    assert pauses == [*RETRY_DELAYS_S[:3], *RETRY_DELAYS_S[:2]]


def test_watch_gives_up_on_an_unreachable_server(nas: Client, service: SeededService, pauses: list[float]) -> None:
    service.transport.cuts = [StreamCut(2), *[StreamCut(silent=True)] * len(RETRY_DELAYS_S)]
    with pytest.raises(Unreachable):
        list(nas.watch(service.streamed))
    assert len(service.requests) == 1 + len(RETRY_DELAYS_S)
    assert pauses == list(RETRY_DELAYS_S)


def test_watch_of_unknown_search_is_not_found(nas: Client, pauses: list[float]) -> None:
    with pytest.raises(errors.NotFound, match="no search 'nope'"):
        next(nas.watch("nope"))
    assert not pauses


# Errors


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (422, "invalid_input", errors.InvalidInput),
        (422, "invalid_spec", errors.InvalidSpec),
        (422, "unknown_name", errors.UnknownName),
        (422, "invalid_data", errors.InvalidData),
        (422, "infeasible_bound", errors.InfeasibleBound),
        (404, "not_found", errors.NotFound),
        (409, "conflict", errors.Conflict),
        (503, "measurement_refused", errors.MeasurementRefused),
        (507, "storage", errors.StorageError),
        (500, "error", errors.HwnasError),
        (429, "too_many_streams", errors.HwnasError),
    ],
)
def test_errors_are_raised_by_code(
    nas: Client, service: SeededService, status: int, code: str, kind: type[errors.HwnasError]
) -> None:
    service.refuse("GET /v1/health", status, code, "expected this, got that")
    with pytest.raises(errors.HwnasError) as caught:
        nas.health()
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert str(caught.value) == "expected this, got that"


def test_unreachable_error_says_how_to_start_a_server() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    with Client("http://127.0.0.1:4321", transport=httpx.MockTransport(refuse), sleep=pytest.fail) as nas:
        for call in (nas.health, lambda: next(nas.watch("5ea4c1"))):
            with pytest.raises(Unreachable, match=r"no server answers at http://127\.0\.0\.1:4321.*nas serve"):
                call()


def test_timeout_is_distinct_from_unreachable() -> None:
    def stall(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("timed out", request=request)

    with Client(transport=httpx.MockTransport(stall)) as nas, pytest.raises(Unreachable, match="too long"):
        nas.health()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>welcome</html>"),
        httpx.Response(200, json={"status": "fine"}),
        httpx.Response(404, text="<html>no such page</html>"),
        httpx.Response(500, json=["what?"]),
        httpx.Response(307, headers={"location": "/login"}),
    ],
)
def test_another_kind_of_server_is_reported(nas: Client, service: SeededService, answer: httpx.Response) -> None:
    service.answer("GET /v1/health", answer)
    with pytest.raises(UnexpectedAnswer, match="hwnas service"):
        nas.health()


@pytest.mark.parametrize("url", ["localhost:8765", "ftp://there", "http://", "http://127.0.0.1:port", "there"])
def test_invalid_address_is_rejected(url: str) -> None:
    with pytest.raises(errors.InvalidInput, match="expected an address such as http"):
        Client(url)


def test_loopback_bypasses_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9/")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with httpx.Client() as plain, Client() as nas:
        proxied = plain._transport_for_url(httpx.URL("http://127.0.0.1:8765"))
        assert proxied is not plain._transport  # the proxy would be used
        for host in ("127.0.0.1", "localhost", "[::1]"):
            assert nas._http._transport_for_url(httpx.URL(f"http://{host}:8765")) is nas._http._transport


# Downloads


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder


def test_download_writes_the_file(nas: Client, service: SeededService, downloads: Path) -> None:
    [artifact] = [a for a in nas.artifacts(service.search) if a.arch == BEST]
    path = nas.download(artifact, downloads / "new" / "model.zip")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact.sha256
    assert list(path.parent.iterdir()) == [path]


def test_damaged_download_is_rejected_and_removed(nas: Client, service: SeededService, downloads: Path) -> None:
    artifact = nas.artifacts(service.search)[0]
    service.answer(f"GET {artifact.url}", httpx.Response(200, content=b"something else"))
    with pytest.raises(errors.StorageError, match="damaged"):
        nas.download(artifact, downloads / "model.zip")
    assert not list(downloads.iterdir())

    (downloads / "model.zip").write_bytes(b"from before")
    with pytest.raises(errors.StorageError):
        nas.download(artifact, downloads / "model.zip")
    assert [(p.name, p.read_bytes()) for p in downloads.iterdir()] == [("model.zip", b"from before")]


def test_interrupted_download_is_removed(nas: Client, service: SeededService, downloads: Path) -> None:
    artifact = nas.artifacts(service.search)[0]

    def torn() -> Iterator[bytes]:
        yield b"the first"
        raise httpx.ReadError("connection reset")

    service.answer(f"GET {artifact.url}", httpx.Response(200, content=torn()))
    with pytest.raises(Unreachable):
        nas.download(artifact, downloads / "model.zip")
    assert not list(downloads.iterdir())


def test_download_of_unknown_file_is_not_found(nas: Client, service: SeededService, downloads: Path) -> None:
    artifact = nas.artifacts(service.search)[0]
    service.refuse(f"GET {artifact.url}", 507, "storage", "the blob is torn")
    with pytest.raises(errors.StorageError, match="the blob is torn"):
        nas.download(artifact, downloads / "model.zip")
    assert not list(downloads.iterdir())


def test_unwritable_folder_is_a_storage_error(nas: Client, service: SeededService, downloads: Path) -> None:
    (downloads / "file").write_text("in the way")
    with pytest.raises(errors.StorageError, match=r"cannot write .*model\.zip"):
        nas.download(nas.artifacts(service.search)[0], downloads / "file" / "model.zip")
