"""The Python client: one method for each REST route.

The file is one class: its methods mirror the routes, and share nothing but sending, reading and raising errors.

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
from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from nas.core import errors
from nas.core.access import Scope
from nas.core.cascade_spec import CascadeBounds
from nas.core.decision_importance import ImportanceReport
from nas.core.drift import Drift
from nas.core.model_spec import ModelSpec, UploadedFile
from nas.core.spec import DataSpec, DeviceSpec, SearchSpec
from nas.defaults import DEFAULT_URL
from nas.schemas.administration import (
    AuditPage,
    CreatedTokenSchema,
    PrincipalSchema,
    QuotaLimits,
    QuotaSchema,
    SessionSchema,
    TokenBody,
    TokenSchema,
)
from nas.schemas.agents import AgentSchema
from nas.schemas.candidates import ArtifactSchema, CandidateDetailSchema, CandidatePage, FrontSchema
from nas.schemas.cascades import CascadeFileSchema, CascadeSchema
from nas.schemas.common import ErrorSchema
from nas.schemas.devices import (
    DeviceComparisonSchema,
    DeviceSchema,
    OnboardingPage,
    OnboardingSchema,
    OwnerBody,
    RenameBody,
)
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.jobs import EventPage, EventSchema, LogPage
from nas.schemas.marks import MarkBody, MarkSchema
from nas.schemas.named_data import DataCheckSchema, DataFileSchema, NamedDataBody, NamedDataSchema
from nas.schemas.predictors import LatencyTableSchema, PredictorCardSchema, PredictorVersionSchema
from nas.schemas.recommendations import RecommendationRule, RecommendationSchema
from nas.schemas.scaling import ScaledNetworkSchema
from nas.schemas.searches import ExtendBody, ForkBody, PriorityBody, SearchPage, SearchSchema
from nas.schemas.service import (
    HealthSchema,
    ReadinessSchema,
    RuntimeSchema,
    SpaceSchema,
    StrategySchema,
    TaskSchema,
    WorkerSchema,
)
from nas.schemas.user_models import UploadSchema, UserModelDetailSchema, UserModelSchema
from nas.schemas.waterlines import WaterlineSchema

# A server restarts within seconds; a watch retries for about a minute and a half.
RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)
SUBMISSION_ATTEMPTS = 2
_CHECKED_S = 60.0  # for a request in which the service reads a data set
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)  # every watch holds a connection
MEDIA_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
}
QueryValue = str | int | float | bool | None
T = TypeVar("T")
V = TypeVar("V", bound=BaseModel)


class Unreachable(errors.HwnasError):
    """No server answers at the address."""

    code = "unreachable"


class UnexpectedAnswer(errors.HwnasError):
    """The response is not that of an hwnas service."""

    code = "unexpected_answer"


class Client:
    """A connection to one server.

    Every method raises the error of ``nas.core.errors`` whose code the server returns, ``Unreachable`` if no server
    answers, and ``UnexpectedAnswer`` if another kind of server answers. Tests replace the network by ``transport`` and
    the delays between reconnections by ``sleep``.
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
        self._set_token(token)
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
        """Close the connections."""
        self._http.close()

    def using(self, token: str | None) -> Client:
        """A client that shares the connections and sends another token. Raises InvalidInput for a malformed token."""
        other = copy.copy(self)
        other._set_token(token)
        return other

    def _set_token(self, token: str | None) -> None:
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise errors.InvalidInput("expected a token such as hwnas_..., got one with invalid characters")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    # The service

    def health(self) -> HealthSchema:
        """Is the service able to take and run searches?"""
        return self._get(HealthSchema, "/v1/health")

    def spaces(self) -> list[SpaceSchema]:
        """Search spaces a spec can name."""
        return self._list(SpaceSchema, "/v1/spaces")

    def strategies(self) -> list[StrategySchema]:
        """Strategies a spec can name."""
        return self._list(StrategySchema, "/v1/strategies")

    def tasks(self) -> list[TaskSchema]:
        """Tasks a spec can name."""
        return self._list(TaskSchema, "/v1/tasks")

    def runtimes(self) -> list[RuntimeSchema]:
        """What can run networks on a device."""
        return self._list(RuntimeSchema, "/v1/runtimes")

    def datasets(self) -> list[str]:
        """Data sets a spec can name."""
        return self._read(TypeAdapter(list[str]), self._request("GET", "/v1/datasets"))

    # Searches

    def submit(self, spec: SearchSpec, key: str | None = None, priority: int = 0) -> SearchSchema:
        """Submit a search. Requests with the same idempotency ``key`` and spec return the same search; without a key,
        every call has its own, so that a request whose answer is lost can be repeated and submits once.

        ``priority``: higher runs first among your searches.
        """
        params = {"priority": priority} if priority else {}
        return self._submit(SearchSchema, "/v1/searches", spec, key, params=params)

    def dry_run(self, spec: SearchSpec, measure: bool = True, wait_s: float = 60.0) -> DryRunSchema:
        """Report whether the bounds can be met and the ranges of metrics; with ``measure``, also estimate the cost.

        For the cost, a worker runs a few steps of each stage; ``cost_missing`` is the reason if there is no estimate
        within ``wait_s``. No search is queued.
        """
        params = {"dry_run": "true", "measure": str(measure).lower(), "wait_s": f"{wait_s:g}"}
        timeout = httpx.Timeout(self._http.timeout)
        if measure and timeout.read is not None:
            timeout.read += wait_s
        return self._post(DryRunSchema, "/v1/searches", spec, params=params, timeout=timeout)

    def searches(
        self,
        status: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        owner: str | None = None,
        parent: str | None = None,
        match: str | None = None,
    ) -> SearchPage:
        """A page of searches, newest first; ``parent`` keeps the children of one, ``match`` those that a text can mean:
        the beginning of an id, or a name."""
        query: dict[str, QueryValue] = {"status": status, "limit": limit, "cursor": cursor}
        query |= {"owner": owner, "parent": parent, "match": match}
        return self._get(SearchPage, "/v1/searches", query)

    def search(self, search_id: str) -> SearchSchema:
        """One search, with its stages."""
        return self._get(SearchSchema, f"/v1/searches/{_segment(search_id)}")

    def cancel(self, search_id: str) -> SearchSchema:
        """Stops a search now; what it found stays."""
        return self._post(SearchSchema, f"/v1/searches/{_segment(search_id)}/cancel")

    def extend(self, search_id: str, body: ExtendBody, key: str | None = None) -> SearchSchema:
        """A new search on the same supernet: more evaluations, other bounds or another device, no training. ``key`` as
        for ``submit``."""
        return self._submit(SearchSchema, f"/v1/searches/{_segment(search_id)}/extend", body, key)

    def fork(self, search_id: str, body: ForkBody, key: str | None = None) -> SearchSchema:
        """A new search on the same supernet, with whatever ``body`` replaces; no training. ``key`` as for
        ``submit``."""
        return self._submit(SearchSchema, f"/v1/searches/{_segment(search_id)}/fork", body, key)

    def pause(self, search_id: str) -> SearchSchema:
        """Parks a search: at once if it waits, else after its next durable result."""
        return self._post(SearchSchema, f"/v1/searches/{_segment(search_id)}/pause")

    def resume(self, search_id: str) -> SearchSchema:
        """Lets a paused search go on."""
        return self._post(SearchSchema, f"/v1/searches/{_segment(search_id)}/resume")

    def retry(self, search_id: str) -> SearchSchema:
        """Continue a failed, cancelled or quarantined search from its last checkpoint."""
        return self._post(SearchSchema, f"/v1/searches/{_segment(search_id)}/retry")

    def delete(self, search_id: str) -> None:
        """Delete a search that is paused or has ended, with all its results."""
        self._request("DELETE", f"/v1/searches/{_segment(search_id)}")

    def set_priority(self, search_id: str, priority: int) -> SearchSchema:
        """Set a search's priority among those of its owner: higher runs first."""
        return self._put(SearchSchema, f"/v1/searches/{_segment(search_id)}/priority", PriorityBody(priority=priority))

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
        return self._get(FrontSchema, f"/v1/searches/{_segment(search_id)}/front", query)

    def recommendation(
        self, search_id: str, rule: RecommendationRule | None = None, device: str | None = None
    ) -> RecommendationSchema:
        """The network of a search to ship, by a rule: without one, the fastest within half a point of the best."""
        query = {**(rule or RecommendationRule()).model_dump(), "device": device}
        return self._get(RecommendationSchema, f"/v1/searches/{_segment(search_id)}/recommendation", query)

    def waterline(
        self,
        search_id: str,
        arch: str,
        origin: str = "search",
        device: str | None = None,
        flops_per_s: float | None = None,
        bytes_per_s: float | None = None,
    ) -> WaterlineSchema:
        """Which layers of a candidate are bound by memory on a device, and what fusing its blocks would save at best:
        by given figures of the machine, else by those of the device."""
        path = f"/v1/searches/{_segment(search_id)}/candidates/{_segment(arch)}/waterline"
        query = {"origin": origin, "device": device, "flops_per_s": flops_per_s, "bytes_per_s": bytes_per_s}
        return self._get(WaterlineSchema, path, query)

    def scaled(
        self,
        search_id: str,
        arch: str,
        limit: float,
        bound: str = "latency",
        origin: str = "search",
        alpha: float | None = None,
        device: str | None = None,
    ) -> ScaledNetworkSchema:
        """A candidate scaled up or down to at most ``limit`` ms of ``latency``, ``macs`` or ``params``. ``alpha``: how
        much of it is width, 0 to 1; by default 0.8."""
        path = f"/v1/searches/{_segment(search_id)}/candidates/{_segment(arch)}/scaled"
        query: dict[str, str | float | None] = {"limit": limit, "bound": bound, "origin": origin, "device": device}
        return self._get(ScaledNetworkSchema, path, query if alpha is None else {**query, "alpha": alpha})

    def importance(self, search_id: str, metric: str | None = None) -> ImportanceReport:
        """Which decisions of a search's space matter for a metric; without one, for the estimate of its quality."""
        return self._get(ImportanceReport, f"/v1/searches/{_segment(search_id)}/importance", {"metric": metric})

    def marks(self, search_id: str) -> list[MarkSchema]:
        """The stars and notes of a search and of its candidates."""
        return self._list(MarkSchema, f"/v1/searches/{_segment(search_id)}/marks")

    def set_mark(self, search_id: str, body: MarkBody, arch: str | None = None) -> MarkSchema:
        """Replace star and note of a candidate, or of the search itself (None)."""
        candidate = "" if arch is None else f"/candidates/{_segment(arch)}"
        return self._put(MarkSchema, f"/v1/searches/{_segment(search_id)}{candidate}/mark", body)

    def candidates(
        self,
        search_id: str,
        origin: str | None = None,
        status: str | None = None,
        order: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        device: str | None = None,
    ) -> CandidatePage:
        """A page of candidates in the ``order`` of a metric, descending with ``-`` in front; None: the best estimates
        of the task's quality first.

        ``device``: with the latencies of this device of the fleet.
        """
        query = {
            "origin": origin,
            "status": status,
            "order": order,
            "limit": limit,
            "cursor": cursor,
            "device": device,
        }
        return self._get(CandidatePage, f"/v1/searches/{_segment(search_id)}/candidates", query)

    def candidate(self, search_id: str, arch: str, origin: str = "search") -> CandidateDetailSchema:
        """One candidate with its choices, layers, metrics and files."""
        return self._get(
            CandidateDetailSchema, f"/v1/searches/{_segment(search_id)}/candidates/{_segment(arch)}", {"origin": origin}
        )

    def artifacts(self, search_id: str) -> list[ArtifactSchema]:
        """The exported files of a search."""
        return self._list(ArtifactSchema, f"/v1/searches/{_segment(search_id)}/artifacts")

    def make_cascade(
        self, search_id: str, bounds: CascadeBounds | None = None, key: str | None = None
    ) -> CascadeSchema:
        """Have a worker make a cascade of the exported models of a search: a fast one answers where it is sure, others
        elsewhere. ``key`` as for ``submit``."""
        path = f"/v1/searches/{_segment(search_id)}/cascades"
        return self._submit(CascadeSchema, path, bounds or CascadeBounds(), key)

    def cascades(self, search_id: str) -> list[CascadeSchema]:
        """The cascades of a search, the newest first."""
        return self._list(CascadeSchema, f"/v1/searches/{_segment(search_id)}/cascades")

    def cascade(self, search_id: str, cascade_id: str) -> CascadeSchema:
        """One cascade; ``download`` takes its ``file`` once it was made."""
        return self._get(CascadeSchema, f"/v1/searches/{_segment(search_id)}/cascades/{_segment(cascade_id)}")

    def delete_cascade(self, search_id: str, cascade_id: str) -> None:
        """Delete a cascade; if it is being made, that stops."""
        self._request("DELETE", f"/v1/searches/{_segment(search_id)}/cascades/{_segment(cascade_id)}")

    def download(self, artifact: ArtifactSchema | CascadeFileSchema, path: Path) -> Path:
        """Write the file to ``path`` atomically.

        Raises StorageError if its sha256 differs or if it cannot be written.
        """
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        digest = hashlib.sha256()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with (
                partial.open("xb") as file,
                self._transport_errors(),
                self._http.stream("GET", artifact.url, headers=self._headers) as response,
            ):
                self._check(response)
                for chunk in response.iter_bytes():
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != artifact.sha256:
                raise errors.StorageError(
                    f"{artifact.name} is damaged: expected sha256 {artifact.sha256}, got {digest.hexdigest()}"
                )
            partial.replace(path)
        except OSError as error:
            raise errors.StorageError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):  # the reason has been raised already
                partial.unlink(missing_ok=True)
        return path

    def events(self, search_id: str, after: int = 0, limit: int = 500, kind: str | None = None) -> EventPage:
        """Events of a search after a number, oldest first; all kinds, or one such as ``status``."""
        query = {"after": after, "limit": limit, "kind": kind}
        return self._get(EventPage, f"/v1/searches/{_segment(search_id)}/events", query)

    def logs(self, search_id: str, after: int = 0, limit: int = 500) -> LogPage:
        """The log of a search in words, after an event's number, oldest first."""
        return self._get(LogPage, f"/v1/searches/{_segment(search_id)}/logs", {"after": after, "limit": limit})

    def watch(self, search_id: str, after: int = 0, stop: Callable[[], bool] = lambda: False) -> Iterator[EventSchema]:
        """Events as they are appended, until the search has ended; reconnects if the connection is lost.

        ``stop`` ends it earlier: it is called for each line of the stream, at least every 15 seconds.
        """
        return self._watch(f"/v1/searches/{_segment(search_id)}/events", after, stop)

    # Devices

    def devices(self) -> list[DeviceSchema]:
        """All devices."""
        return self._list(DeviceSchema, "/v1/devices")

    def device(self, name: str) -> DeviceSchema:
        """One device with its predictors."""
        return self._get(DeviceSchema, f"/v1/devices/{_segment(name)}")

    def add_device(self, spec: DeviceSpec, key: str | None = None) -> DeviceSchema:
        """Start the onboarding of a device. ``key`` as for ``submit``."""
        return self._submit(DeviceSchema, "/v1/devices", spec, key)

    def upload_table(self, data: bytes, name: str) -> LatencyTableSchema:
        """Upload a CSV, JSON or Parquet file of latencies. Raises InvalidInput for another suffix."""
        media_type = MEDIA_TYPES.get(Path(name).suffix.lower())
        if media_type is None:
            raise errors.InvalidInput(f"expected a table in a file {', '.join(MEDIA_TYPES)}, got {name!r}")
        headers = {"Content-Type": media_type}
        return self._read(
            TypeAdapter(LatencyTableSchema), self._request("POST", "/v1/tables", headers=headers, content=data)
        )

    def watch_device(self, name: str, after: int = 0) -> Iterator[EventSchema]:
        """Events of a device's onboarding, until it has ended."""
        return self._watch(f"/v1/devices/{_segment(name)}/events", after)

    def delete_device(self, name: str) -> None:
        """Delete a device with its onboardings and predictors."""
        self._request("DELETE", f"/v1/devices/{_segment(name)}")

    def rename_device(self, name: str, new_name: str) -> DeviceSchema:
        """Rename a device."""
        return self._put(DeviceSchema, f"/v1/devices/{_segment(name)}/name", RenameBody(name=new_name))

    def transfer_device(self, name: str, owner: str) -> DeviceSchema:
        """Give a device and its agent to another owner."""
        return self._put(DeviceSchema, f"/v1/devices/{_segment(name)}/owner", OwnerBody(owner=owner))

    def create_agent_token(self, name: str) -> CreatedTokenSchema:
        """Create a token that measures on a device and does nothing else. Only this response contains its secret."""
        return self._post(CreatedTokenSchema, f"/v1/agents/{_segment(name)}/token")

    def onboardings(
        self, device: str | None = None, status: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> OnboardingPage:
        """A page of onboardings, newest first."""
        query = {"device": device, "status": status, "limit": limit, "cursor": cursor}
        return self._get(OnboardingPage, "/v1/onboardings", query)

    def onboarding(self, onboarding_id: str) -> OnboardingSchema:
        """One onboarding, with its stages."""
        return self._get(OnboardingSchema, f"/v1/onboardings/{_segment(onboarding_id)}")

    def watch_onboarding(self, onboarding_id: str, after: int = 0) -> Iterator[EventSchema]:
        """Events of an onboarding, until it has ended."""
        return self._watch(f"/v1/onboardings/{_segment(onboarding_id)}/events", after)

    def pause_onboarding(self, onboarding_id: str) -> OnboardingSchema:
        """Pause an onboarding: at once if it waits, else after its next stored result."""
        return self._post(OnboardingSchema, f"/v1/onboardings/{_segment(onboarding_id)}/pause")

    def resume_onboarding(self, onboarding_id: str) -> OnboardingSchema:
        """Continue a paused onboarding."""
        return self._post(OnboardingSchema, f"/v1/onboardings/{_segment(onboarding_id)}/resume")

    def cancel_onboarding(self, onboarding_id: str) -> OnboardingSchema:
        """Stop an onboarding now; predictors of earlier ones remain in use."""
        return self._post(OnboardingSchema, f"/v1/onboardings/{_segment(onboarding_id)}/cancel")

    def retry_onboarding(self, onboarding_id: str) -> OnboardingSchema:
        """Continue a failed, cancelled or quarantined onboarding."""
        return self._post(OnboardingSchema, f"/v1/onboardings/{_segment(onboarding_id)}/retry")

    def set_onboarding_priority(self, onboarding_id: str, priority: int) -> OnboardingSchema:
        """Set an onboarding's priority among the jobs of its owner: higher runs first."""
        path = f"/v1/onboardings/{_segment(onboarding_id)}/priority"
        return self._put(OnboardingSchema, path, PriorityBody(priority=priority))

    def delete_onboarding(self, onboarding_id: str) -> None:
        """Delete an onboarding that has ended or is paused and made no predictor."""
        self._request("DELETE", f"/v1/onboardings/{_segment(onboarding_id)}")

    def versions(self, device: str) -> list[PredictorVersionSchema]:
        """All versions of a device's predictors, newest first."""
        return self._list(PredictorVersionSchema, f"/v1/devices/{_segment(device)}/versions")

    def drift(self, device: str) -> Drift:
        """The drift of a device since it was profiled."""
        return self._get(Drift, f"/v1/devices/{_segment(device)}/drift")

    def compare(self, first: str, second: str, space: str | None = None) -> DeviceComparisonSchema:
        """Compare two devices."""
        query = {"other": second, "space": space}
        return self._get(DeviceComparisonSchema, f"/v1/devices/{_segment(first)}/comparison", query)

    def agents(self) -> list[AgentSchema]:
        """All agents, with the time of their last request."""
        return self._list(AgentSchema, "/v1/agents")

    def predictors(self, device: str | None = None) -> list[PredictorCardSchema]:
        """Predictor cards, newest first."""
        return self._list(PredictorCardSchema, "/v1/predictors", {"device": device})

    def predictor(self, predictor_id: str) -> PredictorCardSchema:
        """One predictor card."""
        return self._get(PredictorCardSchema, f"/v1/predictors/{_segment(predictor_id)}")

    # Data sets with names

    def data_sets(self) -> list[NamedDataSchema]:
        """The data sets that the caller has added; for an administrator, those of all owners."""
        return self._list(NamedDataSchema, "/v1/data")

    def data_set(self, name: str) -> NamedDataSchema:
        """One of them, with the account of its images as of its last check."""
        return self._get(NamedDataSchema, f"/v1/data/{_segment(name)}")

    def upload_data(self, path: Path, filename: str | None = None) -> DataFileSchema:
        """Upload a zip file of images in folders, or an .npz file, part by part. ``filename``: what to call it, if not
        as it is called. Raises InvalidInput if it cannot be read."""
        try:
            with path.open("rb") as file:
                headers, query = {"Content-Type": "application/octet-stream"}, {"filename": filename or path.name}
                answer = self._request("POST", "/v1/data-files", headers=headers, content=file, params=query)
        except OSError as error:
            raise errors.InvalidInput(f"cannot read {path}: {error.strerror or error}") from error
        return self._read(TypeAdapter(DataFileSchema), answer)

    def add_data(self, name: str, data: DataSpec) -> NamedDataSchema:
        """Give a data set a name that specs can use; it is checked first."""
        return self._post(NamedDataSchema, "/v1/data", NamedDataBody(name=name, data=data), timeout=_CHECKED_S)

    def check_data(self, name: str) -> DataCheckSchema:
        """Read a data set again: whether it has changed, and whether searches would refuse it."""
        return self._post(DataCheckSchema, f"/v1/data/{_segment(name)}/check", timeout=_CHECKED_S)

    def data_samples(self, name: str) -> bytes:
        """A PNG with images of each of the first classes."""
        return self._request("GET", f"/v1/data/{_segment(name)}/samples").content

    def delete_data(self, name: str) -> None:
        """Delete the name of a data set, and what was uploaded for it unless a search has read it."""
        self._request("DELETE", f"/v1/data/{_segment(name)}")

    # Models

    def models(self) -> list[UserModelSchema]:
        """The models of the caller; for an administrator, of all owners."""
        return self._list(UserModelSchema, "/v1/models")

    def model(self, name: str) -> UserModelDetailSchema:
        """One model with its intake report."""
        return self._get(UserModelDetailSchema, f"/v1/models/{_segment(name)}")

    def upload_model_file(self, path: Path, filename: str | None = None) -> UploadedFile:
        """Upload a file of a model, part by part. ``filename``: what to call it, if not as it is called. Raises
        InvalidInput if it cannot be read."""
        try:
            if path.stat().st_size == 0:
                raise errors.InvalidInput(f"{filename or path.name}: expected a file of a model, got an empty one")
            with path.open("rb") as file:
                headers = {"Content-Type": "application/octet-stream"}
                answer = self._request("POST", "/v1/model-files", headers=headers, content=file)
        except OSError as error:
            raise errors.InvalidInput(f"cannot read {path}: {error.strerror or error}") from error
        return UploadedFile(blob=self._read(TypeAdapter(UploadSchema), answer).blob, filename=filename or path.name)

    def add_model(self, spec: ModelSpec, key: str | None = None) -> UserModelSchema:
        """Start the intake of a model whose file was uploaded before. ``key`` as for ``submit``."""
        return self._submit(UserModelSchema, "/v1/models", spec, key)

    def watch_model(self, name: str, after: int = 0) -> Iterator[EventSchema]:
        """Events of a model's intake, until it has ended."""
        return self._watch(f"/v1/models/{_segment(name)}/events", after)

    def cancel_intake(self, name: str) -> UserModelSchema:
        """Stop the intake of a model now."""
        return self._post(UserModelSchema, f"/v1/models/{_segment(name)}/cancel")

    def retry_intake(self, name: str) -> UserModelSchema:
        """Take a model in again whose intake has failed, was cancelled or was quarantined."""
        return self._post(UserModelSchema, f"/v1/models/{_segment(name)}/retry")

    def delete_model(self, name: str) -> None:
        """Delete a model that no search and no device refers to."""
        self._request("DELETE", f"/v1/models/{_segment(name)}")

    # Access and the audit log

    def me(self) -> PrincipalSchema:
        """The authenticated caller."""
        return self._get(PrincipalSchema, "/v1/me")

    def tokens(self) -> list[TokenSchema]:
        """All tokens, without their secrets."""
        return self._list(TokenSchema, "/v1/tokens")

    def create_token(
        self,
        owner: str,
        name: str,
        scopes: Sequence[Scope],
        expires_at: datetime | None = None,
        device: str | None = None,
    ) -> CreatedTokenSchema:
        """Create a token. Only this response contains its secret. The scope ``agent`` stands alone, with the ``device``
        that the token is for."""
        body = TokenBody(owner=owner, name=name, scopes=list(scopes), expires_at=expires_at, device=device)
        return self._post(CreatedTokenSchema, "/v1/tokens", body)

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token. This cannot be undone."""
        self._request("DELETE", f"/v1/tokens/{_segment(token_id)}")

    def open_session(self) -> SessionSchema:
        """Open a session with the client's token. Its secret authenticates in place of the token, until it is ended."""
        return self._post(SessionSchema, "/v1/sessions")

    def end_session(self) -> None:
        """End the session that the client authenticates with."""
        self._request("DELETE", "/v1/sessions/current")

    def quotas(self) -> list[QuotaSchema]:
        """Every owner's limits and use."""
        return self._list(QuotaSchema, "/v1/quotas")

    def set_quota(self, owner: str, body: QuotaLimits) -> QuotaSchema:
        """Set the limits of an owner."""
        return self._put(QuotaSchema, f"/v1/quotas/{_segment(owner)}", body)

    def audit(self, limit: int = 50, cursor: str | None = None, owner: str | None = None) -> AuditPage:
        """A page of the audit log, newest first."""
        return self._get(AuditPage, "/v1/audit", {"limit": limit, "cursor": cursor, "owner": owner})

    def workers(self) -> list[WorkerSchema]:
        """The connected workers with the resources of their nodes, total and free."""
        return self._list(WorkerSchema, "/v1/workers")

    def ready(self) -> ReadinessSchema:
        """Whether the service can serve requests and run searches now, with the result of each check."""
        with self._transport_errors():
            response = self._http.get("/readyz")
        if response.status_code != 503:  # not ready; the body is the same
            self._check(response)
        return self._read(TypeAdapter(ReadinessSchema), response)

    # Plumbing

    def _get(self, schema: type[T], path: str, query: Mapping[str, QueryValue] | None = None) -> T:
        return self._read(TypeAdapter(schema), self._request("GET", path, params=_non_null(query)))

    def _list(self, view: type[V], path: str, query: Mapping[str, QueryValue] | None = None) -> list[V]:
        adapter: TypeAdapter[list[V]] = TypeAdapter(list[view])  # type: ignore[valid-type]
        return self._read(adapter, self._request("GET", path, params=_non_null(query)))

    def _post(self, view: type[V], path: str, body: BaseModel | None = None, **kwargs: Any) -> V:
        sparse = isinstance(body, ExtendBody | ForkBody)
        payload = body.model_dump(mode="json", exclude_none=sparse) if body is not None else None
        if payload is not None and isinstance(body, SearchSpec | DeviceSpec | ModelSpec) and body.data is not None:
            payload["data"] = _given(body.data)
        return self._read(TypeAdapter(view), self._request("POST", path, json=payload, **kwargs))

    def _submit(self, view: type[V], path: str, body: BaseModel, key: str | None, **kwargs: Any) -> V:
        """Post with an idempotency key, once more if the answer is lost: the service may have done what was asked.

        Raises Unreachable, with the key to repeat the request by, if the second answer is lost, too.
        """
        key = key or secrets.token_hex(16)
        for attempt in range(SUBMISSION_ATTEMPTS):
            try:
                return self._post(view, path, body, headers={"Idempotency-Key": key}, **kwargs)
            except Unreachable as error:
                if isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout):  # it was never sent
                    raise
                if attempt == SUBMISSION_ATTEMPTS - 1:
                    raise Unreachable(f"{error}. It may have been accepted: repeat it with the key {key}") from error
        raise AssertionError("unreachable")

    def _put(self, view: type[V], path: str, body: BaseModel) -> V:
        return self._read(TypeAdapter(view), self._request("PUT", path, json=body.model_dump(mode="json")))

    def _request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **kwargs: Any
    ) -> httpx.Response:
        with self._transport_errors():
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
                f"the server at {self.url} is not an hwnas service of this version: {where}: {first['msg']}"
            ) from error

    @contextlib.contextmanager
    def _transport_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise Unreachable(f"the server at {self.url} took too long to answer") from error
        except httpx.TransportError as error:
            raise Unreachable(
                f"no server answers at {self.url} ({error or type(error).__name__}); start one with: nas serve"
            ) from error

    def _check(self, response: httpx.Response) -> None:
        """Raise the error of an unsuccessful response."""
        if response.is_success:
            return
        try:
            answer = ErrorSchema.model_validate_json(response.read())
        except ValidationError as error:
            raise UnexpectedAnswer(
                f"{self.url} answered {response.status_code} {response.reason_phrase} to {response.request.method} "
                f"{response.request.url.path}, unlike an hwnas service"
            ) from error
        raise errors.error_of(answer.code, answer.message)

    def _watch(self, path: str, after: int, stop: Callable[[], bool] = lambda: False) -> Iterator[EventSchema]:
        connected, failures = False, 0
        while not stop():
            try:
                for item in self._stream(path, after):
                    if item == "end" or stop():
                        return
                    connected = True
                    if item != "open":
                        failures = 0
                    if isinstance(item, EventSchema) and item.seq > after:
                        after = item.seq
                        yield item
            except httpx.TransportError:
                if not connected or failures == len(RETRY_DELAYS_S):
                    with self._transport_errors():
                        raise
                self._sleep(RETRY_DELAYS_S[failures])
                failures += 1

    def _stream(self, path: str, after: int) -> Iterator[EventSchema | Literal["open", "alive", "end"]]:
        """Server-sent events. Raises httpx.TransportError if the stream breaks before its ``end`` event."""
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
    """Complete lines, split at line feeds only: JSON text may contain other Unicode line separators."""
    incomplete = b""
    for chunk in chunks:
        *lines, incomplete = (incomplete + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")


def _segment(name: str) -> str:
    """A name as a segment of a path. Raises NotFound for an empty name, whose path would be that of a list."""
    if not name:
        raise errors.NotFound("expected a name or an id, got an empty text")
    return quote(name, safe="")


def _non_null(query: Mapping[str, QueryValue] | None) -> dict[str, QueryValue]:
    return {k: v for k, v in (query or {}).items() if v is not None}


def _given(data: DataSpec) -> dict[str, JsonValue]:
    """A data set as JSON, without a task and a seed that nobody gave: those of a data set with a name stay then."""
    return data.model_dump(mode="json", exclude={"task", "seed"} - data.model_fields_set)
