"""Searches: submitting, watching, and what comes out of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from nas.core.access import Principal
from nas.core.arch import Arch
from nas.core.errors import InvalidSpec, UnknownName
from nas.core.events import Origin
from nas.core.fronts import Front, compute_front
from nas.core.lifecycle import JobStatus
from nas.core.metrics import METRICS, OBJECTIVES, kind_of
from nas.core.spec import BudgetSpec, SearchSpec, parse_spec
from nas.schemas.candidates import (
    ArtifactSchema,
    CandidateDetailSchema,
    CandidatePage,
    FrontSchema,
    LayerSchema,
    ObjectiveSchema,
)
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.jobs import EventPage
from nas.schemas.searches import ExtendBody, ForkBody, PriorityBody, SearchPage, SearchSchema
from server.api import sse, validate
from server.api.access import By
from server.api.catalog import cells_of
from server.api.dry_runs import time_on_worker
from server.api.errors import responses
from server.api.other_device import seen_from
from server.api.parameters import EVENT_RESPONSES, Accept, After, Cursor, IdempotencyKey, LastEventId
from server.settings import Settings
from server.store.queries import front_keys, point_view
from server.store.store import Store

_EXAMPLE = {
    "name": "digits under 0.2 ms",
    "objectives": [{"name": "accuracy"}, {"name": "latency", "bound": 0.2}],
    "budget": {"evaluations": 240},
}


def routes(settings: Settings, store: Store, streams: sse.Streams) -> APIRouter:
    """The routes of searches."""
    router = APIRouter(tags=["searches"])
    known: dict[int | str, dict[str, Any]] = {200: {"model": SearchSchema, "description": "The key was known"}}

    def submit(
        spec: SearchSpec, key: str | None, parent: str | None, response: Response, by: Principal, priority: int = 0
    ) -> SearchSchema:
        record = spec.model_dump(mode="json")
        search_id = store.jobs.find("search", record, key, by.owner) if key is not None else None
        if search_id is not None:
            response.status_code = 200
        else:
            check(spec, by)
            report = validate.examine(spec, store)
            report.require_feasible()
            search_id = store.jobs.submit(
                "search",
                record,
                key,
                space_id=report.space.id,
                parent=parent,
                stages=report.stages,
                by=by,
                priority=priority,
            )
        return store.queries.search(search_id)

    def check(spec: SearchSpec, by: Principal) -> None:
        """Nobody reads a file or another's supernet by naming it in a spec."""
        validate.check_data_path(spec.data, settings)
        if spec.supernet is not None and not by.is_admin:
            known = store.queries.find_search(spec.supernet) is not None
            if known and store.queries.owner_of(spec.supernet) != by.owner:
                raise InvalidSpec(f"supernet: no search {spec.supernet!r}")

    @router.post(
        "/searches",
        status_code=201,
        response_model=SearchSchema,
        summary="Submit a search",
        responses={
            200: {"model": SearchSchema | DryRunSchema, "description": "The key was known; or a dry run"},
            **responses(400, 409, 413, 429, 507),
        },
    )
    async def submit_search(
        request: Request,
        spec: Annotated[SearchSpec, Body(examples=[_EXAMPLE])],
        response: Response,
        by: By,
        dry_run: Annotated[bool, Query(description="Only say what the search would meet; nothing is kept")] = False,
        measure: Annotated[bool, Query(description="Of a dry run: have a worker time some steps of it, too")] = True,
        wait_s: Annotated[float, Query(ge=0, le=600, description="How long a dry run may wait for its worker")] = 60.0,
        priority: Annotated[int, Query(ge=-100, le=100, description="Higher goes first among your searches")] = 0,
        idempotency_key: IdempotencyKey = None,
    ) -> Any:
        """Queues a search after checking everything that can be known beforehand: names, parameters, the device's
        predictor, and whether the bounds can be met."""
        if not dry_run:
            return await run_in_threadpool(submit, spec, idempotency_key, None, response, by, priority)
        await run_in_threadpool(check, spec, by)
        report = await run_in_threadpool(validate.examine, spec, store)
        view = report.view.model_copy(update={"cost_missing": "it was not asked for"})
        if measure:
            heard_s = 2 * settings.lease_seconds
            view = await time_on_worker(spec, report, store, by, wait_s, heard_s, request.is_disconnected)
        return JSONResponse(view.model_dump(mode="json"))

    @router.get("/searches", summary="All searches")
    def searches(
        by: By,
        status: JobStatus | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Cursor = None,
        owner: Annotated[str | None, Query(description="Only searches of this owner")] = None,
        parent: Annotated[str | None, Query(description="Only searches that go on from this one")] = None,
    ) -> SearchPage:
        """Your searches, newest first; an administrator's answer holds those of all owners."""
        return store.queries.searches(status, limit, cursor, owner if by.is_admin else by.owner, parent)

    @router.get("/searches/{id}", summary="One search", responses=responses(404))
    def search(id: str) -> SearchSchema:
        """A search with its stages, short of its networks."""
        return store.queries.search(id)

    @router.post("/searches/{id}/pause", summary="Pause a search", responses=responses(404, 409, 507))
    def pause(id: str, by: By) -> SearchSchema:
        """Parks a search: at once if it waits, else as soon as its next result is kept. Its worker is free then."""
        store.jobs.pause(store.queries.search_job(id), by)
        return store.queries.search(id)

    @router.post("/searches/{id}/resume", summary="Resume a search", responses=responses(404, 409, 507))
    def resume(id: str, by: By) -> SearchSchema:
        """Lets a paused search go on where it was parked."""
        store.jobs.resume(store.queries.search_job(id), by)
        return store.queries.search(id)

    @router.post("/searches/{id}/cancel", summary="Cancel a search", responses=responses(404, 409, 507))
    def cancel(id: str, by: By) -> SearchSchema:
        """Ends a search now. What it found is kept."""
        store.jobs.cancel(store.queries.search_job(id), by)
        return store.queries.search(id)

    @router.post("/searches/{id}/retry", summary="Retry a search", responses=responses(404, 409, 429, 507))
    def retry(id: str, by: By) -> SearchSchema:
        """Lets a search that failed, was cancelled or quarantined go on from its last checkpoint."""
        store.jobs.retry(store.queries.search_job(id), by)
        return store.queries.search(id)

    @router.put("/searches/{id}/priority", summary="Move in the queue", responses=responses(404, 409, 413, 507))
    def prioritise(id: str, body: PriorityBody, by: By) -> SearchSchema:
        """Higher goes first among the searches of one owner; between owners the queue is fair."""
        store.jobs.set_priority(store.queries.search_job(id), body.priority, by)
        return store.queries.search(id)

    @router.delete("/searches/{id}", status_code=204, summary="Delete a search", responses=responses(404, 409, 507))
    def delete(id: str, by: By) -> Response:
        """Removes a search that is paused or has ended, with everything it found."""
        store.jobs.delete(store.queries.search_job(id), by)
        return Response(status_code=204)

    @router.post(
        "/searches/{id}/extend",
        status_code=201,
        summary="Go on from a trained search",
        responses={**known, **responses(400, 404, 409, 413, 429, 507)},
    )
    def extend(
        id: str, body: ExtendBody, response: Response, by: By, idempotency_key: IdempotencyKey = None
    ) -> SearchSchema:
        """A new search on the same trained supernet: another budget, device, seed or other bounds, and no training."""
        parent = store.queries.search(id)
        return submit(_extended(parent.id, parent.spec, body), idempotency_key, parent.id, response, by)

    @router.post(
        "/searches/{id}/fork",
        status_code=201,
        summary="A new search on the same supernet",
        responses={**known, **responses(400, 404, 409, 413, 429, 507)},
    )
    def fork(
        id: str, body: ForkBody, response: Response, by: By, idempotency_key: IdempotencyKey = None
    ) -> SearchSchema:
        """Whatever the body gives replaces the parent's; the rest stays, and the supernet is not trained again."""
        parent = store.queries.search(id)
        return submit(_forked(parent.id, parent.spec, body), idempotency_key, parent.id, response, by)

    @router.get(
        "/searches/{id}/front", summary="The Pareto front", response_model=FrontSchema, responses=responses(404)
    )
    def front(
        id: str,
        device: Annotated[
            str | None, Query(description="As one device of the fleet has it, or as predicted for any other device")
        ] = None,
        bound_ms: Annotated[float | None, Query(gt=0, description="A further bound on latency")] = None,
        objectives: Annotated[
            str | None, Query(description=f"2 to 4 of {', '.join(OBJECTIVES)}, with commas between")
        ] = None,
    ) -> Response:
        """The front of the search and that of its random baseline, over the same axes."""
        spec, table, finished = store.queries.evaluated(id)
        names = objectives.split(",") if objectives is not None else None
        if device is not None and device not in spec.devices:
            spec, table, finished = seen_from(device, spec, table, finished, store)
        device = device or (spec.device if spec.fleet is None else spec.views[0])
        view = _front_view(
            id, spec, compute_front(spec, table, finished, names, bound_ms, device), store.queries.virtual(spec), device
        )
        return Response(view.model_dump_json(), media_type="application/json")  # as it is: a front may be long

    @router.get("/searches/{id}/candidates", summary="All evaluated networks", responses=responses(404))
    def candidates(
        id: str,
        origin: Origin | None = None,
        status: Literal["unverified", "verified", "violated"] | None = None,
        order: Annotated[str, Query(description="`position` or a metric; `-` in front: falling")] = "-val_accuracy",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Cursor = None,
        device: Annotated[str | None, Query(description="As this device of the fleet has them")] = None,
    ) -> CandidatePage:
        """Evaluated networks of the search and its baseline; those without the metric come last."""
        return store.queries.candidates(id, origin, status, order, limit, cursor, device)

    @router.get("/searches/{id}/subnets/{arch}", summary="One network", responses=responses(404))
    def subnet(id: str, arch: str, origin: Origin = "search") -> CandidateDetailSchema:
        """A network in full: its choices, layers, metrics and files."""
        point = store.queries.point(id, arch, origin)
        spec = store.queries.search(id).spec
        space = validate.space_of(spec.space, spec.data)
        which = Arch(space.name, tuple(point.genes))
        return CandidateDetailSchema(
            point=point,
            choices={d.name: d.choices[g] for d, g in zip(space.decisions, point.genes, strict=True)},
            input_shape=space.input_shape(which),
            layers=[LayerSchema(**vars(layer)) for layer in space.layers(which)],
            artifacts=store.queries.artifacts(id, arch),
            cells=cells_of(space, which),
        )

    @router.get("/searches/{id}/artifacts", summary="All files of a search", responses=responses(404))
    def artifacts(id: str) -> list[ArtifactSchema]:
        """Models, weights, manifests and cards of exported networks."""
        return store.queries.artifacts(id)

    @router.get(
        "/searches/{id}/artifacts/{arch}/{name}",
        summary="Download a file",
        response_class=Response,
        responses={
            200: {"content": {"application/octet-stream": {}}, "description": "The file; its ETag is its sha256"},
            304: {"description": "Not changed since the ETag in If-None-Match"},
            **responses(404, 507),
        },
    )
    def download(
        id: str, arch: str, name: str, if_none_match: Annotated[str | None, Header(include_in_schema=False)] = None
    ) -> Response:
        """The file, verified against its sha256 before it is sent."""
        view = store.queries.artifact(id, arch, name)
        headers = {"ETag": f'"{view.sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
        if if_none_match is not None and view.sha256 in if_none_match:
            return Response(status_code=304, headers=headers)
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(f'{arch}-{name}', safe='')}"
        headers["X-Content-Type-Options"] = "nosniff"
        return Response(store.blobs.get(view.sha256), media_type=view.media_type, headers=headers)

    @router.get(
        "/searches/{id}/events",
        summary="The events of a search",
        response_model=EventPage,
        responses=EVENT_RESPONSES,
    )
    def events(
        id: str,
        by: By,
        after: After = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 500,
        kind: Annotated[str | None, Query(description="Only events of this kind, such as `status`")] = None,
        accept: Accept = "",
        last_event_id: LastEventId = None,
    ) -> Any:
        """The log, oldest first. Old progress events are thinned out; all others stay."""
        job = store.queries.search_job(id)
        start = after if last_event_id is None else last_event_id
        return sse.events(streams, lambda n, size: store.queries.events(job, n, size, kind), accept, start, limit, by)

    return router


