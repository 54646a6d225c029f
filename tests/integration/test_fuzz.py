"""The API against generated and against malformed requests: whatever comes, it answers as its description says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import FlakyStrategyDefinition
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from benchmarks import malformed
from nas.core.access import LOCAL
from server.api.app import create_app
from server.api.limits import MAX_DEPTH, MAX_INTEGER, json_problem
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import fakes

LOOPBACK_HEADERS = {"Host": "127.0.0.1"}
# A valid body may name what does not exist, so not every valid body is accepted.
UNPROMISED = [positive_data_acceptance]
ANY_HEALTH = list(HealthCheck)
TOO_EARLY = {  # need more networks than the search of this test has
    "/v1/searches/{id}/importance",
    "/v1/searches/{id}/candidates/{arch}/waterline",
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    fakes.use_plugins(monkeypatch)
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path / "blobs"), fakes.Clock()) as opened:
        fakes.add_device(opened)
        fakes.add_search(opened)
        fakes.run_log(opened, fakes.search_log(opened.blobs.put(b"abc")))
        yield opened


def described(app: FastAPI) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=LOOPBACK_HEADERS)


@pytest.mark.long
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_every_operation_keeps_its_promises(store: Store, tmp_path: Path, closed: bool) -> None:
    app = create_app(Settings(home=tmp_path, require_tokens=closed), store)
    _, token = store.tokens.create("ada", "fuzz", ["admin"], None, LOCAL)
    headers = {**LOOPBACK_HEADERS, "Authorization": f"Bearer {token}"} if closed else LOOPBACK_HEADERS
    checked = 0
    for result in described(app).get_all_operations():
        operation = result.ok()

        @settings(max_examples=6, deadline=None, database=None, suppress_health_check=ANY_HEALTH)
        @given(case=operation.as_strategy())
        def keeps(case: schemathesis.Case) -> None:
            case.call_and_validate(excluded_checks=UNPROMISED, headers=headers)

        keeps()
        checked += 1
    assert checked == len([1 for path in app.openapi()["paths"].values() for _ in path])


def test_what_one_answer_links_to_the_next_request_finds(store: Store, tmp_path: Path) -> None:
    machine = described(create_app(Settings(home=tmp_path), store)).as_state_machine()

    walked: set[tuple[str, str, int]] = set()

    class Walk(machine):  # type: ignore[misc, valid-type]
        """Walks along the links of the description."""

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return {"headers": LOOPBACK_HEADERS}

        def validate_response(self, response: Any, case: schemathesis.Case, **_: Any) -> None:
            case.validate_response(response, excluded_checks=UNPROMISED)
            walked.add((case.method, case.path, response.status_code))

    # A walk changes what the service holds, so hypothesis may find that the same draws lead elsewhere the next time.
    with suppress(FlakyStrategyDefinition):
        Walk.run(
            settings=settings(
                max_examples=8,
                stateful_step_count=6,
                deadline=None,
                database=None,
                suppress_health_check=ANY_HEALTH,
                phases=[Phase.generate],
            )
        )
    assert walked


def test_every_link_leads_somewhere(store: Store, tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path), store)
    paths = app.openapi()["paths"]
    where = {op["operationId"]: (method, path) for path, ops in paths.items() for method, op in ops.items()}
    parameters = {"id": store.queries.searches(None, 1, None).items[0].id}
    followed = set()
    with TestClient(app, headers=LOOPBACK_HEADERS) as api:
        for source, operations in paths.items():
            for answer in operations.get("get", {"responses": {}})["responses"].values():
                for link in answer.get("links", {}).values():
                    method, target = where[link["operationId"]]
                    body = api.get(source.format(**parameters)).json()
                    values = {name: pointed(body, text, parameters) for name, text in link["parameters"].items()}
                    if method == "get" and None not in values.values():
                        response = api.get(target.format(**values))
                        too_early = target in TOO_EARLY and "expected at least" in response.text
                        assert too_early or response.status_code == 200, (source, target)
                        followed.add(target)
    assert {"/v1/searches/{id}", "/v1/searches/{id}/front", "/v1/devices/{name}", "/v1/predictors/{id}"} <= followed


def pointed(body: Any, text: str, path: dict[str, str]) -> Any:
    """The value of a link's expression; None if the list it points into is empty."""
    if text.startswith("$request.path."):
        return path[text.removeprefix("$request.path.")]
    for part in text.removeprefix("$response.body#/").split("/"):
        if isinstance(body, list) and len(body) <= int(part):
            return None
        body = body[int(part)] if isinstance(body, list) else body[part]
    return body


@pytest.mark.long
def test_malformed_requests_are_refused_and_harm_nothing() -> None:
    done = malformed.bench(250, seed=1)
    assert done["requests"] == 250
    assert len(done["kinds"]) == 15  # all of them
    assert done["wrong"] == []
    assert (done["server_errors"], done["unanswered"], done["answering"]) == (0, 0, True)
    assert done["statuses"]["4xx"] > 150
    assert done["rss_after_mb"] < 2 * done["rss_before_mb"]


# JSON


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "levels"),
        (b'{"a":' * (MAX_DEPTH + 1), "levels"),
        (b"[" * 500_000, "levels"),
        (b'["' + b"\\\\" * 9 + b'",' + b"[" * (MAX_DEPTH + 1), "levels"),
        (b'{"a": %d}' % MAX_INTEGER, "2^63"),
        (b'{"a": -%d}' % MAX_INTEGER, "2^63"),
        (b"[" + b"9" * 500_000 + b"]", "2^63"),
        (b"\xff", "UTF-8"),
        ("[]".encode("utf-16-le"), "UTF-8"),
        ("[]".encode("utf-32"), "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
    ],
)
def test_json_that_no_spec_can_hold_is_refused(body: bytes, word: str) -> None:
    assert word in str(json_problem(body))


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b'{"a": "' + b"[" * 1000 + b'"}',
        b'{"a": "\\"' + b"[{" * 1000 + b'"}',
        b'{"a": %d, "b": -%d, "c": 1e300}' % (MAX_INTEGER - 1, MAX_INTEGER - 1),
        b"\xef\xbb\xbf{}",
        b"no json at all",
        b'"' * 500_000,  # takes no longer than it should
        b'"\\' * 250_000,
    ],
)
def test_other_json_passes(body: bytes) -> None:
    assert json_problem(body) is None
