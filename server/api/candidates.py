"""Results of searches: fronts, candidates and exported files."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Response

from nas.core.arch import Arch
from nas.core.device import Status
from nas.core.events import Origin
from nas.core.fronts import Front, compute_front
from nas.core.metrics import METRICS, OBJECTIVES, kind_of
from nas.core.network import summarise
from nas.core.references import reference_archs, reference_space
from nas.core.spec import SearchSpec
from nas.schemas.candidates import (
    ArtifactSchema,
    CandidateDetailSchema,
    CandidatePage,
    ConfusionSchema,
    FrontSchema,
    ObjectiveSchema,
)
from server.api import validate
from server.api.catalog import cells_of
from server.api.context import CurrentStore
from server.api.cross_device import predict_for_device
from server.api.errors import responses
from server.api.parameters import Cursor
from server.store.mapping import candidate_schema, front_keys
from server.store.store import Store

router = APIRouter(tags=["searches"])


@router.get("/searches/{id}/front", summary="The Pareto front", response_model=FrontSchema, responses=responses(404))
def get_front(
    id: str,
    store: CurrentStore,
    device: Annotated[
        str | None, Query(description="Latencies on this device of the fleet, or predicted for any other device")
    ] = None,
    bound_ms: Annotated[float | None, Query(gt=0, description="An additional bound on latency")] = None,
    objectives: Annotated[
        str | None, Query(description=f"2 to 4 of {', '.join(OBJECTIVES)}, separated by commas")
    ] = None,
) -> Response:
    """The front of the search, that of its random baseline over the same axes, and the references."""
    schema = front_schema(id, store, device, bound_ms, objectives)
    return Response(schema.model_dump_json(), media_type="application/json")  # not validated again: it may be long


def front_schema(
    search_id: str,
    store: Store,
    device: str | None = None,
    bound_ms: float | None = None,
    objectives: str | None = None,
) -> FrontSchema:
    """The fronts of a search as the API answers them. Raises NotFound, UnknownName or InvalidInput."""
    spec, front = _front(search_id, store, device, bound_ms, objectives)
    device = device or (spec.device if spec.fleet is None else spec.views[0])
    schema = _front_schema(search_id, spec, front, store.queries.roofline_devices(spec), device)
    if device is None or device in spec.devices:  # what was measured elsewhere says nothing of other devices
        schema.references = store.queries.references(search_id, device if spec.fleet is not None else None)
    return schema


def _front(
    search_id: str, store: Store, device: str | None, bound_ms: float | None, objectives: str | None
) -> tuple[SearchSpec, Front]:
    """The stored front; of another device, with another bound or over other objectives, one that is computed."""
    spec, stored = store.queries.front(search_id)
    names = objectives.split(",") if objectives is not None else None
    if device is not None and device not in spec.devices:
        spec, table, context = predict_for_device(device, spec, *store.queries.evaluated(search_id)[1:], store)
    elif bound_ms is None and names in (None, [o.name for o in spec.objectives]):
        return (spec, stored) if device is None else store.queries.front(search_id, device)
    else:
        spec, table, context = store.queries.deciding(search_id, names, device)
    device = device or (spec.device if spec.fleet is None else spec.views[0])
    return spec, compute_front(spec, table, context, names, bound_ms, device)


@router.get("/searches/{id}/candidates", summary="List candidates", responses=responses(404))
def list_candidates(
    id: str,
    store: CurrentStore,
    origin: Origin | None = None,
    status: Status | None = None,
    order: Annotated[
        str | None,
        Query(description="`position` or a metric; with a leading `-`: descending. Default: the best estimates first"),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Cursor = None,
    device: Annotated[str | None, Query(description="Latencies on this device of the fleet")] = None,
) -> CandidatePage:
    """Candidates of the search and its baseline; those without the metric come last."""
    return store.queries.candidates(id, origin, status, order, limit, cursor, device)


@router.get("/searches/{id}/candidates/{arch}", summary="Get a candidate", responses=responses(404))
def get_candidate(id: str, arch: str, store: CurrentStore, origin: Origin = "search") -> CandidateDetailSchema:
    """A candidate with its choices, layers, metrics and files."""
    candidate = store.queries.candidate(id, arch, origin)
    spec = store.queries.search(id).spec
    space = validate.space_of(spec.space, spec.data, spec.precision, store)
    if candidate.origin == "reference":
        space = next(
            (reference_space(spec, space, a) for a in reference_archs(spec, space).values() if a.id == arch), space
        )
    architecture = Arch(space.id, tuple(candidate.genes))
    artifacts = store.queries.artifacts(id, arch)
    return CandidateDetailSchema(
        candidate=candidate,
        choices={d.name: d.choices[g] for d, g in zip(space.decisions, candidate.genes, strict=True)},
        input_shape=space.input_shape(architecture),
        layers=[summarise(layer) for layer in space.layers(architecture)],
        artifacts=artifacts,
        cells=cells_of(space, architecture),
        class_recall=store.queries.class_recall(id, arch),
        confusion=ConfusionSchema.of(artifacts),
    )


@router.get("/searches/{id}/artifacts", summary="List the files of a search", responses=responses(404))
def list_artifacts(id: str, store: CurrentStore) -> list[ArtifactSchema]:
    """Models, weights, manifests and model cards of exported candidates."""
    return store.queries.artifacts(id)


@router.get(
    "/searches/{id}/artifacts/{arch}/{name}",
    summary="Download a file",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The file; its ETag is its sha256"},
        304: {"description": "Unchanged since the ETag in If-None-Match"},
        **responses(404, 507),
    },
)
def download_artifact(
    id: str,
    arch: str,
    name: str,
    store: CurrentStore,
    if_none_match: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """The file, verified against its sha256 before it is sent."""
    artifact = store.queries.artifact(id, arch, name)
    headers = {"ETag": f'"{artifact.sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if if_none_match is not None and artifact.sha256 in if_none_match:
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(f'{arch}-{name}', safe='')}"
    headers["X-Content-Type-Options"] = "nosniff"
    return Response(store.blobs.get(artifact.sha256), media_type=artifact.media_type, headers=headers)


def _front_schema(
    search_id: str, spec: SearchSpec, front: Front, virtual: Collection[str], device: str | None
) -> FrontSchema:
    members = front_keys(front)
    deciding = spec.task.deciding(spec.retrain is not None)
    estimated = device in virtual if device is not None else bool(virtual)
    spec_on_device = spec if device is None else spec.on(device)
    bounds: dict[str, float | None] = {o.name: o.bound for o in spec_on_device.objectives}
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
                decided_by=deciding if metric == spec.task.tested else None,
            )
            for objective, metric in zip(front.objectives, front.metrics, strict=True)
        ],
        members=[candidate_schema(p, p.key in members, virtual, device) for p in front.members],
        baseline=[candidate_schema(p, p.key in members, virtual, device) for p in front.baseline],
        hypervolume=front.hypervolume,
        baseline_hypervolume=front.baseline_hypervolume,
        reference=list(front.reference),
    )