EXTENSION = BudgetSpec(evaluations=24, verified=12)


def _extended(search_id: str, spec: SearchSpec, body: ExtendBody) -> SearchSpec:
    """The child's spec. Raises UnknownName for a bound on something that is no objective, InvalidSpec otherwise."""
    record = spec.model_dump(mode="json")
    bounds = body.bounds or {}
    objectives: list[str] = [o.name for o in spec.objectives]
    for name in bounds:
        if name not in objectives:
            raise UnknownName("objective", name, objectives)
    record["supernet"] = search_id
    record["retrain"] = None  # an extension trains nothing
    record["name"] = body.name if body.name is not None else f"{spec.name[:109]}, extended"
    record["objectives"] = [{**o, "bound": bounds.get(o["name"], o["bound"])} for o in record["objectives"]]
    # Inherited estimates count too, so a child that only moves a bound needs few more: it answers in seconds.
    budget = record["budget"]
    budget["evaluations"] = body.evaluations or min(EXTENSION.evaluations, budget["evaluations"])
    budget["verified"] = min(EXTENSION.verified, budget["verified"])
    record |= {"seed": body.seed} if body.seed is not None else {}
    return parse_spec(SearchSpec, record | _devices(body, spec, moved="latency" in bounds))


def _forked(search_id: str, spec: SearchSpec, body: ForkBody) -> SearchSpec:
    before = spec.bound("latency")
    wanted = {o.name: o.bound for o in body.objectives} if body.objectives is not None else {"latency": before}
    moved = wanted.get("latency", 0.0) not in (before, None)  # or latency is no objective any more
    given = body.model_dump(mode="json", exclude_none=True) | _devices(body, spec, moved)
    name = {"name": f"{spec.name[:111]}, forked"}
    return parse_spec(SearchSpec, {**spec.model_dump(mode="json"), **name, **given, "supernet": search_id})


