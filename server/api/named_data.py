"""Data sets with names: uploading, adding, checking and deleting them, and what a name in a spec stands for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from nas.core import registry
from nas.core.access import Principal
from nas.core.errors import InvalidSpec, NotFound, UnknownName
from nas.core.spec import DataSpec
from nas.datasets.check import DataReport
from nas.schemas.named_data import DataCheckSchema, DataFileSchema, NamedDataBody, NamedDataSchema
from server.api.access import CurrentPrincipal
from server.api.context import Context, CurrentStore
from server.api.data_check import report_with_samples
from server.api.data_paths import check_data_path
from server.api.errors import responses
from server.api.file_body import FILE_BODY, received_file
from server.api.uploads import delete_unused, delete_upload, store_upload
from server.store.named_data import CheckedData
from server.store.store import Store

_EXAMPLE = {"name": "signs", "data": {"name": "folder", "path": "/data/signs", "params": {"image_size": 64}}}

router = APIRouter(tags=["data"])


def resolve(data: DataSpec, store: Store, principal: Principal) -> DataSpec:
    """The data that a spec names: those that were added by the name, with the spec's parameters on top; the same where
    it names a kind of data.

    Raises UnknownName for neither, InvalidSpec for a path beside a name.
    """
    kinds = registry.names("nas.datasets")
    if data.name in kinds:
        return data
    try:
        stored = store.queries.named_data(data.name, principal).data
    except NotFound:
        if data.path is not None:  # it is meant to be a kind
            return data
        added = [named.name for named in store.queries.named_data_sets(principal)]
        raise UnknownName("data set", data.name, [*added, *kinds]) from None
    if data.path is not None:
        raise InvalidSpec(f"data.path: data set {data.name!r} has its own path: expected none, got {data.path!r}")
    overrides = data.model_dump(include={"task", "seed"} & data.model_fields_set)
    return stored.model_copy(update={"params": {**stored.params, **data.params}, **overrides})


@router.post(
    "/data-files",
    status_code=201,
    summary="Upload a data set",
    openapi_extra=FILE_BODY,
    responses=responses(400, 408, 413, 415, 507),
)
async def upload_data_file(
    request: Request,
    context: Context,
    filename: Annotated[str, Query(max_length=255, description="Its name, which ends with .zip or .npz")],
) -> DataFileSchema:
    """A zip file of images in folders of their classes, or a NumPy archive, of up to 2 GiB. A data set names the `path`
    of the response; an upload without a name is deleted after a day."""
    async with received_file(request) as path:
        uploads, queries = context.settings.uploads, context.store.queries
        await run_in_threadpool(delete_unused, uploads, queries.is_data_used)
        return await run_in_threadpool(store_upload, path, filename, uploads)


@router.get("/data", summary="List data sets")
def list_data(store: CurrentStore, principal: CurrentPrincipal) -> list[NamedDataSchema]:
    """Your data sets by name; for an administrator, those of all owners."""
    return store.queries.named_data_sets(principal)


@router.post("/data", status_code=201, summary="Add a data set", responses=responses(400, 404, 409, 507))
def add_data(
    body: Annotated[NamedDataBody, Body(examples=[_EXAMPLE])], context: Context, principal: CurrentPrincipal
) -> NamedDataSchema:
    """Give a data set a name that specs can use in place of its kind, path and parameters. It is checked as for a
    search: what is wrong with it is told at once."""
    if body.name in registry.names("nas.datasets"):
        raise InvalidSpec(f"name: {body.name!r} is a kind of data: choose another name")
    check_data_path(body.data, context.settings)
    registry.load_dataset(body.data.name)  # raises UnknownName
    report = report_with_samples(body.data)
    report.require_shape()
    report.require_usable()
    context.store.named_data.add(body.name, body.data, _checked(report, context.store), principal)
    return context.store.queries.named_data(body.name, principal)


@router.get("/data/{name}", summary="Get a data set", responses=responses(404))
def get_data(name: str, store: CurrentStore, principal: CurrentPrincipal) -> NamedDataSchema:
    """A data set with the account of its images, as of its last check."""
    return store.queries.named_data(name, principal)


@router.post("/data/{name}/check", summary="Check a data set", responses=responses(404, 507))
def check_data(name: str, store: CurrentStore, principal: CurrentPrincipal) -> DataCheckSchema:
    """Read a data set again and say whether it has changed since it was added or last checked, and whether searches
    would refuse it now."""
    before = store.queries.named_data(name, principal)
    report = report_with_samples(before.data)
    if report.problems or report.shape is None:
        return DataCheckSchema(data=before, problems=report.problems or (report.incomplete,))
    store.named_data.record_check(name, _checked(report, store), principal)
    old, new = before.account, report.account
    changed = old.content_hash != new.content_hash if old is not None and new is not None else None
    return DataCheckSchema(data=store.queries.named_data(name, principal), changed=changed)


@router.get(
    "/data/{name}/samples",
    summary="Images of a data set",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **responses(404, 507)},
)
def get_data_samples(name: str, store: CurrentStore, principal: CurrentPrincipal) -> Response:
    """A PNG with a row of training images for each of the first classes."""
    blob = store.queries.data_samples(name, principal)
    if blob is None:
        raise NotFound(f"there is no picture of data set {name!r}: its images were not read in full")
    return Response(store.blobs.get(blob), media_type="image/png")


@router.delete("/data/{name}", status_code=204, summary="Delete a data set", responses=responses(404, 409, 507))
def delete_data(name: str, context: Context, principal: CurrentPrincipal) -> Response:
    """Delete a name of yours. What was uploaded is deleted with it, unless a search has read it; what lies elsewhere
    stays."""
    store = context.store
    data = store.named_data.delete(name, principal)
    if data.path is not None and not store.queries.is_data_used(data.path):
        delete_upload(data.path, context.settings.uploads)
    return Response(status_code=204)


def _checked(report: DataReport, store: Store) -> CheckedData:
    samples = store.blobs.put(report.samples_png) if report.samples_png else None
    return CheckedData(report.require_shape(), report.account, report.incomplete, samples)
