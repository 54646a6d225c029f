"""Cascades of the exported models of a search: making them on a worker, reading and deleting them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Response

from nas.core.cascade_spec import CASCADE_STAGE, CascadeBounds, CascadeSpec
from nas.core.cascades import require_classes
from nas.core.errors import Conflict, NotFound
from nas.core.lifecycle import ENDED
from nas.schemas.cascades import CascadeSchema
from server.api.access import CurrentPrincipal
from server.api.context import CurrentStore
from server.api.errors import responses
from server.api.parameters import IdempotencyKey
from server.store.store import Store

router = APIRouter(tags=["searches"])


@router.post(
    "/searches/{id}/cascades",
    status_code=201,
    summary="Make a cascade",
    responses={
        200: {"model": CascadeSchema, "description": "The idempotency key exists"},
        **responses(400, 404, 409, 413, 429, 507),
    },
)
def make_cascade(
    id: str,
    bounds: Annotated[CascadeBounds, Body(examples=[{"within": 0.5}])],
    response: Response,
    store: CurrentStore,
    principal: CurrentPrincipal,
    idempotency_key: IdempotencyKey = None,
) -> CascadeSchema:
    """Queue a cascade of the exported models of a search: a fast one answers where it is sure, others elsewhere. A
    worker fits its thresholds to the validation images and measures it on the test images, one thread of its own."""
    spec = CascadeSpec(search=id, **bounds.model_dump())
    if idempotency_key is not None and store.jobs.find(spec, idempotency_key, principal.owner) is not None:
        response.status_code = 200
    else:
        _require_models(id, store)
    stages = (CASCADE_STAGE,)
    return store.queries.cascade(id, store.jobs.submit(spec, idempotency_key, parent=id, stages=stages, by=principal))


def _require_models(search_id: str, store: Store) -> None:
    """Raises NotFound, InvalidInput for a task without classes, and Conflict for fewer than two exported models."""
    require_classes(store.queries.search(search_id).spec)
    models = store.queries.exported_models(search_id)
    if models < 2:
        raise Conflict(f"cascade: expected a search that has exported at least two models, this one has {models}")


@router.get("/searches/{id}/cascades", summary="List the cascades of a search", responses=responses(404))
def list_cascades(id: str, store: CurrentStore) -> list[CascadeSchema]:
    """The newest first."""
    return store.queries.cascades(id)


@router.get("/searches/{id}/cascades/{cascade}", summary="Get a cascade", responses=responses(404))
def get_cascade(id: str, cascade: str, store: CurrentStore) -> CascadeSchema:
    """A cascade beside the single model that it replaces, once it was made."""
    return store.queries.cascade(id, cascade)


@router.get(
    "/searches/{id}/cascades/{cascade}/file",
    summary="Download a cascade",
    response_class=Response,
    responses={
        200: {"content": {"application/zip": {}}, "description": "The zip file; its ETag is its sha256"},
        **responses(404, 507),
    },
)
def download_cascade(id: str, cascade: str, store: CurrentStore) -> Response:
    """The ONNX files of the members, the thresholds in `cascade.json` and a `run.py`, verified against their sha256."""
    file = store.queries.cascade(id, cascade).file
    if file is None:
        raise NotFound(f"cascade {cascade!r} was not made yet")
    headers = {
        "ETag": f'"{file.sha256}"',
        "Content-Disposition": f"attachment; filename={file.name}",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(store.blobs.get(file.sha256), media_type="application/zip", headers=headers)


@router.delete(
    "/searches/{id}/cascades/{cascade}", status_code=204, summary="Delete a cascade", responses=responses(404, 409, 507)
)
def delete_cascade(id: str, cascade: str, store: CurrentStore, principal: CurrentPrincipal) -> Response:
    """Delete a cascade; one that is being made is stopped first."""
    job = store.queries.cascade(id, cascade)
    if job.status not in ENDED:
        store.jobs.cancel(job.id, principal)
    store.jobs.delete(job.id, principal)
    return Response(status_code=204)
