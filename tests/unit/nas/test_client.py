"""The client: every verb, event streams that break off, errors by their code, downloads that arrive whole or not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from nas.client import RETRY_DELAYS_S, Client, UnexpectedAnswer, Unreachable
from nas.core import errors
from nas.core.spec import DeviceSpec, SearchSpec
from nas.schemas.candidates import ArtifactSchema, CandidateDetailSchema, CandidatePage, FrontSchema
from nas.schemas.devices import DeviceComparisonSchema, DeviceSchema, DriftSchema
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.jobs import EventPage
from nas.schemas.predictors import PredictorCardSchema, PredictorVersionSchema
from nas.schemas.searches import ExtendBody, ForkBody, SearchPage, SearchSchema
from nas.schemas.service import HealthCheckSchema, HealthSchema, ReadinessSchema, SpaceSchema, StrategySchema
from tests.support.fake_service import END, EVENTS, MEMBERS, SEARCH, FakeService, event, frames

BEST = MEMBERS[0][0]
LOST = httpx.ReadError("connection reset")


@pytest.fixture
def fake() -> FakeService:
    return FakeService()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def nas(fake: FakeService, pauses: list[float]) -> Iterator[Client]:
    with Client(transport=fake.transport, sleep=pauses.append) as client:
        yield client


# Each verb: what it returns, and what it asks for.
VERBS: list[tuple[Callable[[Client], Any], type, str, dict[str, str]]] = [
    (lambda n: n.health(), HealthSchema, "GET /v1/health", {}),
    (lambda n: n.spaces()[0], SpaceSchema, "GET /v1/spaces", {}),
    (lambda n: n.strategies()[0], StrategySchema, "GET /v1/strategies", {}),
    (lambda n: n.datasets()[0], str, "GET /v1/datasets", {}),
    (lambda n: n.submit(SearchSpec()), SearchSchema, "POST /v1/searches", {}),
    (
        lambda n: n.dry_run(SearchSpec()),
        DryRunSchema,
        "POST /v1/searches",
        {"dry_run": "true", "measure": "true", "wait_s": "60"},
    ),
    (lambda n: n.searches(), SearchPage, "GET /v1/searches", {"limit": "50"}),
    (
        lambda n: n.searches("failed", 3, "more"),
        SearchPage,
        "GET /v1/searches",
        {"status": "failed", "limit": "3", "cursor": "more"},
    ),
    (lambda n: n.search(SEARCH), SearchSchema, f"GET /v1/searches/{SEARCH}", {}),
    (lambda n: n.cancel(SEARCH), SearchSchema, f"POST /v1/searches/{SEARCH}/cancel", {}),
    (lambda n: n.extend(SEARCH, ExtendBody(seed=3)), SearchSchema, f"POST /v1/searches/{SEARCH}/extend", {}),
    (lambda n: n.front(SEARCH), FrontSchema, f"GET /v1/searches/{SEARCH}/front", {}),
    (
        lambda n: n.front(SEARCH, "board", 0.25, ["accuracy", "macs"]),
        FrontSchema,
        f"GET /v1/searches/{SEARCH}/front",
        {"device": "board", "bound_ms": "0.25", "objectives": "accuracy,macs"},
    ),
    (
        lambda n: n.candidates(SEARCH, "baseline", "verified", "params", 7, "c"),
        CandidatePage,
        f"GET /v1/searches/{SEARCH}/candidates",
        {"origin": "baseline", "status": "verified", "order": "params", "limit": "7", "cursor": "c"},
    ),
    (
        lambda n: n.candidate(SEARCH, BEST, "baseline"),
        CandidateDetailSchema,
        f"GET /v1/searches/{SEARCH}/candidates/{BEST}",
        {"origin": "baseline"},
    ),
    (lambda n: n.artifacts(SEARCH)[0], ArtifactSchema, f"GET /v1/searches/{SEARCH}/artifacts", {}),
    (
        lambda n: n.events(SEARCH, 4, 10),
        EventPage,
        f"GET /v1/searches/{SEARCH}/events",
        {"after": "4", "limit": "10"},
    ),
    (lambda n: n.devices()[0], DeviceSchema, "GET /v1/devices", {}),
    (lambda n: n.device("this-machine"), DeviceSchema, "GET /v1/devices/this-machine", {}),
    (lambda n: n.add_device(DeviceSpec()), DeviceSchema, "POST /v1/devices", {}),
    (lambda n: n.predictors(), PredictorCardSchema, "GET /v1/predictors", {}),
    (lambda n: n.predictors("board"), PredictorCardSchema, "GET /v1/predictors", {"device": "board"}),
    (lambda n: n.versions("this-machine"), PredictorVersionSchema, "GET /v1/devices/this-machine/versions", {}),
    (lambda n: n.drift("this-machine"), DriftSchema, "GET /v1/devices/this-machine/drift", {}),
    (
        lambda n: n.compare("this-machine", "board", "a space"),
        DeviceComparisonSchema,
        "GET /v1/devices/this-machine/comparison",
        {"other": "board", "space": "a space"},
    ),
    (lambda n: n.predictor("card1"), PredictorCardSchema, "GET /v1/predictors/card1", {}),
]


@pytest.mark.parametrize(("call", "kind", "what", "query"), VERBS)
def test_every_method_sends_its_request(
    nas: Client, fake: FakeService, call: Callable[[Client], Any], kind: type, what: str, query: dict[str, str]
) -> None:
    answer = call(nas)
    assert isinstance(answer[0] if isinstance(answer, list) else answer, kind)
    assert f"{fake.last.method} {fake.last.url.path}" == what
    assert dict(fake.last.url.params) == query


@pytest.mark.parametrize(
    ("call", "sent"),
    [
        (lambda n: n.submit(SearchSpec(name="mine", seed=4)), SearchSpec(name="mine", seed=4)),
        (lambda n: n.add_device(DeviceSpec(samples=40)), DeviceSpec(samples=40)),
        (lambda n: n.extend(SEARCH, ExtendBody(bounds={"latency": 0.1})), ExtendBody(bounds={"latency": 0.1})),
    ],
)
def test_request_bodies(nas: Client, fake: FakeService, call: Callable[[Client], Any], sent: BaseModel) -> None:
    call(nas)
    assert type(sent).model_validate_json(fake.last.content) == sent


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False)])
def test_readiness_of_an_unready_service_is_returned(status: int, ready: bool) -> None:
    view = ReadinessSchema(ready=ready, checks=[HealthCheckSchema(name="database", status="failed", detail="gone")])
    answer = httpx.Response(status, content=view.model_dump_json())
    with Client(transport=httpx.MockTransport(lambda _: answer)) as nas:
        assert nas.ready() == view


def test_extension_body_omits_unset_fields(nas: Client, fake: FakeService) -> None:
    nas.extend(SEARCH, ExtendBody(evaluations=16))
    assert fake.body() == {"evaluations": 16}


def test_key_and_token_are_headers(fake: FakeService) -> None:
    with Client(token="secret", transport=fake.transport) as nas:
        nas.submit(SearchSpec(), key="once")
        assert fake.last.headers["idempotency-key"] == "once"
        assert fake.last.headers["authorization"] == "Bearer secret"


def test_submission_whose_answer_is_lost_is_repeated_with_the_same_key(fake: FakeService) -> None:
    calls: list[Callable[[Client], Any]] = [
        lambda n: n.submit(SearchSpec()),
        lambda n: n.extend(SEARCH, ExtendBody()),
        lambda n: n.fork(SEARCH, ForkBody()),
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


def test_submission_that_was_never_sent_is_not_repeated() -> None:
    sent: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["idempotency-key"])
        raise httpx.ConnectError("refused", request=request)

    with Client(transport=httpx.MockTransport(refuse)) as nas, pytest.raises(Unreachable, match="no server answers"):
        nas.submit(SearchSpec())
    assert len(sent) == 1


def test_names_are_one_path_segment(nas: Client, fake: FakeService) -> None:
    with pytest.raises(errors.NotFound):
        nas.device("a/b?c#d")
    assert fake.last.url.raw_path == b"/v1/devices/a%2Fb%3Fc%23d"
    with pytest.raises(errors.NotFound, match="got an empty text"):
        nas.search("")
    assert len(fake.requests) == 1


# Event streams


def test_watch_yields_every_event_and_ends_with_the_job(nas: Client, fake: FakeService, pauses: list[float]) -> None:
    assert list(nas.watch(SEARCH)) == EVENTS
    assert fake.last.url.path == f"/v1/searches/{SEARCH}/events"
    assert not pauses


def test_watch_device(nas: Client, fake: FakeService) -> None:
    assert [e.seq for e in nas.watch_device("this-machine", after=2)] == [3, 4, 5, 6]
    assert fake.last.url.path == "/v1/devices/this-machine/events"
    assert fake.last.headers["last-event-id"] == "2"


@pytest.mark.parametrize("kept", range(len(EVENTS) + 1))
@pytest.mark.parametrize("end", [LOST, None], ids=["lost", "closed"])
def test_reconnection_neither_loses_nor_repeats_events(
    nas: Client, fake: FakeService, pauses: list[float], kept: int, end: Exception | None
) -> None:
    torn = frames(EVENTS[kept:])[1][:-12] if kept < len(EVENTS) else ""  # an event of which only a part arrives
    fake.streams = [([*frames(EVENTS[:kept]), torn], end), ([*frames(EVENTS[kept:]), END], None)]
    assert list(nas.watch(SEARCH)) == EVENTS
    assert [r.headers["last-event-id"] for r in fake.requests] == ["0", str(kept)]
    assert pauses == [RETRY_DELAYS_S[0]]


def test_repeated_events_are_yielded_once(nas: Client, fake: FakeService) -> None:
    fake.streams = [(frames(EVENTS[:4]), LOST), ([*frames(EVENTS[1:]), END], None)]
    assert list(nas.watch(SEARCH)) == EVENTS


def test_event_text_may_contain_unicode_line_separators(nas: Client, fake: FakeService) -> None:
    strange = event(1, "warned", stage="train", message="one\u2028two\x85three\x0bfour\x1cfive")
    fake.streams = [([*frames([strange]), END], None)]
    assert list(nas.watch(SEARCH)) == [strange]


def test_retry_delays_grow_and_reset_after_progress(nas: Client, fake: FakeService, pauses: list[float]) -> None:
    nothing, alive = (frames([]), LOST), ([*frames([]), ": ping\n\n"], LOST)
    fake.streams = [nothing, nothing, nothing, alive, nothing, ([*frames(EVENTS), END], None)]
    assert list(nas.watch(SEARCH)) == EVENTS
    assert pauses == [*RETRY_DELAYS_S[:3], *RETRY_DELAYS_S[:2]]


def test_watch_gives_up_on_an_unreachable_server(nas: Client, fake: FakeService, pauses: list[float]) -> None:
    fake.streams = [(frames(EVENTS[:2]), LOST)] + [([], LOST)] * len(RETRY_DELAYS_S)
    seen = []
    with pytest.raises(Unreachable):
        seen += nas.watch(SEARCH)
    assert len(fake.requests) == 1 + len(RETRY_DELAYS_S)
    assert pauses == list(RETRY_DELAYS_S)


def test_watch_of_unknown_search_is_not_found(nas: Client, fake: FakeService, pauses: list[float]) -> None:
    fake.problems = {f"GET /v1/searches/{SEARCH}/events": (404, "not_found", "no search of this id")}
    with pytest.raises(errors.NotFound, match="no search of this id"):
        next(nas.watch(SEARCH))
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
    nas: Client, fake: FakeService, status: int, code: str, kind: type[errors.HwnasError]
) -> None:
    fake.problems = {"GET /v1/health": (status, code, "expected this, got that")}
    with pytest.raises(errors.HwnasError) as caught:
        nas.health()
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert str(caught.value) == "expected this, got that"


def test_unreachable_error_says_how_to_start_a_server() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    with Client("http://127.0.0.1:4321", transport=httpx.MockTransport(refuse), sleep=pytest.fail) as nas:
        for call in (nas.health, lambda: next(nas.watch(SEARCH))):
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
def test_another_kind_of_server_is_reported(nas: Client, fake: FakeService, answer: httpx.Response) -> None:
    fake.answers = {"GET /v1/health": answer}
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


def test_download_writes_the_file(nas: Client, tmp_path: Path) -> None:
    [artifact] = [a for a in nas.artifacts(SEARCH) if a.arch == BEST]
    path = nas.download(artifact, tmp_path / "new" / "model.zip")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact.sha256
    assert list(path.parent.iterdir()) == [path]


def test_damaged_download_is_rejected_and_removed(nas: Client, fake: FakeService, tmp_path: Path) -> None:
    artifact = nas.artifacts(SEARCH)[0]
    fake.files[artifact.name] = b"something else"
    with pytest.raises(errors.StorageError, match="damaged"):
        nas.download(artifact, tmp_path / "model.zip")
    assert not list(tmp_path.iterdir())

    (tmp_path / "model.zip").write_bytes(b"from before")
    with pytest.raises(errors.StorageError):
        nas.download(artifact, tmp_path / "model.zip")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("model.zip", b"from before")]


def test_interrupted_download_is_removed(nas: Client, fake: FakeService, tmp_path: Path) -> None:
    artifact = nas.artifacts(SEARCH)[0]

    def torn() -> Iterator[bytes]:
        yield b"the first"
        raise httpx.ReadError("connection reset")

    fake.answers = {f"GET {artifact.url}": httpx.Response(200, content=torn())}
    with pytest.raises(Unreachable):
        nas.download(artifact, tmp_path / "model.zip")
    assert not list(tmp_path.iterdir())


def test_download_of_unknown_file_is_not_found(nas: Client, fake: FakeService, tmp_path: Path) -> None:
    artifact = nas.artifacts(SEARCH)[0]
    fake.problems = {f"GET {artifact.url}": (507, "storage", "the blob is torn")}
    with pytest.raises(errors.StorageError, match="the blob is torn"):
        nas.download(artifact, tmp_path / "model.zip")
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_a_storage_error(nas: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(errors.StorageError, match=r"cannot write .*model\.zip"):
        nas.download(nas.artifacts(SEARCH)[0], tmp_path / "file" / "model.zip")
