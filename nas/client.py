"""The Python client: every verb of the service, over REST only.

from nas.client import Client
from nas.core.spec import SearchSpec

with Client() as nas:
    search = nas.submit(SearchSpec(name="digits"))
    for event in nas.watch(search.id):
        print(event.body["kind"])
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter

from nas.core import errors
from nas.core.spec import DeviceSpec, SearchSpec
from nas.core.views import (
    ArtifactView,
    CardView,
    DeviceView,
    DryRunView,
    EventPage,
    EventView,
    ExtendBody,
    FrontView,
    HealthView,
    PointPage,
    SearchPage,
    SearchView,
    SpaceView,
    StrategyView,
    SubnetView,
)

DEFAULT_URL = "http://127.0.0.1:8765"
V = TypeVar("V", bound=BaseModel)


class Unreachable(errors.HwnasError):
    """No server answers at the address."""

    code = "unreachable"


def _by_code(root: type[errors.HwnasError]) -> dict[str, type[errors.HwnasError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _by_code(child)
    return found


class Client:
    """A connection to one server. Raises the errors of ``nas.core.errors`` by their code, ``Unreachable`` if no server
    answers."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    # What the service is

    def health(self) -> HealthView:
        """Is the service able to take and run searches?"""
        return self._get(HealthView, "/v1/health")

    def spaces(self) -> list[SpaceView]:
        """Search spaces a spec can name."""
        return self._list(SpaceView, "/v1/spaces")

    def strategies(self) -> list[StrategyView]:
        """Strategies a spec can name."""
        return self._list(StrategyView, "/v1/strategies")

    def datasets(self) -> list[str]:
        """Data sets a spec can name."""
        return [str(name) for name in self._request("GET", "/v1/datasets").json()]

    # Searches

    def submit(self, spec: SearchSpec, key: str | None = None) -> SearchView:
        """Queues a search. The same ``key`` with the same spec gives the same search, however often it is sent."""
        headers = {"Idempotency-Key": key} if key else {}
        return self._post(SearchView, "/v1/searches", spec, headers=headers)

    def dry_run(self, spec: SearchSpec) -> DryRunView:
        """Can the bounds be met, and where do the networks lie? Queues nothing."""
        return self._post(DryRunView, "/v1/searches", spec, params={"dry_run": "true"})

    def searches(self, status: str | None = None, limit: int = 50, cursor: str | None = None) -> SearchPage:
        """A page of searches, newest first."""
        return self._get(SearchPage, "/v1/searches", {"status": status, "limit": limit, "cursor": cursor})

    def search(self, search_id: str) -> SearchView:
        """One search, with its stages."""
        return self._get(SearchView, f"/v1/searches/{search_id}")

    def cancel(self, search_id: str) -> SearchView:
        """Stops a search now; what it found stays."""
        return self._post(SearchView, f"/v1/searches/{search_id}/cancel")

    def extend(self, search_id: str, body: ExtendBody) -> SearchView:
        """A new search on the same supernet: more evaluations, other bounds or another device, no training."""
        return self._post(SearchView, f"/v1/searches/{search_id}/extend", body)

    def front(
        self,
        search_id: str,
        device: str | None = None,
        bound_ms: float | None = None,
        objectives: Sequence[str] | None = None,
    ) -> FrontView:
        """The fronts of a search and of its random baseline."""
        axes = ",".join(objectives) if objectives else None
        query = {"device": device, "bound_ms": bound_ms, "objectives": axes}
        return self._get(FrontView, f"/v1/searches/{search_id}/front", query)

    def candidates(
        self,
        search_id: str,
        origin: str | None = None,
        status: str | None = None,
        order: str = "-val_accuracy",
        limit: int = 100,
        cursor: str | None = None,
    ) -> PointPage:
        """A page of evaluated networks; ``order`` is a metric, with ``-`` for descending."""
        query = {"origin": origin, "status": status, "order": order, "limit": limit, "cursor": cursor}
        return self._get(PointPage, f"/v1/searches/{search_id}/candidates", query)

    def subnet(self, search_id: str, arch: str, origin: str = "search") -> SubnetView:
        """Everything about one network."""
        return self._get(SubnetView, f"/v1/searches/{search_id}/subnets/{arch}", {"origin": origin})

    def artifacts(self, search_id: str) -> list[ArtifactView]:
        """The exported files of a search."""
        return self._list(ArtifactView, f"/v1/searches/{search_id}/artifacts")

    def download(self, artifact: ArtifactView, path: Path) -> Path:
        """Writes the file to ``path`` at once or not at all. Raises StorageError when its sha256 is another."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        partial = Path(name)
        try:
            digest = hashlib.sha256()
            with os.fdopen(handle, "wb") as file, self._reaching(), self._http.stream("GET", artifact.url) as response:
                _raise_for(response)
                for chunk in response.iter_bytes():
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != artifact.sha256:
                raise errors.StorageError(
                    f"{artifact.name} came damaged: expected sha256 {artifact.sha256}, got {digest.hexdigest()}"
                )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def events(self, search_id: str, after: int = 0, limit: int = 500) -> EventPage:
        """Events of a search after a number, oldest first."""
        return self._get(EventPage, f"/v1/searches/{search_id}/events", {"after": after, "limit": limit})

    def watch(self, search_id: str, after: int = 0) -> Iterator[EventView]:
        """Events as they come, until the search has ended; reconnects when the connection is lost."""
        return self._watch(f"/v1/searches/{search_id}/events", after)

    # Devices

    def devices(self) -> list[DeviceView]:
        """All devices."""
        return self._list(DeviceView, "/v1/devices")

    def device(self, name: str) -> DeviceView:
        """One device with its predictors."""
        return self._get(DeviceView, f"/v1/devices/{name}")

    def add_device(self, spec: DeviceSpec) -> DeviceView:
        """Starts measuring a device."""
        return self._post(DeviceView, "/v1/devices", spec)

    def watch_device(self, name: str, after: int = 0) -> Iterator[EventView]:
        """Events of a device's onboarding, until it has ended."""
        return self._watch(f"/v1/devices/{name}/events", after)

    def predictors(self, device: str | None = None) -> list[CardView]:
        """Predictor cards, newest first."""
        return self._list(CardView, "/v1/predictors", {"device": device})

    def predictor(self, predictor_id: str) -> CardView:
        """One predictor card."""
        return self._get(CardView, f"/v1/predictors/{predictor_id}")

    # Plumbing

    def _get(self, view: type[V], path: str, query: Mapping[str, Any] | None = None) -> V:
        return view.model_validate(self._request("GET", path, params=_given(query)).json())

    def _list(self, view: type[V], path: str, query: Mapping[str, Any] | None = None) -> list[V]:
        adapter: TypeAdapter[list[V]] = TypeAdapter(list[view])  # type: ignore[valid-type]
        return adapter.validate_python(self._request("GET", path, params=_given(query)).json())

    def _post(self, view: type[V], path: str, body: BaseModel | None = None, **kwargs: Any) -> V:
        payload = body.model_dump(mode="json", exclude_none=isinstance(body, ExtendBody)) if body is not None else None
        return view.model_validate(self._request("POST", path, json=payload, **kwargs).json())

    def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        with self._reaching():
            response = self._http.request(method, path, **kwargs)
        _raise_for(response)
        return response

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise Unreachable(
                f"no server answers at {self.url} ({error or type(error).__name__}); start one with `nas serve`"
            ) from error

    def _watch(self, path: str, after: int) -> Iterator[EventView]:
        failures = 0
        while True:
            try:
                for kind, view in self._stream(path, after):
                    if kind == "end":
                        return
                    failures = 0
                    if view is not None and view.seq > after:
                        after = view.seq
                        yield view
            except httpx.TransportError as error:
                failures += 1
                if failures > 5:
                    raise Unreachable(f"lost the connection to {self.url} and could not get it back") from error

    def _stream(self, path: str, after: int) -> Iterator[tuple[str, EventView | None]]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        timeout = httpx.Timeout(30.0, read=60.0)
        with self._http.stream("GET", path, params={"after": after}, headers=headers, timeout=timeout) as response:
            _raise_for(response)
            kind, data = "message", ""
            for line in response.iter_lines():
                if line.startswith("event:"):
                    kind = line[6:].strip()
                elif line.startswith("data:"):
                    data += line[5:].strip()
                elif not line:
                    if kind == "end":
                        yield "end", None
                    elif data:
                        yield kind, EventView.model_validate_json(data)
                    kind, data = "message", ""
        raise httpx.RemoteProtocolError("the stream ended before the job did")


def _given(query: Mapping[str, Any] | None) -> dict[str, Any]:
    return {k: v for k, v in (query or {}).items() if v is not None}


def _raise_for(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    try:
        problem = response.json()
    except json.JSONDecodeError:
        problem = {}
    code, message = str(problem.get("code", "error")), str(problem.get("message", response.text[:500]))
    kind = _by_code(errors.HwnasError).get(code, errors.HwnasError)
    error = kind.__new__(kind)
    Exception.__init__(error, message or f"the server answered {response.status_code}")
    raise error
