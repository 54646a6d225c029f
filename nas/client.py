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
import copy
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from nas.core import errors
from nas.core.access import Scope
from nas.core.spec import DeviceSpec, SearchSpec
from nas.defaults import DEFAULT_URL
from nas.schemas.administration import (
    AuditPage,
    CreatedTokenSchema,
    PrincipalSchema,
    QuotaBody,
    QuotaSchema,
    TokenBody,
    TokenSchema,
)
from nas.schemas.agents import AgentSchema
from nas.schemas.candidates import ArtifactSchema, CandidateDetailSchema, CandidatePage, FrontSchema
from nas.schemas.common import ErrorSchema
from nas.schemas.devices import DeviceComparisonSchema, DeviceSchema, DriftSchema
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.jobs import EventPage, EventSchema
from nas.schemas.predictors import LatencyTableSchema, PredictorCardSchema, PredictorVersionSchema
from nas.schemas.searches import ExtendBody, ForkBody, PriorityBody, SearchPage, SearchSchema
from nas.schemas.service import HealthSchema, ReadinessSchema, SpaceSchema, StrategySchema, WorkerSchema

# A server that restarts is back within seconds; a watch waits about a minute and a half for it.
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)  # every watch holds a connection
TABLE_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
}
T = TypeVar("T")
V = TypeVar("V", bound=BaseModel)


class Unreachable(errors.HwnasError):
    """No server answers at the address."""

    code = "unreachable"


class UnexpectedAnswer(errors.HwnasError):
    """Something answers at the address, but not as this service does."""

    code = "unexpected_answer"


