"""Searches: submit, follow, control and delete them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from nas.core.lifecycle import JobStatus
from nas.core.spec import SearchSpec
from nas.engine import check_same_data
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.jobs import EventPage
from nas.schemas.searches import ExtendBody, ForkBody, PriorityBody, SearchPage, SearchSchema
from server.api import validate
from server.api.access import CurrentPrincipal
from server.api.child_specs import evaluation_spec, extended_spec, forked_spec
from server.api.context import Context, CurrentStore
from server.api.data_check import report_of
from server.api.data_paths import check_data_path
from server.api.dry_runs import time_on_worker
from server.api.errors import OpenApiResponses, responses
from server.api.event_log import EventLog
from server.api.named_data import resolve
from server.api.parameters import EVENT_RESPONSES, Cursor, IdempotencyKey

_EXAMPLE = {
    "name": "digits under 0.2 ms",
    "objectives": [{"name": "accuracy"}, {"name": "latency", "bound": 0.2}],
    "budget": {"evaluations": 240},
}
_KEY_EXISTS: OpenApiResponses = {200: {"model": SearchSchema, "description": "The idempotency key exists"}}

router = APIRouter(tags=["searches"])


@dataclass(frozen=True)
class SubmissionService:
    """Checks specs for one caller and queues searches."""

    context: Context
    principal: CurrentPrincipal

    def resolved(self, spec: SearchSpec) -> SearchSpec:
        """The spec with what the name of its data stands for. Raises UnknownName and InvalidSpec."""
        return spec.model_copy(update={"data": resolve(spec.data, self.context.store, self.principal)})

    def check(self, spec: SearchSpec) -> validate.SubmissionReport:
        """Check a spec in full. Raises InvalidSpec, UnknownName or InvalidData."""
        check_data_path(spec.data, self.context.settings)
        return validate.examine(spec, self.context.store, self.principal)

    def submit(
        self, spec: SearchSpec, key: str | None, response: Response, parent: str | None = None, priority: int = 0
    ) -> SearchSchema:
        """Queue a search, or return the one submitted with the same ``key`` and set the status 200."""
        store, owner = self.context.store, self.principal.owner
        spec = self.resolved(spec)
        search_id = store.jobs.find(spec, key, owner) if key is not None else None
        if search_id is not None:
            response.status_code = 200
            return store.queries.search(search_id)
        report = self.check(spec)
        report.require_feasible()
        search_id = store.jobs.submit(
            spec,
            key,
            space_id=report.space.id,
            parent=parent,
            stages=report.stages,
            by=self.principal,
            priority=priority,
        )
        return store.queries.search(search_id)

    def require_same_data(self, search: SearchSchema) -> None:
        """Raise DataChanged if the data of a search that is to go on are not those that it has read."""
        if search.data is not None and search.spec.data.path is not None:
            report = report_of(search.spec.data)
            report.require_usable()
            if report.content_hash is not None:
                check_same_data(search.data.content_hash, report.content_hash, "when this search began")

    async def dry_run(self, spec: SearchSpec, measure: bool, wait_s: float, request: Request) -> DryRunSchema:
        """Report what the search would meet; with ``measure``, a worker estimates its cost within ``wait_s``."""
        spec = await run_in_threadpool(self.resolved, spec)
        report = await run_in_threadpool(self.check, spec)
        if not measure:
            return report.dry_run.model_copy(update={"cost_missing": "it was not requested"})
        limit_s = self.context.heartbeat_limit_s
        return await time_on_worker(
            spec, report, self.context.store, self.principal, wait_s, limit_s, request.is_disconnected
        )


async def _submission_service(context: Context, principal: CurrentPrincipal) -> SubmissionService:
    return SubmissionService(context, principal)


Submissions = Annotated[SubmissionService, Depends(_submission_service)]


@router.post(
    "/searches",
    status_code=201,
    response_model=SearchSchema,
    summary="Submit a search",
    responses={
        200: {"model": SearchSchema | DryRunSchema, "description": "The idempotency key exists; or a dry run"},
        **responses(400, 409, 413, 429, 507),
    },
)
async def submit_search(
    request: Request,
    spec: Annotated[SearchSpec, Body(examples=[_EXAMPLE])],
    response: Response,
    submissions: Submissions,
    dry_run: Annotated[bool, Query(description="Only report what the search would meet; queue nothing")] = False,
    measure: Annotated[bool, Query(description="Of a dry run: also time some steps of it on a worker")] = True,
    wait_s: Annotated[float, Query(ge=0, le=600, description="How long a dry run may wait for its worker")] = 60.0,
    priority: Annotated[int, Query(ge=-100, le=100, description="Higher runs first among your searches")] = 0,
    idempotency_key: IdempotencyKey = None,
) -> SearchSchema | JSONResponse:
    """Queue a search after checking all that can be checked in advance: names, parameters, the device's predictor, and
    whether the bounds can be met."""
    if dry_run:
        report = await submissions.dry_run(spec, measure, wait_s, request)
        return JSONResponse(report.model_dump(mode="json"))
    return await run_in_threadpool(submissions.submit, spec, idempotency_key, response, priority=priority)


@router.get("/searches", summary="List searches")
def list_searches(
    store: CurrentStore,
    principal: CurrentPrincipal,
    status: JobStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Cursor = None,
    owner: Annotated[str | None, Query(description="Only searches of this owner")] = None,
    parent: Annotated[str | None, Query(description="Only extensions and forks of this search")] = None,
    match: Annotated[
        str | None, Query(description="Only searches that this can mean: the beginning of an id, or a name")
    ] = None,
) -> SearchPage:
    """Your searches, newest first; for an administrator, the searches of all owners."""
    owner = owner if principal.is_admin else principal.owner
    return store.queries.searches(status, limit, cursor, owner, parent, match)


@router.get("/searches/{id}", summary="Get a search", responses=responses(404))
def get_search(id: str, store: CurrentStore) -> SearchSchema:
    """A search with its stages, without its candidates."""
    return store.queries.search(id)


@router.post("/searches/{id}/pause", summary="Pause a search", responses=responses(404, 409, 507))
def pause_search(id: str, store: CurrentStore, principal: CurrentPrincipal) -> SearchSchema:
    """Pause a queued search at once, and a running one after its next stored result, which frees its worker."""
    store.jobs.pause(store.queries.search_job(id), principal)
    return store.queries.search(id)


@router.post("/searches/{id}/resume", summary="Resume a search", responses=responses(400, 404, 409, 507))
def resume_search(id: str, store: CurrentStore, principal: CurrentPrincipal, submissions: Submissions) -> SearchSchema:
    """Continue a paused search where it was paused. Refused if its data have changed."""
    submissions.require_same_data(store.queries.search(id))
    store.jobs.resume(store.queries.search_job(id), principal)
    return store.queries.search(id)


@router.post("/searches/{id}/cancel", summary="Cancel a search", responses=responses(404, 409, 507))
def cancel_search(id: str, store: CurrentStore, principal: CurrentPrincipal) -> SearchSchema:
    """Stop a search now. Its results remain."""
    store.jobs.cancel(store.queries.search_job(id), principal)
    return store.queries.search(id)


@router.post("/searches/{id}/retry", summary="Retry a search", responses=responses(400, 404, 409, 429, 507))
def retry_search(id: str, store: CurrentStore, principal: CurrentPrincipal, submissions: Submissions) -> SearchSchema:
    """Continue a failed, cancelled or quarantined search from its last checkpoint. Refused if its data have changed."""
    submissions.require_same_data(store.queries.search(id))
    store.jobs.retry(store.queries.search_job(id), principal)
    return store.queries.search(id)


@router.put("/searches/{id}/priority", summary="Set the priority", responses=responses(404, 409, 413, 507))
def set_priority(id: str, body: PriorityBody, store: CurrentStore, principal: CurrentPrincipal) -> SearchSchema:
    """Higher runs first among the searches of one owner; between owners the queue is fair."""
    store.jobs.set_priority(store.queries.search_job(id), body.priority, principal)
    return store.queries.search(id)


@router.delete("/searches/{id}", status_code=204, summary="Delete a search", responses=responses(404, 409, 507))
def delete_search(id: str, store: CurrentStore, principal: CurrentPrincipal) -> Response:
    """Delete a search that is paused or has ended, with all its results."""
    store.jobs.delete(store.queries.search_job(id), principal)
    return Response(status_code=204)


@router.post(
    "/searches/{id}/extend",
    status_code=201,
    summary="Extend a search",
    responses={**_KEY_EXISTS, **responses(400, 404, 409, 413, 429, 507)},
)
def extend_search(
    id: str, body: ExtendBody, response: Response, submissions: Submissions, idempotency_key: IdempotencyKey = None
) -> SearchSchema:
    """Submit a new search on the same trained supernet with another budget, device, seed or bounds. No training."""
    parent = submissions.context.store.queries.search(id)
    return submissions.submit(extended_spec(parent.id, parent.spec, body), idempotency_key, response, parent.id)


@router.post(
    "/searches/{id}/fork",
    status_code=201,
    summary="Fork a search",
    responses={**_KEY_EXISTS, **responses(400, 404, 409, 413, 429, 507)},
)
def fork_search(
    id: str, body: ForkBody, response: Response, submissions: Submissions, idempotency_key: IdempotencyKey = None
) -> SearchSchema:
    """Submit a new search on the same trained supernet. The body's fields replace those of the parent's spec. With
    ``space``, networks of the parent's front are trained as networks of that space."""
    parent = submissions.context.store.queries.search(id)
    if body.space is not None:
        _, front = submissions.context.store.queries.front(parent.id)
        spec = evaluation_spec(parent.id, parent.spec, body, [member.arch.genes for member in front.members])
        return submissions.submit(spec, idempotency_key, response, parent.id)
    return submissions.submit(forked_spec(parent.id, parent.spec, body), idempotency_key, response, parent.id)


@router.get(
    "/searches/{id}/events", summary="The events of a search", response_model=EventPage, responses=EVENT_RESPONSES
)
def list_events(
    id: str,
    log: EventLog,
    store: CurrentStore,
    kind: Annotated[str | None, Query(description="Only events of this kind, such as `status`")] = None,
) -> EventPage | EventSourceResponse:
    """The log, oldest first. Old progress events are thinned out; all other events are kept."""
    return log.answer(store.queries.search_job(id), kind)
