"""Models of users: uploading their files, taking them in, reading and deleting them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from fastapi.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from nas.core.entry_points import CONCEPTS, installed
from nas.core.errors import Conflict, InvalidSpec, UnknownName
from nas.core.model_spec import FileSource, ModelSpec, PackageSource
from nas.models.intake import IntakeReport
from nas.models.stored import intake_stages
from nas.schemas.jobs import EventPage
from nas.schemas.user_models import UploadSchema, UserModelDetailSchema, UserModelSchema
from server.api.access import CurrentPrincipal
from server.api.context import Context, CurrentStore
from server.api.data_check import report_of
from server.api.data_paths import check_data_path
from server.api.errors import responses
from server.api.event_log import EventLog
from server.api.file_body import FILE_BODY, received_file
from server.api.named_data import resolve
from server.api.parameters import EVENT_RESPONSES, IdempotencyKey
from server.store.store import Store

_EXAMPLE = {
    "name": "signs",
    "source": {"kind": "file", "blob": "0" * 64, "filename": "signs.pt2"},
    "preprocessing": {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]},
}

router = APIRouter(tags=["models"])


@router.post(
    "/model-files",
    status_code=201,
    summary="Upload a file of a model",
    openapi_extra=FILE_BODY,
    responses=responses(400, 408, 413, 415, 507),
)
async def upload_model_file(request: Request, store: CurrentStore) -> UploadSchema:
    """A `.pt2` or `.onnx` file of up to 2 GiB, which is stored and not opened. A model names the `blob` of the
    response; a file without a model is deleted after a day."""
    async with received_file(request) as path:
        size_bytes = path.stat().st_size
        return UploadSchema(blob=await run_in_threadpool(store.blobs.put_file, path), size_bytes=size_bytes)


@router.get("/models", summary="List models")
def list_models(store: CurrentStore, principal: CurrentPrincipal) -> list[UserModelSchema]:
    """Your models by name; for an administrator, those of all owners."""
    return store.queries.user_models(principal)


@router.post(
    "/models",
    status_code=201,
    summary="Add a model",
    responses={
        200: {"model": UserModelSchema, "description": "The idempotency key exists"},
        **responses(400, 404, 409, 413, 429, 507),
    },
)
def add_model(
    spec: Annotated[ModelSpec, Body(examples=[_EXAMPLE])],
    response: Response,
    context: Context,
    principal: CurrentPrincipal,
    idempotency_key: IdempotencyKey = None,
) -> UserModelSchema:
    """Queue the intake of a model: a worker reads the file that was uploaded before, in a process with limits, and
    reports what of it may be made smaller. No code of the file runs. If the file is refused, the intake fails, and its
    `error` says why."""
    store = context.store
    if spec.data is not None:
        spec = spec.model_copy(update={"data": resolve(spec.data, store, principal)})
    if idempotency_key is not None and store.jobs.find(spec, idempotency_key, principal.owner) is not None:
        response.status_code = 200
    else:
        _require_source(spec, store)
        if spec.data is not None:
            check_data_path(spec.data, context.settings)
            report_of(spec.data).require_usable()
        store.jobs.submit(spec, idempotency_key, stages=intake_stages(spec), by=principal)
    return store.queries.user_model(spec.name, principal)


def _require_source(spec: ModelSpec, store: Store) -> None:
    """Raises InvalidSpec for a file that was not uploaded and a device that measures nothing, UnknownName for an entry
    point that no package declares, NotFound for an unknown device."""
    files = {"source": spec.source if isinstance(spec.source, FileSource) else None, "weights": spec.weights}
    for field, file in files.items():
        if file is not None and not store.blobs.has(file.blob):
            raise InvalidSpec(f"{field}.blob: no file {file.blob[:12]}... was uploaded (lately)")
    packaged = installed("nas.models")
    if isinstance(spec.source, PackageSource) and spec.source.entry_point not in packaged:
        raise UnknownName(CONCEPTS["nas.models"], spec.source.entry_point, packaged)
    profile = store.queries.device(spec.device).profile if spec.device is not None else None
    if spec.device is not None and (profile is None or not profile.measurable):
        raise InvalidSpec(f"device: expected one that measures, {spec.device!r} has only figures, or no profile yet")


@router.get("/models/{name}", summary="Get a model", responses=responses(404, 507))
def get_model(name: str, store: CurrentStore, principal: CurrentPrincipal) -> UserModelDetailSchema:
    """A model with its intake report: what of it may be narrowed, skipped and scaled, and what may not and why."""
    model = store.queries.user_model(name, principal)
    report = IntakeReport.from_json(store.blobs.get(model.report_blob)) if model.report_blob is not None else None
    return UserModelDetailSchema(**vars(model), report=report, users=store.queries.model_users(name))


@router.get(
    "/models/{name}/events",
    summary="The events of a model's intake",
    response_model=EventPage,
    responses=EVENT_RESPONSES,
)
def list_model_events(
    name: str,
    log: EventLog,
    store: CurrentStore,
    principal: CurrentPrincipal,
) -> EventPage | EventSourceResponse:
    """The log of the latest intake, oldest first."""
    return log.answer(store.queries.intake_job(name, principal))


@router.post("/models/{name}/cancel", summary="Cancel an intake", responses=responses(404, 409, 507))
def cancel_intake(name: str, store: CurrentStore, principal: CurrentPrincipal) -> UserModelSchema:
    """Stop the intake of a model now."""
    store.jobs.cancel(store.queries.intake_job(name, principal), principal)
    return store.queries.user_model(name, principal)


@router.post("/models/{name}/retry", summary="Retry an intake", responses=responses(404, 409, 429, 507))
def retry_intake(name: str, store: CurrentStore, principal: CurrentPrincipal) -> UserModelSchema:
    """Take a model in again whose intake has failed, was cancelled or was quarantined, unless its file was refused."""
    model = store.queries.user_model(name, principal)
    if model.refused:
        raise Conflict(f"model {name!r} was refused for good: {model.error}. Add another file under this name")
    store.jobs.retry(store.queries.intake_job(name, principal), principal)
    return store.queries.user_model(name, principal)


@router.delete("/models/{name}", status_code=204, summary="Delete a model", responses=responses(404, 409, 507))
def delete_model(name: str, store: CurrentStore, principal: CurrentPrincipal) -> Response:
    """Delete a model of yours that no search and no device refers to."""
    store.user_models.delete(name, principal)
    return Response(status_code=204)