def _devices(body: ExtendBody | ForkBody, spec: SearchSpec, moved: bool) -> dict[str, Any]:
    """The devices of a child: those it names, or its parent's. A bound on latency that has ``moved`` takes the place of
    all that the parent's fleet had."""
    if body.device is not None and body.fleet is not None:
        raise InvalidSpec("expected device or fleet, got both")
    if body.device is not None:
        return {"device": body.device, "fleet": None}
    fleet = body.fleet or spec.fleet
    if fleet is None:
        return {}
    if body.fleet is None and moved:
        fleet = fleet.model_copy(update={"bounds_ms": {}})
    return {"device": fleet.devices[0], "fleet": fleet.model_dump(mode="json")}


def _front_view(
    search_id: str, spec: SearchSpec, front: Front, virtual: Collection[str], device: str | None
) -> FrontSchema:
    members = front_keys(front)
    estimated = device in virtual if device is not None else bool(virtual)
    seen = spec if device is None else spec.on(device)
    bounds: dict[str, float | None] = {o.name: o.bound for o in seen.objectives}
    if device is None and spec.by_share:
        bounds["latency"] = 100.0
    return FrontSchema(
        search=search_id,
        device=device,
        final=front.final,
        objectives=[
            ObjectiveSchema(
                objective=objective,
                metric=metric,
                label=METRICS[metric].label,
                unit=METRICS[metric].unit,
                kind=kind_of(metric, estimated),
                goal=METRICS[metric].goal,
                bound=bounds.get(objective) if metric != "proxy_score" else None,
            )
            for objective, metric in zip(front.objectives, front.metrics, strict=True)
        ],
        points=[point_view(p, p.key in members, virtual, device) for p in front.members],
        baseline=[point_view(p, p.key in members, virtual, device) for p in front.baseline],
        hypervolume=front.hypervolume,
        baseline_hypervolume=front.baseline_hypervolume,
        reference=list(front.reference),
    )