class Client:
    """A connection to one server. Every method raises the errors of ``nas.core.errors`` by the code that the server
    gives, ``Unreachable`` if no server answers, and ``UnexpectedAnswer`` if it is another kind of server.

    ``transport`` replaces the network and ``sleep`` the waiting between reconnections, for tests.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._sleep = sleep
        self._identify(token)
        direct = dict.fromkeys(("all://127.0.0.1", "all://localhost", "all://[::1]"))  # never through a proxy
        try:
            self._http = httpx.Client(
                base_url=self.url,
                timeout=timeout_s,
                transport=transport,
                mounts=direct,
                limits=_LIMITS,
                trust_env=httpx.URL(self.url).host not in _LOOPBACK,
            )
        except ImportError as error:
            raise errors.InvalidInput(f"ALL_PROXY or another proxy variable cannot be used: {error}") from error
        except httpx.InvalidURL as error:
            raise errors.InvalidInput(f"expected an address such as {DEFAULT_URL}, got {url!r}: {error}") from error
        if self._http.base_url.scheme not in ("http", "https") or not self._http.base_url.host:
            raise errors.InvalidInput(f"expected an address such as {DEFAULT_URL}, got {url!r}")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def using(self, token: str | None) -> Client:
        """A client that shares these connections and sends another token. Raises InvalidInput for what is none."""
        other = copy.copy(self)
        other._identify(token)
        return other

    def _identify(self, token: str | None) -> None:
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise errors.InvalidInput("expected a token such as hwnas_..., got one with characters that no token has")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    # What the service is

    def health(self) -> HealthSchema:
        """Is the service able to take and run searches?"""
        return self._get(HealthSchema, "/v1/health")

    def spaces(self) -> list[SpaceSchema]:
        """Search spaces a spec can name."""
        return self._list(SpaceSchema, "/v1/spaces")

    def strategies(self) -> list[StrategySchema]:
        """Strategies a spec can name."""
        return self._list(StrategySchema, "/v1/strategies")

    def datasets(self) -> list[str]:
        """Data sets a spec can name."""
        return self._read(TypeAdapter(list[str]), self._request("GET", "/v1/datasets"))

    # Searches

    def submit(self, spec: SearchSpec, key: str | None = None, priority: int = 0) -> SearchSchema:
        """Queues a search. The same ``key`` with the same spec gives the same search, however often it is sent.

        ``priority``: higher goes first among your searches.
        """
        headers = {"Idempotency-Key": key} if key else {}
        params = {"priority": priority} if priority else {}
        return self._post(SearchSchema, "/v1/searches", spec, headers=headers, params=params)

    def dry_run(self, spec: SearchSpec, measure: bool = True, wait_s: float = 60.0) -> DryRunSchema:
        """Can the bounds be met, where do the networks lie, and, if it is to ``measure``, what will the search take?

        For the last, a worker runs a few steps of each stage; ``cost_missing`` says why that was not to be had within
        ``wait_s``. No search is queued.
        """
        params = {"dry_run": "true", "measure": str(measure).lower(), "wait_s": f"{wait_s:g}"}
        patience = httpx.Timeout(self._http.timeout)
        if measure and patience.read is not None:
            patience.read += wait_s
        return self._post(DryRunSchema, "/v1/searches", spec, params=params, timeout=patience)

    def searches(
        self,
        status: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        owner: str | None = None,
        parent: str | None = None,
    ) -> SearchPage:
        """A page of searches, newest first; ``parent`` keeps the children of one."""
        query = {"status": status, "limit": limit, "cursor": cursor, "owner": owner, "parent": parent}
        return self._get(SearchPage, "/v1/searches", query)

    def search(self, search_id: str) -> SearchSchema:
        """One search, with its stages."""
        return self._get(SearchSchema, f"/v1/searches/{_part(search_id)}")

    def cancel(self, search_id: str) -> SearchSchema:
        """Stops a search now; what it found stays."""
        return self._post(SearchSchema, f"/v1/searches/{_part(search_id)}/cancel")

    def extend(self, search_id: str, body: ExtendBody) -> SearchSchema:
        """A new search on the same supernet: more evaluations, other bounds or another device, no training."""
        return self._post(SearchSchema, f"/v1/searches/{_part(search_id)}/extend", body)

    def fork(self, search_id: str, body: ForkBody) -> SearchSchema:
        """A new search on the same supernet, with whatever ``body`` replaces; no training."""
        return self._post(SearchSchema, f"/v1/searches/{_part(search_id)}/fork", body)

    def pause(self, search_id: str) -> SearchSchema:
        """Parks a search: at once if it waits, else after its next durable result."""
        return self._post(SearchSchema, f"/v1/searches/{_part(search_id)}/pause")

    def resume(self, search_id: str) -> SearchSchema:
        """Lets a paused search go on."""
        return self._post(SearchSchema, f"/v1/searches/{_part(search_id)}/resume")

    def retry(self, search_id: str) -> SearchSchema:
        """Queues a search again that failed, was cancelled or quarantined; it goes on from its checkpoints."""
        return self._post(SearchSchema, f"/v1/searches/{_part(search_id)}/retry")

    def delete(self, search_id: str) -> None:
        """Removes a search that is paused or has ended, with everything it found."""
        self._request("DELETE", f"/v1/searches/{_part(search_id)}")

    def set_priority(self, search_id: str, priority: int) -> SearchSchema:
        """Moves a search among its owner's: higher goes first."""
        return self._put(SearchSchema, f"/v1/searches/{_part(search_id)}/priority", PriorityBody(priority=priority))

    def front(
        self,
        search_id: str,
        device: str | None = None,
        bound_ms: float | None = None,
        objectives: Sequence[str] | None = None,
    ) -> FrontSchema:
        """The fronts of a search and of its random baseline."""
        axes = ",".join(objectives) if objectives else None
        query = {"device": device, "bound_ms": bound_ms, "objectives": axes}
        return self._get(FrontSchema, f"/v1/searches/{_part(search_id)}/front", query)

    def candidates(
        self,
        search_id: str,
        origin: str | None = None,
        status: str | None = None,
        order: str = "-val_accuracy",
        limit: int = 100,
        cursor: str | None = None,
        device: str | None = None,
    ) -> CandidatePage:
        """A page of evaluated networks; ``order`` is a metric, with ``-`` for descending; as one ``device`` of the
        fleet has them, if given."""
        query = {
            "origin": origin,
            "status": status,
            "order": order,
            "limit": limit,
            "cursor": cursor,
            "device": device,
        }
        return self._get(CandidatePage, f"/v1/searches/{_part(search_id)}/candidates", query)

    def subnet(self, search_id: str, arch: str, origin: str = "search") -> CandidateDetailSchema:
        """Everything about one network."""
        return self._get(
            CandidateDetailSchema, f"/v1/searches/{_part(search_id)}/subnets/{_part(arch)}", {"origin": origin}
        )

    def artifacts(self, search_id: str) -> list[ArtifactSchema]:
        """The exported files of a search."""
        return self._list(ArtifactSchema, f"/v1/searches/{_part(search_id)}/artifacts")

    def download(self, artifact: ArtifactSchema, path: Path) -> Path:
        """Writes the file to ``path`` at once or not at all.

        Raises StorageError when its sha256 is another, or when it cannot be written.
        """
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        digest = hashlib.sha256()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with (
                partial.open("xb") as file,
                self._reaching(),
                self._http.stream("GET", artifact.url, headers=self._headers) as response,
            ):
                self._check(response)
                for chunk in response.iter_bytes():
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != artifact.sha256:
                raise errors.StorageError(
                    f"{artifact.name} came damaged: expected sha256 {artifact.sha256}, got {digest.hexdigest()}"
                )
            partial.replace(path)
        except OSError as error:
            raise errors.StorageError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):  # whatever kept it from being written has been raised already
                partial.unlink(missing_ok=True)
        return path

    def events(self, search_id: str, after: int = 0, limit: int = 500, kind: str | None = None) -> EventPage:
        """Events of a search after a number, oldest first; all kinds, or one such as ``status``."""
        query = {"after": after, "limit": limit, "kind": kind}
        return self._get(EventPage, f"/v1/searches/{_part(search_id)}/events", query)

    def watch(self, search_id: str, after: int = 0, stop: Callable[[], bool] = lambda: False) -> Iterator[EventSchema]:
        """Events as they come, until the search has ended; reconnects when the connection is lost.

        ``stop`` ends it earlier: it is called at every sign of the server, at least every 15 seconds.
        """
        return self._watch(f"/v1/searches/{_part(search_id)}/events", after, stop)

    # Devices

    def devices(self) -> list[DeviceSchema]:
        """All devices."""
        return self._list(DeviceSchema, "/v1/devices")

    def device(self, name: str) -> DeviceSchema:
        """One device with its predictors."""
        return self._get(DeviceSchema, f"/v1/devices/{_part(name)}")

    def add_device(self, spec: DeviceSpec) -> DeviceSchema:
        """Starts measuring a device."""
        return self._post(DeviceSchema, "/v1/devices", spec)

    def upload_table(self, data: bytes, name: str) -> LatencyTableSchema:
        """Uploads a file of latencies, which is CSV, JSON or Parquet by its name. Raises InvalidInput for another."""
        media = TABLE_TYPES.get(Path(name).suffix.lower())
        if media is None:
            raise errors.InvalidInput(f"expected a table in a file {', '.join(TABLE_TYPES)}, got {name!r}")
        headers = {"Content-Type": media}
        return self._read(
            TypeAdapter(LatencyTableSchema), self._request("POST", "/v1/tables", headers=headers, content=data)
        )

    def watch_device(self, name: str, after: int = 0) -> Iterator[EventSchema]:
        """Events of a device's onboarding, until it has ended."""
        return self._watch(f"/v1/devices/{_part(name)}/events", after)

    def versions(self, device: str) -> list[PredictorVersionSchema]:
        """All versions of a device's predictors, newest first."""
        return self._list(PredictorVersionSchema, f"/v1/devices/{_part(device)}/versions")

    def drift(self, device: str) -> DriftSchema:
        """How a device was since it was profiled."""
        return self._get(DriftSchema, f"/v1/devices/{_part(device)}/drift")

    def compare(self, first: str, second: str, space: str | None = None) -> DeviceComparisonSchema:
        """Two devices side by side."""
        query = {"other": second, "space": space}
        return self._get(DeviceComparisonSchema, f"/v1/devices/{_part(first)}/comparison", query)

    def agents(self) -> list[AgentSchema]:
        """All agents, and when they were last heard of."""
        return self._list(AgentSchema, "/v1/agents")

    def predictors(self, device: str | None = None) -> list[PredictorCardSchema]:
        """Predictor cards, newest first."""
        return self._list(PredictorCardSchema, "/v1/predictors", {"device": device})

    def predictor(self, predictor_id: str) -> PredictorCardSchema:
        """One predictor card."""
        return self._get(PredictorCardSchema, f"/v1/predictors/{_part(predictor_id)}")

    # Who may do what, and what they did

    def me(self) -> PrincipalSchema:
        """Who the service takes this client for."""
        return self._get(PrincipalSchema, "/v1/me")

    def tokens(self) -> list[TokenSchema]:
        """All tokens, short of their secrets."""
        return self._list(TokenSchema, "/v1/tokens")

    def create_token(
        self, owner: str, name: str, scopes: Sequence[Scope], expires_at: datetime | None = None
    ) -> CreatedTokenSchema:
        """A new token. Its secret is in this answer and nowhere else."""
        body = TokenBody(owner=owner, name=name, scopes=list(scopes), expires_at=expires_at)
        return self._post(CreatedTokenSchema, "/v1/tokens", body)

    def revoke_token(self, token_id: str) -> None:
        """Makes a token worthless, for good."""
        self._request("DELETE", f"/v1/tokens/{_part(token_id)}")

    def quotas(self) -> list[QuotaSchema]:
        """Every owner's limits and use."""
        return self._list(QuotaSchema, "/v1/quotas")

    def set_quota(self, owner: str, body: QuotaBody) -> QuotaSchema:
        """New limits of an owner."""
        return self._put(QuotaSchema, f"/v1/quotas/{_part(owner)}", body)

    def audit(self, limit: int = 50, cursor: str | None = None, owner: str | None = None) -> AuditPage:
        """A page of who did what, newest first."""
        return self._get(AuditPage, "/v1/audit", {"limit": limit, "cursor": cursor, "owner": owner})

    def workers(self) -> list[WorkerSchema]:
        """The workers that are connected, with what their nodes have and what of it is free."""
        return self._list(WorkerSchema, "/v1/workers")

    def ready(self) -> ReadinessSchema:
        """Whether the service can serve requests and run searches now, with every check it made."""
        with self._reaching():
            response = self._http.get("/readyz")
        if response.status_code != 503:  # which says "not ready" with the same body
            self._check(response)
        return self._read(TypeAdapter(ReadinessSchema), response)

    # Plumbing

    def _get(self, view: type[V], path: str, query: Mapping[str, Any] | None = None) -> V:
        return self._read(TypeAdapter(view), self._request("GET", path, params=_given(query)))

    def _list(self, view: type[V], path: str, query: Mapping[str, Any] | None = None) -> list[V]:
        adapter: TypeAdapter[list[V]] = TypeAdapter(list[view])  # type: ignore[valid-type]
        return self._read(adapter, self._request("GET", path, params=_given(query)))

    def _post(self, view: type[V], path: str, body: BaseModel | None = None, **kwargs: Any) -> V:
        sparse = isinstance(body, ExtendBody | ForkBody)
        payload = body.model_dump(mode="json", exclude_none=sparse) if body is not None else None
        return self._read(TypeAdapter(view), self._request("POST", path, json=payload, **kwargs))

    def _put(self, view: type[V], path: str, body: BaseModel) -> V:
        return self._read(TypeAdapter(view), self._request("PUT", path, json=body.model_dump(mode="json")))

    def _request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **kwargs: Any
    ) -> httpx.Response:
        with self._reaching():
            response = self._http.request(method, path, headers={**self._headers, **(headers or {})}, **kwargs)
        self._check(response)
        return response

    def _read(self, adapter: TypeAdapter[T], response: httpx.Response) -> T:
        try:
            return adapter.validate_json(response.content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the body"
            raise UnexpectedAnswer(
                f"what answers at {self.url} is no hwnas service of this version: {where}: {first['msg']}"
            ) from error

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise Unreachable(f"the server at {self.url} took too long to answer") from error
        except httpx.TransportError as error:
            raise Unreachable(
                f"no server answers at {self.url} ({error or type(error).__name__}); start one with: nas serve"
            ) from error

    def _check(self, response: httpx.Response) -> None:
        """Raises the error that the server gave, if it did."""
        if response.is_success:
            return
        try:
            problem = ErrorSchema.model_validate_json(response.read())
        except ValidationError as error:
            raise UnexpectedAnswer(
                f"{self.url} answered {response.status_code} {response.reason_phrase} to {response.request.method} "
                f"{response.request.url.path}, and not as an hwnas service would"
            ) from error
        kind = _by_code(errors.HwnasError).get(problem.code, errors.HwnasError)
        raised = kind.__new__(kind)  # constructors differ, and the message is complete
        Exception.__init__(raised, problem.message)
        raised.code = problem.code
        raise raised

    def _watch(self, path: str, after: int, stop: Callable[[], bool] = lambda: False) -> Iterator[EventSchema]:
        reached, failures = False, 0
        while not stop():
            try:
                for sign in self._stream(path, after):
                    if sign == "end" or stop():
                        return
                    reached = True
                    if sign != "open":
                        failures = 0
                    if isinstance(sign, EventSchema) and sign.seq > after:
                        after = sign.seq
                        yield sign
            except httpx.TransportError:
                if not reached or failures == len(PAUSES_S):
                    with self._reaching():
                        raise
                self._sleep(PAUSES_S[failures])
                failures += 1

    def _stream(self, path: str, after: int) -> Iterator[EventSchema | Literal["open", "alive", "end"]]:
        """Server-sent events. Raises httpx.TransportError when the stream breaks off before its end."""
        headers = {**self._headers, "Accept": "text/event-stream", "Last-Event-ID": str(after)}
        timeout = httpx.Timeout(30.0, read=60.0)
        with self._http.stream("GET", path, params={"after": after}, headers=headers, timeout=timeout) as response:
            self._check(response)
            yield "open"
            kind, data = "message", b""
            for line in _lines(response.iter_bytes()):
                field, _, value = line.partition(b":")
                match field:
                    case b"event":
                        kind = value.decode().strip()
                    case b"data":
                        data += value
                    case b"" if line:
                        yield "alive"
                    case b"" if kind == "end":
                        yield "end"
                    case b"":
                        if data:
                            yield EventSchema.model_validate_json(data)
                        kind, data = "message", b""
        raise httpx.RemoteProtocolError("the stream ended before the job did", request=response.request)


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines that were completed. Only line feeds part them: text may hold what else Unicode counts as a line's end."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")


def _by_code(root: type[errors.HwnasError]) -> dict[str, type[errors.HwnasError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _by_code(child)
    return found


def _part(name: str) -> str:
    """A name as one part of a path. Raises NotFound for an empty one, whose path would be another's."""
    if not name:
        raise errors.NotFound("expected a name or an id, got nothing")
    return quote(name, safe="")


def _given(query: Mapping[str, Any] | None) -> dict[str, Any]:
    return {k: v for k, v in (query or {}).items() if v is not None}
